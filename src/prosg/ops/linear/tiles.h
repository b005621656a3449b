/* linear.c's products on the tiles of AMX: bf16, from TILES_FROM rows on. */
#if defined(DISPATCH) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 12)
#define TILES 1
#include <sys/syscall.h>
#include <unistd.h>

#define TILED __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bf16")))
#define TILE 16

/* Whether the processor multiplies tiles, and Linux lets this process have their registers. */
static int has_tiles(void)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return __builtin_cpu_supports("amx-bf16") && !syscall(SYS_arch_prctl, REQUEST, TILE_DATA);
}

/* bf16 on tiles of 16 outputs times 16 rows times 32 of I, which must be a multiple of that. W is read where it is; x is
 * laid out as the second factor has to be, a tile after the other, pairs of I beside each other, missing rows 0. */
TILED static int rows_bf16_tiles(int64_t N, int64_t I, int64_t first, int64_t last, int64_t O, const bf16 *x,
                                 const bf16 *w, bf16 *y)
{
    const struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } config = {
        .palette = 1,
        .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {TILE, TILE, TILE, TILE, TILE, TILE, TILE, TILE},
    };
    const int64_t steps = I / 32, groups = (N + TILE - 1) / TILE;
    void *room;
    uint32_t *packed = (uint32_t *)space(groups * steps * TILE * TILE, &room);
    if (!packed)
        return 1;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < I; i += 2)
            memcpy(packed + ((n / TILE * steps + i / 32) * TILE + i % 32 / 2) * TILE + n % TILE, x + n * I + i, 4);
    _tile_loadconfig(&config);
    const __m512i column = _mm512_slli_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), 4);
    float out[4][TILE * TILE] __attribute__((aligned(64)));
    for (int64_t o = first; o < last; o += 2 * TILE) {
        /* The last outputs may be computed twice rather than reach beyond W. */
        const int64_t above = MIN(o, O - TILE), below = MIN(o + TILE, O - TILE);
        const bf16 *upper = w + above * I, *lower = w + below * I;
        for (int64_t g = 0; g < groups; g += 2) {
            const int two = g + 1 < groups;
            const uint32_t *left = packed + g * steps * TILE * TILE, *right = left + (two ? steps * TILE * TILE : 0);
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t step = 0; step < steps; step++) {
                if (g == 0)
                    for (int r = 0; r < 2 * TILE; r++)
                        __builtin_prefetch(upper + (2 * TILE + r) * I + step * 32, 0, 2);
                _tile_loadd(4, upper + step * 32, (int)(2 * I));
                _tile_loadd(5, lower + step * 32, (int)(2 * I));
                _tile_loadd(6, left + step * TILE * TILE, 4 * TILE);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 5, 6);
                if (two) {
                    _tile_loadd(7, right + step * TILE * TILE, 4 * TILE);
                    _tile_dpbf16ps(2, 4, 7);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            _tile_stored(0, out[0], 4 * TILE);
            _tile_stored(1, out[1], 4 * TILE);
            _tile_stored(2, out[2], 4 * TILE);
            _tile_stored(3, out[3], 4 * TILE);
            for (int half = 0; half < 1 + two; half++)
                for (int64_t n = (g + half) * TILE; n < MIN(N, (g + half + 1) * TILE); n++) {
                    const __m512 one = _mm512_i32gather_ps(column, out[2 * half] + n % TILE, 4);
                    const __m512 other = _mm512_i32gather_ps(column, out[2 * half + 1] + n % TILE, 4);
                    _mm256_storeu_si256((__m256i *)(y + n * O + above), (__m256i)_mm512_cvtneps_pbh(one));
                    _mm256_storeu_si256((__m256i *)(y + n * O + below), (__m256i)_mm512_cvtneps_pbh(other));
                }
        }
    }
    _tile_release();
    free(room);
    return 0;
}
#endif
