/* The backward of the direct convolution: d, the gradients of the y of each input, for a band of rows in the cache, and
 * from these the gradients of x and of the weight. */
#include "direct.h"

typedef struct {
    const Direct *shape;
    const int64_t *runs;
    Panel *panels;           /* of the channels of x, each of one run */
    float *weights, *totals; /* totals: [threads][tap][in][panels of out] */
    int64_t *offsets, *lengths, count, sums, wide, d_w, d_left, depth, reach_h; /* d: [rows][d_w][depth = inputs * out] */
} Backward;

/* Weights as [panel][ky][kx][out][lanes]; lanes beyond a panel's width are 0. Returns how many panels there are. */
static int64_t pack(const Direct *s, const int64_t *runs, const float *weight, Panel *panels, float *to) {
    int64_t area = s->kernel_h * s->kernel_w, count = 0;
    for (int64_t run = 0, channel = 0; run < s->runs; channel += runs[2 * run++])
        for (int64_t start = 0; start < runs[2 * run]; start += BLOCK) {
            Panel *p = panels + count++;
            *p = panel_at(channel + start, least(BLOCK, runs[2 * run] - start), to);
            p->input = runs[2 * run + 1];
            for (int64_t tap = 0; tap < area; tap++)
                for (int64_t o = 0; o < s->out; o++, to += p->vectors * LANES)
                    for (int64_t i = 0; i < p->vectors * LANES; i++)
                        to[i] = i < p->width ? weight[(o * s->in + p->start + i) * area + tap] : 0;
        }
    return count;
}

static void free_backward(Backward *b) {
    free(b->panels);
    free(b->weights);
    free(b->totals);
    free(b->offsets);
}

/* 0, or 1 without memory. */
static int prepare_backward(Backward *b, const Direct *s, const int64_t *runs, const float *weight, int with_x,
                            int with_weight) {
    int64_t area = s->kernel_h * s->kernel_w, reach_w = (s->kernel_w - 1) * s->dilation_w;
    int64_t most_panels = panels_of(s->in) + s->runs, wide = panels_of(s->out) * BLOCK, sums = area * s->in * wide;
    *b = (Backward){s, runs, (Panel *)scratch(most_panels * sizeof(Panel) / sizeof(float)),
                    with_x ? scratch(area * s->out * most_panels * BLOCK) : NULL,
                    with_weight ? scratch(s->threads * sums) : NULL, (int64_t *)scratch(4 * area), NULL, 0, sums, wide,
                    s->in_w + reach_w, reach_w - s->pad_w, s->inputs * s->out, (s->kernel_h - 1) * s->dilation_h};
    if (!b->panels || !b->offsets || (with_x && !b->weights) || (with_weight && !b->totals)) return 1;
    if (with_weight) memset(b->totals, 0, s->threads * sums * sizeof(float));
    if (with_x) b->count = pack(s, runs, weight, b->panels, b->weights);
    b->lengths = b->offsets + area;
    for (int64_t tap = 0; tap < area; tap++) {
        int64_t up = b->reach_h - tap / s->kernel_w * s->dilation_h, left = reach_w - tap % s->kernel_w * s->dilation_w;
        b->offsets[tap] = (up * b->d_w + left) * b->depth;
        b->lengths[tap] = s->out;
    }
    return 0;
}

/* d of one row: [out_w][inputs][out]. */
static void unattend_row(const Direct *s, const int32_t *own, const float *grad, const float *same, const float *other,
                         float *d) {
    int64_t n = s->out;
    for (int64_t t = 0; t < s->out_w; t++, grad += n, same += n, other += n, d += s->inputs * n)
#pragma GCC ivdep
        for (int64_t o = 0; o < n; o++) {
            float d_same, d_other;
            unattended(grad[o], same[o], other[o], &d_same, &d_other);
            for (int64_t j = 0; j < s->inputs; j++) d[j * n + o] = own[o] == j ? d_same : d_other;
        }
}

/* Of two inputs, without a loop inside, which becomes vector code. */
static void unattend_row_two(const Direct *s, const int32_t *own, const float *grad, const float *same,
                             const float *other, float *d) {
    int64_t n = s->out;
    for (int64_t t = 0; t < s->out_w; t++, grad += n, same += n, other += n, d += 2 * n)
#pragma GCC ivdep
        for (int64_t o = 0; o < n; o++) {
            float d_same, d_other;
            unattended(grad[o], same[o], other[o], &d_same, &d_other);
            d[o] = own[o] == 0 ? d_same : d_other;
            d[n + o] = own[o] == 1 ? d_same : d_other;
        }
}

/* Rows of the gradient of x, from the row of d that the first tap of the first one reads; lines: scratch for one panel. */
static void input_rows(const Backward *b, const float *d, int64_t first, int64_t rows, float *lines, float *image) {
    const Direct *s = b->shape;
    Stretches taps = {b->offsets, b->lengths, s->kernel_h * s->kernel_w};
    for (const Panel *p = b->panels; p < b->panels + b->count; p++) {
        float *channels = image + p->start * (s->last ? 1 : s->in_h * s->in_w);
        multiply_rows(p, d + p->input * s->out, b->depth, b->d_w * b->depth, rows, s->in_w, &taps, p->weights, lines, 0);
        for (int64_t row = 0; row < rows; row++)
            row_out(lines + row * s->in_w * BLOCK, BLOCK, channels, first + row, s->in_h, s->in_w, p->width, s->in,
                    (int)s->last);
    }
}

/* Adds what rows of positions give to the gradient of the weight, [tap][in][panels of out]. */
static void weight_rows(const Backward *b, const float *x, const float *d, int64_t rows, float *total) {
    const Direct *s = b->shape;
    int64_t x_w = s->in_w + 2 * s->pad_w;
    for (int64_t tap = 0; tap < s->kernel_h * s->kernel_w; tap++) {
        int64_t shift = tap / s->kernel_w * s->dilation_h * x_w + tap % s->kernel_w * s->dilation_w;
        for (int64_t run = 0, c = 0; run < s->runs; c += b->runs[2 * run++])
            add_products(x + shift * s->in + c, s->in, x_w * s->in, d + b->runs[2 * run + 1] * s->out, b->depth,
                         b->d_w * b->depth, rows, s->out_w, b->runs[2 * run], s->out, total + (tap * s->in + c) * b->wide,
                         b->wide);
    }
}

/* The gradient of the weight, [out, in, kh, kw], from what the threads summed. */
static void add_totals(const Backward *b, float *grad_weight) {
    const Direct *s = b->shape;
    int64_t area = s->kernel_h * s->kernel_w;
    for (int64_t o = 0; o < s->out; o++)
        for (int64_t c = 0; c < s->in; c++)
            for (int64_t tap = 0; tap < area; tap++) {
                float sum = 0;
                for (int64_t thread = 0; thread < s->threads; thread++)
                    sum += b->totals[thread * b->sums + (tap * s->in + c) * b->wide + o];
                grad_weight[(o * s->in + c) * area + tap] = sum;
            }
}

/* grad_x in the layout outside and grad_weight [out, in, kh, kw]; either may be NULL. kept_same, kept_other: what the
 * forward kept, or NULL: they are computed again. 0, or 1 without memory. */
EXPORT int direct_backward(const Direct *s, const int64_t *runs, const int32_t *own, const float *x, const float *weight,
                           const float *grad, const float *kept_same, const float *kept_other, float *grad_x,
                           float *grad_weight) {
    int64_t bands = (s->in_h + s->band - 1) / s->band, size = s->out_w * s->out, x_w = s->in_w + 2 * s->pad_w;
    Accumulators a = {0};
    Backward b;
    int failed = prepare_backward(&b, s, runs, weight, grad_x != NULL, grad_weight != NULL);
    if (!kept_same) failed |= prepare_accumulators(&a, s, runs, own, weight);
#pragma omp parallel num_threads((int)s->threads)
    {
        int thread = 0;
#ifdef _OPENMP
        extern int omp_get_thread_num(void);
        thread = omp_get_thread_num();
#endif
        float *d = scratch((s->band + b.reach_h) * b.d_w * b.depth);
        float *band = scratch((s->band + 2 * b.reach_h) * x_w * s->in);
        float *line = scratch(most(s->band * s->in_w * BLOCK, size) + 2 * size);
        float *again = line + most(s->band * s->in_w * BLOCK, size);
        float *ys = kept_same ? NULL : scratch(s->inputs * s->out_w * BLOCK);
        if (!d || !band || !line || (!kept_same && !ys)) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * bands; item++) {
            if (failed) continue;
            int64_t image = item / bands, first = item % bands * s->band, end = least(first + s->band, s->in_h);
            int64_t top = first + s->pad_h - b.reach_h, rows = end - first + b.reach_h; /* output rows in d */
            const float *grads = grad + image * s->out_h * size;
            if (grad_weight || !kept_same)
                fill_band(band, s, x + image * s->in * s->in_h * s->in_w, top - s->pad_h, rows + b.reach_h);
            for (int64_t r = 0; r < rows; r++) {
                float *to = d + r * b.d_w * b.depth;
                int64_t row = top + r, place = (image * s->out_h + row) * size, right = b.d_w - b.d_left - s->out_w;
                if (row < 0 || row >= s->out_h) {
                    memset(to, 0, b.d_w * b.depth * sizeof(float));
                    continue;
                }
                if (!kept_same) accumulate(&a, band + r * x_w * s->in, 1, ys, again, again + size);
                if (!s->last) row_in(line, s->out, grads, row, s->out_h, s->out_w, s->out, 0);
                memset(to, 0, b.d_left * b.depth * sizeof(float));
                memset(to + (b.d_w - right) * b.depth, 0, right * b.depth * sizeof(float));
                (s->inputs == 2 ? unattend_row_two : unattend_row)(
                    s, own, s->last ? grads + row * size : line, kept_same ? kept_same + place : again,
                    kept_same ? kept_other + place : again + size, to + b.d_left * b.depth);
            }
            if (grad_x) input_rows(&b, d, first, end - first, line, grad_x + image * s->in * s->in_h * s->in_w);
            /* Each output row counts in one band: the last has those that are left. */
            int64_t from = most(top, 0), until = end == s->in_h ? s->out_h : least(top + end - first, s->out_h);
            if (grad_weight && from < until)
                weight_rows(&b, band + (from - top) * x_w * s->in, d + ((from - top) * b.d_w + b.d_left) * b.depth,
                            until - from, b.totals + thread * b.sums);
        }
        free(d);
        free(band);
        free(line);
        free(ys);
    }
    if (grad_weight && !failed) add_totals(&b, grad_weight);
    free_accumulators(&a);
    free_backward(&b);
    return failed;
}
