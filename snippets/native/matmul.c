/* out[i] (rows, columns) += a[a_index[i]] (rows, depth) @ b[b_index[i]] (depth, columns).
 * The index lists express broadcasting without copying a matrix. */
EXPORT NAME(matmul)(const real *a, const real *b, const size_t *a_index, const size_t *b_index, size_t batch, size_t rows,
                    size_t depth, size_t columns, real *out) {
    for (size_t i = 0; i < batch; i++)
        multiply(a + a_index[i] * rows * depth, b + b_index[i] * depth * columns, columns, 1, rows, depth, columns,
                 out + i * rows * columns);
}
