/* RWKV-7's recurrence on the CPU, forward and backward; wkv7_scan.py has the equations and is the oracle.
 *
 * Per head and step, S (N, N) with rows for values and columns for keys, d = e^w:
 *
 *     u = S a;    S' = S diag(d) + u b^T + v k^T;    y = S' r
 *
 * Backward, with g_x the gradient of x, G that of S' and * element by element:
 *
 *     G += g_y r^T;       g_u = G b;      g_v = G k
 *     g_r = S'^T g_y;     g_k = G^T v;    g_b = G^T u;    g_a = S^T g_u;    g_w = d * (the sums over rows of G * S)
 *     g_S = G diag(d) + g_u a^T
 *
 * A matrix times a vector is a loop of multiply-adds without sums across a register where its lanes run over what is
 * not summed over. So there are two ways through time:
 *
 *     by columns   lanes are rows: `advance` does M <- M diag(d) + p q^T + s z^T and two products M x in one pass over
 *                  M. That is forward, with M = S; and in reverse, with M = G, it is g_u and g_v
 *     by rows      lanes are columns: with u and g_u known, no element of S or G depends on another one. A block of
 *                  both stays in registers for a SEGMENT of time, and adds to the sums over rows as it goes
 *
 * Arrays are contiguous: r, w, k, v, a, b, y, u (B, T, H, N); states (B, H, N, N). An item is a row's head, numbered row
 * by row; a call does the items [begin, end). An item writes to places of its own only, so that nothing depends on how
 * the items are spread over threads.
 */
#ifndef REAL

/* To be raised with every change of the functions' arguments: a library left over from an older build is refused. */
#define ABI 1
#define LIBRARY wkv7
#define SOURCE "wkv7.c"

/* Steps whose inputs are at hand at a time. Backward keeps the state at the beginning of each. */
#define SEGMENT 16

/* N is rounded up to a multiple of this in the working space, with zeros: whole vectors, blocks of rows, cache lines. */
#define PAD 16

/* What the working space has for each step of a segment: inputs, then outputs. What a pass reads stands side by side. */
enum { U, D, K, V, B, R, A, GY, GU, GW, GK, GV, GB, GR, GA, ALL };
enum { Y = GY, ALL_AHEAD };

#define FORWARD_ARGS(real)                                                                                            \
    (int64_t T, int64_t H, int64_t N, int64_t begin, int64_t end, const int64_t *lengths, const real *r,              \
     const real *w, const real *k, const real *v, const real *a, const real *b, const real *state, real *y,           \
     real *state_out, real *u)
#define BACKWARD_ARGS(real)                                                                                           \
    (int64_t T, int64_t H, int64_t N, int64_t begin, int64_t end, const int64_t *lengths, const real *r,              \
     const real *w, const real *k, const real *v, const real *a, const real *b, const real *state, const real *u,     \
     const real *gy, const real *gstate_out, real *gr, real *gw, real *gk, real *gv, real *ga, real *gb, real *gstate)

#include "kernel.h"

/* These return 0, or 1 where there is no memory for their working space. `u` is NULL where no backward will follow. */
#define DEFINE(real, type)                                                                                            \
    EXPORT int prosg_wkv7_forward_##type FORWARD_ARGS(real)                                                           \
    {                                                                                                                 \
        return PICK(forward, type)(T, H, N, begin, end, lengths, r, w, k, v, a, b, state, y, state_out, u);           \
    }                                                                                                                 \
    EXPORT int prosg_wkv7_backward_##type BACKWARD_ARGS(real)                                                         \
    {                                                                                                                 \
        return PICK(backward, type)(T, H, N, begin, end, lengths, r, w, k, v, a, b, state, u, gy, gstate_out, gr, gw, \
                                    gk, gv, ga, gb, gstate);                                                          \
    }
DEFINE(float, f32)
DEFINE(double, f64)

#else /* REAL: the code itself, for one type and one instruction set */

#if defined(__GNUC__)
typedef REAL NAME(vector) __attribute__((vector_size(BYTES), may_alias));
typedef REAL NAME(four) __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
#define FOUR NAME(four)
#else
typedef REAL NAME(vector);
#endif
#define VEC NAME(vector)
#define WIDTH ((int)(sizeof(VEC) / sizeof(REAL)))
#define AT(pointer) (*(VEC *)(pointer))

/* As many as there are registers for: vectors of rows in `advance`, rows in a block of the other way. */
#define WIDE (BYTES == 64 ? 4 : 2)
#define ROWS (BYTES == 64 ? 8 : 4)

/* An array's vector for step t, in the working space. Q is such that not all of them fall on the same lines of a cache. */
#define ROW(array, t) (rows + ((array) * SEGMENT + (t)) * Q)

#define SIZES const int64_t P = (N + PAD - 1) / PAD * PAD, Q = P + 64 / (int64_t)sizeof(REAL);

/* Room for `count` numbers, all 0, beginning at a cache line; `block` is for free(). */
static REAL *NAME(space)(int64_t count, void **block)
{
    *block = calloc((size_t)count + 64 / sizeof(REAL), sizeof(REAL));
    return *block ? (REAL *)(((uintptr_t)*block + 63) & ~(uintptr_t)63) : NULL;
}

/* Of an (N, N) matrix. */
TARGET static void NAME(transpose)(int64_t N, const REAL *from, int64_t from_step, REAL *to, int64_t to_step)
{
    int64_t whole = 0;
#if defined(__GNUC__)
    whole = N / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) {
        for (int64_t j = 0; j < whole; j += 4) {
            const REAL *x = from + i * from_step + j;
            const FOUR a = *(const FOUR *)x, b = *(const FOUR *)(x + from_step);
            const FOUR c = *(const FOUR *)(x + 2 * from_step), d = *(const FOUR *)(x + 3 * from_step);
            const FOUR ac = {a[0], c[0], a[1], c[1]}, bd = {b[0], d[0], b[1], d[1]};
            const FOUR ca = {a[2], c[2], a[3], c[3]}, db = {b[2], d[2], b[3], d[3]};
            REAL *out = to + j * to_step + i;
            *(FOUR *)out = (FOUR){ac[0], bd[0], ac[1], bd[1]};
            *(FOUR *)(out + to_step) = (FOUR){ac[2], bd[2], ac[3], bd[3]};
            *(FOUR *)(out + 2 * to_step) = (FOUR){ca[0], db[0], ca[1], db[1]};
            *(FOUR *)(out + 3 * to_step) = (FOUR){ca[2], db[2], ca[3], db[3]};
        }
    }
#endif
    for (int64_t i = 0; i < N; i++)
        for (int64_t j = i < whole ? whole : 0; j < N; j++)
            to[j * to_step + i] = from[i * from_step + j];
}

TARGET static INLINE void NAME(copy)(int64_t steps, int64_t N, const REAL *from, int64_t from_step, REAL *to,
                                     int64_t to_step)
{
    for (int64_t t = 0; t < steps; t++)
        memcpy(to + t * to_step, from + t * from_step, (size_t)N * sizeof(REAL));
}

/* A segment's inputs from `begin` to `end` into the working space; of w, the decay. */
TARGET static void NAME(take)(int begin, int end, const REAL *const *given, int64_t at, int64_t step, int64_t size,
                              int64_t N, int64_t Q, REAL *rows)
{
    for (int array = begin; array < end; array++)
        NAME(copy)(size, N, given[array] + at, step, ROW(array, 0), Q);
    for (int64_t t = 0; t < size; t++) {
        REAL *restrict d = ROW(D, t);
        for (int64_t j = 0; j < N; j++)
            d[j] = NAME(exp_negative)(d[j]);
    }
}

/* The processor does not foresee where a head's next steps are: it is told in time. Beyond an array that does no harm. */
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

/* m (N, P) is the transpose of M; n vectors of M's rows. M <- M diag(d) + p q^T + s z^T; e = M f; g = M h. */
TARGET static INLINE void NAME(advance_rows)(const int n, int64_t N, int64_t P, REAL *restrict m, const REAL *restrict d,
                                             const REAL *restrict p, const REAL *restrict q, const REAL *restrict s,
                                             const REAL *restrict z, const REAL *restrict f, const REAL *restrict h,
                                             REAL *restrict e, REAL *restrict g)
{
    VEC ps[WIDE], ss[WIDE], es[WIDE], gs[WIDE];
    for (int i = 0; i < n; i++) {
        ps[i] = AT(p + i * WIDTH), ss[i] = AT(s + i * WIDTH), es[i] = gs[i] = (VEC){0};
    }
    for (int64_t j = 0; j < N; j++, m += P) {
        for (int i = 0; i < n; i++) {
            const VEC x = AT(m + i * WIDTH) * d[j] + ps[i] * q[j] + ss[i] * z[j];
            AT(m + i * WIDTH) = x;
            es[i] += x * f[j];
            gs[i] += x * h[j];
        }
    }
    for (int i = 0; i < n; i++) {
        AT(e + i * WIDTH) = es[i], AT(g + i * WIDTH) = gs[i];
    }
}

TARGET static void NAME(advance)(int64_t N, int64_t P, REAL *m, const REAL *d, const REAL *p, const REAL *q,
                                 const REAL *s, const REAL *z, const REAL *f, const REAL *h, REAL *e, REAL *g)
{
    int64_t i = 0;
#define RUN(n)                                                                                                        \
    for (; i + n * WIDTH <= P; i += n * WIDTH)                                                                        \
        NAME(advance_rows)(n, N, P, m + i, d, p + i, q, s + i, z, f, h, e + i, g + i);
    RUN(WIDE)
    RUN(2)
    RUN(1)
#undef RUN
}

/* M f, of the same m. */
TARGET static void NAME(product)(int64_t N, int64_t P, const REAL *m, const REAL *f, REAL *e)
{
    for (int64_t i = 0; i < P; i += WIDTH) {
        VEC sum = {0};
        for (int64_t j = 0; j < N; j++)
            sum += AT(m + j * P + i) * f[j];
        AT(e + i) = sum;
    }
}

TARGET static REAL NAME(dot)(int64_t P, const REAL *x, const REAL *y)
{
    VEC sum = {0};
    REAL lanes[WIDTH], total = 0;
    for (int64_t i = 0; i < P; i += WIDTH)
        sum += AT(x + i) * AT(y + i);
    memcpy(lanes, &sum, sizeof lanes);
    for (int i = 0; i < WIDTH; i++)
        total += lanes[i];
    return total;
}

/* By rows: a block of S at (i, j), from the beginning of a segment to its end, which goes to `after`. Or, where `kept`
 * is not NULL, there goes the state before each step, and the block's part of g_r is added. */
TARGET static INLINE void NAME(block_ahead)(int64_t size, int64_t P, int64_t Q, int64_t i, int64_t j, REAL *rows,
                                            const REAL *before, REAL *after, VEC *restrict kept)
{
    VEC x[ROWS];
    for (int n = 0; n < ROWS; n++)
        x[n] = AT(before + (i + n) * P + j);
    for (int64_t t = 0; t < size; t++) {
        const VEC d = AT(ROW(D, t) + j), b = AT(ROW(B, t) + j), k = AT(ROW(K, t) + j);
        const REAL *restrict u = ROW(U, t) + i, *restrict v = ROW(V, t) + i, *restrict gy = ROW(GY, t) + i;
        VEC gr = AT(ROW(GR, t) + j);
        for (int n = 0; n < ROWS; n++) {
            if (kept)
                kept[t * ROWS + n] = x[n];
            x[n] = x[n] * d + b * u[n] + k * v[n];
            gr += x[n] * gy[n];
        }
        if (kept)
            AT(ROW(GR, t) + j) = gr;
    }
    if (after)
        for (int n = 0; n < ROWS; n++)
            AT(after + (i + n) * P + j) = x[n];
}

/* By rows: the same block of G, from the end of a segment to its beginning. */
TARGET static INLINE void NAME(block_back)(int64_t size, int64_t P, int64_t Q, int64_t i, int64_t j, REAL *rows, REAL *G,
                                           const VEC *restrict kept)
{
    VEC x[ROWS];
    for (int n = 0; n < ROWS; n++)
        x[n] = AT(G + (i + n) * P + j);
    for (int64_t t = size - 1; t >= 0; t--) {
        const VEC r = AT(ROW(R, t) + j), d = AT(ROW(D, t) + j), a = AT(ROW(A, t) + j);
        const REAL *restrict u = ROW(U, t) + i, *restrict v = ROW(V, t) + i, *restrict gy = ROW(GY, t) + i,
                   *restrict gu = ROW(GU, t) + i;
        VEC gw = AT(ROW(GW, t) + j), gk = AT(ROW(GK, t) + j), ga = AT(ROW(GA, t) + j), gb = AT(ROW(GB, t) + j);
        for (int n = 0; n < ROWS; n++) {
            const VEC g = x[n] + r * gy[n], s = kept[t * ROWS + n];
            gw += g * s;
            gk += g * v[n];
            ga += s * gu[n];
            gb += g * u[n];
            x[n] = g * d + a * gu[n];
        }
        AT(ROW(GW, t) + j) = gw, AT(ROW(GK, t) + j) = gk, AT(ROW(GA, t) + j) = ga, AT(ROW(GB, t) + j) = gb;
    }
    for (int n = 0; n < ROWS; n++)
        AT(G + (i + n) * P + j) = x[n];
}

/* An item's first step, its state, the distance between steps and the number of valid ones. */
#define ITEM                                                                                                          \
    const int64_t row = item / H, x = (row * T * H + item % H) * N, m = item * N * N, step = H * N;                   \
    int64_t steps = lengths ? lengths[row] : T;                                                                       \
    steps = steps < 0 ? 0 : steps > T ? T : steps;

TARGET static int NAME(forward) FORWARD_ARGS(REAL)
{
    SIZES
    const REAL *const given[] = {u, w, k, v, b, r, a};
    void *block;
    REAL *const S = NAME(space)(N * P + (ALL_AHEAD * SEGMENT + 1) * Q, &block), *const rows = S + N * P;
    if (!block)
        return 1;
    REAL *const unused = ROW(ALL_AHEAD, 0);
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        NAME(transpose)(N, state + m, N, S, P);
        for (int64_t first = 0; first < steps; first += SEGMENT) {
            const int64_t size = steps - first < SEGMENT ? steps - first : SEGMENT, at = x + first * step;
            NAME(take)(D, GY, given, at, step, size, N, Q, rows);
            NAME(product)(N, P, S, ROW(A, 0), ROW(U, 0));
            for (int64_t t = 0; t < size; t++) {
                const int64_t next = t + 1 < size ? t + 1 : t;
                NAME(fetch)(D, GY, given, at + (t + SEGMENT) * step, N);
                NAME(advance)(N, P, S, ROW(D, t), ROW(U, t), ROW(B, t), ROW(V, t), ROW(K, t), ROW(R, t),
                              ROW(A, next), ROW(Y, t), next > t ? ROW(U, next) : unused);
            }
            NAME(copy)(size, N, ROW(Y, 0), Q, y + at, step);
            if (u)
                NAME(copy)(size, N, ROW(U, 0), Q, u + at, step);
        }
        for (int64_t t = steps; t < T; t++)
            memset(y + x + t * step, 0, (size_t)N * sizeof(REAL));
        NAME(transpose)(N, S, P, state_out + m, N);
    }
    LEAVE
    free(block);
    return 0;
}

TARGET static int NAME(backward) BACKWARD_ARGS(REAL)
{
    SIZES
    const REAL *const given[] = {u, w, k, v, b, r, a, gy};
    REAL *const gradients[] = {gw, gk, gv, gb, gr, ga};
    const int64_t segments = (T + SEGMENT - 1) / SEGMENT;
    void *block;
    REAL *const G = NAME(space)((segments + 2) * P * P + (ALL * SEGMENT + 3) * Q + SEGMENT * ROWS * WIDTH, &block);
    if (!block)
        return 1;
    REAL *const G_columns = G + P * P, *const states = G_columns + P * P, *const kept = states + segments * P * P;
    REAL *const rows = kept + SEGMENT * ROWS * WIDTH;
    REAL *const rd = ROW(ALL, 0), *const h = rd + Q, *const l = h + Q;
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        const int64_t last = (steps + SEGMENT - 1) / SEGMENT - 1;
        NAME(copy)(N, N, state + m, N, states, P);
        for (int64_t segment = 0; segment < last; segment++) {
            const int64_t at = x + segment * SEGMENT * step;
            REAL *const before = states + segment * P * P;
            NAME(take)(U, R, given, at, step, SEGMENT, N, Q, rows);
            for (int64_t j = 0; j < P; j += WIDTH) {
                for (int64_t t = SEGMENT * j / P; t < SEGMENT * (j + WIDTH) / P; t++)
                    NAME(fetch)(U, R, given, at + (SEGMENT + t) * step, N);
                for (int64_t i = 0; i < P; i += ROWS)
                    NAME(block_ahead)(SEGMENT, P, Q, i, j, rows, before, before + P * P, NULL);
            }
        }
        NAME(copy)(N, N, gstate_out + m, N, G, P);
        NAME(transpose)(N, gstate_out + m, N, G_columns, P);
        for (int64_t segment = last; segment >= 0; segment--) {
            const int64_t first = segment * SEGMENT, at = x + first * step;
            const int64_t size = steps - first < SEGMENT ? steps - first : SEGMENT;
            NAME(take)(U, GU, given, at, step, size, N, Q, rows);
            NAME(product)(N, P, G_columns, ROW(B, size - 1), h);
            NAME(product)(N, P, G_columns, ROW(K, size - 1), l);
            for (int64_t t = size - 1; t >= 0; t--) {
                const int64_t before = t ? t - 1 : 0;
                const REAL rb = NAME(dot)(P, ROW(R, t), ROW(B, t)), rk = NAME(dot)(P, ROW(R, t), ROW(K, t));
                NAME(fetch)(U, GU, given, at + (t - SEGMENT) * step, N);
                NAME(fetch)(0, 6, (const REAL *const *)gradients, at + t * step, N);
                for (int64_t i = 0; i < P; i += WIDTH) {
                    AT(rd + i) = AT(ROW(R, t) + i) * AT(ROW(D, t) + i);
                    AT(ROW(GU, t) + i) = AT(h + i) + AT(ROW(GY, t) + i) * rb;
                    AT(ROW(GV, t) + i) = AT(l + i) + AT(ROW(GY, t) + i) * rk;
                }
                NAME(advance)(N, P, G_columns, ROW(D, t), ROW(GY, t), rd, ROW(GU, t), ROW(A, t), ROW(B, before),
                              ROW(K, before), h, l);
            }
            for (int sum = GW; sum < ALL; sum++)
                if (sum != GV)
                    memset(ROW(sum, 0), 0, (size_t)(SEGMENT * Q) * sizeof(REAL));
            for (int64_t j = 0; j < P; j += WIDTH) {
                for (int64_t i = 0; i < P; i += ROWS) {
                    NAME(block_ahead)(size, P, Q, i, j, rows, states + segment * P * P, NULL, (VEC *)kept);
                    NAME(block_back)(size, P, Q, i, j, rows, G, (const VEC *)kept);
                }
            }
            for (int64_t t = 0; t < size; t++)
                for (int64_t j = 0; j < P; j += WIDTH)
                    AT(ROW(GW, t) + j) *= AT(ROW(D, t) + j);
            for (int i = 0; i < 6; i++)
                NAME(copy)(size, N, ROW(GW + i, 0), Q, gradients[i] + at, step);
        }
        for (int i = 0; i < 6; i++)
            for (int64_t t = steps; t < T; t++)
                memset(gradients[i] + x + t * step, 0, (size_t)N * sizeof(REAL));
        NAME(copy)(N, N, G, P, gstate + m, N);
    }
    LEAVE
    free(block);
    return 0;
}

#undef FOUR
#undef VEC
#undef WIDTH
#undef AT
#undef WIDE
#undef ROWS
#undef ROW
#undef SIZES
#undef ITEM
#endif
