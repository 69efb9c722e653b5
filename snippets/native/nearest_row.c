/* For each row of x (n, dim) the index of the row of `rows` (m, dim) with the least squared distance, the first among
 * equals, and that distance. Differences are squared and summed as they are: |x|^2 - 2 x.r + |r|^2 would be one matrix
 * product, but it loses the digits of a small distance, and that of equal rows would not be 0. A NaN distance counts as
 * the least, as in np.argmin. packed: room for m * dim numbers with m rounded up to a multiple of PANEL. */
EXPORT NAME(nearest_row)(const real *x, const real *rows, size_t n, size_t m, size_t dim, size_t *index, real *distance,
                         real *packed) {
    for (size_t j = 0; j < m; j += PANEL) pack_panel(rows + j * dim, 1, dim, dim, m - j, packed + j * dim);

    for (size_t i = 0; i < n; i += TILE) {
        const real *point[TILE];
        vec least[TILE][VECTORS]; /* each lane keeps the best of its own columns */
        words where[TILE][VECTORS] = {0};
        for (size_t r = 0; r < TILE; r++) {
            point[r] = x + smaller(i + r, n - 1) * dim;
            for (size_t c = 0; c < VECTORS; c++) least[r][c] = (vec){0} + (real)__builtin_inf();
        }
        for (size_t j = 0; j < m; j += PANEL) {
            vec sum[TILE][VECTORS] = {0};
            for (size_t k = 0; k < dim; k++) {
                for (size_t c = 0; c < VECTORS; c++) {
                    vec candidate = load(packed + j * dim + k * PANEL + c * LANES);
                    for (size_t r = 0; r < TILE; r++) {
                        vec difference = point[r][k] - candidate;
                        sum[r][c] += difference * difference;
                    }
                }
            }
            for (size_t r = 0; r < TILE; r++) {
                for (size_t c = 0; c < VECTORS; c++) {
                    vec best = least[r][c];
                    words better = (words) ~(sum[r][c] >= best) & (words)(best == best); /* less, or the first NaN */
                    least[r][c] = choose(better, sum[r][c], best);
                    where[r][c] = (better & (word)(j + c * LANES)) | (where[r][c] & ~better);
                }
            }
        }
        for (size_t r = 0; r < TILE && i + r < n; r++) {
            real best = least[r][0][0];
            size_t found = (size_t)where[r][0][0];
            for (size_t lane = 1; lane < PANEL; lane++) {
                real other = least[r][lane / LANES][lane % LANES];
                size_t at = (size_t)where[r][lane / LANES][lane % LANES] + lane % LANES;
                int equal = other == best || (other != other && best != best);
                int better = !(other >= best) && best == best;
                if (equal ? at < found : better) best = other, found = at;
            }
            index[i + r] = found;
            distance[i + r] = best;
        }
    }
}
