/* The matrix product that matmul, attention and conv2d share. A part of the right-hand matrix, PANEL columns
 * wide and up to DEPTH rows high, is copied into one piece that stays in the first-level cache: a panel. TILE rows of
 * the left-hand matrix then meet it in registers: 8 running sums, one vector of the panel, and numbers of the
 * left-hand matrix spread over a vector each. */

#ifndef TILE
#define TILE 2
#define VECTORS 4
#define PANEL (VECTORS * LANES)
#define DEPTH 256
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
#endif

/* panel (depth, PANEL) from columns of a matrix with these strides. Where it has fewer columns the last one is
 * repeated: no out-of-bounds read, and no special case in the product. */
#define pack_panel NAME(pack_panel)
static void pack_panel(const real *from, size_t row_stride, size_t column_stride, size_t depth, size_t columns,
                       real *panel) {
    for (size_t k = 0; k < depth; k++, from += row_stride, panel += PANEL) {
        if (column_stride == 1 && columns >= PANEL) {
            for (size_t c = 0; c < PANEL; c += LANES) store(panel + c, load(from + c));
        } else {
            for (size_t j = 0; j < PANEL; j++) panel[j] = from[smaller(j, columns - 1) * column_stride];
        }
    }
}

/* out (rows, columns) += left (rows, depth) @ panel (depth, PANEL), left and out with row strides; columns beyond PANEL
 * are left alone. */
#define multiply_panel NAME(multiply_panel)
static void multiply_panel(const real *left, size_t left_stride, const real *panel, size_t rows, size_t depth,
                           size_t columns, real *out, size_t out_stride) {
    for (size_t i = 0; i < rows; i += TILE) {
        const real *row[TILE];
        for (size_t r = 0; r < TILE; r++) row[r] = left + smaller(i + r, rows - 1) * left_stride;
        vec sum[TILE][VECTORS] = {0};
        for (size_t k = 0; k < depth; k++) {
            for (size_t c = 0; c < VECTORS; c++) {
                vec right = load(panel + k * PANEL + c * LANES);
                for (size_t r = 0; r < TILE; r++) sum[r][c] += row[r][k] * right;
            }
        }
        for (size_t r = 0; r < TILE && i + r < rows; r++) {
            real *to = out + (i + r) * out_stride;
            if (columns >= PANEL) {
                for (size_t c = 0; c < VECTORS; c++) store(to + c * LANES, load(to + c * LANES) + sum[r][c]);
            } else {
                for (size_t j = 0; j < columns; j++) to[j] += sum[r][j / LANES][j % LANES];
            }
        }
    }
}

/* out (rows, columns) += left (rows, depth) @ right, where right (depth, columns) has any strides: a transpose is free. */
#define multiply NAME(multiply)
static void multiply(const real *left, const real *right, size_t row_stride, size_t column_stride, size_t rows,
                     size_t depth, size_t columns, real *out) {
    real panel[DEPTH * PANEL];
    for (size_t j = 0; j < columns; j += PANEL) {
        for (size_t k = 0; k < depth; k += DEPTH) {
            size_t part = smaller(DEPTH, depth - k);
            pack_panel(right + k * row_stride + j * column_stride, row_stride, column_stride, part, columns - j, panel);
            multiply_panel(left + k, depth, panel, rows, part, columns - j, out + j, columns);
        }
    }
}
