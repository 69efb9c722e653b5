/* out[t] = a[t] * out[t - 1] + x[t] for t = 0 ... steps - 1, where out[-1] is start; every array has `width` columns.
 * Time is sequential, columns are not: the inner loop is the one the compiler makes vectors of. */
EXPORT NAME(scan)(const real *a, const real *x, const real *start, size_t steps, size_t width, real *out) {
    const real *before = start;
    for (size_t t = 0; t < steps; t++) {
        for (size_t i = 0; i < width; i++) out[i] = a[i] * before[i] + x[i];
        before = out;
        a += width, x += width, out += width;
    }
}
