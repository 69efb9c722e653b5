/* out[h] (queries, value_dim) += softmax(scale * q[q_index[h]] @ k[k_index[h]].T) @ v[v_index[h]] for every head h: the
 * index lists say which matrices a head reads. Causal: query t sees the first keys - queries + t + 1 keys.
 * scores: room for block * keys numbers, the scores of `block` queries at a time. */
EXPORT NAME(attention)(const real *q, const real *k, const real *v, const size_t *q_index, const size_t *k_index,
                       const size_t *v_index, size_t heads, size_t queries, size_t keys, size_t dim, size_t value_dim,
                       real scale, size_t causal, size_t block, real *out, real *scores) {
    for (size_t h = 0; h < heads; h++) {
        const real *key = k + k_index[h] * keys * dim;
        const real *value = v + v_index[h] * keys * value_dim;
        for (size_t t = 0; t < queries; t += block) {
            const real *query = q + (q_index[h] * queries + t) * dim;
            size_t rows = smaller(block, queries - t);
            for (size_t i = 0; i < rows * keys; i++) scores[i] = 0;
            multiply(query, key, 1, dim, rows, dim, keys, scores);
            for (size_t i = 0; i < rows; i++) {
                real *row = scores + i * keys;
                size_t visible = causal ? keys - queries + t + i + 1 : keys;
                softmax_row(row, visible, scale, row);
                for (size_t s = visible; s < keys; s++) row[s] = 0;
            }
            multiply(scores, value, value_dim, 1, rows, keys, value_dim, out + (h * queries + t) * value_dim);
        }
    }
}
