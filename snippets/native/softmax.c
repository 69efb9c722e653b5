/* out (n) = softmax(scale * x); out may be x. The maximum is subtracted first, so no exponential overflows.
 * A NaN loses every comparison, so it is not the maximum, but it reaches the sum and from there every result. */
#define softmax_row NAME(softmax_row)
static void softmax_row(const real *x, size_t n, real scale, real *out) {
    const real infinity = (real)__builtin_inf();
    size_t whole = n / LANES * LANES;
    vec rest = (vec){0} - infinity; /* the last n % LANES numbers; -inf adds nothing to a softmax */
    for (size_t i = whole; i < n; i++) rest[i - whole] = x[i] * scale;

    vec largest = rest;
    for (size_t i = 0; i < whole; i += LANES) {
        vec value = load(x + i) * scale;
        largest = choose((words)(value > largest), value, largest);
    }
    real top = -infinity;
    for (size_t lane = 0; lane < LANES; lane++) top = largest[lane] > top ? largest[lane] : top;

    rest = exp_negative(rest - top);
    vec sums = rest;
    for (size_t i = 0; i < whole; i += LANES) {
        vec power = exp_negative(load(x + i) * scale - top);
        store(out + i, power);
        sums += power;
    }
    real sum = 0;
    for (size_t lane = 0; lane < LANES; lane++) sum += sums[lane];

    for (size_t i = 0; i < whole; i += LANES) store(out + i, load(out + i) / sum);
    for (size_t i = whole; i < n; i++) out[i] = rest[i - whole] / sum;
}

/* out (rows, n) = softmax of every row of x. */
EXPORT NAME(softmax)(const real *x, size_t rows, size_t n, real *out) {
    for (size_t i = 0; i < rows; i++) softmax_row(x + i * n, n, 1, out + i * n);
}
