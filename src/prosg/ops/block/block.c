/* All blocks of a backbone for one token of each row, in one call: a decoding step's Python is otherwise as slow as its
 * work.
 *
 * The parts are those of the other libraries; Python says where they are once. What a block computes, and in which order,
 * is in backbones/rwkv4.py and rwkv7.py, whose forward is the oracle. One thread.
 *
 * A function takes sizes, 0 and the number of blocks, and three arrays of pointers: to the weights of each block, which
 * stay from step to step; to the update's factors, which stay for an answer, or NULL; and to what a step reads and writes.
 */
#ifndef TYPE

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__GNUC__)
#error "this kernel needs GCC or Clang; without it the package uses PyTorch"
#endif

/* To be raised with every change of the arguments: a library left over from an older build is refused. */
#define ABI 2
#define EXPORT __attribute__((visibility("default")))
#define PASTE(a, b, c) a##b##_##c
#define JOIN(a, b, c) PASTE(a, b, c)
#define OTHER(function) JOIN(prosg_, function, TYPE)

/* A matrix, and the factors of its int8, NULL where it is of the activations' type. */
typedef struct {
    const void *weight;
    const float *scale;
} Matrix;

/* An update of a matrix: its factors, NULL where there is none, and whether the rows share b. */
typedef struct {
    const void *a, *b;
    intptr_t rank, shared;
} Delta;

/* The projections of a block that an update may act on. */
enum { SITES = 4 };

#define LINEAR (int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const void *, const void *, const float *, void *)
#define STEP (int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, void **)
#define WKV4                                                                                                          \
    (int64_t, int64_t, int64_t, int64_t, const int64_t *, const float *, const float *, const float *, const float *, \
     const float *, const float *, const float *, const float *, const float *, const float *, const float *, float *, \
     float *, float *, float *)
#define WKV7                                                                                                          \
    (int64_t, int64_t, int64_t, int64_t, int64_t, const int64_t *, const float *, const float *, const float *,       \
     const float *, const float *, const float *, const float *, const float *, const float *, float *, float *, float *)

/* What is called in the other libraries: name, arguments. */
#define PARTS(PART)                                                                                                   \
    PART(prosg_linear_rows_f32, LINEAR)                                                                               \
    PART(prosg_linear_rows_bf16, LINEAR)                                                                              \
    PART(prosg_linear_rows_i8, LINEAR)                                                                                \
    PART(prosg_linear_item, (void))                                                                                   \
    PART(prosg_wkv4_lanes, (void))                                                                                    \
    PART(prosg_wkv4_forward_f32, WKV4)                                                                                \
    PART(prosg_wkv7_forward_f32, WKV7)                                                                                \
    PART(prosg_step_shift_mix_f32, STEP)                                                                              \
    PART(prosg_step_shift_mix_bf16, STEP)                                                                             \
    PART(prosg_step_low_rank_f32, STEP)                                                                               \
    PART(prosg_step_low_rank_bf16, STEP)                                                                              \
    PART(prosg_step_replace_f32, STEP)                                                                                \
    PART(prosg_step_replace_bf16, STEP)                                                                               \
    PART(prosg_step_finish_f32, STEP)                                                                                 \
    PART(prosg_step_finish_bf16, STEP)                                                                                \
    PART(prosg_step_widen_f32, STEP)                                                                                  \
    PART(prosg_step_widen_bf16, STEP)                                                                                 \
    PART(prosg_step_gate_f32, STEP)                                                                                   \
    PART(prosg_step_gate_bf16, STEP)                                                                                  \
    PART(prosg_step_square_f32, STEP)                                                                                 \
    PART(prosg_step_square_bf16, STEP)                                                                                \
    PART(prosg_step_add_f32, STEP)                                                                                    \
    PART(prosg_step_add_bf16, STEP)                                                                                   \
    PART(prosg_step_columns_f32, STEP)                                                                                \
    PART(prosg_step_columns_bf16, STEP)

#define DECLARE(name, arguments) static int (*name) arguments;
PARTS(DECLARE)

#define NAMED(name, arguments) #name,
static const char *const parts[] = {PARTS(NAMED) NULL};

/* The name of the i-th part, NULL behind the last; and where they all are, in this order. */
EXPORT const char *prosg_block_part(int i) { return parts[i]; }

#define TAKE_PART(name, arguments) name = (int(*) arguments)(uintptr_t)*functions++;
EXPORT void prosg_block_use(void **functions) { PARTS(TAKE_PART) }

/* Working space of a thread, kept from call to call: fresh pages cost more than what is computed in them. */
static char *space(size_t bytes)
{
    static _Thread_local char *kept = NULL;
    static _Thread_local size_t size = 0;
    if (bytes > size) {
        free(kept);
        size = 0;
        if ((kept = malloc(bytes + 64)) != NULL)
            size = bytes;
    }
    return kept ? (char *)(((uintptr_t)kept + 63) & ~(uintptr_t)63) : NULL;
}

/* Names of the pointers, in the order in which Python passes them. Of a block's weights: */
enum {
    FOUR_LN1, FOUR_LN1_BIAS, FOUR_LN2, FOUR_LN2_BIAS, FOUR_DECAY, FOUR_FIRST,
    FOUR_MIX, /* k, v, r; of channel-mixing k, r */
    FOUR_MATRICES = FOUR_MIX + 5, /* key, value, receptance, output, the sites; key, receptance, value */
    FOUR_WEIGHTS = FOUR_MATRICES + 2 * 7
};

enum {
    SEVEN_LN1, SEVEN_LN1_BIAS, SEVEN_LN2, SEVEN_LN2_BIAS, SEVEN_LN_X, SEVEN_LN_X_BIAS,
    SEVEN_MIX, /* r, w, k, v, a, g; of channel-mixing k */
    SEVEN_W0 = SEVEN_MIX + 7, SEVEN_A0, SEVEN_V0, SEVEN_K_K, SEVEN_K_A, SEVEN_R_K,
    SEVEN_LOW, /* w1, w2, a1, a2, v1, v2, g1, g2 */
    SEVEN_MATRICES = SEVEN_LOW + 8, /* receptance, key, value, output, the sites; key, value */
    SEVEN_WEIGHTS = SEVEN_MATRICES + 2 * 6
};

/* Of a step: the residual stream before the first block and after the last; the taps of all blocks, one behind the other
 * (inputs, memory), or twice NULL; then each block's own. */
enum { X, OUT, SEEN, MEMORY, BLOCKS };

enum {
    FOUR_STATE, /* att_shift, ffn_shift, num, den, top */
    FOUR_PULL = FOUR_STATE + 5, /* num, den, top, log_keep, or four times NULL */
    FOUR_SHIFTS = FOUR_PULL + 4, FOUR_AFTER, /* the state after the step: both shifts; num, den, top */
    FOUR_STEP
};

enum {
    SEVEN_STATE, /* att_shift, ffn_shift, memory */
    SEVEN_PULL = SEVEN_STATE + 3, /* memory and what is kept, or twice NULL */
    SEVEN_SHIFTS = SEVEN_PULL + 2, SEVEN_AFTER, /* the state after the step: both shifts; memory */
    SEVEN_STEP
};

/* `count` numbers of `size` bytes from the working space, from a cache line's beginning on. */
static void *take(char **at, int64_t count, size_t size)
{
    char *const here = *at;
    *at += ((size_t)count * size + 63) / 64 * 64;
    return here;
}
#define TAKE(type, count) take(&free_space, count, sizeof(type))

#define TYPE f32
#define REAL float
#define NARROW 0
#include "block/block.c"
#undef TYPE
#undef REAL
#undef NARROW

#define TYPE bf16
#define REAL uint16_t
#define NARROW 1
#include "block/block.c"
#undef TYPE
#undef REAL
#undef NARROW

EXPORT int prosg_block_abi(void) { return ABI; }

#else /* for one type */

#define NAME(function) JOIN(function, , TYPE)
#define DELTA(site) (delta ? delta + (site) : NULL)

static int NAME(project)(int64_t rows, int64_t I, int64_t O, const Matrix *matrix, const Delta *delta, const REAL *x, REAL *y)
{
    const int64_t items = (O + prosg_linear_item() - 1) / prosg_linear_item();
    int failed = matrix->scale ? prosg_linear_rows_i8(rows, I, O, NARROW, 0, items, x, matrix->weight, matrix->scale, y)
                               : OTHER(linear_rows)(rows, I, O, NARROW, 0, items, x, matrix->weight, NULL, y);
    if (delta && delta->a) {
        void *site[] = {(void *)x, (void *)delta->a, (void *)delta->b, y};
        failed |= OTHER(step_low_rank)(delta->rank, I, O, delta->shared, 1, 0, rows, site);
    }
    return failed;
}

EXPORT int OTHER(block_rwkv4)(int64_t rows, int64_t E, int64_t C, int64_t F, int64_t eps, int64_t unused, int64_t none,
                              int64_t nothing, int64_t begin, int64_t end, void **weights, void **update, void **at)
{
    const int64_t widest = F > C ? F : C;
    char *free_space = space((size_t)(rows * (7 * E + 3 * C + widest) * (int64_t)sizeof(REAL) + (rows * 3 + 1) * C * 4 + 64 * 16));
    if (!free_space)
        return 1;
    (void)unused, (void)none, (void)nothing;
    REAL *const mixed = TAKE(REAL, 3 * rows * E), *const sum = TAKE(REAL, rows * E), *const y = TAKE(REAL, rows * E);
    REAL *const k = TAKE(REAL, rows * C), *const v = TAKE(REAL, rows * C), *const r = TAKE(REAL, rows * (E > C ? E : C));
    REAL *const inner = TAKE(REAL, rows * widest);
    float *const wide_k = TAKE(float, rows * C), *const wide_v = TAKE(float, rows * C), *const w = TAKE(float, C);
    REAL *const unseen = TAKE(REAL, rows * E);
    float *const unkept = TAKE(float, rows * C);
    int failed = 0;

    for (int64_t layer = begin; layer < end; layer++) {
        void **const own = weights + layer * FOUR_WEIGHTS, **const step = at + BLOCKS + layer * FOUR_STEP;
        void **const state = step + FOUR_STATE, **const pull = step + FOUR_PULL;
        const Matrix *const matrix = (const Matrix *)(own + FOUR_MATRICES);
        const Delta *const delta = update ? (const Delta *)update + layer * SITES : NULL;
        REAL *const x = at[layer ? OUT : X], *const seen = at[SEEN] ? (REAL *)at[SEEN] + layer * rows * E : unseen;
        float *const memory = at[MEMORY] ? (float *)at[MEMORY] + layer * rows * C : unkept;
        float *const shifts = step[FOUR_SHIFTS], *const after = step[FOUR_AFTER];

        void *read[] = {x, NULL, own[FOUR_LN1], own[FOUR_LN1_BIAS], state[0], NULL, seen, mixed, shifts, own[FOUR_MIX],
                        own[FOUR_MIX + 1], own[FOUR_MIX + 2]};
        failed |= OTHER(step_shift_mix)(rows, E, 3, 0, eps, 0, rows, read);
        failed |= NAME(project)(rows, E, C, matrix, DELTA(0), mixed, k);
        failed |= NAME(project)(rows, E, C, matrix + 1, DELTA(1), mixed + rows * E, v);
        failed |= NAME(project)(rows, E, C, matrix + 2, DELTA(2), mixed + 2 * rows * E, r);
        void *wide[] = {k, wide_k, v, wide_v};
        failed |= OTHER(step_widen)(rows * C, 0, 0, 0, 0, 0, 1, wide);
        failed |= OTHER(step_widen)(rows * C, 0, 0, 0, 0, 0, 1, wide + 2);
        for (int64_t c = 0; c < C; c++)
            w[c] = -expf(((const float *)own[FOUR_DECAY])[c]);
        const int64_t items = rows * ((C + prosg_wkv4_lanes() - 1) / prosg_wkv4_lanes());
        failed |= prosg_wkv4_forward_f32(1, C, 0, items, NULL, w, own[FOUR_FIRST], wide_k, wide_v, state[2], state[3],
                                         state[4], pull[0], pull[1], pull[2], pull[3], memory, after, after + rows * C,
                                         after + 2 * rows * C);
        void *gate[] = {r, memory, NULL, inner};
        failed |= OTHER(step_gate)(rows * C, 0, 0, 0, 0, 0, 1, gate);
        failed |= NAME(project)(rows, C, E, matrix + 3, DELTA(3), inner, y);

        void *again[] = {x, y, own[FOUR_LN2], own[FOUR_LN2_BIAS], state[1], sum, y, mixed, shifts + rows * E,
                         own[FOUR_MIX + 3], own[FOUR_MIX + 4]};
        failed |= OTHER(step_shift_mix)(rows, E, 2, 0, eps, 0, rows, again);
        failed |= NAME(project)(rows, E, F, matrix + 4, NULL, mixed, inner);
        failed |= NAME(project)(rows, E, E, matrix + 5, NULL, mixed + rows * E, r);
        void *square[] = {inner};
        failed |= OTHER(step_square)(rows * F, 0, 0, 0, 0, 0, 1, square);
        failed |= NAME(project)(rows, F, E, matrix + 6, NULL, inner, y);
        void *last[] = {r, NULL, y, y};
        failed |= OTHER(step_gate)(rows * E, 0, 0, 0, 0, 0, 1, last);
        void *add[] = {sum, y, at[OUT]};
        failed |= OTHER(step_add)(rows * E, 0, 0, 0, 0, 0, 1, add);
    }
    return failed;
}

/* y = act(x W1) W2, W1 (E, rank), W2 (rank, C); act: 0 none, 1 tanh, 2 sigmoid. */
static int NAME(low)(int64_t rows, int64_t E, int64_t inner, int64_t C, int64_t act, const REAL *x, void **w, REAL *between,
                     REAL *y)
{
    void *one[] = {(void *)x, w[0], between}, *two[] = {between, w[1], y};
    return OTHER(step_columns)(rows, E, inner, act, 0, 0, 1, one) | OTHER(step_columns)(rows, inner, C, 0, 0, 0, 1, two);
}

/* `low` holds the inner widths of w, a, v and g, in 16 bits each. */
EXPORT int OTHER(block_rwkv7)(int64_t rows, int64_t E, int64_t H, int64_t N, int64_t F, int64_t eps, int64_t ln_x_eps,
                              int64_t low, int64_t begin, int64_t end, void **weights, void **update, void **at)
{
    const int64_t C = H * N, w_rank = low & 0xffff, a_rank = low >> 16 & 0xffff, v_rank = low >> 32 & 0xffff;
    const int64_t g_rank = low >> 48 & 0xffff;
    const int64_t ranks = w_rank + a_rank + v_rank + g_rank;
    char *free_space = space((size_t)(rows * (9 * E + 9 * C + F + ranks) * (int64_t)sizeof(REAL) + rows * 8 * C * 4 + 64 * 32));
    if (!free_space)
        return 1;
    REAL *const mixed = TAKE(REAL, 6 * rows * E), *const sum = TAKE(REAL, rows * E), *const y = TAKE(REAL, rows * E);
    REAL *const r = TAKE(REAL, rows * C), *const k = TAKE(REAL, rows * C), *const first = TAKE(REAL, rows * C);
    REAL *const w = TAKE(REAL, rows * C), *const a = TAKE(REAL, rows * C), *const mix = TAKE(REAL, rows * C);
    REAL *const g = TAKE(REAL, rows * C), *const gated = TAKE(REAL, rows * C), *const inner = TAKE(REAL, rows * F);
    REAL *const between = TAKE(REAL, rows * ranks), *const later = TAKE(REAL, rows * C);
    float *const taken = TAKE(float, 7 * rows * C), *const answer = taken + 6 * rows * C;
    REAL *const unseen = TAKE(REAL, rows * E);
    float *const unkept = TAKE(float, rows * C);
    const REAL *const x_r = mixed, *const x_w = x_r + rows * E, *const x_k = x_w + rows * E, *const x_v = x_k + rows * E;
    const REAL *const x_a = x_v + rows * E, *const x_g = x_a + rows * E;
    int failed = 0;

    for (int64_t layer = begin; layer < end; layer++) {
        void **const own = weights + layer * SEVEN_WEIGHTS, **const step = at + BLOCKS + layer * SEVEN_STEP;
        void **const lows = own + SEVEN_LOW, **const state = step + SEVEN_STATE, **const pull = step + SEVEN_PULL;
        const Matrix *const matrix = (const Matrix *)(own + SEVEN_MATRICES);
        const Delta *const delta = update ? (const Delta *)update + layer * SITES : NULL;
        REAL *const x = at[layer ? OUT : X], *const seen = at[SEEN] ? (REAL *)at[SEEN] + layer * rows * E : unseen;
        REAL *const v = layer ? later : first; /* the first block's value crosses blocks */
        float *const memory = at[MEMORY] ? (float *)at[MEMORY] + layer * rows * C : unkept;
        float *const shifts = step[SEVEN_SHIFTS], *const after = step[SEVEN_AFTER];

        void *read[15] = {x, NULL, own[SEVEN_LN1], own[SEVEN_LN1_BIAS], state[0], NULL, seen, mixed, shifts};
        memcpy(read + 9, own + SEVEN_MIX, 6 * sizeof(void *));
        failed |= OTHER(step_shift_mix)(rows, E, 6, 1, eps, 0, rows, read);
        failed |= NAME(project)(rows, E, C, matrix, DELTA(0), x_r, r);
        failed |= NAME(project)(rows, E, C, matrix + 1, DELTA(1), x_k, k);
        failed |= NAME(project)(rows, E, C, matrix + 2, DELTA(2), x_v, v);
        failed |= NAME(low)(rows, E, w_rank, C, 1, x_w, lows, between, w);
        failed |= NAME(low)(rows, E, a_rank, C, 0, x_a, lows + 2, between, a);
        if (layer)
            failed |= NAME(low)(rows, E, v_rank, C, 0, x_v, lows + 4, between, mix);
        failed |= NAME(low)(rows, E, g_rank, C, 2, x_g, lows + 6, between, g);
        void *replace[18] = {r, k, v, w, a, layer ? mix : NULL, layer ? first : NULL, own[SEVEN_W0], own[SEVEN_A0],
                             own[SEVEN_V0], own[SEVEN_K_K], own[SEVEN_K_A]};
        for (int i = 0; i < 6; i++)
            replace[12 + i] = taken + i * rows * C;
        failed |= OTHER(step_replace)(H, N, 0, 0, 0, 0, rows, replace);
        failed |= prosg_wkv7_forward_f32(1, H, N, 0, rows * H, NULL, taken, taken + rows * C, taken + 2 * rows * C,
                                         taken + 3 * rows * C, taken + 4 * rows * C, taken + 5 * rows * C, state[2],
                                         pull[0], pull[1], answer, after, NULL);
        void *finish[] = {answer, taken, taken + 2 * rows * C, taken + 3 * rows * C, own[SEVEN_R_K], own[SEVEN_LN_X],
                          own[SEVEN_LN_X_BIAS], g, memory, gated};
        failed |= OTHER(step_finish)(H, N, ln_x_eps, 0, 0, 0, rows, finish);
        failed |= NAME(project)(rows, C, E, matrix + 3, DELTA(3), gated, y);

        void *again[] = {x, y, own[SEVEN_LN2], own[SEVEN_LN2_BIAS], state[1], sum, y, mixed, shifts + rows * E,
                         own[SEVEN_MIX + 6]};
        failed |= OTHER(step_shift_mix)(rows, E, 1, 1, eps, 0, rows, again);
        failed |= NAME(project)(rows, E, F, matrix + 4, NULL, mixed, inner);
        void *square[] = {inner};
        failed |= OTHER(step_square)(rows * F, 0, 0, 0, 0, 0, 1, square);
        failed |= NAME(project)(rows, F, E, matrix + 5, NULL, inner, y);
        void *add[] = {sum, y, at[OUT]};
        failed |= OTHER(step_add)(rows * E, 0, 0, 0, 0, 0, 1, add);
    }
    return failed;
}

#undef DELTA
#undef NAME

#endif
