/* bf16 as the upper half of an fp32, where the processor's own conversions are not used. */
#ifndef PROSG_BF16_H
#define PROSG_BF16_H

#include <stdint.h>

typedef uint16_t bf16;

static inline __attribute__((always_inline)) float widen(bf16 x)
{
    const union { uint32_t bits; float value; } wide = {(uint32_t)x << 16};
    return wide.value;
}

/* To the nearest, ties to even; NaN stays NaN. */
static inline __attribute__((always_inline)) bf16 narrow(float x)
{
    const union { float value; uint32_t bits; } wide = {x};
    const uint32_t rounded = (wide.bits + 0x7fff + (wide.bits >> 16 & 1)) >> 16;
    return x == x ? (bf16)rounded : 0x7fc0;
}

#endif
