/* RWKV-4's recurrence on the CPU, forward and backward; naive.py has the equations and is the oracle.
 *
 * Per channel and step, from the memory (num, den, top), with one exponential per pair (a, b), since the larger is 1:
 *
 *     a, b = e^(top - q), e^(u + k - q),  q = max(top, u + k);    N = a num + b v;  D = a den + b;  y = N / D
 *     c, d = e^(top + w - q), e^(k - q),  q = max(top + w, k);    num' = c num + d v;  den' = c den + d;  top' = q
 *
 * Backward, with g_x the gradient of x and every top constant:
 *
 *     g_N = g_y / D;                             h = g_N (v - y) b                      (the gradient of u + k)
 *     g_u += h;                                  g_k = h + d (g_num' v + g_den')
 *     g_w += c (g_num' num + g_den' den);        g_v = b g_N + d g_num'
 *     g_num = a g_N + c g_num';                  g_den = -a g_N y + c g_den'
 *
 * A pull towards (num_p, den_p, top_p), where there is one, comes after each step:
 *
 *     e, f = e^(top' + l - q), e^(top_p - q),  q = max(top' + l, top_p);    num" = e num' + f num_p, den" and top" alike
 *     g_l += e (g_num" num' + g_den" den');      g_num_p += f g_num", g_den_p += f g_den";     g_num' = e g_num" ...
 *
 * Arrays are contiguous: k, v, y (B, T, C); the memory (B, C); w, u (C). The work is cut into items, a row times a
 * block of LANES channels, numbered row by row; a call does the items [begin, end). An item writes to places of its
 * own only, g_w and g_u included (B, C), so that nothing depends on how the items are spread over threads.
 */
#ifndef REAL

/* To be raised with every change of the functions' arguments: a library left over from an older build is refused. */
#define ABI 2
#define LIBRARY wkv4
#define SOURCE "wkv4/wkv4.c"

/* Channels in a block: whole cache lines, and independent work for the processor. With 16 or fewer GCC unrolls the loops
 * over them instead of vectorising. */
#define LANES 32
/* Backward keeps the memory at every SEGMENT-th step and computes what lies between once more. */
#define SEGMENT 16

/* A block's steps lie C numbers apart, too far for the processor to foresee: it is told some steps ahead. An address
 * beyond the arrays does no harm. */
#define AHEAD 8
#if defined(__GNUC__)
#define FETCH(pointer, steps, write)                                                                                  \
    do {                                                                                                              \
        const uintptr_t there = (uintptr_t)(pointer) + (uintptr_t)((steps) * C * (int64_t)sizeof(REAL));              \
        for (uintptr_t line = 0; line < LANES * sizeof(REAL); line += 64)                                             \
            __builtin_prefetch((const void *)(there + line), write);                                                  \
    } while (0)
#else
#define FETCH(pointer, steps, write)
#endif

/* What backward needs of a step: the memory before it, (c, d) and (e, f). */
enum { NUM, DEN, TOP, OLD, NEW, PULL_OLD, PULL_NEW, KEPT };
/* A pull, NULL for none: the fourth is l. Gradients are in the same order, but for that of top_p, which has none. */
enum { PULL_NUM, PULL_DEN, PULL_TOP, PULL_KEEP, PULL };

#define FORWARD_ARGS(real)                                                                                            \
    (int64_t T, int64_t C, int64_t begin, int64_t end, const int64_t *lengths, const real *w, const real *u,          \
     const real *k, const real *v, const real *num, const real *den, const real *top, const real *pnum,               \
     const real *pden, const real *ptop, const real *keep, real *y, real *num_out, real *den_out, real *top_out)
#define BACKWARD_ARGS(real)                                                                                           \
    (int64_t T, int64_t C, int64_t begin, int64_t end, const int64_t *lengths, const real *w, const real *u,          \
     const real *k, const real *v, const real *num, const real *den, const real *top, const real *pnum,               \
     const real *pden, const real *ptop, const real *keep, const real *gy, const real *gnum_out,                      \
     const real *gden_out, real *gw, real *gu, real *gk, real *gv, real *gnum, real *gden, real *gpnum, real *gpden,  \
     real *gkeep)

#include "kernel.h"

/* Channels in an item, from which the caller computes the number of items. */
EXPORT int prosg_wkv4_lanes(void) { return LANES; }

/* Forward returns 0; backward 1 where there is no memory for its working space. */
#define DEFINE(real, type)                                                                                            \
    EXPORT int prosg_wkv4_forward_##type FORWARD_ARGS(real)                                                           \
    {                                                                                                                 \
        return PICK(forward, type)(T, C, begin, end, lengths, w, u, k, v, num, den, top, pnum, pden, ptop, keep, y,   \
                                   num_out, den_out, top_out);                                                        \
    }                                                                                                                 \
    EXPORT int prosg_wkv4_backward_##type BACKWARD_ARGS(real)                                                         \
    {                                                                                                                 \
        return PICK(backward, type)(T, C, begin, end, lengths, w, u, k, v, num, den, top, pnum, pden, ptop, keep, gy, \
                                    gnum_out, gden_out, gw, gu, gk, gv, gnum, gden, gpnum, gpden, gkeep);             \
    }
DEFINE(float, f32)
DEFINE(double, f64)

#else /* REAL: the code itself, for one type and one instruction set */

/* A block's pull, as far as there is one. */
TARGET static INLINE void NAME(take_pull)(int n, int64_t at, const REAL *pnum, const REAL *pden, const REAL *ptop,
                                          const REAL *keep, REAL pull[PULL][LANES])
{
    for (int i = 0; keep && i < n; i++) {
        pull[PULL_NUM][i] = pnum[at + i], pull[PULL_DEN][i] = pden[at + i];
        pull[PULL_TOP][i] = ptop[at + i], pull[PULL_KEEP][i] = keep[at + i];
    }
}

/* The steps one after the other over a block of n <= LANES channels; the pointers stand at the block's first one. */
TARGET static INLINE void NAME(forward_block)(int n, const int pulled, REAL pull[PULL][LANES], int64_t steps, int64_t T, int64_t C, const REAL *w, const REAL *u,
                                              const REAL *k, const REAL *v, const REAL *num_in, const REAL *den_in,
                                              const REAL *top_in, REAL *y, REAL *num_out, REAL *den_out, REAL *top_out)
{
    REAL num[LANES], den[LANES], top[LANES], decay[LANES], bonus[LANES];
    for (int i = 0; i < n; i++) {
        num[i] = num_in[i], den[i] = den_in[i], top[i] = top_in[i], decay[i] = w[i], bonus[i] = u[i];
    }
    for (int64_t t = 0; t < steps; t++) {
        const REAL *restrict kt = k + t * C, *restrict vt = v + t * C;
        REAL *restrict yt = y + t * C;
        FETCH(kt, AHEAD, 0);
        FETCH(vt, AHEAD, 0);
        FETCH(yt, AHEAD, 1);
        for (int i = 0; i < n; i++) {
            const REAL key = kt[i], value = vt[i];
            const REAL ahead = top[i] - (bonus[i] + key);
            const REAL e = NAME(exp_negative)(ahead > 0 ? -ahead : ahead);
            const REAL a = ahead > 0 ? (REAL)1 : e, b = ahead > 0 ? e : (REAL)1;
            yt[i] = (a * num[i] + b * value) / (a * den[i] + b);
            const REAL kept = top[i] + decay[i], later = kept - key;
            const REAL f = NAME(exp_negative)(later > 0 ? -later : later);
            const REAL c = later > 0 ? (REAL)1 : f, d = later > 0 ? f : (REAL)1;
            num[i] = c * num[i] + d * value;
            den[i] = c * den[i] + d;
            top[i] = later > 0 ? kept : key;
            if (pulled) {
                const REAL left = top[i] + pull[PULL_KEEP][i], over = left - pull[PULL_TOP][i];
                const REAL g = NAME(exp_negative)(over > 0 ? -over : over);
                const REAL old = over > 0 ? (REAL)1 : g, new = over > 0 ? g : (REAL)1;
                num[i] = old * num[i] + new * pull[PULL_NUM][i];
                den[i] = old * den[i] + new * pull[PULL_DEN][i];
                top[i] = over > 0 ? left : pull[PULL_TOP][i];
            }
        }
    }
    for (int64_t t = steps; t < T; t++)
        memset(y + t * C, 0, n * sizeof(REAL));
    for (int i = 0; i < n; i++) {
        num_out[i] = num[i], den_out[i] = den[i], top_out[i] = top[i];
    }
}

/* One step of the memory; `now` holds num, den, top. Where `kept` is not NULL, what backward needs goes there. */
TARGET static INLINE void NAME(step)(int n, const int pulled, REAL pull[PULL][LANES], const REAL *decay, const REAL *restrict k, const REAL *restrict v,
                                     REAL now[3][LANES], REAL kept[KEPT][LANES])
{
    for (int i = 0; i < n; i++) {
        const REAL old = now[TOP][i] + decay[i], later = old - k[i];
        const REAL f = NAME(exp_negative)(later > 0 ? -later : later);
        const REAL c = later > 0 ? (REAL)1 : f, d = later > 0 ? f : (REAL)1;
        if (kept) {
            kept[NUM][i] = now[NUM][i], kept[DEN][i] = now[DEN][i], kept[TOP][i] = now[TOP][i];
            kept[OLD][i] = c, kept[NEW][i] = d;
        }
        now[NUM][i] = c * now[NUM][i] + d * v[i];
        now[DEN][i] = c * now[DEN][i] + d;
        now[TOP][i] = later > 0 ? old : k[i];
        if (pulled) {
            const REAL left = now[TOP][i] + pull[PULL_KEEP][i], over = left - pull[PULL_TOP][i];
            const REAL g = NAME(exp_negative)(over > 0 ? -over : over);
            const REAL stay = over > 0 ? (REAL)1 : g, come = over > 0 ? g : (REAL)1;
            if (kept)
                kept[PULL_OLD][i] = stay, kept[PULL_NEW][i] = come;
            now[NUM][i] = stay * now[NUM][i] + come * pull[PULL_NUM][i];
            now[DEN][i] = stay * now[DEN][i] + come * pull[PULL_DEN][i];
            now[TOP][i] = over > 0 ? left : pull[PULL_TOP][i];
        }
    }
}

/* `saved` is the working space: the memory at the beginning of each segment. */
TARGET static INLINE void NAME(backward_block)(int n, const int pulled, REAL pull[PULL][LANES], int64_t steps, int64_t T, int64_t C, const REAL *w, const REAL *u,
                                               const REAL *k, const REAL *v, const REAL *num_in, const REAL *den_in,
                                               const REAL *top_in, const REAL *gy, const REAL *gnum_out,
                                               const REAL *gden_out, REAL *gw_out, REAL *gu_out, REAL *gk, REAL *gv,
                                               REAL *gnum_in, REAL *gden_in, REAL *gpnum_out, REAL *gpden_out,
                                               REAL *gkeep_out, REAL (*saved)[3][LANES])
{
    REAL now[3][LANES], kept[SEGMENT][KEPT][LANES];
    REAL decay[LANES], bonus[LANES], gnum[LANES], gden[LANES], gw[LANES], gu[LANES];
    REAL gpnum[LANES], gpden[LANES], gkeep[LANES];
    for (int i = 0; i < n; i++) {
        now[NUM][i] = num_in[i], now[DEN][i] = den_in[i], now[TOP][i] = top_in[i];
        decay[i] = w[i], bonus[i] = u[i], gnum[i] = gnum_out[i], gden[i] = gden_out[i], gw[i] = 0, gu[i] = 0;
        gpnum[i] = gpden[i] = gkeep[i] = 0;
    }
    for (int64_t t = steps; t < T; t++) {
        memset(gk + t * C, 0, n * sizeof(REAL));
        memset(gv + t * C, 0, n * sizeof(REAL));
    }
    const int64_t last = steps ? (steps - 1) / SEGMENT : -1;
    for (int64_t t = 0; t <= last * SEGMENT; t++) {
        if (t % SEGMENT == 0)
            memcpy(saved[t / SEGMENT], now, sizeof now);
        FETCH(k + t * C, AHEAD, 0);
        FETCH(v + t * C, AHEAD, 0);
        NAME(step)(n, pulled, pull, decay, k + t * C, v + t * C, now, NULL);
    }
    for (int64_t segment = last; segment >= 0; segment--) {
        const int64_t first = segment * SEGMENT;
        const int size = (int)(steps - first < SEGMENT ? steps - first : SEGMENT);
        memcpy(now, saved[segment], sizeof now);
        for (int j = 0; j < size; j++)
            NAME(step)(n, pulled, pull, decay, k + (first + j) * C, v + (first + j) * C, now, kept[j]);
        for (int j = size - 1; j >= 0; j--) {
            const int64_t at = (first + j) * C;
            const REAL *restrict kt = k + at, *restrict vt = v + at, *restrict gyt = gy + at;
            REAL *restrict gkt = gk + at, *restrict gvt = gv + at;
            FETCH(gyt, -AHEAD, 0);
            FETCH(gkt, -AHEAD, 1);
            FETCH(gvt, -AHEAD, 1);
            for (int i = 0; i < n; i++) {
                const REAL value = vt[i], num = kept[j][NUM][i], den = kept[j][DEN][i];
                const REAL c = kept[j][OLD][i], d = kept[j][NEW][i];
                if (pulled) {
                    const REAL stay = kept[j][PULL_OLD][i], come = kept[j][PULL_NEW][i];
                    gkeep[i] += stay * (gnum[i] * (c * num + d * value) + gden[i] * (c * den + d));
                    gpnum[i] += come * gnum[i], gpden[i] += come * gden[i];
                    gnum[i] *= stay, gden[i] *= stay;
                }
                const REAL ahead = kept[j][TOP][i] - (bonus[i] + kt[i]);
                const REAL e = NAME(exp_negative)(ahead > 0 ? -ahead : ahead);
                const REAL a = ahead > 0 ? (REAL)1 : e, b = ahead > 0 ? e : (REAL)1;
                const REAL inverse = (REAL)1 / (a * den + b), y = (a * num + b * value) * inverse;
                const REAL g = gyt[i] * inverse, h = g * (value - y) * b;
                gu[i] += h;
                gw[i] += c * (gnum[i] * num + gden[i] * den);
                gkt[i] = h + d * (gnum[i] * value + gden[i]);
                gvt[i] = b * g + d * gnum[i];
                gnum[i] = a * g + c * gnum[i];
                gden[i] = c * gden[i] - a * g * y;
            }
        }
    }
    for (int i = 0; i < n; i++) {
        gw_out[i] = gw[i], gu_out[i] = gu[i], gnum_in[i] = gnum[i], gden_in[i] = gden[i];
        if (pulled)
            gpnum_out[i] = gpnum[i], gpden_out[i] = gpden[i], gkeep_out[i] = gkeep[i];
    }
}

/* An item's row, first channel, width and number of valid steps. A whole block's width is a constant to the compiler. */
#define ITEM                                                                                                          \
    const int64_t blocks = (C + LANES - 1) / LANES, row = item / blocks, at = item % blocks * LANES;                  \
    const int64_t x = row * T * C + at, m = row * C + at;                                                             \
    const int n = (int)(C - at < LANES ? C - at : LANES);                                                             \
    int64_t steps = lengths ? lengths[row] : T;                                                                       \
    steps = steps < 0 ? 0 : steps > T ? T : steps;

TARGET static int NAME(forward) FORWARD_ARGS(REAL)
{
    REAL pull[PULL][LANES];
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        NAME(take_pull)(n, m, pnum, pden, ptop, keep, pull);
#define RUN(width, pulled)                                                                                            \
    NAME(forward_block)(width, pulled, pull, steps, T, C, w + at, u + at, k + x, v + x, num + m, den + m, top + m, y + x,           \
                        num_out + m, den_out + m, top_out + m)
        if (n == LANES && keep)
            RUN(LANES, 1);
        else if (n == LANES)
            RUN(LANES, 0);
        else
            RUN(n, keep != NULL);
#undef RUN
    }
    LEAVE
    return 0;
}

TARGET static int NAME(backward) BACKWARD_ARGS(REAL)
{
    REAL pull[PULL][LANES];
    REAL(*saved)[3][LANES] = malloc((size_t)(T / SEGMENT + 1) * sizeof *saved);
    if (!saved)
        return 1;
    ENTER
    for (int64_t item = begin; item < end; item++) {
        ITEM
        NAME(take_pull)(n, m, pnum, pden, ptop, keep, pull);
#define RUN(width, pulled)                                                                                            \
    NAME(backward_block)(width, pulled, pull, steps, T, C, w + at, u + at, k + x, v + x, num + m, den + m, top + m, gy + x,         \
                         gnum_out + m, gden_out + m, gw + m, gu + m, gk + x, gv + x, gnum + m, gden + m, keep ? gpnum + m : NULL,     \
                         keep ? gpden + m : NULL, keep ? gkeep + m : NULL, saved)
        if (n == LANES && keep)
            RUN(LANES, 1);
        else if (n == LANES)
            RUN(LANES, 0);
        else
            RUN(n, keep != NULL);
#undef RUN
    }
    LEAVE
    free(saved);
    return 0;
}

#undef ITEM
#endif
