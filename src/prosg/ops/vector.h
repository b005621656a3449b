/* Vectors as wide as a register, of the number type and for the instruction set that kernel.h has chosen: compilers do
 * not reliably vectorise short loops over plain numbers, and never sums. Where the compiler has no vector types, a vector
 * is one number.
 */
#if defined(__GNUC__)
typedef REAL NAME(vector) __attribute__((vector_size(BYTES), may_alias));
typedef REAL NAME(loose) __attribute__((vector_size(BYTES), may_alias, aligned(sizeof(REAL))));
typedef REAL NAME(four) __attribute__((vector_size(4 * sizeof(REAL)), may_alias, aligned(sizeof(REAL))));
#else
typedef REAL NAME(vector);
typedef REAL NAME(loose);
#endif

#define VEC NAME(vector)
#define FOUR NAME(four)
#define WIDTH ((int)(sizeof(VEC) / sizeof(REAL)))
/* The vector at a pointer; the second one may stand anywhere. */
#define AT(pointer) (*(VEC *)(pointer))
#define LOOSE(pointer) (*(NAME(loose) *)(pointer))

/* Room for `count` numbers, all 0, from a cache line's beginning on; `block` is for free(). */
static REAL *NAME(space)(int64_t count, void **block)
{
    *block = calloc((size_t)count + 64 / sizeof(REAL), sizeof(REAL));
    return *block ? (REAL *)(((uintptr_t)*block + 63) & ~(uintptr_t)63) : NULL;
}

/* Rows of n numbers, too short to call memcpy for each. */
TARGET static INLINE void NAME(copy)(int64_t rows, int64_t n, const REAL *from, int64_t from_step, REAL *to,
                                     int64_t to_step)
{
    for (; rows > 0; rows--, from += from_step, to += to_step) {
        int64_t i = 0;
        for (; i + WIDTH <= n; i += WIDTH)
            LOOSE(to + i) = LOOSE(from + i);
        for (; i < n; i++)
            to[i] = from[i];
    }
}

/* An (n, n) matrix, in blocks of 4 by 4. */
TARGET static inline void NAME(transpose)(int64_t n, const REAL *from, int64_t from_step, REAL *to, int64_t to_step)
{
    int64_t whole = 0;
#if defined(__GNUC__)
    whole = n / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) {
        for (int64_t j = 0; j < whole; j += 4) {
            const REAL *x = from + i * from_step + j;
            REAL *y = to + j * to_step + i;
            const FOUR a = *(const FOUR *)x, b = *(const FOUR *)(x + from_step);
            const FOUR c = *(const FOUR *)(x + 2 * from_step), d = *(const FOUR *)(x + 3 * from_step);
            const FOUR ac = {a[0], c[0], a[1], c[1]}, bd = {b[0], d[0], b[1], d[1]};
            const FOUR ca = {a[2], c[2], a[3], c[3]}, db = {b[2], d[2], b[3], d[3]};
            *(FOUR *)y = (FOUR){ac[0], bd[0], ac[1], bd[1]};
            *(FOUR *)(y + to_step) = (FOUR){ac[2], bd[2], ac[3], bd[3]};
            *(FOUR *)(y + 2 * to_step) = (FOUR){ca[0], db[0], ca[1], db[1]};
            *(FOUR *)(y + 3 * to_step) = (FOUR){ca[2], db[2], ca[3], db[3]};
        }
    }
#endif
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i < whole ? whole : 0; j < n; j++)
            to[j * to_step + i] = from[i * from_step + j];
}

/* For each of n vectors the sum over its lanes. */
TARGET static INLINE void NAME(sums)(const int n, const VEC *x, REAL *out)
{
#if defined(__GNUC__)
    if (n == 4 && WIDTH >= 4) {
        FOUR s[4];
        for (int i = 0; i < 4; i++) {
            s[i] = ((const FOUR *)&x[i])[0];
            for (int part = 1; part < WIDTH / 4; part++)
                s[i] += ((const FOUR *)&x[i])[part];
        }
        const FOUR ab = (FOUR){s[0][0], s[1][0], s[0][1], s[1][1]} + (FOUR){s[0][2], s[1][2], s[0][3], s[1][3]};
        const FOUR cd = (FOUR){s[2][0], s[3][0], s[2][1], s[3][1]} + (FOUR){s[2][2], s[3][2], s[2][3], s[3][3]};
        *(FOUR *)out = (FOUR){ab[0], ab[1], cd[0], cd[1]} + (FOUR){ab[2], ab[3], cd[2], cd[3]};
        return;
    }
#endif
    for (int i = 0; i < n; i++) {
        out[i] = 0;
        for (int lane = 0; lane < WIDTH; lane++)
            out[i] += ((const REAL *)&x[i])[lane];
    }
}

/* n is a multiple of WIDTH. */
TARGET static inline REAL NAME(dot)(int64_t n, const REAL *x, const REAL *y)
{
    VEC parts = {0};
    REAL sum;
    for (int64_t i = 0; i < n; i += WIDTH)
        parts += AT(x + i) * AT(y + i);
    NAME(sums)(1, &parts, &sum);
    return sum;
}
