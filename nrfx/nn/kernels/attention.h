/* What the kernels share: the gate, and scratch memory. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

/* sigmoid by exp(z) = 2^n * p(z - n ln 2); relative error below 2e-7, and a loop over it becomes vector code. */
INLINE float sigmoid(float x) {
    float z = -x;
    z = z < -87.0f ? -87.0f : z;
    z = z > 87.0f ? 87.0f : z;
    union {
        float f;
        int32_t i;
    } shifted, power;
    shifted.f = z * 1.44269504f + 12582912.0f; /* adding 1.5 * 2^23 rounds to an integer, in the low bits */
    float n = shifted.f - 12582912.0f;
    float r = z - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    power.i = (int32_t)((uint32_t)(shifted.i - 0x4B400000 + 127) << 23);
    return 1.0f / (1.0f + (p * r * r + r + 1.0f) * power.f);
}

INLINE float attended(float same, float other) { return same + 2 * sigmoid(same) * other; }

INLINE void unattended(float grad, float same, float other, float *d_same, float *d_other) {
    float gate = sigmoid(same), twice = 2 * gate * grad;
    *d_same = grad + twice * (1 - gate) * other;
    *d_other = twice;
}

/* A little more than asked for: vectors may read past the last float that means anything. */
static inline float *scratch(int64_t floats) {
    return aligned_alloc(64, ((size_t)(floats + 64) * sizeof(float) + 63) / 64 * 64);
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
