/* For each set of instructions of linear.c: sums over the lanes of vectors, and putting them where y wants them. */
/* For each of n vectors the sum over its lanes. */
TARGET static INLINE void NAME(each_sum)(const int n, const VEC *x, float *out)
{
    for (int first = 0; first < n; first += 4) {
        four s[4] = {{0}, {0}, {0}, {0}};
        for (int i = 0; i < 4 && first + i < n; i++) {
#if BYTES == 64
            const __m256 half = _mm256_add_ps(_mm512_castps512_ps256((__m512)x[first + i]),
                                              _mm512_extractf32x8_ps((__m512)x[first + i], 1));
            s[i] = (four)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif BYTES == 32
            s[i] = (four)_mm_add_ps(_mm256_castps256_ps128((__m256)x[first + i]),
                                    _mm256_extractf128_ps((__m256)x[first + i], 1));
#else
            s[i] = (four)x[first + i];
#endif
        }
        const four ab = (four){s[0][0], s[1][0], s[0][1], s[1][1]} + (four){s[0][2], s[1][2], s[0][3], s[1][3]};
        const four cd = (four){s[2][0], s[3][0], s[2][1], s[3][1]} + (four){s[2][2], s[3][2], s[2][3], s[3][3]};
        const four sum = (four){ab[0], ab[1], cd[0], cd[1]} + (four){ab[2], ab[3], cd[2], cd[3]};
        memcpy(out + first, &sum, sizeof(float) * (size_t)MIN(4, n - first));
    }
}

#if BYTES == 64
/* The sum of two vectors made of the lanes of a and b (those of b counted on from 16): the lanes named, and those `by` behind. */
#define FOLD(a, b, by, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x)                                                \
    (SHUFFLE(a, b, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x) +                                                  \
     SHUFFLE(a, b, i + by, j + by, k + by, l + by, m + by, n + by, o + by, p + by, q + by, r + by, s + by, t + by,    \
             u + by, v + by, w + by, x + by))

/* Of four vectors the sums over their quarters, one vector's in each quarter. */
TARGET static INLINE VEC NAME(quarters)(VEC a, VEC b, VEC c, VEC d)
{
#define HALVES(a, b) FOLD(a, b, 8, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
    const VEC ab = HALVES(a, b), cd = HALVES(c, d);
    return FOLD(ab, cd, 4, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
#undef HALVES
}

/* Of four vectors the sums within each quarter, beside one another. */
TARGET static INLINE VEC NAME(within)(VEC a, VEC b, VEC c, VEC d)
{
#define PAIRS(a, b) FOLD(a, b, 2, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
    const VEC ab = PAIRS(a, b), cd = PAIRS(c, d);
    return FOLD(ab, cd, 2, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
#undef PAIRS
}
#undef FOLD
#endif

/* The sums over the lanes of R x P vectors, out (R, 4), of which P are meant. Every way adds in the same order. */
TARGET static INLINE void NAME(sums)(const int R, const int P, VEC sum[][4], float *out)
{
#if BYTES == 64
    if (R > 2) {
        /* Four rows and four outputs at a time: a quarter is a row's. */
        const VEC none = {0};
        UNROLL
        for (int r = 0; r < R; r += 4) {
            VEC of[4];
            UNROLL
            for (int p = 0; p < 4; p++)
                of[p] = p >= P ? none
                               : NAME(quarters)(sum[r][p], r + 1 < R ? sum[MIN(r + 1, R - 1)][p] : none,
                                                r + 2 < R ? sum[MIN(r + 2, R - 1)][p] : none,
                                                r + 3 < R ? sum[MIN(r + 3, R - 1)][p] : none);
            *(VEC *)(out + r * 4) = NAME(within)(of[0], of[1], of[2], of[3]);
        }
        return;
    }
#endif
    UNROLL
    for (int r = 0; r < R; r++)
        NAME(each_sum)(P, sum[r], out + r * 4);
}

/* Puts P outputs of R rows, out (R, 4), times their factors, where y wants them. */
TARGET static INLINE void NAME(place)(const int R, const int P, float *out, const float *scale, int narrowed, int64_t O,
                                      void *y)
{
    if (scale)
        for (int r = 0; r < R; r++)
            for (int p = 0; p < P; p++)
                out[r * 4 + p] *= scale[p];
    if (narrowed) {
        bf16 narrow_out[8 * 4];
#if BYTES == 64
        UNROLL
        for (int r = 0; R > 2 && r < R; r += 4) {
            const VEC value = *(const VEC *)(out + r * 4);
            const NAME(bits) bits = (NAME(bits))value, up = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
            const NAME(bits) number = (NAME(bits))(value == value); /* else NaN, as in narrow() */
            const NAME(short_vec) all = __builtin_convertvector((up & number) | (0x7fc0 & ~number), NAME(short_vec));
            memcpy(narrow_out + r * 4, &all, sizeof(all));
        }
#endif
        for (int r = 0; (BYTES < 64 || R <= 2) && r < R; r++)
            for (int p = 0; p < P; p++)
                narrow_out[r * 4 + p] = narrow(out[r * 4 + p]);
        for (int r = 0; r < R; r++)
            memcpy((bf16 *)y + r * O, narrow_out + r * 4, sizeof(bf16) * (size_t)P);
    } else
        for (int r = 0; r < R; r++)
            memcpy((float *)y + r * O, out + r * 4, sizeof(float) * (size_t)P);
}
