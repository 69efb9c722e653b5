/* One vector of 128 bits, four floats or two doubles, written so that the same kernel serves both types:
 * ops.c sets BITS to 32 and to 64 and includes every kernel once for each. The compiler turns these vectors
 * into SSE on x86-64, NEON on arm64 and simd128 in WebAssembly. */

#undef real
#undef word
#undef MANTISSA
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_DEGREE
#undef EXP_SMALLEST

#if BITS == 32
#define real float
#define word uint32_t
#define MANTISSA 23
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f
#define EXP_DEGREE 7
#define EXP_SMALLEST -87.0f
#else
#define real double
#define word uint64_t
#define MANTISSA 52
#define LN2_HIGH 0.693145751953125
#define LN2_LOW 1.42860682030941723212e-6
#define EXP_DEGREE 13
#define EXP_SMALLEST -708.0
#endif

#ifndef NAME
#define NAME_(op, bits) op##_f##bits
#define NAME__(op, bits) NAME_(op, bits)
#define NAME(op) NAME__(op, BITS) /* matmul becomes matmul_f32 and matmul_f64 */
#define LANES (16 / sizeof(real))
#define vec NAME(vec)
#define words NAME(words)
#define unaligned NAME(unaligned)
#define EXPORT __attribute__((visibility("default"))) void
#endif

typedef real vec __attribute__((vector_size(16)));
typedef word words __attribute__((vector_size(16)));
typedef real unaligned __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));

#define load NAME(load)
static inline vec load(const real *from) { return *(const unaligned *)from; }

#define store NAME(store)
static inline void store(real *to, vec value) { *(unaligned *)to = value; }

/* Lane by lane, a where the mask is all ones and b where it is zero; a comparison of vectors gives such a mask. */
#define choose NAME(choose)
static inline vec choose(words mask, vec a, vec b) { return (vec)(((words)a & mask) | ((words)b & ~mask)); }

/* e^x for x <= 0. With x = n ln 2 + r the result is 2^n e^r: the power of two goes straight into the exponent bits,
 * the rest is a Taylor series, as |r| <= ln(2)/2. Results below the smallest normal number become 0; NaN stays NaN. */
#define exp_negative NAME(exp_negative)
static inline vec exp_negative(vec x) {
    static const real inverse_factorial[] = {
        1., 1., 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800,
        1. / 39916800, 1. / 479001600, 1. / 6227020800};
    /* Adding 1.5 * 2^MANTISSA leaves no bit for a fraction: the sum is rounded, and its low bits are the integer n. */
    const real rounder = (real)3 * ((word)1 << (MANTISSA - 1));
    vec shifted = x * (real)1.44269504088896340736 + rounder;
    vec n = shifted - rounder;
    vec r = x - n * (real)LN2_HIGH - n * (real)LN2_LOW;
    vec series = r * inverse_factorial[EXP_DEGREE] + inverse_factorial[EXP_DEGREE - 1];
    for (int i = EXP_DEGREE - 2; i >= 0; i--) series = series * r + inverse_factorial[i];
    const word bias = (((word)1 << (sizeof(real) * 8 - MANTISSA - 2)) - 1) << MANTISSA;
    vec power = (vec)(((words)shifted << MANTISSA) + bias);
    return choose((words)(x < (real)EXP_SMALLEST), (vec){0}, series * power);
}
