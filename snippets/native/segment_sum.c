/* out[segments[i]] += values[i] for i = 0 ... n - 1, rows of `width` numbers; out starts as zeros. */
EXPORT NAME(segment_sum)(const real *values, const size_t *segments, size_t n, size_t width, real *out) {
    for (size_t i = 0; i < n; i++) {
        real *restrict to = out + segments[i] * width;
        for (size_t j = 0; j < width; j++) to[j] += values[i * width + j];
    }
}
