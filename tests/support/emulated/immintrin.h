/* The instructions that the kernels name, as plain C: a compiler that finds this file first builds kernels whose widest
 * paths run on any processor. Built with
 *
 *     -D'target(...)=unused'                   nothing is compiled for a set of instructions
 *     -D'__builtin_cpu_supports(x)=has(x)'     the processor has what the environment variable EMULATED lists
 *     -Dsyscall=answer                         Linux lets the process have tile registers
 *     -include immintrin.h                     kernels that name no instruction ask what the processor has, too
 *
 * Sums of products of bf16 are taken in order, in fp32, rounded to even; processors flush the smallest numbers to zero.
 */
#pragma once
#include <emmintrin.h> /* what every x86-64 has */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTION static inline __attribute__((always_inline, unused))
#define FLOATS(bytes) float __attribute__((vector_size(bytes), may_alias))
#define BITS(bytes) long long __attribute__((vector_size(bytes), may_alias))
#define HALVES(bytes) uint16_t __attribute__((vector_size(bytes), may_alias))

typedef FLOATS(32) __m256;
typedef FLOATS(64) __m512;
typedef BITS(32) __m256i;
typedef BITS(64) __m512i;
typedef HALVES(32) __m256bh;
typedef HALVES(64) __m512bh;

static inline __attribute__((unused)) int has(const char *feature)
{
    const char *all = getenv("EMULATED");
    const char *at = all ? strstr(all, feature) : NULL;
    return at && (at[strlen(feature)] == ',' || !at[strlen(feature)]);
}

__attribute__((weak)) long answer(long number, ...) { return !number; }

FUNCTION float wide(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

FUNCTION uint16_t rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? (uint16_t)(bits >> 16 | 64) : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Loads and stores, parts of registers. */

FUNCTION __m256i _mm256_loadu_si256(const __m256i *from)
{
    __m256i y;
    memcpy(&y, from, sizeof y);
    return y;
}

FUNCTION void _mm256_storeu_si256(__m256i *to, __m256i x) { memcpy(to, &x, sizeof x); }

FUNCTION void _mm256_stream_si256(__m256i *to, __m256i x) { memcpy(to, &x, sizeof x); }

FUNCTION void _mm512_stream_si512(__m512i *to, __m512i x) { memcpy(to, &x, sizeof x); }

#define PART(name, type, of)                                                                                          \
    FUNCTION type name(of x, int which)                                                                               \
    {                                                                                                                 \
        type y;                                                                                                       \
        memcpy(&y, (const char *)&x + sizeof y * (size_t)which, sizeof y);                                            \
        return y;                                                                                                     \
    }
PART(_mm256_extractf128_ps, __m128, __m256)
PART(_mm512_extractf32x8_ps, __m256, __m512)
#define _mm256_castps256_ps128(x) _mm256_extractf128_ps(x, 0)
#define _mm512_castps512_ps256(x) _mm512_extractf32x8_ps(x, 0)

/* Conversions, lane by lane. */

#define CONVERT(name, to, number, from, part, lanes)                                                                  \
    FUNCTION to name(from x)                                                                                          \
    {                                                                                                                 \
        part before[sizeof x / sizeof(part)];                                                                         \
        number after[lanes];                                                                                          \
        to y;                                                                                                         \
        memcpy(before, &x, sizeof x);                                                                                 \
        for (int i = 0; i < lanes; i++)                                                                               \
            after[i] = (number)before[i];                                                                             \
        memcpy(&y, after, sizeof y);                                                                                  \
        return y;                                                                                                     \
    }
CONVERT(_mm256_cvtepi8_epi32, __m256i, int32_t, __m128i, int8_t, 8)
CONVERT(_mm512_cvtepi8_epi32, __m512i, int32_t, __m128i, int8_t, 16)
CONVERT(_mm256_cvtepu16_epi32, __m256i, uint32_t, __m128i, uint16_t, 8)
CONVERT(_mm512_cvtepu16_epi32, __m512i, uint32_t, __m256i, uint16_t, 16)
CONVERT(_mm256_cvtepi32_ps, __m256, float, __m256i, int32_t, 8)
CONVERT(_mm512_cvtepi32_ps, __m512, float, __m512i, int32_t, 16)

FUNCTION __m256bh _mm512_cvtneps_pbh(__m512 x)
{
    __m256bh y;
    for (int i = 0; i < 16; i++)
        y[i] = rounded(x[i]);
    return y;
}

/* Arithmetic. */

#define SHIFT(name, type)                                                                                             \
    FUNCTION type name(type x, int by)                                                                                \
    {                                                                                                                 \
        uint32_t lanes[sizeof x / 4];                                                                                 \
        memcpy(lanes, &x, sizeof x);                                                                                  \
        for (size_t i = 0; i < sizeof x / 4; i++)                                                                     \
            lanes[i] <<= by;                                                                                          \
        memcpy(&x, lanes, sizeof x);                                                                                  \
        return x;                                                                                                     \
    }
SHIFT(_mm256_slli_epi32, __m256i)
SHIFT(_mm512_slli_epi32, __m512i)

FUNCTION __m256 _mm256_add_ps(__m256 x, __m256 y) { return x + y; }

FUNCTION __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh x, __m512bh y)
{
    for (int i = 0; i < 32; i++)
        sum[i / 2] += wide(x[i]) * wide(y[i]);
    return sum;
}

/* The arguments stand with the last lane's first. */
FUNCTION __m512i _mm512_set_epi32(int p, int o, int n, int m, int l, int k, int j, int i, int h, int g, int f, int e,
                                  int d, int c, int b, int a)
{
    const int32_t lanes[16] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p};
    __m512i y;
    memcpy(&y, lanes, sizeof y);
    return y;
}

FUNCTION __m512 _mm512_i32gather_ps(__m512i at, const float *from, int scale)
{
    int32_t lanes[16];
    float found[16];
    __m512 y;
    memcpy(lanes, &at, sizeof lanes);
    for (int i = 0; i < 16; i++)
        memcpy(&found[i], (const char *)from + (int64_t)lanes[i] * scale, sizeof(float));
    memcpy(&y, found, sizeof y);
    return y;
}

/* Tiles: eight registers of up to 16 rows of up to 64 bytes; each thread has its own. */

static __thread struct { uint16_t bytes[8]; uint8_t rows[8]; uint32_t data[8][16][16]; } tiles __attribute__((unused));

FUNCTION void _tile_loadconfig(const void *config)
{
    memset(&tiles, 0, sizeof tiles);
    memcpy(tiles.bytes, (const char *)config + 16, sizeof tiles.bytes);
    memcpy(tiles.rows, (const char *)config + 48, sizeof tiles.rows);
}

FUNCTION void _tile_release(void) { memset(&tiles, 0, sizeof tiles); }

FUNCTION void _tile_zero(int tile) { memset(tiles.data[tile], 0, sizeof tiles.data[tile]); }

FUNCTION void _tile_loadd(int tile, const void *from, int64_t step)
{
    for (int row = 0; row < tiles.rows[tile]; row++)
        memcpy(tiles.data[tile][row], (const char *)from + row * step, tiles.bytes[tile]);
}

FUNCTION void _tile_stored(int tile, void *to, int64_t step)
{
    for (int row = 0; row < tiles.rows[tile]; row++)
        memcpy((char *)to + row * step, tiles.data[tile][row], tiles.bytes[tile]);
}

FUNCTION void _tile_dpbf16ps(int to, int left, int right)
{
    for (int m = 0; m < tiles.rows[to]; m++)
        for (int k = 0; k < tiles.bytes[left] / 4; k++)
            for (int n = 0; n < tiles.bytes[to] / 4; n++) {
                const uint32_t x = tiles.data[left][m][k], y = tiles.data[right][k][n];
                float sum;
                memcpy(&sum, &tiles.data[to][m][n], sizeof sum);
                sum += wide((uint16_t)x) * wide((uint16_t)y);
                sum += wide((uint16_t)(x >> 16)) * wide((uint16_t)(y >> 16));
                memcpy(&tiles.data[to][m][n], &sum, sizeof sum);
            }
}

#undef FUNCTION
#undef FLOATS
#undef BITS
#undef HALVES
#undef PART
#undef CONVERT
#undef SHIFT
