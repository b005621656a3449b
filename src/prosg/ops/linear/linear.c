/* Products of few rows with a matrix on the CPU, y = x W^T: what decoding spends its time on. naive.py is the oracle.
 *
 * A matrix is read once from memory for all rows, so that one row runs at the speed at which memory delivers the matrix.
 * W is as PyTorch keeps it, (O, I), and nothing is repacked: an output is the dot product of two contiguous rows. Sums
 * are fp32. W's types:
 *
 *     f32     x is fp32
 *     bf16    x is bf16; where the processor has them, its own dot products of bf16 pairs, else both become fp32
 *     i8      x is fp32 or bf16; W is int8 times a factor per output
 *
 * Arrays are contiguous: x (N, I), W (O, I), scale (O), y (N, O) in x's type. The work is cut into items of ITEM outputs;
 * a call does the items [begin, end), and the result does not depend on the cut.
 */
#ifndef SET

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bf16.h"

#if !defined(__GNUC__)
#error "this kernel needs the vector types of GCC and Clang; without it the package uses PyTorch's products"
#endif

/* To be raised with every change of the functions' arguments: a library left over from an older build is refused. */
#define ABI 1
#define ITEM 96
/* Bytes of W that are asked for before they are needed, at least, where rows are few. */
#define AHEAD 16384
/* Bytes of a row from which on a single pass fetches rows side by side, as it reads them. */
#define WIDE 4096
/* Bytes of W that stay in the cache while all rows pass: these and as many that follow, which are fetched meanwhile. */
#define CHUNK 131072
/* Rows from which on tiles are faster than dot products. */
#define TILES_FROM 4

#define EXPORT __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))
#define PASTE(a, b) a##_##b
#define JOIN(a, b) PASTE(a, b)
#define NAME(function) JOIN(function, SET)
/* Sums stay in registers where the loops over them are unrolled. */
#define UNROLL _Pragma("GCC unroll 8")
#define MIN(a, b) ((a) < (b) ? (a) : (b))
/* Lanes of two vectors of 16, those of the second counted on. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE __builtin_shufflevector
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (int __attribute__((vector_size(64)))){__VA_ARGS__})
#endif

#if defined(__x86_64__)
#define DISPATCH 1
#include <immintrin.h>
#endif

/* The types of W. */
enum { F32, BF16, I8 };

typedef float four __attribute__((vector_size(16), may_alias, aligned(4)));

static inline void put(void *y, int64_t at, float value, int narrowed)
{
    if (narrowed)
        ((bf16 *)y)[at] = narrow(value);
    else
        ((float *)y)[at] = value;
}

/* Room for `count` numbers, all 0, from a cache line's beginning on; `block` is for free(). */
static float *space(int64_t count, void **block)
{
    *block = calloc((size_t)count + 16, sizeof(float));
    return *block ? (float *)(((uintptr_t)*block + 63) & ~(uintptr_t)63) : NULL;
}

#define EACH_SET "linear/linear.c"
#define WIDEST "avx512f,avx512dq,avx512bw,avx512vl,fma"
#include "sets.h"
#ifdef DISPATCH
#define SET bf16dot
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,fma")))
#define BYTES 64
#define DOT 1
#include "linear/linear.c"
#undef SET
#undef TARGET
#undef BYTES
#undef DOT
#endif

#include "linear/tiles.h"

enum { PLAIN, AVX2, AVX512, BF16DOT, AMX };

static int level(void)
{
#ifdef DISPATCH
    static int known = -1;
    if (known < 0) {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
#ifdef TILES
            known = !__builtin_cpu_supports("avx512bf16") ? AVX512 : has_tiles() ? AMX : BF16DOT;
#else
            known = __builtin_cpu_supports("avx512bf16") ? BF16DOT : AVX512;
#endif
        else
            known = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? AVX2 : PLAIN;
    }
    return known;
#else
    return PLAIN;
#endif
}

EXPORT int prosg_linear_abi(void) { return ABI; }

EXPORT int prosg_linear_item(void) { return ITEM; }

EXPORT const char *prosg_linear_instructions(void)
{
    static const char *const names[] = {"plain", "avx2", "avx512f", "avx512bf16", "amx"};
    return names[level()];
}

#define ARGS                                                                                                          \
    (int64_t N, int64_t I, int64_t O, int64_t narrowed, int64_t begin, int64_t end, const void *x, const void *w,     \
     const float *scale, void *y)
#define PASS N, I, narrowed, begin *ITEM, MIN(end *ITEM, O), O, x, w, scale, y

#ifdef DISPATCH
#define RUN(type)                                                                                                     \
    switch (level()) {                                                                                                \
    case AMX:                                                                                                         \
    case BF16DOT: return rows_##type##_bf16dot(PASS);                                                                 \
    case AVX512: return rows_##type##_avx512(PASS);                                                                   \
    case AVX2: return rows_##type##_avx2(PASS);                                                                       \
    default: return rows_##type##_plain(PASS);                                                                        \
    }
#else
#define RUN(type) return rows_##type##_plain(PASS);
#endif

EXPORT int prosg_linear_rows_f32 ARGS { RUN(f32) }
EXPORT int prosg_linear_rows_bf16 ARGS
{
#ifdef TILES
    if (level() == AMX && N >= TILES_FROM && I % 32 == 0 && O >= 16)
        return rows_bf16_tiles(N, I, begin * ITEM, MIN(end * ITEM, O), O, x, w, y);
#endif
    RUN(bf16)
}

EXPORT int prosg_linear_rows_i8 ARGS { RUN(i8) }

#else /* for one instruction set */

typedef float NAME(vec) __attribute__((vector_size(BYTES), may_alias, aligned(4)));
typedef uint32_t NAME(bits) __attribute__((vector_size(BYTES), may_alias, aligned(2)));
typedef uint16_t NAME(short_vec) __attribute__((vector_size(BYTES / 2)));
#define VEC NAME(vec)
#define WIDTH ((int)(BYTES / 4))
/* Elements of W in a step of the loop over I: those of a whole register. */
#define STEP(type) ((type) == I8 ? 4 * WIDTH : (type) == BF16 ? 2 * WIDTH : WIDTH)
#ifdef DOT
#define DOTS(type) ((type) == BF16)
#else
#define DOTS(type) 0
#endif

/* A register of int8 as fp32; compilers turn the conversion of vectors into one of numbers. */
TARGET static INLINE VEC NAME(floats)(const int8_t *from)
{
#if BYTES == 64
    return (VEC)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif BYTES == 32
    return (VEC)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    return (VEC){from[0], from[1], from[2], from[3]};
#endif
}

#include "linear/sums.h"

/* A register of W's type, as fp32: the elements that fall into part `part` of the step. */
TARGET static INLINE VEC NAME(part)(const int type, const int part, const char *from)
{
    if (type == I8)
        return NAME(floats)((const int8_t *)from + part * WIDTH);
    if (type == BF16) {
        const NAME(bits) both = *(const NAME(bits) *)from;
        if (part)
            return (VEC)(both & 0xffff0000u);
        return (VEC)(both << 16);
    }
    return *(const VEC *)from;
}

/* One step of the sums of R rows and P outputs, at place `at` of I. */
TARGET static INLINE void NAME(step)(const int type, const int R, const int P, int64_t I, int64_t at, const char *w,
                                     const void *x, VEC sum[][4])
{
    const int size = type == F32 ? 4 : type == BF16 ? 2 : 1;
#ifdef DOT
    if (DOTS(type)) {
        __m512bh pairs[4];
        UNROLL
        for (int p = 0; p < P; p++)
            memcpy(&pairs[p], w + (p * I + at) * size, 64);
        UNROLL
        for (int r = 0; r < R; r++) {
            __m512bh from;
            memcpy(&from, (const bf16 *)x + r * I + at, 64);
            UNROLL
            for (int p = 0; p < P; p++)
                sum[r][p] = (VEC)_mm512_dpbf16_ps((__m512)sum[r][p], pairs[p], from);
        }
        return;
    }
#endif
    for (int part = 0; part < STEP(type) / WIDTH; part++) {
        VEC value[4];
        UNROLL
        for (int p = 0; p < P; p++)
            value[p] = NAME(part)(type, part, w + (p * I + at) * size);
        UNROLL
        for (int r = 0; r < R; r++) {
            const VEC from = *(const VEC *)((const float *)x + r * I + at + part * WIDTH);
            UNROLL
            for (int p = 0; p < P; p++)
                sum[r][p] += value[p] * from;
        }
    }
}

/* P outputs of R rows; `x` is as NAME(prepare) has left it. Meanwhile what lies from `next` on is fetched,
 * `stride` bytes at every step, or, with `beside`, so many of each of P rows. */
TARGET static INLINE void NAME(block)(const int type, const int R, const int P, int64_t I, const char *w, const void *x,
                                      const char *next, int64_t stride, const int beside, const float *scale,
                                      int narrowed, int64_t O, void *y)
{
    const int step = STEP(type), size = type == F32 ? 4 : type == BF16 ? 2 : 1;
    VEC sum[8][4];
    float out[8 * 4];
    UNROLL
    for (int r = 0; r < R; r++)
        UNROLL
        for (int p = 0; p < P; p++)
            sum[r][p] = (VEC){0};
    int64_t i = 0;
    for (; i + step <= I; i += step) {
        if (beside)
            UNROLL
            for (int p = 0; p < P; p++)
                __builtin_prefetch(next + p * I * size, 0, 2);
        else
            for (int64_t byte = 0; byte < stride; byte += 64)
                __builtin_prefetch(next + byte, 0, 2);
        next += stride;
        NAME(step)(type, R, P, I, i, w, x, sum);
    }
    NAME(sums)(R, P, sum, out);
    for (; i < I; i++)
        UNROLL
        for (int r = 0; r < R; r++) {
            const float value = DOTS(type) ? widen(((const bf16 *)x)[r * I + i]) : ((const float *)x)[r * I + i];
            UNROLL
            for (int p = 0; p < P; p++) {
                const int64_t at = p * I + i;
                const float other = type == F32    ? ((const float *)w)[at]
                                    : type == BF16 ? widen(((const bf16 *)w)[at])
                                                   : (float)((const int8_t *)w)[at];
                /* Said expressly, as compilers choose it for some numbers of rows and not for others. */
                out[r * 4 + p] = BYTES == 16 ? out[r * 4 + p] + value * other : __builtin_fmaf(value, other, out[r * 4 + p]);
            }
        }
    NAME(place)(R, P, out, scale, narrowed, O, y);
}

/* Outputs [first, last) of R rows, in pass `pass` over a chunk of W. */
TARGET static INLINE void NAME(outputs)(const int type, const int R, int64_t I, int narrowed, int64_t first, int64_t last,
                                        int64_t O, const char *w, const void *x, const float *scale, int64_t chunk, int pass,
                                        int passes, void *y)
{
    const int size = type == F32 ? 4 : type == BF16 ? 2 : 1;
    /* As many sums as registers hold. */
    const int P = BYTES == 64 ? (R > 6 ? 3 : 4) : R > 2 ? (type == F32 ? 3 : 2) : 4;
    for (int64_t o = first; o < last;) {
        const char *from = w + o * I * size;
        const int count = last - o >= P ? P : 1;
        /* A single pass is so far ahead as memory needs to answer. Of several each fetches its even part of the next
         * chunk, so that memory is never asked for more than it delivers. At the end nothing is left to fetch. */
        const int64_t ahead = passes == 1 ? P * (1 + AHEAD / (P * I * size)) : chunk;
        const int64_t stride = o + ahead + P <= O ? P * STEP(type) * size / passes : 0;
        const float *factor = scale ? scale + o : NULL;
        void *to = (char *)y + o * (narrowed ? 2 : 4);
        if (count < P)
            NAME(block)(type, R, 1, I, from, x, from, 0, 0, factor, narrowed, O, to);
        else if (passes == 1 && I * size > WIDE && stride)
            NAME(block)(type, R, P, I, from, x, from + ahead * I * size, stride / P, 1, factor, narrowed, O, to);
        else
            NAME(block)(type, R, P, I, from, x, from + ahead * I * size + P * I * size * pass / passes, stride, 0, factor,
                        narrowed, O, to);
        o += count;
    }
}

/* x as NAME(step) reads it: fp32, bf16's pairs apart where W's are taken apart; NULL where there was no memory. */
TARGET static const void *NAME(prepare)(int type, int64_t N, int64_t I, int narrowed, const void *x, void **room)
{
    *room = NULL;
    if (!narrowed || DOTS(type))
        return x;
    float *wide = space(N * I, room);
    const int half = type == BF16 ? WIDTH : 0;
    for (int64_t r = 0; wide && r < N; r++) {
        const bf16 *from = (const bf16 *)x + r * I;
        float *to = wide + r * I;
        int64_t i = 0;
        for (; half && i + 2 * half <= I; i += 2 * half)
            for (int j = 0; j < half; j++) {
                to[i + j] = widen(from[i + 2 * j]);
                to[i + half + j] = widen(from[i + 2 * j + 1]);
            }
        for (; i < I; i++)
            to[i] = widen(from[i]);
    }
    return wide;
}

TARGET static INLINE int NAME(rows)(const int type, int64_t N, int64_t I, int64_t narrowed, int64_t first, int64_t last,
                                    int64_t O, const void *x, const void *w, const float *scale, void *y)
{
    void *room;
    const char *ready = NAME(prepare)(type, N, I, (int)narrowed, x, &room);
    if (!ready)
        return 1;
    const int64_t row = I * (narrowed && DOTS(type) ? 2 : 4);
    const int most = BYTES == 64 ? 8 : 4;
    const int passes = (int)((N + most - 1) / most);
    /* Of whole blocks of outputs, whatever their size. */
    const int64_t fitting = CHUNK / (I * (type == F32 ? 4 : type == BF16 ? 2 : 1)) / 12 * 12;
    const int64_t chunk = fitting < 12 ? 12 : MIN(fitting, ITEM);
    for (int64_t o = first; o < last; o += chunk) {
        const int64_t end = MIN(o + chunk, last);
        for (int pass = 0; pass < passes; pass++) {
            /* Blocks of rows are of almost the same size. */
            const int64_t from = N * pass / passes, count = N * (pass + 1) / passes - from;
            void *to = (char *)y + from * O * (narrowed ? 2 : 4);
#define CASE(R)                                                                                                       \
    case R:                                                                                                           \
        NAME(outputs)(type, R, I, (int)narrowed, o, end, O, w, ready + from * row, scale, chunk, pass, passes, to);   \
        break;
            switch (count) {
                CASE(1) CASE(2) CASE(3) CASE(4)
#if BYTES == 64
                CASE(5) CASE(6) CASE(7) CASE(8)
#endif
            }
#undef CASE
        }
    }
    free(room);
    return 0;
}

/* One function per type, so that each is compiled for its own. */
TARGET static int NAME(rows_f32)(int64_t N, int64_t I, int64_t narrowed, int64_t first, int64_t last, int64_t O,
                                 const void *x, const void *w, const float *scale, void *y)
{
    return NAME(rows)(F32, N, I, narrowed, first, last, O, x, w, scale, y);
}

TARGET static int NAME(rows_bf16)(int64_t N, int64_t I, int64_t narrowed, int64_t first, int64_t last, int64_t O,
                                  const void *x, const void *w, const float *scale, void *y)
{
    return NAME(rows)(BF16, N, I, narrowed, first, last, O, x, w, scale, y);
}

TARGET static int NAME(rows_i8)(int64_t N, int64_t I, int64_t narrowed, int64_t first, int64_t last, int64_t O,
                                const void *x, const void *w, const float *scale, void *y)
{
    return NAME(rows)(I8, N, I, narrowed, first, last, O, x, w, scale, y);
}

#undef VEC
#undef WIDTH
#undef STEP
#undef DOTS

#endif
