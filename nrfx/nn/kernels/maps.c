/* The attention alone, on what one convolution for each input generation gave: ys[j] is [outer, out, inner]. */
#include "attention.h"

/* Mirrors nrfx.nn.native.Maps. half: the maps are bfloat16, computed on as float32. */
typedef struct {
    int64_t outer, out, inner, inputs, generations, threads, half;
} Maps;

INLINE float load(const void *x, int64_t i, int half) {
    if (!half) return ((const float *)x)[i];
    union {
        uint32_t i;
        float f;
    } wide = {(uint32_t)((const uint16_t *)x)[i] << 16};
    return wide.f;
}

INLINE void store(void *x, int64_t i, float value, int half) {
    if (!half) {
        ((float *)x)[i] = value;
        return;
    }
    union {
        float f;
        uint32_t i;
    } wide = {value};
    uint32_t rounded = (wide.i + 0x7FFF + ((wide.i >> 16) & 1)) >> 16; /* to nearest, ties to even */
    ((uint16_t *)x)[i] = value != value ? 0x7FC0 : (uint16_t)rounded;
}

/* Element i of the sum of all maps but `own`. */
INLINE float others(void *const *ys, int64_t inputs, int64_t own, int64_t i, int half) {
    float sum = 0;
    for (int64_t j = 0; j < inputs; j++)
        if (j != own) sum += load(ys[j], i, half);
    return sum;
}

INLINE void attend_span(void *const *ys, int64_t inputs, int64_t own, void *out, int64_t from, int64_t n, int half) {
    if (inputs == 2 && own >= 0) { /* the common case, without a loop inside */
        const void *same = ys[own], *other = ys[1 - own];
#pragma GCC ivdep
        for (int64_t i = from; i < from + n; i++)
            store(out, i, attended(load(same, i, half), load(other, i, half)), half);
        return;
    }
    for (int64_t i = from; i < from + n; i++)
        store(out, i, attended(own < 0 ? 0 : load(ys[own], i, half), others(ys, inputs, own, i, half)), half);
}

INLINE void unattend_span(void *const *ys, int64_t inputs, int64_t own, const void *grad, void *const *grads, int64_t from,
                          int64_t n, int half) {
    if (inputs == 2 && own >= 0) {
        const void *same = ys[own], *other = ys[1 - own];
        void *to_same = grads[own], *to_other = grads[1 - own];
#pragma GCC ivdep
        for (int64_t i = from; i < from + n; i++) {
            float d_same, d_other;
            unattended(load(grad, i, half), load(same, i, half), load(other, i, half), &d_same, &d_other);
            store(to_same, i, d_same, half);
            store(to_other, i, d_other, half);
        }
        return;
    }
    for (int64_t i = from; i < from + n; i++) {
        float other = others(ys, inputs, own, i, half), d_same, d_other;
        unattended(load(grad, i, half), own < 0 ? 0 : load(ys[own], i, half), other, &d_same, &d_other);
        for (int64_t j = 0; j < inputs; j++) store(grads[j], i, j == own ? d_same : d_other, half);
    }
}

INLINE void attend(const Maps *m, const int64_t *rows, const int64_t *own, void *const *ys, void *out, int half) {
#pragma omp parallel for num_threads((int)m->threads) schedule(static)
    for (int64_t o = 0; o < m->outer; o++)
        for (int64_t g = 0, at = o * m->out * m->inner; g < m->generations; at += rows[g++] * m->inner)
            attend_span(ys, m->inputs, own[g], out, at, rows[g] * m->inner, half);
}

INLINE void unattend(const Maps *m, const int64_t *rows, const int64_t *own, void *const *ys, const void *grad,
                     void *const *grads, int half) {
#pragma omp parallel for num_threads((int)m->threads) schedule(static)
    for (int64_t o = 0; o < m->outer; o++)
        for (int64_t g = 0, at = o * m->out * m->inner; g < m->generations; at += rows[g++] * m->inner)
            unattend_span(ys, m->inputs, own[g], grad, grads, at, rows[g] * m->inner, half);
}

/* rows[g]: rows of output generation g; own[g]: which of ys is its own, -1 for none. */
EXPORT void attend_forward(const Maps *m, const int64_t *rows, const int64_t *own, void *const *ys, void *out) {
    if (m->half)
        attend(m, rows, own, ys, out, 1);
    else
        attend(m, rows, own, ys, out, 0);
}

EXPORT void attend_backward(const Maps *m, const int64_t *rows, const int64_t *own, void *const *ys, const void *grad,
                            void *const *grads) {
    if (m->half)
        unattend(m, rows, own, ys, grad, grads, 1);
    else
        unattend(m, rows, own, ys, grad, grads, 0);
}
