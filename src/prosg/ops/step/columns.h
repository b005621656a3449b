/* For each type and set of instructions of step.c: act(x W) of a W that is (I, O), RWKV-7's low ranks. */
#if DOT
typedef uint32_t NAME(numbers) __attribute__((vector_size(BYTES), may_alias));
typedef REAL NAME(pairs) __attribute__((vector_size(BYTES), may_alias, aligned(2)));
/* Lanes of two rows of W beside one another, from the first, or from the middle on. */
#define BESIDE(a, b, i)                                                                                                \
    SHUFFLE(a, b, i, i + 32, i + 1, i + 33, i + 2, i + 34, i + 3, i + 35, i + 4, i + 36, i + 5, i + 37, i + 6, i + 38, \
            i + 7, i + 39, i + 8, i + 40, i + 9, i + 41, i + 10, i + 42, i + 11, i + 43, i + 12, i + 44, i + 13,       \
            i + 45, i + 14, i + 46, i + 15, i + 47)

/* The products of R rows' numbers i and i + 1, the second of which may be missing, by the processor's own of bf16. */
TARGET static INLINE void NAME(add_pair)(const int R, const int L, const int whole, int64_t I, int64_t O, const REAL *x,
                                         const REAL *w, VEC parts[][8])
{
    _Pragma("GCC unroll 4") for (int l = 0; l < L; l += 2) {
        const NAME(pairs) one = *(const NAME(pairs) *)(w + l * WIDTH);
        const NAME(pairs) other = whole ? *(const NAME(pairs) *)(w + O + l * WIDTH) : (NAME(pairs)){0};
        const __m512bh first = (__m512bh)BESIDE(one, other, 0), second = (__m512bh)BESIDE(one, other, 16);
        _Pragma("GCC unroll 8") for (int n = 0; n < R; n++) {
            uint32_t pair = 0;
            memcpy(&pair, x + n * I, whole ? 4 : 2);
            const __m512bh both = (__m512bh)(pair + (NAME(numbers)){0});
            parts[n][l] = (VEC)_mm512_dpbf16_ps((__m512)parts[n][l], first, both);
            parts[n][l + 1] = (VEC)_mm512_dpbf16_ps((__m512)parts[n][l + 1], second, both);
        }
    }
}
#undef BESIDE
#define READY REAL
#define WIDE(x) GET(x)
#else
#define READY float
#define WIDE(x) (x)
#endif

/* R rows and L vectors of outputs of columns: sum (R, L WIDTH). */
TARGET static INLINE void NAME(tile)(const int R, const int L, int64_t I, int64_t O, const READY *x, const REAL *w,
                                     float *sum)
{
    VEC parts[TILE_ROWS][8] = {{{0}}};
    int64_t i = 0;
#if DOT
    for (; i + 1 < I; i += 2)
        NAME(add_pair)(R, L, 1, I, O, x + i, w + i * O, parts);
    if (i < I)
        NAME(add_pair)(R, L, 0, I, O, x + i, w + i * O, parts);
#else
    for (; i < I; i++)
        _Pragma("GCC unroll 8") for (int l = 0; l < L; l++) {
            const VEC from = NAME(load)(w + i * O + l * WIDTH);
            _Pragma("GCC unroll 8") for (int n = 0; n < R; n++)
                parts[n][l] += x[n * I + i] * from;
        }
#endif
    for (int n = 0; n < R; n++)
        memcpy(sum + n * L * WIDTH, parts[n], (size_t)L * sizeof(VEC));
}

/* Outputs [o, o + lanes) of `count` rows of columns: sum (count, lanes). One row's are many, for sums enough at a time. */
TARGET static INLINE void NAME(outputs)(int64_t count, int64_t lanes, int64_t I, int64_t O, const READY *x, const REAL *w,
                                        float *sum)
{
    if (lanes == TILE * WIDTH && count == TILE_ROWS)
        NAME(tile)(TILE_ROWS, TILE, I, O, x, w, sum);
    else if (lanes == TILE * WIDTH && count == TILE_ROWS / 2)
        NAME(tile)(TILE_ROWS / 2, TILE, I, O, x, w, sum);
    else if (lanes == 8 * WIDTH)
        NAME(tile)(1, 8, I, O, x, w, sum);
    else if (lanes == TILE * WIDTH)
        NAME(tile)(1, TILE, I, O, x, w, sum);
    else {
        memset(sum, 0, (size_t)(count * lanes) * sizeof(float));
        for (int64_t i = 0; i < I; i++)
            for (int64_t n = 0; n < count; n++)
                for (int64_t l = 0; l < lanes; l++)
                    sum[n * lanes + l] += WIDE(x[n * I + i]) * GET(w[i * O + l]);
    }
}

/* y (rows, O) = act(x (rows, I) w (I, O)); act: 0 none, 1 tanh, 2 sigmoid. */
TARGET static int NAME(columns)(int64_t rows, int64_t I, int64_t O, int64_t act, int64_t t, int64_t begin, int64_t end,
                                void *const *at)
{
    const REAL *x = at[0], *w = at[1];
    REAL *y = at[2];
    (void)t, (void)begin, (void)end;
#if DOT
    const REAL *const ready = x;
#else
    float *const ready = malloc((size_t)(rows * I) * sizeof(float));
    if (!ready)
        return 1;
    for (int64_t i = 0; i < rows * I; i++)
        ready[i] = GET(x[i]);
#endif
    int64_t count, lanes;
    for (int64_t n = 0; n < rows; n += count) {
        const int64_t left = rows - n;
        count = left >= TILE_ROWS ? TILE_ROWS : left >= TILE_ROWS / 2 ? TILE_ROWS / 2 : 1;
        for (int64_t o = 0; o < O; o += lanes) {
            float sum[TILE_ROWS * TILE * WIDTH];
            lanes = count == 1 && O - o >= 8 * WIDTH ? 8 * WIDTH : O - o >= TILE * WIDTH ? TILE * WIDTH : O - o;
            NAME(outputs)(count, lanes, I, O, ready + n * I, w + o, sum);
            for (int64_t m = 0; m < count; m++)
                for (int64_t l = 0; l < lanes; l++) {
                    const float value = sum[m * lanes + l];
                    y[(n + m) * O + o + l] = PUT(act == 1   ? 2 * NAME(sigmoid)(2 * value) - 1
                                                 : act == 2 ? NAME(sigmoid)(value)
                                                            : value);
                }
        }
    }
#if !DOT
    free(ready);
#endif
    return 0;
}

#undef READY
#undef WIDE
