/* Mamba's selective scan on the CPU, forward and backward; naive.py has the equations and is the oracle.
 *
 * Per channel and step, h (N), e = exp(dt A), u = dt x:
 *
 *     h' = e h + u B;    y = sum of C h'
 *
 * Backward, with g_x the gradient of x and G that of h':
 *
 *     G += g_y C;        g_C = sum over channels of g_y h';     g_B = sum over channels of G u
 *     g_u = sum of G B;  q = G e h, the gradient of dt A;       g_A = sum over steps of q dt
 *     g_dt = sum of q A + g_u x;    g_x = g_u dt;    g_h = G e
 *
 * Lanes are channels, so that only g_B and g_C need sums across a register: their parts are first added up over all
 * vectors of a block of channels. Time goes in segments. Forward keeps the state at the beginning of each; backward
 * computes a segment's states and decays once more, for four numbers of the state at a time, which stay in the nearest
 * cache.
 *
 * Arrays are contiguous: x, dt, y (B, T, D); A (D, N); B, C (B, T, N); states (B, D, N); kept (B, segments, N, D).
 * An item is a row's block of channels; a call does the items [begin, end). What an item adds to sums over items has a
 * place of its own, gA (B, D, N), gB, gC (B, blocks, T, N): nothing depends on how the items are spread over threads.
 */
#ifndef REAL

/* To be raised with every change of the functions' arguments: a library left over from an older build is refused. */
#define ABI 1
#define LIBRARY selective_scan
#define SOURCE "selective_scan/selective_scan.c"

/* Steps between the states that forward keeps. */
#define SEGMENT 16
/* Channels of an item. */
#define BLOCK 64
/* Numbers of a channel's state that are worked on at a time. */
#define QUAD 4

/* Working space of a block. A step's row of channels is a cache line longer than a block: all of them would fall on the
 * same places of the cache otherwise. What is given first, then results. */
enum { X, DT, GY, U, Y, GU, GDT, ARRAYS };
#define STEP (BLOCK + 64 / (int64_t)sizeof(REAL))
#define ROW(array, t) (space + ((array) * SEGMENT + (t)) * STEP)

#define FORWARD_ARGS(real)                                                                                            \
    (int64_t T, int64_t D, int64_t N, int64_t begin, int64_t end, const real *x, const real *dt, const real *A,       \
     const real *B, const real *C, const real *state, real *y, real *state_out, real *kept)
#define BACKWARD_ARGS(real)                                                                                           \
    (int64_t T, int64_t D, int64_t N, int64_t begin, int64_t end, const real *x, const real *dt, const real *A,       \
     const real *B, const real *C, const real *kept, const real *gy, const real *gstate_out, real *gx, real *gdt,     \
     real *gA, real *gB, real *gC, real *gstate)

/* An item's row and first channel, and its width; that in whole vectors; numbers of its state in whole QUADs. */
#define ITEM                                                                                                          \
    const int64_t blocks = (D + BLOCK - 1) / BLOCK, row = item / blocks, first = item % blocks * BLOCK;               \
    const int64_t width = D - first < BLOCK ? D - first : BLOCK, P = (width + WIDTH - 1) / WIDTH * WIDTH;
#define PADDED ((N + QUAD - 1) / QUAD * QUAD)

#include "kernel.h"

EXPORT int prosg_selective_scan_segment(void) { return SEGMENT; }
EXPORT int prosg_selective_scan_block(void) { return BLOCK; }

/* These return 1 where there is no memory for their working space. `kept` is NULL where no backward will follow. */
#define DEFINE(real, type)                                                                                            \
    EXPORT int prosg_selective_scan_forward_##type FORWARD_ARGS(real)                                                 \
    {                                                                                                                 \
        return PICK(forward, type)(T, D, N, begin, end, x, dt, A, B, C, state, y, state_out, kept);                   \
    }                                                                                                                 \
    EXPORT int prosg_selective_scan_backward_##type BACKWARD_ARGS(real)                                               \
    {                                                                                                                 \
        return PICK(backward, type)(T, D, N, begin, end, x, dt, A, B, C, kept, gy, gstate_out, gx, gdt, gA, gB, gC,   \
                                    gstate);                                                                          \
    }
DEFINE(float, f32)
DEFINE(double, f64)

#else /* REAL: the code itself, for one type and one instruction set */

#include "vector.h"

/* Of `width` channels' numbers, N each, N rows of channels, and back. What pads them is 0: sums run over it. */
TARGET static void NAME(to_rows)(int64_t width, int64_t N, int64_t padded, const REAL *from, REAL *to)
{
    memset(to, 0, (size_t)(padded * STEP) * sizeof(REAL));
    for (int64_t i = 0; i < width; i++)
        for (int64_t n = 0; n < N; n++)
            to[n * STEP + i] = from[i * N + n];
}

TARGET static void NAME(from_rows)(int64_t width, int64_t N, const REAL *from, REAL *to)
{
    for (int64_t i = 0; i < width; i++)
        for (int64_t n = 0; n < N; n++)
            to[i * N + n] = from[n * STEP + i];
}

/* Rows of channels, padded likewise. */
TARGET static void NAME(take)(int64_t size, int64_t width, int64_t P, const REAL *from, int64_t from_step, REAL *to)
{
    NAME(copy)(size, width, from, from_step, to, STEP);
    for (int64_t t = 0; t < size; t++)
        for (int64_t i = width; i < P; i++)
            to[t * STEP + i] = 0;
}

/* u = dt x for a segment. */
TARGET static INLINE void NAME(inputs)(int64_t size, int64_t P, REAL *space)
{
    for (int64_t t = 0; t < size; t++)
        for (int64_t i = 0; i < P; i += WIDTH)
            AT(ROW(U, t) + i) = AT(ROW(DT, t) + i) * AT(ROW(X, t) + i);
}

/* e^(dt A) of a segment, for a vector of channels and a QUAD of their numbers: e[t][number]. */
TARGET static INLINE void NAME(decays)(int64_t size, const REAL *dt, const REAL *A, REAL *restrict e)
{
    VEC rates[QUAD];
    for (int n = 0; n < QUAD; n++)
        rates[n] = AT(A + n * STEP);
    for (int64_t t = 0; t < size; t++) {
        const VEC step = AT(dt + t * STEP);
        for (int n = 0; n < QUAD; n++)
            AT(e + (t * QUAD + n) * WIDTH) = step * rates[n];
    }
    for (int64_t i = 0; i < size * QUAD * WIDTH; i++)
        e[i] = NAME(exp_negative)(e[i]);
}

/* A segment forward, for a vector of channels and a QUAD of their numbers; y gets their part. B, C: [t][number]. */
TARGET static INLINE void NAME(ahead)(int64_t size, int64_t padded, const REAL *restrict e, const REAL *restrict u,
                                      const REAL *restrict B, const REAL *restrict C, REAL *restrict h,
                                      REAL *restrict y)
{
    VEC s[QUAD];
    for (int n = 0; n < QUAD; n++)
        s[n] = AT(h + n * STEP);
    for (int64_t t = 0; t < size; t++) {
        const VEC in = AT(u + t * STEP);
        VEC out = AT(y + t * STEP);
        for (int n = 0; n < QUAD; n++) {
            s[n] = s[n] * AT(e + (t * QUAD + n) * WIDTH) + in * B[t * padded + n];
            out += s[n] * C[t * padded + n];
        }
        AT(y + t * STEP) = out;
    }
    for (int n = 0; n < QUAD; n++)
        AT(h + n * STEP) = s[n];
}

/* The same back: G goes from the segment's end to its beginning, `space` at this vector's lanes; parts of g_B and g_C
 * are added up in sumB and sumC [t][number]. `states` is room for those of the segment, from h, its first. */
TARGET static INLINE void NAME(back)(int64_t size, int64_t padded, const REAL *restrict e, const REAL *restrict A,
                                     const REAL *restrict B, const REAL *restrict C, const REAL *restrict h,
                                     REAL *space, VEC *restrict states, REAL *restrict G, REAL *restrict gA,
                                     VEC *restrict sumB, VEC *restrict sumC)
{
    VEC s[QUAD], g[QUAD], rates[QUAD], grates[QUAD];
    for (int n = 0; n < QUAD; n++)
        s[n] = AT(h + n * STEP);
    for (int64_t t = 0; t < size; t++) {
        const VEC in = AT(ROW(U, t)), gy = AT(ROW(GY, t));
        for (int n = 0; n < QUAD; n++) {
            states[t * QUAD + n] = s[n];
            s[n] = s[n] * AT(e + (t * QUAD + n) * WIDTH) + in * B[t * padded + n];
            sumC[t * QUAD + n] += gy * s[n];
        }
    }
    for (int n = 0; n < QUAD; n++) {
        g[n] = AT(G + n * STEP), rates[n] = AT(A + n * STEP), grates[n] = AT(gA + n * STEP);
    }
    for (int64_t t = size - 1; t >= 0; t--) {
        const VEC in = AT(ROW(U, t)), gy = AT(ROW(GY, t)), step = AT(ROW(DT, t));
        VEC gu = AT(ROW(GU, t)), gdt = AT(ROW(GDT, t));
        for (int n = 0; n < QUAD; n++) {
            const VEC now = g[n] + gy * C[t * padded + n];
            sumB[t * QUAD + n] += now * in;
            gu += now * B[t * padded + n];
            g[n] = now * AT(e + (t * QUAD + n) * WIDTH);
            const VEC q = g[n] * states[t * QUAD + n];
            gdt += q * rates[n];
            grates[n] += q * step;
        }
        AT(ROW(GU, t)) = gu, AT(ROW(GDT, t)) = gdt;
    }
    for (int n = 0; n < QUAD; n++) {
        AT(G + n * STEP) = g[n], AT(gA + n * STEP) = grates[n];
    }
}

/* One step of count <= QUAD channels whose states stand in memory as they are given: lanes are a state's numbers. */
TARGET static INLINE void NAME(single_rows)(const int count, int64_t N, const REAL *x, const REAL *dt, const REAL *B,
                                            const REAL *C, const REAL *e, const REAL *state, REAL *y, REAL *state_out)
{
    const int64_t whole = N / WIDTH * WIDTH;
    VEC parts[QUAD], sums[QUAD];
    REAL in[QUAD];
    for (int i = 0; i < count; i++) {
        parts[i] = (VEC){0}, in[i] = dt[i] * x[i];
    }
    for (int64_t n = 0; n < whole; n += WIDTH) {
        for (int i = 0; i < count; i++) {
            const VEC h = LOOSE(state + i * N + n) * LOOSE(e + i * N + n) + LOOSE(B + n) * in[i];
            LOOSE(state_out + i * N + n) = h;
            parts[i] += h * LOOSE(C + n);
        }
    }
    NAME(sums)(count, parts, (REAL *)sums);
    for (int i = 0; i < count; i++) {
        y[i] = ((const REAL *)sums)[i];
        for (int64_t n = whole; n < N; n++) {
            state_out[i * N + n] = state[i * N + n] * e[i * N + n] + in[i] * B[n];
            y[i] += state_out[i * N + n] * C[n];
        }
    }
}

/* The same for `width` channels; e is room for their decays. */
TARGET static void NAME(single)(int64_t width, int64_t N, const REAL *x, const REAL *dt, const REAL *A, const REAL *B,
                                const REAL *C, const REAL *state, REAL *y, REAL *state_out, REAL *restrict e)
{
    for (int64_t i = 0; i < width; i++)
        for (int64_t n = 0; n < N; n++)
            e[i * N + n] = dt[i] * A[i * N + n];
    for (int64_t i = 0; i < width * N; i++)
        e[i] = NAME(exp_negative)(e[i]);
    int64_t i = 0;
#define RUN(count)                                                                                                    \
    NAME(single_rows)(count, N, x + i, dt + i, B, C, e + i * N, state + i * N, y + i, state_out + i * N)
    for (; i + QUAD <= width; i += QUAD)
        RUN(QUAD);
    for (; i < width; i++)
        RUN(1);
#undef RUN
}

TARGET static int NAME(forward) FORWARD_ARGS(REAL)
{
    const int64_t padded = PADDED, segments = (T + SEGMENT - 1) / SEGMENT;
    const int64_t decays = SEGMENT * QUAD * WIDTH, single = N * BLOCK;
    void *block;
    REAL *const space = NAME(space)(ARRAYS * SEGMENT * STEP + 2 * padded * STEP + 2 * SEGMENT * padded +
                                    (decays > single ? decays : single), &block);
    if (!block)
        return 1;
    REAL *const h = ROW(ARRAYS, 0), *const rates = h + padded * STEP, *const e = rates + padded * STEP;
    REAL *const Bs = e + (decays > single ? decays : single), *const Cs = Bs + SEGMENT * padded;
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        const int64_t states = (row * D + first) * N;
        if (T == 1 && !kept) {
            const int64_t at = row * D + first;
            NAME(single)(width, N, x + at, dt + at, A + first * N, B + row * N, C + row * N, state + states, y + at,
                         state_out + states, e);
            continue;
        }
        NAME(to_rows)(width, N, padded, state + states, h);
        NAME(to_rows)(width, N, padded, A + first * N, rates);
        for (int64_t segment = 0; segment < segments; segment++) {
            const int64_t start = segment * SEGMENT, size = T - start < SEGMENT ? T - start : SEGMENT;
            const int64_t at = (row * T + start) * D + first, small = (row * T + start) * N;
            if (kept)
                NAME(copy)(N, width, h, STEP, kept + (row * segments + segment) * N * D + first, D);
            NAME(take)(size, width, P, x + at, D, ROW(X, 0));
            NAME(take)(size, width, P, dt + at, D, ROW(DT, 0));
            NAME(inputs)(size, P, space);
            NAME(copy)(size, N, B + small, N, Bs, padded);
            NAME(copy)(size, N, C + small, N, Cs, padded);
            memset(ROW(Y, 0), 0, (size_t)(SEGMENT * STEP) * sizeof(REAL));
            for (int64_t n = 0; n < padded; n += QUAD) {
                for (int64_t i = 0; i < P; i += WIDTH) {
                    NAME(decays)(size, ROW(DT, 0) + i, rates + n * STEP + i, e);
                    NAME(ahead)(size, padded, e, ROW(U, 0) + i, Bs + n, Cs + n, h + n * STEP + i, ROW(Y, 0) + i);
                }
            }
            NAME(copy)(size, width, ROW(Y, 0), STEP, y + at, D);
        }
        NAME(from_rows)(width, N, h, state_out + states);
    }
    LEAVE
    free(block);
    return 0;
}

TARGET static int NAME(backward) BACKWARD_ARGS(REAL)
{
    const int64_t padded = PADDED, segments = (T + SEGMENT - 1) / SEGMENT, quads = SEGMENT * QUAD * WIDTH;
    void *block;
    REAL *const space =
        NAME(space)(ARRAYS * SEGMENT * STEP + 4 * padded * STEP + 4 * quads + 2 * SEGMENT * padded + 2 * QUAD,
                    &block);
    if (!block)
        return 1;
    REAL *const h = ROW(ARRAYS, 0), *const rates = h + padded * STEP, *const G = rates + padded * STEP;
    REAL *const grates = G + padded * STEP, *const e = grates + padded * STEP, *const between = e + quads;
    REAL *const sumB = between + quads, *const sumC = sumB + quads;
    REAL *const Bs = sumC + quads, *const Cs = Bs + SEGMENT * padded, *const sums = Cs + SEGMENT * padded;
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        const int64_t states = (row * D + first) * N;
        NAME(to_rows)(width, N, padded, gstate_out + states, G);
        NAME(to_rows)(width, N, padded, A + first * N, rates);
        memset(grates, 0, (size_t)(padded * STEP) * sizeof(REAL));
        for (int64_t segment = segments - 1; segment >= 0; segment--) {
            const int64_t start = segment * SEGMENT, size = T - start < SEGMENT ? T - start : SEGMENT;
            const int64_t at = (row * T + start) * D + first, small = (row * T + start) * N;
            REAL *const gBs = gB + (item * T + start) * N, *const gCs = gC + (item * T + start) * N;
            NAME(take)(N, width, P, kept + (row * segments + segment) * N * D + first, D, h);
            NAME(take)(size, width, P, x + at, D, ROW(X, 0));
            NAME(take)(size, width, P, dt + at, D, ROW(DT, 0));
            NAME(take)(size, width, P, gy + at, D, ROW(GY, 0));
            NAME(inputs)(size, P, space);
            NAME(copy)(size, N, B + small, N, Bs, padded);
            NAME(copy)(size, N, C + small, N, Cs, padded);
            memset(ROW(GU, 0), 0, (size_t)(2 * SEGMENT * STEP) * sizeof(REAL));
            for (int64_t n = 0; n < padded; n += QUAD) {
                memset(sumB, 0, (size_t)(2 * quads) * sizeof(REAL));
                for (int64_t i = 0; i < P; i += WIDTH) {
                    NAME(decays)(size, ROW(DT, 0) + i, rates + n * STEP + i, e);
                    NAME(back)(size, padded, e, rates + n * STEP + i, Bs + n, Cs + n, h + n * STEP + i, space + i,
                               (VEC *)between, G + n * STEP + i, grates + n * STEP + i, (VEC *)sumB, (VEC *)sumC);
                }
                for (int64_t t = 0; t < size; t++) {
                    NAME(sums)(QUAD, (const VEC *)sumB + t * QUAD, sums);
                    NAME(sums)(QUAD, (const VEC *)sumC + t * QUAD, sums + QUAD);
                    for (int64_t each = 0; each < QUAD && n + each < N; each++) {
                        gBs[t * N + n + each] = sums[each], gCs[t * N + n + each] = sums[QUAD + each];
                    }
                }
            }
            for (int64_t t = 0; t < size; t++) {
                for (int64_t i = 0; i < P; i += WIDTH) {
                    const VEC gu = AT(ROW(GU, t) + i);
                    AT(ROW(GDT, t) + i) += gu * AT(ROW(X, t) + i);
                    AT(ROW(GU, t) + i) = gu * AT(ROW(DT, t) + i);
                }
            }
            NAME(copy)(size, width, ROW(GU, 0), STEP, gx + at, D);
            NAME(copy)(size, width, ROW(GDT, 0), STEP, gdt + at, D);
        }
        NAME(from_rows)(width, N, G, gstate + states);
        NAME(from_rows)(width, N, grates, gA + states);
    }
    LEAVE
    free(block);
    return 0;
}
#endif
