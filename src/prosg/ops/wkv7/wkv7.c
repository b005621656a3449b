/* RWKV-7's recurrence on the CPU, forward and backward; naive.py has the equations and is the oracle.
 *
 * Per head and step, S (N, N) with rows for values and columns for keys, d = e^w:
 *
 *     u = S a;    S' = S diag(d) + u b^T + v k^T;    y = S' r
 *
 * Backward, with g_x the gradient of x, G that of S', and * element by element:
 *
 *     G += g_y r^T;       g_u = G b;      g_v = G k
 *     g_r = S'^T g_y;     g_k = G^T v;    g_b = G^T u;    g_a = S^T g_u;    g_w = d * (the sums over rows of G * S)
 *     g_S = G diag(d) + g_u a^T
 *
 * A pull S" = l S' + P, where there is one, comes after each step, with one l for a head: g_P += G", g_l += the sum of
 * G" * S', and then G = l G" instead of G".
 *
 * A matrix times a vector needs no sums across a register if the lanes run over what is not summed over. So there are
 * two ways through time:
 *
 *     by columns   lanes are rows, a matrix stands in memory column by column: `advance` does M diag(d) + p q^T + s z^T
 *                  and two products with the result in one pass. Forward is that with S; in reverse, with G, it gives
 *                  g_u and g_v
 *     by rows      lanes are columns. With u and g_u known, every element of S and G goes its own way: a block of them
 *                  stays in registers for a whole SEGMENT of time and adds to the sums over rows on its way
 *
 * Arrays are contiguous: r, w, k, v, a, b, y, u (B, T, H, N); states (B, H, N, N). An item is a row's head, numbered
 * row by row; a call does the items [begin, end). An item writes to places of its own only, so that nothing depends on
 * how the items are spread over threads.
 */
#ifndef REAL

/* To be raised with every change of the functions' arguments: a library left over from an older build is refused. */
#define ABI 2
#define LIBRARY wkv7
#define SOURCE "wkv7/wkv7.c"

/* Steps that backward has at hand at a time. It keeps the state at the beginning of every segment. */
#define SEGMENT 16
/* What it has for each of them, one vector each: inputs, the gradient of u, and results. */
enum { U, D, K, V, B, R, A, GY, GU, GW, GK, GV, GB, GR, GA, ARRAYS };
/* Where that stands, in `space`. From step to step, STEP, it is a cache line more than a vector has: all of them would
 * fall on the same places of the cache otherwise. */
#define ROW(array, t) (space + ((array) * SEGMENT + (t)) * STEP)
#define STEP (P + 64 / (int64_t)sizeof(REAL))

/* In working space N is rounded up, with zeros, to whole vectors, blocks of rows and cache lines. */
#define PADDED ((N + 15) / 16 * 16)

/* As many as there are registers for: vectors of rows in `advance`, rows in a block of the other way. */
#define WIDE (BYTES == 64 ? 4 : 2)
#define ROWS (BYTES == 64 ? 8 : 4)

/* Steps ahead at which forward asks for its inputs. */
#define AHEAD 2

/* Bytes of a call's states from which on a single step writes them past the caches. They are read again at the next token,
 * when other layers have taken their place there; and a cache reads what is overwritten first, in vain. */
#define AWAY ((int64_t)4 << 20)
/* Bytes ahead at which it then asks for states. */
#define FORESEEN 4096

#define FORWARD_ARGS(real)                                                                                            \
    (int64_t T, int64_t H, int64_t N, int64_t begin, int64_t end, const int64_t *lengths, const real *r,              \
     const real *w, const real *k, const real *v, const real *a, const real *b, const real *state, const real *pull,  \
     const real *keep, real *y, real *state_out, real *u)
#define BACKWARD_ARGS(real)                                                                                           \
    (int64_t T, int64_t H, int64_t N, int64_t begin, int64_t end, const int64_t *lengths, const real *r,              \
     const real *w, const real *k, const real *v, const real *a, const real *b, const real *state, const real *pull,  \
     const real *keep, const real *u, const real *gy, const real *gstate_out, real *gr, real *gw, real *gk, real *gv, \
     real *ga, real *gb, real *gstate, real *gpull, real *gkeep)

/* An item's first number, that of its state, the distance between its steps, and how many of them are valid. */
#define ITEM                                                                                                          \
    const int64_t row = item / H, x = (row * T * H + item % H) * N, m = item * N * N, step = H * N;                   \
    int64_t steps = lengths ? lengths[row] : T;                                                                       \
    steps = steps < 0 ? 0 : steps > T ? T : steps;

#include "kernel.h"

/* These return 1 where there is no memory for their working space. `u` is NULL where no backward will follow. */
#define DEFINE(real, type)                                                                                            \
    EXPORT int prosg_wkv7_forward_##type FORWARD_ARGS(real)                                                           \
    {                                                                                                                 \
        return PICK(forward, type)(T, H, N, begin, end, lengths, r, w, k, v, a, b, state, pull, keep, y, state_out,   \
                                   u);                                                                                \
    }                                                                                                                 \
    EXPORT int prosg_wkv7_backward_##type BACKWARD_ARGS(real)                                                         \
    {                                                                                                                 \
        return PICK(backward, type)(T, H, N, begin, end, lengths, r, w, k, v, a, b, state, pull, keep, u, gy,         \
                                    gstate_out, gr, gw, gk, gv, ga, gb, gstate, gpull, gkeep);                        \
    }
DEFINE(float, f32)
DEFINE(double, f64)

#else /* REAL: the code itself, for one type and one instruction set */

#include "vector.h"

TARGET static INLINE void NAME(decay)(int64_t N, const REAL *restrict w, REAL *restrict d)
{
    for (int64_t j = 0; j < N; j++)
        d[j] = NAME(exp_negative)(w[j]);
}

/* A head's steps lie too far apart for the processor to foresee: it is told. Beyond an array that does no harm. */
TARGET static INLINE void NAME(fetch)(int begin, int end, const REAL *const *arrays, int64_t at, int64_t N)
{
#if defined(__GNUC__)
    for (int array = begin; array < end; array++) {
        const uintptr_t there = (uintptr_t)arrays[array] + (uintptr_t)(at * (int64_t)sizeof(REAL));
        for (uintptr_t line = 0; line < (uintptr_t)N * sizeof(REAL); line += 64)
            __builtin_prefetch((const void *)(there + line), 0, 2);
    }
#endif
}

/* By columns, for n vectors of rows of M, whose columns m has: M <- M diag(d) + p q^T + s z^T; e = M f; g = M h. With
 * `pull`, M <- keep M + pull between the two. */
TARGET static INLINE void NAME(advance_rows)(const int n, int64_t N, int64_t P, REAL *restrict m, const REAL *pull,
                                             const REAL keep,
                                             const REAL *restrict d, const REAL *p, const REAL *restrict q,
                                             const REAL *s, const REAL *restrict z, const REAL *restrict f,
                                             const REAL *restrict h, REAL *e, REAL *g)
{
    VEC ps[WIDE], ss[WIDE], es[WIDE], gs[WIDE];
    for (int i = 0; i < n; i++) {
        ps[i] = AT(p + i * WIDTH), ss[i] = AT(s + i * WIDTH), es[i] = gs[i] = (VEC){0};
    }
    for (int64_t j = 0; j < N; j++, m += P) {
        for (int i = 0; i < n; i++) {
            VEC x = AT(m + i * WIDTH) * d[j] + ps[i] * q[j] + ss[i] * z[j];
            es[i] += x * f[j];
            if (pull)
                x = x * keep + AT(pull + j * P + i * WIDTH);
            AT(m + i * WIDTH) = x;
            gs[i] += x * h[j];
        }
    }
    for (int i = 0; i < n; i++) {
        AT(e + i * WIDTH) = es[i], AT(g + i * WIDTH) = gs[i];
    }
}

/* e = M f. */
TARGET static INLINE void NAME(product_rows)(const int n, int64_t N, int64_t P, const REAL *m, const REAL *f, REAL *e)
{
    VEC es[WIDE];
    for (int i = 0; i < n; i++)
        es[i] = (VEC){0};
    for (int64_t j = 0; j < N; j++)
        for (int i = 0; i < n; i++)
            es[i] += AT(m + j * P + i * WIDTH) * f[j];
    for (int i = 0; i < n; i++)
        AT(e + i * WIDTH) = es[i];
}

/* The same for all rows; what is to be read may be overwritten with results, except m. */
TARGET static void NAME(advance)(int64_t N, int64_t P, REAL *m, const REAL *d, const REAL *p, const REAL *q,
                                 const REAL *s, const REAL *z, const REAL *f, const REAL *h, REAL *e, REAL *g)
{
    int64_t i = 0;
#define RUN(n) NAME(advance_rows)(n, N, P, m + i, NULL, 0, d, p + i, q, s + i, z, f, h, e + i, g + i)
    for (; i + WIDE * WIDTH <= P; i += WIDE * WIDTH)
        RUN(WIDE);
    for (; i + 2 * WIDTH <= P; i += 2 * WIDTH)
        RUN(2);
    for (; i < P; i += WIDTH)
        RUN(1);
#undef RUN
}

/* The same with a pull, whose columns `pull` has. */
TARGET static void NAME(advance_pulled)(int64_t N, int64_t P, REAL *m, const REAL *pull, REAL keep, const REAL *d,
                                        const REAL *p, const REAL *q, const REAL *s, const REAL *z, const REAL *f,
                                        const REAL *h, REAL *e, REAL *g)
{
    int64_t i = 0;
#define RUN(n) NAME(advance_rows)(n, N, P, m + i, pull + i, keep, d, p + i, q, s + i, z, f, h, e + i, g + i)
    for (; i + 2 * WIDTH <= P; i += 2 * WIDTH)
        RUN(2);
    for (; i < P; i += WIDTH)
        RUN(1);
#undef RUN
}

TARGET static void NAME(product)(int64_t N, int64_t P, const REAL *m, const REAL *f, REAL *e)
{
    int64_t i = 0;
    for (; i + WIDE * WIDTH <= P; i += WIDE * WIDTH)
        NAME(product_rows)(WIDE, N, P, m + i, f, e + i);
    for (; i < P; i += WIDTH)
        NAME(product_rows)(1, N, P, m + i, f, e + i);
}

/* A vector of what is written, with `away` past the caches. */
TARGET static INLINE void NAME(write)(REAL *to, VEC x, const int away)
{
#if BYTES == 64
    if (away)
        _mm512_stream_si512((__m512i *)to, (__m512i)x);
    else
#elif BYTES == 32
    if (away)
        _mm256_stream_si256((__m256i *)to, (__m256i)x);
    else
#else
    (void)away;
#endif
        LOOSE(to) = x;
}

/* One step for n <= 4 rows of a state as it stands in memory: a single one is not worth the way to columns and back. */
TARGET static INLINE void NAME(single_rows)(const int n, const int away, int64_t N, const REAL *state, const REAL *r,
                                            const REAL *d, const REAL *k, const REAL *v, const REAL *a, const REAL *b,
                                            const REAL *pull, const REAL keep, REAL *restrict y, REAL *restrict out,
                                            REAL *restrict u)
{
    const int64_t whole = N / WIDTH * WIDTH;
    VEC parts[4];
    for (int i = 0; i < n; i++)
        parts[i] = (VEC){0};
    for (int64_t j = 0; j < whole; j += WIDTH)
        for (int i = 0; i < n; i++) {
            if (away)
                __builtin_prefetch((const char *)(state + i * N + j) + FORESEEN, 0, 2);
            parts[i] += LOOSE(state + i * N + j) * LOOSE(a + j);
        }
    NAME(sums)(n, parts, u);
    for (int64_t j = whole; j < N; j++)
        for (int i = 0; i < n; i++)
            u[i] += state[i * N + j] * a[j];
    for (int i = 0; i < n; i++)
        parts[i] = (VEC){0};
    for (int64_t j = 0; j < whole; j += WIDTH) {
        for (int i = 0; i < n; i++) {
            const VEC x = LOOSE(state + i * N + j) * LOOSE(d + j) + LOOSE(b + j) * u[i] + LOOSE(k + j) * v[i];
            parts[i] += x * LOOSE(r + j);
            if (pull)
                NAME(write)(out + i * N + j, x * keep + LOOSE(pull + i * N + j), away);
            else
                NAME(write)(out + i * N + j, x, away);
        }
    }
    NAME(sums)(n, parts, y);
    for (int64_t j = whole; j < N; j++) {
        for (int i = 0; i < n; i++) {
            const REAL x = state[i * N + j] * d[j] + u[i] * b[j] + v[i] * k[j];
            out[i * N + j] = pull ? x * keep + pull[i * N + j] : x;
            y[i] += x * r[j];
        }
    }
}

/* By rows: a block of S at (i, j) through a segment, from `before` to `after`. Or, with `after` NULL, `kept` gets it as
 * it is before each step, and g_r the block's part. */
TARGET static INLINE void NAME(block_ahead)(int64_t size, int64_t P, int64_t i, int64_t j, REAL *space,
                                            const REAL *before, const REAL *pull, const REAL keep, REAL *after,
                                            VEC *restrict kept)
{
    VEC x[ROWS];
    for (int n = 0; n < ROWS; n++)
        x[n] = AT(before + (i + n) * P + j);
    for (int64_t t = 0; t < size; t++) {
        const VEC d = AT(ROW(D, t) + j), b = AT(ROW(B, t) + j), k = AT(ROW(K, t) + j);
        const REAL *restrict u = ROW(U, t) + i, *restrict v = ROW(V, t) + i, *restrict gy = ROW(GY, t) + i;
        VEC gr = AT(ROW(GR, t) + j);
        for (int n = 0; n < ROWS; n++) {
            if (!after)
                kept[t * ROWS + n] = x[n];
            x[n] = x[n] * d + b * u[n] + k * v[n];
            gr += x[n] * gy[n];
            if (pull)
                x[n] = x[n] * keep + AT(pull + (i + n) * P + j);
        }
        if (!after)
            AT(ROW(GR, t) + j) = gr;
    }
    if (after)
        for (int n = 0; n < ROWS; n++)
            AT(after + (i + n) * P + j) = x[n];
}

/* By rows: the same block of G back through the segment; the other results get its parts. */
TARGET static INLINE void NAME(block_back)(int64_t size, int64_t P, int64_t i, int64_t j, REAL *space, REAL *G,
                                           REAL *gpull, REAL *gkeep, const REAL keep, const VEC *restrict kept)
{
    VEC into_keep = {0};
    VEC x[ROWS];
    for (int n = 0; n < ROWS; n++)
        x[n] = AT(G + (i + n) * P + j);
    for (int64_t t = size - 1; t >= 0; t--) {
        const VEC r = AT(ROW(R, t) + j), d = AT(ROW(D, t) + j), a = AT(ROW(A, t) + j);
        const REAL *restrict u = ROW(U, t) + i, *restrict v = ROW(V, t) + i;
        const REAL *restrict gy = ROW(GY, t) + i, *restrict gu = ROW(GU, t) + i;
        VEC gw = AT(ROW(GW, t) + j), gk = AT(ROW(GK, t) + j), ga = AT(ROW(GA, t) + j), gb = AT(ROW(GB, t) + j);
        for (int n = 0; n < ROWS; n++) {
            const VEC s = kept[t * ROWS + n];
            if (gpull) {
                into_keep += x[n] * (s * d + AT(ROW(B, t) + j) * u[n] + AT(ROW(K, t) + j) * v[n]);
                AT(gpull + (i + n) * P + j) += x[n];
                x[n] *= keep;
            }
            const VEC g = x[n] + r * gy[n];
            gw += g * s;
            gk += g * v[n];
            gb += g * u[n];
            ga += s * gu[n];
            x[n] = g * d + a * gu[n];
        }
        AT(ROW(GW, t) + j) = gw, AT(ROW(GK, t) + j) = gk, AT(ROW(GA, t) + j) = ga, AT(ROW(GB, t) + j) = gb;
    }
    for (int n = 0; n < ROWS; n++)
        AT(G + (i + n) * P + j) = x[n];
    for (int n = 0; gpull && n < WIDTH; n++)
        *gkeep += into_keep[n];
}

/* A segment's inputs from `begin` to `end` into working space; of w, the decay. */
TARGET static void NAME(take)(int begin, int end, const REAL *const *given, int64_t at, int64_t step, int64_t size,
                              int64_t N, int64_t P, REAL *space)
{
    for (int array = begin; array < end; array++)
        if (array != D)
            NAME(copy)(size, N, given[array] + at, step, ROW(array, 0), STEP);
    for (int64_t t = 0; t < size; t++)
        NAME(decay)(N, given[D] + at + t * step, ROW(D, t));
}

/* By columns, back through a segment: its g_u and g_v; G, here column by column, from its end to its beginning. `keep`
 * is 1 without a pull. */
TARGET static void NAME(columns_back)(int64_t size, int64_t N, int64_t P, REAL *space, const REAL keep, REAL *G)
{
    /* Of the step to come: G b, G k, and r diag(d); and what is left of G. */
    REAL *const gb = ROW(ARRAYS, 0), *const gk = gb + P, *const rd = gk + P, *const left = rd + P;
    REAL rb[SEGMENT], rk[SEGMENT];
    for (int64_t t = 0; t < size; t++) {
        rb[t] = NAME(dot)(P, ROW(R, t), ROW(B, t)), rk[t] = NAME(dot)(P, ROW(R, t), ROW(K, t));
    }
    NAME(product)(N, P, G, ROW(B, size - 1), gb);
    NAME(product)(N, P, G, ROW(K, size - 1), gk);
    for (int64_t t = size - 1; t >= 0; t--) {
        const int64_t before = t > 0 ? t - 1 : 0;
        for (int64_t i = 0; i < P; i += WIDTH) {
            const VEC gy = AT(ROW(GY, t) + i);
            AT(ROW(GU, t) + i) = AT(gb + i) * keep + gy * rb[t];
            AT(ROW(GV, t) + i) = AT(gk + i) * keep + gy * rk[t];
            AT(rd + i) = AT(ROW(R, t) + i) * AT(ROW(D, t) + i);
            AT(left + i) = AT(ROW(D, t) + i) * keep;
        }
        NAME(advance)(N, P, G, left, ROW(GY, t), rd, ROW(GU, t), ROW(A, t), ROW(B, before), ROW(K, before), gb,
                      gk);
    }
}

TARGET static int NAME(forward) FORWARD_ARGS(REAL)
{
    const int64_t P = PADDED;
    const REAL *const given[] = {r, w, k, v, a, b};
    void *block;
    REAL *const S = NAME(space)((pull ? 2 * N + 4 : N + 4) * P, &block);
    if (!block)
        return 1;
    REAL *const d = S + N * P, *const value = d + P, *const removed = value + P, *const read = removed + P;
    REAL *const target = read + P;
    const int away = (end - begin) * N * N * (int64_t)sizeof(REAL) >= AWAY && N % (64 / (int64_t)sizeof(REAL)) == 0 &&
                     (uintptr_t)state_out % 64 == 0;
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        const REAL stay = pull ? keep[item] : 1;
        if (T == 1 && steps == 1) {
            NAME(decay)(N, w + x, d);
            int64_t i = 0;
#define RUN(n, away, pull)                                                                                            \
    NAME(single_rows)(n, away, N, state + m + i * N, r + x, d, k + x, v + x + i, a + x, b + x, pull, stay,            \
                      y + x + i, state_out + m + i * N, removed + i)
            for (; away && pull && i + 4 <= N; i += 4)
                RUN(4, 1, pull + m + i * N);
            for (; away && i + 4 <= N; i += 4)
                RUN(4, 1, NULL);
            for (; pull && i + 4 <= N; i += 4)
                RUN(4, 0, pull + m + i * N);
            for (; i + 4 <= N; i += 4)
                RUN(4, 0, NULL);
            for (; i < N; i++)
                RUN(1, 0, pull ? pull + m + i * N : NULL);
#undef RUN
            if (u)
                NAME(copy)(1, N, removed, 0, u + x, 0);
            continue;
        }
        NAME(transpose)(N, state + m, N, S, P);
        if (pull)
            NAME(transpose)(N, pull + m, N, target, P);
        if (steps)
            NAME(product)(N, P, S, a + x, removed);
        for (int64_t t = 0; t < steps; t++) {
            const int64_t at = x + t * step, next = t + 1 < steps ? at + step : at;
            NAME(fetch)(0, 6, given, at + AHEAD * step, N);
            NAME(decay)(N, w + at, d);
            NAME(copy)(1, N, v + at, 0, value, 0);
            if (u)
                NAME(copy)(1, N, removed, 0, u + at, 0);
            if (pull)
                NAME(advance_pulled)(N, P, S, target, stay, d, removed, b + at, value, k + at, r + at, a + next, read,
                                     removed);
            else
                NAME(advance)(N, P, S, d, removed, b + at, value, k + at, r + at, a + next, read, removed);
            NAME(copy)(1, N, read, 0, y + at, 0);
        }
        for (int64_t t = steps; t < T; t++)
            memset(y + x + t * step, 0, (size_t)N * sizeof(REAL));
        NAME(transpose)(N, S, P, state_out + m, N);
    }
#ifdef DISPATCH
    if (away)
        _mm_sfence();
#endif
    LEAVE
    free(block);
    return 0;
}

TARGET static int NAME(backward) BACKWARD_ARGS(REAL)
{
    const int64_t P = PADDED, segments = (T + SEGMENT - 1) / SEGMENT;
    const REAL *const given[] = {u, w, k, v, b, r, a, gy};
    REAL *const gradients[] = {gw, gk, gv, gb, gr, ga};
    const int64_t matrices = (segments + (pull ? 4 : 2)) * P * P, arrays = ARRAYS * SEGMENT * STEP + 4 * P;
    const int64_t numbers = matrices + SEGMENT * ROWS * WIDTH + arrays;
    void *block;
    REAL *const G = NAME(space)(numbers, &block);
    if (!block)
        return 1;
    REAL *const G_columns = G + P * P, *const states = G_columns + P * P, *const kept = states + segments * P * P;
    REAL *const space = kept + SEGMENT * ROWS * WIDTH;
    REAL *const target = pull ? space + arrays : NULL, *const into_target = pull ? target + P * P : NULL;
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        const REAL stay = pull ? keep[item] : 1;
        REAL into_keep = 0;
        /* An item with a NaN leaves some in what pads N, where 0 times it would reach the next. */
        if (N < P)
            memset(G, 0, (size_t)numbers * sizeof(REAL));
        if (pull) {
            NAME(copy)(N, N, pull + m, N, target, P);
            memset(into_target, 0, (size_t)(P * P) * sizeof(REAL));
        }
        const int64_t last = (steps + SEGMENT - 1) / SEGMENT - 1;
        NAME(copy)(N, N, state + m, N, states, P);
        for (int64_t segment = 0; segment < last; segment++) {
            const int64_t at = x + segment * SEGMENT * step;
            REAL *const before = states + segment * P * P;
            NAME(take)(U, R, given, at, step, SEGMENT, N, P, space);
            for (int64_t j = 0; j < P; j += WIDTH) {
                for (int64_t t = SEGMENT * j / P; t < SEGMENT * (j + WIDTH) / P; t++)
                    NAME(fetch)(U, R, given, at + (SEGMENT + t) * step, N);
                for (int64_t i = 0; i < P; i += ROWS) {
                    if (pull)
                        NAME(block_ahead)(SEGMENT, P, i, j, space, before, target, stay, before + P * P, NULL);
                    else
                        NAME(block_ahead)(SEGMENT, P, i, j, space, before, NULL, 1, before + P * P, NULL);
                }
            }
        }
        NAME(copy)(N, N, gstate_out + m, N, G, P);
        NAME(transpose)(N, gstate_out + m, N, G_columns, P);
        for (int64_t segment = last; segment >= 0; segment--) {
            const int64_t first = segment * SEGMENT, at = x + first * step;
            const int64_t size = steps - first < SEGMENT ? steps - first : SEGMENT;
            NAME(take)(U, GU, given, at, step, size, N, P, space);
            NAME(columns_back)(size, N, P, space, stay, G_columns);
            for (int array = GW; array < ARRAYS; array++)
                if (array != GV)
                    memset(ROW(array, 0), 0, (size_t)(size * STEP) * sizeof(REAL));
            for (int64_t j = 0; j < P; j += WIDTH) {
                for (int64_t t = SEGMENT * j / P; t < SEGMENT * (j + WIDTH) / P; t++) {
                    NAME(fetch)(0, 6, (const REAL *const *)gradients, at + t * step, N);
                    NAME(fetch)(U, GU, given, at + (t - SEGMENT) * step, N);
                }
                for (int64_t i = 0; i < P; i += ROWS) {
                    const REAL *const before = states + segment * P * P;
                    if (pull) {
                        NAME(block_ahead)(size, P, i, j, space, before, target, stay, NULL, (VEC *)kept);
                        NAME(block_back)(size, P, i, j, space, G, into_target, &into_keep, stay, (const VEC *)kept);
                    } else {
                        NAME(block_ahead)(size, P, i, j, space, before, NULL, 1, NULL, (VEC *)kept);
                        NAME(block_back)(size, P, i, j, space, G, NULL, NULL, 1, (const VEC *)kept);
                    }
                }
            }
            for (int64_t t = 0; t < size; t++)
                for (int64_t j = 0; j < P; j += WIDTH)
                    AT(ROW(GW, t) + j) *= AT(ROW(D, t) + j);
            for (int i = 0; i < 6; i++)
                NAME(copy)(size, N, ROW(GW + i, 0), STEP, gradients[i] + at, step);
        }
        for (int i = 0; i < 6; i++)
            for (int64_t t = steps; t < T; t++)
                memset(gradients[i] + x + t * step, 0, (size_t)N * sizeof(REAL));
        NAME(copy)(N, N, G, P, gstate + m, N);
        if (pull) {
            NAME(copy)(N, N, into_target, P, gpull + m, N);
            gkeep[item] = into_keep;
        }
    }
    LEAVE
    free(block);
    return 0;
}
#endif
