/* Shared by the compiled kernels: number types, instruction sets, the choice among them at run time, e^x.
 *
 * A library's source defines LIBRARY (its name), SOURCE (its file) and ABI, and includes this header, which includes
 * that file again, once per number type and instruction set, with these defined:
 *
 *     REAL, INT      the number type, and the integer type of its size
 *     NAME(f)        f's name for this type and set
 *     TARGET         goes before every function: the set that it is compiled for
 *     BYTES          size of a vector register
 *
 * PICK(f, f32 or f64) is then the best of f that this machine can run.
 */
#ifndef REAL

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#else
#define INLINE inline
#endif

#define PASTE(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) PASTE(a, b, c)
#define NAME(function) JOIN(function, TYPE, SET)

#if defined(__GNUC__) && defined(__x86_64__)
#define DISPATCH 1
#include <immintrin.h>
#endif

/* Gradients fade exponentially over long texts. Numbers below the normal range are taken as 0, as each of them would
 * cost a hundred cycles on x86; the caller's mode is put back. */
#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#define ENTER unsigned int mode = _mm_getcsr(); _mm_setcsr(mode | 0x8040);
#define LEAVE _mm_setcsr(mode);
#else
#define ENTER
#define LEAVE
#endif

#define REAL float
#define INT int32_t
#define TYPE f32
#include "kernel.h"
#undef REAL
#undef INT
#undef TYPE

#define REAL double
#define INT int64_t
#define TYPE f64
#include "kernel.h"
#undef REAL

#ifdef DISPATCH
static int level(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#define PICK(function, type)                                                                                          \
    (level() == 2 ? function##_##type##_avx512 : level() == 1 ? function##_##type##_avx2 : function##_##type##_plain)
#else
static int level(void) { return 0; }
#define PICK(function, type) function##_##type##_plain
#endif

EXPORT int JOIN(prosg, LIBRARY, abi)(void) { return ABI; }

EXPORT const char *JOIN(prosg, LIBRARY, instructions)(void)
{
    static const char *const names[] = {"plain", "avx2", "avx512f"};
    return names[level()];
}

#elif !defined(SET) /* for one number type */

#define EACH_SET "kernel.h"
#define WIDEST "avx512f,avx512dq,fma"
#include "sets.h"

#else /* for one number type and one instruction set */

/* e^x for x <= 0, without branches, so that loops over it vectorise: x = i ln 2 + r, |r| <= ln 2 / 2; Taylor's series
 * for e^r, of which the first term left out is below the rounding; 2^i by its bits. Below the smallest normal number
 * it is 0; NaN stays NaN. */
TARGET static INLINE REAL NAME(exp_negative)(REAL x)
{
    const int single = sizeof(REAL) == 4;
    /* Added and taken away again it rounds to an integer, which stands in the lowest bits in between. */
    const REAL magic = single ? (REAL)12582912.0 : (REAL)6755399441055744.0;
    const REAL lowest = single ? (REAL)-87.3 : (REAL)-708.3;
    /* ln 2 in two parts; products of the first with i are exact. */
    const REAL high = single ? (REAL)0.693359375 : (REAL)6.93145751953125e-1;
    const REAL low = single ? (REAL)-2.12194440054690583e-4 : (REAL)1.42860682030941723212e-6;
    const REAL within = x < lowest ? lowest : x;
    const REAL shifted = within * (REAL)1.44269504088896340736 + magic;
    const REAL i = shifted - magic;
    const REAL r = (within - i * high) - i * low;
    REAL p = single ? (REAL)(1.0 / 5040) : (REAL)(1.0 / 6227020800.0);
    if (!single) {
        p = p * r + (REAL)(1.0 / 479001600);
        p = p * r + (REAL)(1.0 / 39916800);
        p = p * r + (REAL)(1.0 / 3628800);
        p = p * r + (REAL)(1.0 / 362880);
        p = p * r + (REAL)(1.0 / 40320);
        p = p * r + (REAL)(1.0 / 5040);
    }
    p = p * r + (REAL)(1.0 / 720);
    p = p * r + (REAL)(1.0 / 120);
    p = p * r + (REAL)(1.0 / 24);
    p = p * r + (REAL)(1.0 / 6);
    p = p * r + (REAL)0.5;
    p = p * r + (REAL)1;
    p = p * r + (REAL)1;
    union { REAL value; INT bits; } s, magic_bits, scale;
    s.value = shifted;
    magic_bits.value = magic;
    scale.bits = (INT)((s.bits - magic_bits.bits + (single ? 127 : 1023)) << (single ? 23 : 52));
    return x < lowest ? (REAL)0 : p * scale.value;
}

#include SOURCE

#endif
