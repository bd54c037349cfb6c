/* Both accumulators of rows of outputs: in the forward, and again in a backward for which they were not kept. */
#include "direct.h"

/* Weights as [panel][run][ky][kx][c of run][lanes]; lanes beyond a panel's width are 0. */
static void pack(const Direct *s, const int64_t *runs, const float *weight, Panel *panel, float *to) {
    int64_t area = s->kernel_h * s->kernel_w;
    for (int64_t start = 0; start < s->out; start += BLOCK, panel++) {
        *panel = panel_at(start, least(BLOCK, s->out - start), to);
        for (int64_t run = 0, channel = 0; run < s->runs; channel += runs[2 * run++])
            for (int64_t tap = 0; tap < area; tap++)
                for (int64_t c = channel; c < channel + runs[2 * run]; c++, to += panel->vectors * LANES)
                    for (int64_t i = 0; i < panel->vectors * LANES; i++)
                        to[i] = i < panel->width ? weight[((start + i) * s->in + c) * area + tap] : 0;
    }
}

/* 0, or 1 without memory. */
int prepare_accumulators(Accumulators *a, const Direct *s, const int64_t *runs, const int32_t *own, const float *weight) {
    int64_t area = s->kernel_h * s->kernel_w, stretches = s->runs * area, band_w = s->in_w + 2 * s->pad_w;
    int64_t count = panels_of(s->out);
    *a = (Accumulators){s, runs, own, (Panel *)scratch(count * sizeof(Panel) / sizeof(float)),
                        scratch(area * s->in * count * BLOCK), (int64_t *)scratch(4 * stretches), NULL, count};
    if (!a->panels || !a->weights || !a->offsets) return 1;
    a->lengths = a->offsets + stretches;
    pack(s, runs, weight, a->panels, a->weights);
    int64_t at = 0, channel = 0;
    for (int64_t run = 0; run < s->runs; channel += runs[2 * run++])
        for (int64_t ky = 0; ky < s->kernel_h; ky++)
            for (int64_t kx = 0; kx < s->kernel_w; kx++, at++) {
                a->offsets[at] = (ky * s->dilation_h * band_w + kx * s->dilation_w) * s->in + channel;
                a->lengths[at] = runs[2 * run];
            }
    return 0;
}

void free_accumulators(Accumulators *a) {
    free(a->panels);
    free(a->weights);
    free(a->offsets);
}

/* same and other of one position from the y of each input. */
static void settle(int64_t inputs, const int32_t *own, const float *ys, int64_t step, int64_t width, float *same,
                   float *other) {
    for (int64_t i = 0; i < width; i++) {
        float mine = 0, rest = 0;
        for (int64_t j = 0; j < inputs; j++) {
            float y = ys[j * step + i];
            mine = own[i] == j ? y : mine;
            rest += own[i] == j ? 0 : y;
        }
        same[i] = mine;
        other[i] = rest;
    }
}

/* Of two inputs, without a loop inside, which becomes vector code. */
static void settle_two(const int32_t *own, const float *y0, const float *y1, int64_t width, float *same, float *other) {
    for (int64_t i = 0; i < width; i++) {
        same[i] = own[i] == 0 ? y0[i] : own[i] == 1 ? y1[i] : 0;
        other[i] = own[i] == 0 ? y1[i] : own[i] == 1 ? y0[i] : y0[i] + y1[i];
    }
}

/* same and other, [rows, out_w, out], of rows whose first patch starts at x, in a band; ys: scratch for [inputs, rows *
 * out_w, BLOCK], one panel. The trap: an input that lies in several runs starts with the first and adds the later ones. */
void accumulate(const Accumulators *a, const float *x, int64_t rows, float *ys, float *same, float *other) {
    const Direct *s = a->shape;
    int64_t area = s->kernel_h * s->kernel_w, positions = rows * s->out_w, step = positions * BLOCK;
    int64_t x_row = (s->in_w + 2 * s->pad_w) * s->in;
    for (const Panel *p = a->panels; p < a->panels + a->count; p++) {
        uint64_t seen = 0;
        for (int64_t run = 0, channel = 0; run < s->runs; channel += a->runs[2 * run++]) {
            int64_t input = a->runs[2 * run + 1];
            Stretches taps = {a->offsets + run * area, a->lengths + run * area, area};
            multiply_rows(p, x, s->in, x_row, rows, s->out_w, &taps, p->weights + channel * area * p->vectors * LANES,
                          ys + input * step, seen >> input & 1);
            seen |= (uint64_t)1 << input;
        }
        for (int64_t t = 0; t < positions; t++) {
            float *to_same = same + t * s->out + p->start, *to_other = other + t * s->out + p->start;
            if (s->inputs == 2)
                settle_two(a->own + p->start, ys + t * BLOCK, ys + step + t * BLOCK, p->width, to_same, to_other);
            else
                settle(s->inputs, a->own + p->start, ys + t * BLOCK, step, p->width, to_same, to_other);
        }
    }
}
