/* What a decoding step does between the projections, on the CPU; naive.py has the equations and is the oracle.
 *
 *     shift_mix    residual sum, layer norm, token shift, mixes
 *     low_rank     y += b (a x): an update's share of some projections
 *     replace      RWKV-7: what the recurrence takes, from the projections
 *     finish       RWKV-7: group norm, bonus and gate of what the recurrence returned
 *
 * and what only whole blocks (../block) call, without items:
 *
 *     widen, gate, square, add    elementwise
 *     columns      act(x W) of a W that is (I, O): RWKV-7's low ranks
 *
 * Activations, weights and factors are fp32 or bf16, states and what the recurrence takes fp32; sums are fp32. Arrays are
 * contiguous. An item is a row; a call does the rows [begin, end).
 */
#ifndef TYPE

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bf16.h"

#if !defined(__GNUC__)
#error "this kernel needs GCC or Clang; without it the package uses PyTorch"
#endif

/* To be raised with every change of the functions' arguments: a library left over from an older build is refused. */
#define ABI 1

#define EXPORT __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))
/* Lanes of two vectors, those of the second counted on. */
#define SHUFFLE __builtin_shufflevector
/* Arrays of the loop that follows do not overlap: there are too many for compilers to compare. */
#define APART _Pragma("GCC ivdep")
#define PASTE(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) PASTE(a, b, c)
#define NAME(function) JOIN(function, TYPE, SET)

#if defined(__x86_64__)
#define DISPATCH 1
#include <immintrin.h>
#if defined(__clang__) || __GNUC__ >= 12
#define PAIRS 1 /* the compiler knows the products of pairs of bf16, and shuffles of vectors */
#define WIDEST_OF(function) function##_bf16dot
#else
#define PAIRS 0
#define WIDEST_OF(function) function##_avx512
#endif
#endif

#define TYPE f32
#define REAL float
#define NARROW 0
#define GET(x) (x)
#define PUT(x) (x)
#include "step/step.c"
#undef TYPE
#undef REAL
#undef NARROW
#undef GET
#undef PUT

#define TYPE bf16
#define REAL uint16_t
#define NARROW 1
#define GET(x) widen(x)
#define PUT(x) narrow(x)
#include "step/step.c"
#undef TYPE
#undef REAL
#undef NARROW
#undef GET
#undef PUT

#ifdef DISPATCH
static int level(void)
{
    static int known = -1;
    if (known < 0) {
        __builtin_cpu_init();
        known = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                    ? (PAIRS && __builtin_cpu_supports("avx512bf16") ? 3 : 2)
                    : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    return known;
}
#define RUN(function, type, ...)                                                                                      \
    switch (level()) {                                                                                                \
    case 3: return WIDEST_OF(function##_##type)(__VA_ARGS__);                                                        \
    case 2: return function##_##type##_avx512(__VA_ARGS__);                                                           \
    case 1: return function##_##type##_avx2(__VA_ARGS__);                                                             \
    default: return function##_##type##_plain(__VA_ARGS__);                                                           \
    }
#else
static int level(void) { return 0; }
#define RUN(function, type, ...) return function##_##type##_plain(__VA_ARGS__);
#endif

EXPORT int prosg_step_abi(void) { return ABI; }

EXPORT const char *prosg_step_instructions(void)
{
    static const char *const names[] = {"plain", "avx2", "avx512f", "avx512bf16"};
    return names[level()];
}

/* Each function takes five sizes, some of which are the bits of a double, the rows, and pointers; see ../library.py. */
#define SIZES int64_t p, int64_t q, int64_t r, int64_t s, int64_t t, int64_t begin, int64_t end
#define EACH(function, type)                                                                                          \
    EXPORT int prosg_step_##function##_##type(SIZES, void **at)                                                       \
    {                                                                                                                 \
        RUN(function, type, p, q, r, s, t, begin, end, at)                                                            \
    }
EACH(shift_mix, f32)
EACH(shift_mix, bf16)
EACH(low_rank, f32)
EACH(low_rank, bf16)
EACH(replace, f32)
EACH(replace, bf16)
EACH(finish, f32)
EACH(finish, bf16)
EACH(widen, f32)
EACH(widen, bf16)
EACH(gate, f32)
EACH(gate, bf16)
EACH(square, f32)
EACH(square, bf16)
EACH(add, f32)
EACH(add, bf16)
EACH(columns, f32)
EACH(columns, bf16)

#elif !defined(SET) /* for one type */

#define EACH_SET "step/step.c"
#define WIDEST "avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512"
#define DOT 0
#include "sets.h"
#undef DOT
#if DISPATCH && PAIRS
#define SET bf16dot
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,fma,prefer-vector-width=512")))
#define BYTES 64
#define DOT NARROW
#include "step/step.c"
#undef SET
#undef TARGET
#undef BYTES
#undef DOT
#endif

#else /* for one type and one instruction set */

#define LANES 64

typedef float NAME(vec) __attribute__((vector_size(BYTES), may_alias, aligned(4)));
#define VEC NAME(vec)
#define WIDTH ((int)(BYTES / 4))
#define TILE (LANES / 2 / WIDTH) /* vectors of a tile of columns, and its rows: as many as there are registers for */
#define TILE_ROWS (BYTES == 64 ? 8 : BYTES / 16)

/* A register of numbers as fp32. */
TARGET static INLINE VEC NAME(load)(const REAL *x)
{
#if !NARROW
    return *(const VEC *)x;
#elif BYTES == 64
    return (VEC)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x)), 16);
#elif BYTES == 32
    return (VEC)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16);
#else
    return (VEC){GET(x[0]), GET(x[1]), GET(x[2]), GET(x[3])};
#endif
}

/* Sum of x y over n, in four sums side by side, for the processor not to wait. */
TARGET static INLINE float NAME(dot)(int64_t n, const float *x, const REAL *y)
{
    VEC sums[4] = {{0}, {0}, {0}, {0}};
    float sum = 0;
    int64_t i = 0;
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH)
        _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++)
            sums[j] += *(const VEC *)(x + i + j * WIDTH) * NAME(load)(y + i + j * WIDTH);
    const VEC all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int l = 0; l < WIDTH; l++)
        sum += all[l];
    for (; i < n; i++)
        sum += x[i] * GET(y[i]);
    return sum;
}

/* Mean of x, and 1 / sqrt(variance + eps). */
TARGET static INLINE void NAME(moments)(int64_t n, const float *x, float eps, float *mean, float *scale)
{
    float parts[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            parts[l] += x[i + l];
    for (int l = 0; l < LANES; l++)
        sum += parts[l];
    for (; i < n; i++)
        sum += x[i];
    *mean = sum / (float)n;
    memset(parts, 0, sizeof(parts));
    sum = 0;
    for (i = 0; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            parts[l] += (x[i + l] - *mean) * (x[i + l] - *mean);
    for (int l = 0; l < LANES; l++)
        sum += parts[l];
    for (; i < n; i++)
        sum += (x[i] - *mean) * (x[i] - *mean);
    *scale = 1 / sqrtf(sum / (float)n + eps);
}

static INLINE float NAME(number)(int64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof(value));
    return (float)value;
}

/* E channels, M mixes; `backwards` starts them from the token and goes towards its predecessor, else the other way. */
TARGET static int NAME(shift_mix)(int64_t rows, int64_t E, int64_t M, int64_t backwards, int64_t eps, int64_t begin,
                                  int64_t end, void *const *at)
{
    const REAL *x = at[0], *added = at[1], *weight = at[2], *bias = at[3];
    const float *before = at[4];
    REAL *sum = at[5], *seen = at[6], *mixed = at[7];
    float *last = at[8];
    float *now = malloc(2 * (size_t)E * sizeof(float)), *old = now + E;
    if (!now)
        return 1;
    for (int64_t n = begin; n < end; n++) {
        float mean, scale;
        for (int64_t e = 0; e < E; e++)
            now[e] = GET(x[n * E + e]);
        if (added)
            for (int64_t e = 0; e < E; e++) {
                const REAL total = PUT(now[e] + GET(added[n * E + e]));
                sum[n * E + e] = total;
                now[e] = GET(total);
            }
        NAME(moments)(E, now, NAME(number)(eps), &mean, &scale);
        for (int64_t e = 0; e < E; e++) {
            const REAL value = PUT((now[e] - mean) * scale * GET(weight[e]) + GET(bias[e])), previous = PUT(before[n * E + e]);
            seen[n * E + e] = value;
            last[n * E + e] = now[e] = GET(value);
            old[e] = GET(previous);
        }
        for (int64_t m = 0; m < M; m++) {
            REAL *to = mixed + (m * rows + n) * E;
            const REAL *share = at[9 + m];
            if (backwards)
                for (int64_t e = 0; e < E; e++)
                    to[e] = PUT(now[e] + GET(share[e]) * (old[e] - now[e]));
            else
                for (int64_t e = 0; e < E; e++)
                    to[e] = PUT(old[e] + GET(share[e]) * (now[e] - old[e]));
        }
    }
    free(now);
    return 0;
}

/* x (B, I), a (B, r, I), b (B, r, O) or, shared by the rows, (r, O), y (B, O); up to `sites` projections of one shape. */
TARGET static int NAME(low_rank)(int64_t rank, int64_t I, int64_t O, int64_t shared, int64_t sites, int64_t begin,
                                 int64_t end, void *const *at)
{
    float *x = malloc((size_t)(I + rank) * sizeof(float)), *inner = x + I;
    if (!x)
        return 1;
    for (int64_t site = 0; site < sites; site++)
        for (int64_t n = begin; n < end; n++) {
            const REAL *from = (const REAL *)at[4 * site] + n * I, *a = (const REAL *)at[4 * site + 1] + n * rank * I;
            const REAL *b = (const REAL *)at[4 * site + 2] + (shared ? 0 : n * rank * O);
            REAL *y = (REAL *)at[4 * site + 3] + n * O;
            int64_t o = 0;
            /* Rows have updates of their own, read from memory once: b comes while a is being multiplied, and the next
             * row's a meanwhile, too. */
            const char *next = (const char *)(a + (n + 1 < end ? rank * I : 0));
            const int64_t share = rank * I * (int64_t)sizeof(REAL) * LANES / (O > LANES ? O : LANES);
            for (int64_t i = 0; i < I; i++)
                x[i] = GET(from[i]);
            for (int64_t r = 0; r < rank; r++) {
                for (const char *line = (const char *)(b + r * O); line < (const char *)(b + (r + 1) * O); line += 64)
                    __builtin_prefetch(line, 0, 3);
                inner[r] = NAME(dot)(I, x, a + r * I);
            }
            for (; o + LANES <= O; o += LANES) {
                VEC sum[LANES / WIDTH];
                for (const char *to = next + share; next < to; next += 64)
                    __builtin_prefetch(next, 0, 3);
                _Pragma("GCC unroll 16") for (int j = 0; j < LANES / WIDTH; j++) sum[j] = NAME(load)(y + o + j * WIDTH);
                for (int64_t r = 0; r < rank; r++)
                    _Pragma("GCC unroll 16") for (int j = 0; j < LANES / WIDTH; j++)
                        sum[j] += inner[r] * NAME(load)(b + r * O + o + j * WIDTH);
                for (int l = 0; l < LANES; l++)
                    y[o + l] = PUT(((const float *)sum)[l]);
            }
            for (; o < O; o++) {
                float sum = GET(y[o]);
                for (int64_t r = 0; r < rank; r++)
                    sum += inner[r] * GET(b[r * O + o]);
                y[o] = PUT(sum);
            }
        }
    free(x);
    return 0;
}

/* 1 / (1 + e^-x), without branches, so that loops over it vectorise. */
TARGET static INLINE float NAME(sigmoid)(float x)
{
    const float magic = 12582912.0f; /* added and taken away again it rounds to an integer */
    const float negative = -(x < 0 ? -x : x), within = negative < -87.3f ? -87.3f : negative;
    const float shifted = within * 1.44269504088896340736f + magic, i = shifted - magic;
    const float r = (within - i * 0.693359375f) + i * 2.12194440054690583e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    const union { int32_t bits; float value; } power = {((int32_t)i + 127) << 23};
    const float small = p * power.value; /* e^-|x| */
    return (x < 0 ? small : 1) / (1 + small);
}

/* H heads of N channels. In the first layer there are no v_raw, first and v0, and v is the first layer's value. */
TARGET static int NAME(replace)(int64_t H, int64_t N, int64_t unused, int64_t none, int64_t nothing, int64_t begin,
                                int64_t end, void *const *at)
{
    const REAL *r = at[0], *k = at[1], *v = at[2], *w_raw = at[3], *a_raw = at[4], *v_raw = at[5], *first = at[6];
    const float *w0 = at[7];
    const REAL *a0 = at[8], *v0 = at[9], *k_k = at[10], *k_a = at[11];
    float *to_r = at[12], *to_w = at[13], *to_k = at[14], *to_v = at[15], *to_a = at[16], *to_b = at[17];
    (void)unused, (void)none, (void)nothing;
    for (int64_t n = begin; n < end; n++)
        for (int64_t h = 0; h < H; h++) {
            float length = 0;
            APART for (int64_t c = h * N; c < (h + 1) * N; c++) {
                const int64_t i = n * H * N + c;
                const float rate = NAME(sigmoid)(GET(a0[c]) + GET(a_raw[i])), key = GET(k[i]);
                to_r[i] = GET(r[i]);
                to_w[i] = -0.60653065971263342360f * NAME(sigmoid)(w0[c] + GET(w_raw[i]));
                to_k[i] = key * (1 + (rate - 1) * GET(k_a[c]));
                to_a[i] = key * GET(k_k[c]);
                to_b[i] = rate;
                to_v[i] = GET(v[i]);
            }
            if (v_raw)
                APART for (int64_t c = h * N; c < (h + 1) * N; c++) {
                    const int64_t i = n * H * N + c;
                    to_v[i] += (GET(first[i]) - to_v[i]) * NAME(sigmoid)(GET(v0[c]) + GET(v_raw[i]));
                }
            for (int64_t c = h * N; c < (h + 1) * N; c++)
                length += to_a[n * H * N + c] * to_a[n * H * N + c];
            length = sqrtf(length);
            length = 1 / (length > 1e-12f ? length : 1e-12f);
            APART for (int64_t i = (n * H + h) * N; i < (n * H + h + 1) * N; i++) {
                const float unit = to_a[i] * length;
                to_a[i] = -unit;
                to_b[i] *= unit;
            }
        }
    return 0;
}

/* y (B, H, N) of the recurrence -> tap = norm(y) + (r . k r_k) v, and tap times the gate. */
TARGET static int NAME(finish)(int64_t H, int64_t N, int64_t eps, int64_t unused, int64_t none, int64_t begin,
                               int64_t end, void *const *at)
{
    const float *y = at[0], *r = at[1], *k = at[2], *v = at[3];
    const REAL *r_k = at[4], *weight = at[5], *bias = at[6], *gate = at[7];
    float *tap = at[8];
    REAL *out = at[9];
    (void)unused, (void)none;
    for (int64_t n = begin; n < end; n++)
        for (int64_t h = 0; h < H; h++) {
            const int64_t start = (n * H + h) * N;
            float mean, scale, bonus = 0;
            NAME(moments)(N, y + start, NAME(number)(eps), &mean, &scale);
            for (int64_t i = 0; i < N; i++)
                bonus += r[start + i] * k[start + i] * GET(r_k[h * N + i]);
            APART for (int64_t i = 0; i < N; i++) {
                const int64_t c = h * N + i, j = start + i;
                tap[j] = (y[j] - mean) * scale * GET(weight[c]) + GET(bias[c]) + bonus * v[j];
                out[j] = PUT(GET(PUT(tap[j])) * GET(gate[j]));
            }
        }
    return 0;
}

/* To fp32. */
TARGET static int NAME(widen)(int64_t count, int64_t q, int64_t r, int64_t s, int64_t t, int64_t begin, int64_t end,
                              void *const *at)
{
    const REAL *x = at[0];
    float *y = at[1];
    (void)q, (void)r, (void)s, (void)t, (void)begin, (void)end;
    for (int64_t i = 0; i < count; i++)
        y[i] = GET(x[i]);
    return 0;
}

/* y = sigmoid(r) x; x is fp32 (at[1]) or of the activations' type (at[2]). */
TARGET static int NAME(gate)(int64_t count, int64_t q, int64_t r, int64_t s, int64_t t, int64_t begin, int64_t end,
                             void *const *at)
{
    const REAL *open = at[0], *narrow_x = at[2];
    const float *wide_x = at[1];
    REAL *y = at[3];
    (void)q, (void)r, (void)s, (void)t, (void)begin, (void)end;
    if (wide_x)
        for (int64_t i = 0; i < count; i++)
            y[i] = PUT(NAME(sigmoid)(GET(open[i])) * wide_x[i]);
    else
        for (int64_t i = 0; i < count; i++)
            y[i] = PUT(NAME(sigmoid)(GET(open[i])) * GET(narrow_x[i]));
    return 0;
}

/* x = max(x, 0)^2, in place. */
TARGET static int NAME(square)(int64_t count, int64_t q, int64_t r, int64_t s, int64_t t, int64_t begin, int64_t end,
                               void *const *at)
{
    REAL *x = at[0];
    (void)q, (void)r, (void)s, (void)t, (void)begin, (void)end;
    for (int64_t i = 0; i < count; i++) {
        const float value = GET(x[i]), positive = value < 0 ? 0 : value; /* NaN stays NaN */
        x[i] = PUT(positive * positive);
    }
    return 0;
}

TARGET static int NAME(add)(int64_t count, int64_t q, int64_t r, int64_t s, int64_t t, int64_t begin, int64_t end,
                            void *const *at)
{
    const REAL *x = at[0], *y = at[1];
    REAL *z = at[2];
    (void)q, (void)r, (void)s, (void)t, (void)begin, (void)end;
    for (int64_t i = 0; i < count; i++)
        z[i] = PUT(GET(x[i]) + GET(y[i]));
    return 0;
}

#include "step/columns.h"

#undef LANES
#undef VEC
#undef WIDTH
#undef TILE
#undef TILE_ROWS

#endif
