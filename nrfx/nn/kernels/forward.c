/* The forward of the direct convolution. */
#include "direct.h"

/* The outputs of one row, [out_w, out], of its accumulators. */
static void attend_row(const Direct *s, const float *bias, const float *same, const float *other, float *to) {
    for (int64_t i = 0; i < s->out_w * s->out; i++) to[i] = attended(same[i], other[i]);
    if (bias)
        for (int64_t t = 0; t < s->out_w; t++)
            for (int64_t o = 0; o < s->out; o++) to[t * s->out + o] += bias[o];
}

/* out[batch, out, h, w] in the layout outside; same, other: [batch, h, w, out], kept for the backward, or NULL.
 * 0, or 1 without memory. */
EXPORT int direct_forward(const Direct *s, const int64_t *runs, const int32_t *own, const float *x, const float *weight,
                          const float *bias, float *out, float *kept_same, float *kept_other) {
    int64_t bands = (s->out_h + s->band - 1) / s->band, reach = (s->kernel_h - 1) * s->dilation_h;
    int64_t band_w = s->in_w + 2 * s->pad_w, size = s->out_w * s->out;
    Accumulators a;
    int failed = prepare_accumulators(&a, s, runs, own, weight);
#pragma omp parallel num_threads((int)s->threads)
    {
        float *band = scratch((s->band + reach) * band_w * s->in), *ys = scratch(s->inputs * s->band * s->out_w * BLOCK);
        float *line = scratch((1 + 2 * s->band) * size);
        if (!band || !ys || !line) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * bands; item++) {
            if (failed) continue;
            int64_t image = item / bands, first = item % bands * s->band, end = least(first + s->band, s->out_h);
            int64_t start = (image * s->out_h + first) * size;
            float *sames = kept_same ? kept_same + start : line + size;
            float *others = kept_same ? kept_other + start : line + (1 + s->band) * size;
            fill_band(band, s, x + image * s->in * s->in_h * s->in_w, first - s->pad_h, end - first + reach);
            accumulate(&a, band, end - first, ys, sames, others);
            for (int64_t row = first; row < end; row++) {
                float *to = s->last ? out + (image * s->out_h + row) * size : line;
                attend_row(s, bias, sames + (row - first) * size, others + (row - first) * size, to);
                if (!s->last) row_out(line, s->out, out + image * s->out_h * size, row, s->out_h, s->out_w, s->out, 0, 0);
            }
        }
        free(band);
        free(ys);
        free(line);
    }
    free_accumulators(&a);
    return failed;
}
