/* The cross convolution with kernels larger than one, directly: no patches, no padding of a generation's channels.
 *
 * A band of rows is copied into the cache with its border of zeros, channels fastest whatever the layout outside. There a
 * block of 5 or 6 positions times up to 4 vectors of output channels stays in registers while the kernel's taps and the
 * channels of one input generation pass by; then the attention is applied to the row.
 *
 *     forward    y[j][t, o]   = sum over taps and the channels c of input generation j    x[t + tap, c] * w[tap, c, o]
 *     backward   gx[t, c]     = sum over taps and o           d[generation of c][t - tap, o] * w[tap, o, c]
 *                gw[tap, c, o] = sum over t                   x[t + tap, c] * d[generation of c][t, o]
 *
 * In gx the two sides of a vector may belong to different generations: then it is multiplied by a blend of two values.
 * Only stride 1 has a backward here, and borders of at most the kernel's reach less one.
 */
#include "attention.h"

#if defined(__AVX512F__)
#define LANES 16
#define VECTORS 4
#elif defined(__AVX__)
#define LANES 8
#define VECTORS 2
#else
#define LANES 4
#define VECTORS 4
#endif
#define BLOCK (LANES * VECTORS)

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Mirrors nrfx.nn.native.Direct. last: channels are the fastest dim outside. inputs: how many input generations there are;
 * runs: [runs][2] of (width, input), own: [out], the input of each output channel's own generation, -1 for none. */
typedef struct {
    int64_t batch, in, out, in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
        dilation_w, last, inputs, runs, threads, band;
} Direct;

/* The blocks in registers */

typedef struct {
    const int64_t *offsets, *lengths; /* of each segment of contiguous input channels, from x */
    int64_t segments;
} Segments;

INLINE Vector blend(Mask mask, float a, float b) {
    Vector first = a - (Vector){0}, second = b - (Vector){0};
    return (Vector)(((Mask)first & mask) | ((Mask)second & ~mask));
}

/* y[T, N * LANES] = sum over segments of x * w. Vectors before `pure` take x, later ones x2; vector `pure` itself takes
 * both, by mask, where `mixed`. */
INLINE void block(const int T, const int N, const int pure, const int mixed, const float *x, const float *x2, int64_t x_ld,
                  const Segments *s, const float *w, const Mask *mask, float *y, int64_t y_ld) {
    Vector sum[6][4];
#pragma GCC unroll 6
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) sum[t][v] = (Vector){0};
    Mask lanes = mixed ? *mask : (Mask){0};
    for (int64_t segment = 0; segment < s->segments; segment++) {
        const float *from = x + s->offsets[segment], *from2 = x2 + s->offsets[segment];
        for (int64_t c = 0; c < s->lengths[segment]; c++, w += N * LANES) {
            Vector weights[4];
#pragma GCC unroll 4
            for (int v = 0; v < N; v++) weights[v] = *(const Vector *)(w + v * LANES);
#pragma GCC unroll 6
            for (int t = 0; t < T; t++) {
                float a = from[t * x_ld + c], b = pure < N ? from2[t * x_ld + c] : 0;
#pragma GCC unroll 4
                for (int v = 0; v < N; v++)
                    if (mixed && v == pure)
                        sum[t][v] += blend(lanes, a, b) * weights[v];
                    else
                        sum[t][v] += (v < pure ? a : b) * weights[v];
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) *(Vector *)(y + t * y_ld + v * LANES) = sum[t][v];
}

typedef void (*Block)(const float *, const float *, int64_t, const Segments *, const float *, const Mask *, float *,
                      int64_t);

#define BLOCK_OF(T, N, P, M)                                                                                           \
    static void block_##T##N##P##M(const float *x, const float *x2, int64_t x_ld, const Segments *s, const float *w,   \
                                   const Mask *mask, float *y, int64_t y_ld) {                                         \
        block(T, N, P, M, x, x2, x_ld, s, w, mask, y, y_ld);                                                           \
    }
#define BLOCKS_1(T) BLOCK_OF(T, 1, 1, 0) BLOCK_OF(T, 1, 0, 1)
#define BLOCKS_2(T) BLOCK_OF(T, 2, 2, 0) BLOCK_OF(T, 2, 0, 1) BLOCK_OF(T, 2, 1, 1) BLOCK_OF(T, 2, 1, 0)
#define BLOCKS_3(T)                                                                                                    \
    BLOCK_OF(T, 3, 3, 0) BLOCK_OF(T, 3, 0, 1) BLOCK_OF(T, 3, 1, 1) BLOCK_OF(T, 3, 2, 1) BLOCK_OF(T, 3, 1, 0)           \
    BLOCK_OF(T, 3, 2, 0)
#define BLOCKS_4(T)                                                                                                    \
    BLOCK_OF(T, 4, 4, 0) BLOCK_OF(T, 4, 0, 1) BLOCK_OF(T, 4, 1, 1) BLOCK_OF(T, 4, 2, 1) BLOCK_OF(T, 4, 3, 1)           \
    BLOCK_OF(T, 4, 1, 0) BLOCK_OF(T, 4, 2, 0) BLOCK_OF(T, 4, 3, 0)
#if VECTORS == 4
#define ROWS(T)                                                                                                        \
    {{[1] = {block_##T##110}, [0] = {0, block_##T##101}},                                                              \
     {[2] = {block_##T##220}, [0] = {0, block_##T##201}, [1] = {block_##T##210, block_##T##211}},                      \
     {[3] = {block_##T##330},                                                                                          \
      [0] = {0, block_##T##301},                                                                                       \
      [1] = {block_##T##310, block_##T##311},                                                                          \
      [2] = {block_##T##320, block_##T##321}},                                                                         \
     {[4] = {block_##T##440},                                                                                          \
      [0] = {0, block_##T##401},                                                                                       \
      [1] = {block_##T##410, block_##T##411},                                                                          \
      [2] = {block_##T##420, block_##T##421},                                                                          \
      [3] = {block_##T##430, block_##T##431}}}
#define BLOCKS(T) BLOCKS_1(T) BLOCKS_2(T) BLOCKS_3(T) BLOCKS_4(T)
#else
#define ROWS(T)                                                                                                        \
    {{[1] = {block_##T##110}, [0] = {0, block_##T##101}},                                                              \
     {[2] = {block_##T##220}, [0] = {0, block_##T##201}, [1] = {block_##T##210, block_##T##211}}}
#define BLOCKS(T) BLOCKS_1(T) BLOCKS_2(T)
#endif
BLOCKS(5)
BLOCKS(6)
static const Block BLOCK_FOR[2][VECTORS][VECTORS + 1][2] = {ROWS(5), ROWS(6)}; /* [T - 5][N - 1][pure][mixed] */

/* What a block of output channels needs: which x, which vectors take which of two, and its weights. */
typedef struct {
    int64_t start, width, vectors, first, second, pure, mixed; /* first, second: the generations of its two parts */
    Mask mask;
    float *weights;
} Lanes;

/* y[length, ld] of one row of positions, from x[length, x_ld], by blocks of 6 and 5 positions; the last may overlap. */
static void row_of_blocks(const Lanes *lanes, const float *x, const float *x2, int64_t x_ld, int64_t length,
                          const Segments *s, const float *weights, float *y, int64_t y_ld) {
    int64_t fives = (6 - length % 6) % 6, t = 0;
    if (fives * 5 > length) fives = 0;
    while (t < length) {
        int64_t step = length - t <= fives * 5 ? 5 : 6;
        if (length - t < step) t = length - step;
        BLOCK_FOR[step - 5][lanes->vectors - 1][lanes->pure][lanes->mixed](x + t * x_ld, x2 + t * x_ld, x_ld, s, weights,
                                                                          &lanes->mask, y + t * y_ld, y_ld);
        t += step;
    }
}

/* sum[I, N * LANES] += x[t, 0..I) * d[t, N * LANES] over rows of positions */
INLINE void outer(const int I, const int N, const float *x, int64_t x_ld, int64_t x_row, const float *d, int64_t d_ld,
                  int64_t d_row, int64_t rows, int64_t length, float *to, int64_t to_ld) {
    Vector sum[6][4];
#pragma GCC unroll 6
    for (int i = 0; i < I; i++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) sum[i][v] = *(Vector *)(to + i * to_ld + v * LANES);
    for (int64_t row = 0; row < rows; row++) {
        const float *xs = x + row * x_row, *ds = d + row * d_row;
        for (int64_t t = 0; t < length; t++, xs += x_ld, ds += d_ld) {
            Vector grads[4];
#pragma GCC unroll 4
            for (int v = 0; v < N; v++) grads[v] = *(const Vector *)(ds + v * LANES);
#pragma GCC unroll 6
            for (int i = 0; i < I; i++)
#pragma GCC unroll 4
                for (int v = 0; v < N; v++) sum[i][v] += xs[i] * grads[v];
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < I; i++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) *(Vector *)(to + i * to_ld + v * LANES) = sum[i][v];
}

typedef void (*Outer)(const float *, int64_t, int64_t, const float *, int64_t, int64_t, int64_t, int64_t, float *, int64_t);

#define OUTER_OF(I, N)                                                                                                 \
    static void outer_##I##N(const float *x, int64_t x_ld, int64_t x_row, const float *d, int64_t d_ld, int64_t d_row, \
                             int64_t rows, int64_t length, float *to, int64_t to_ld) {                                 \
        outer(I, N, x, x_ld, x_row, d, d_ld, d_row, rows, length, to, to_ld);                                          \
    }
#if VECTORS == 4
#define OUTERS(I) OUTER_OF(I, 1) OUTER_OF(I, 2) OUTER_OF(I, 3) OUTER_OF(I, 4)
#define OUTER_ROW(I) {outer_##I##1, outer_##I##2, outer_##I##3, outer_##I##4}
#else
#define OUTERS(I) OUTER_OF(I, 1) OUTER_OF(I, 2)
#define OUTER_ROW(I) {outer_##I##1, outer_##I##2}
#endif
OUTERS(1)
OUTERS(5)
OUTERS(6)
static const Outer OUTER_FOR[7][VECTORS] = {[1] = OUTER_ROW(1), [5] = OUTER_ROW(5), [6] = OUTER_ROW(6)};

static int64_t piece(int64_t left) { /* of 6 and 5, of 1 where that does not come out */
    int64_t fives = (6 - left % 6) % 6;
    return fives * 5 > left ? (left >= 6 ? 6 : 1) : left > fives * 5 ? 6 : 5;
}

/* Copies between the layout outside and the band */

/* One image row of `width` positions to or from [width, channels], channels fastest, each position ld floats apart. */
INLINE void copy_row(float *band, int64_t ld, float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
                     int last, int back) {
    if (last) {
        float *from = image + row * width * channels;
        for (int64_t t = 0; t < width; t++)
            memcpy(back ? from + t * channels : band + t * ld, back ? band + t * ld : from + t * channels,
                   channels * sizeof(float));
        return;
    }
    /* Eight channels at a time: both sides then touch whole cache lines often enough. */
    for (int64_t c = 0; c < channels; c += 8) {
        int64_t some = least(8, channels - c);
        for (int64_t t = 0; t < width; t++)
            for (int64_t i = 0; i < some; i++) {
                float *outside = image + ((c + i) * height + row) * width + t, *inside = band + t * ld + c + i;
                if (back)
                    *outside = *inside;
                else
                    *inside = *outside;
            }
    }
}

/* Rows [row, row + rows) of an image with its border: columns from -border on, `width` of them; zeros outside. */
static void fill_band(float *band, const float *image, int64_t row, int64_t rows, int64_t border, int64_t width,
                      int64_t height, int64_t image_w, int64_t channels, int last) {
    for (int64_t r = row; r < row + rows; r++, band += width * channels) {
        if (r < 0 || r >= height) {
            memset(band, 0, width * channels * sizeof(float));
            continue;
        }
        int64_t right = most(width - border - image_w, 0);
        memset(band, 0, border * channels * sizeof(float));
        copy_row(band + border * channels, channels, (float *)image, r, height, image_w, channels, last, 0);
        memset(band + (width - right) * channels, 0, right * channels * sizeof(float));
    }
}

/* Weights in the order in which the blocks read them */

static int64_t lane_blocks(int64_t width) { return (width + BLOCK - 1) / BLOCK; }

static void set_lanes(Lanes *l, int64_t start, int64_t width, int64_t edge) {
    l->start = start;
    l->width = width;
    l->vectors = (width + LANES - 1) / LANES;
    l->pure = edge >= width ? l->vectors : edge / LANES;
    l->mixed = edge < width && edge % LANES != 0;
    for (int i = 0; i < LANES; i++) l->mask[i] = i < edge % LANES ? -1 : 0;
}

/* [blocks of out][run][ky][kx][c of run][lanes]; the place of each run in a block: run start * area * lanes. */
static int64_t forward_lanes(const Direct *s, const float *weight, Lanes *blocks, float *to) {
    int64_t area = s->kernel_h * s->kernel_w, n = 0;
    for (int64_t start = 0; start < s->out; start += BLOCK, n++) {
        Lanes *l = blocks + n;
        set_lanes(l, start, least(BLOCK, s->out - start), BLOCK);
        l->weights = to;
        to += area * s->in * l->vectors * LANES;
    }
    (void)weight;
    return n;
}

static void pack_forward(const Direct *s, const int64_t *runs, const float *weight, const Lanes *l) {
    int64_t area = s->kernel_h * s->kernel_w, wide = l->vectors * LANES, channel = 0;
    float *to = l->weights;
    for (int64_t run = 0; run < s->runs; channel += runs[2 * run++])
        for (int64_t tap = 0; tap < area; tap++)
            for (int64_t c = channel; c < channel + runs[2 * run]; c++, to += wide)
                for (int64_t i = 0; i < wide; i++)
                    to[i] = i < l->width ? weight[((l->start + i) * s->in + c) * area + tap] : 0;
}

/* Blocks of input channels, each of at most two generations. */
static int64_t backward_lanes(const Direct *s, const int64_t *runs, Lanes *blocks, float *to) {
    int64_t n = 0, run = 0, left = runs[0];
    for (int64_t start = 0; start < s->in; n++) {
        Lanes *l = blocks + n;
        int64_t width = least(left, BLOCK), edge = width;
        l->first = l->second = runs[2 * run + 1];
        left -= width;
        if (!left && ++run < s->runs) {
            left = runs[2 * run];
            if (width < BLOCK) {
                int64_t more = least(left, BLOCK - width);
                l->second = runs[2 * run + 1];
                width += more;
                left -= more;
                if (!left && ++run < s->runs) left = runs[2 * run];
            }
        }
        set_lanes(l, start, width, edge);
        l->weights = to;
        to += s->kernel_h * s->kernel_w * s->out * l->vectors * LANES;
        start += width;
    }
    return n;
}

static void pack_backward(const Direct *s, const float *weight, const Lanes *l) {
    int64_t area = s->kernel_h * s->kernel_w, wide = l->vectors * LANES;
    float *to = l->weights;
    for (int64_t tap = 0; tap < area; tap++)
        for (int64_t o = 0; o < s->out; o++, to += wide)
            for (int64_t i = 0; i < wide; i++)
                to[i] = i < l->width ? weight[(o * s->in + l->start + i) * area + tap] : 0;
}

/* Where the taps of one run of channels lie in a band, relative to the position: `taps` of them. */
static void forward_segments(const Direct *s, int64_t channel, int64_t width, int64_t band_w, int64_t *offsets,
                             int64_t *lengths) {
    for (int64_t ky = 0; ky < s->kernel_h; ky++)
        for (int64_t kx = 0; kx < s->kernel_w; kx++) {
            *offsets++ = (ky * s->dilation_h * band_w + kx * s->dilation_w) * s->in + channel;
            *lengths++ = width;
        }
}

/* The forward */

/* same and other of one position from the y of each input; a channel without own input has same = 0. */
static void settle(const Direct *s, const int32_t *own, float *ys, int64_t step, int64_t width, float *same, float *other) {
    for (int64_t i = 0; i < width; i++) {
        float mine = 0, rest = 0;
        for (int64_t j = 0; j < s->inputs; j++) {
            float y = ys[j * step + i];
            mine = own[i] == j ? y : mine;
            rest += own[i] == j ? 0 : y;
        }
        same[i] = mine;
        other[i] = rest;
    }
}

static void settle_two(const int32_t *own, const float *y0, const float *y1, int64_t width, float *same, float *other) {
    for (int64_t i = 0; i < width; i++) {
        same[i] = own[i] == 0 ? y0[i] : own[i] == 1 ? y1[i] : 0;
        other[i] = own[i] == 0 ? y1[i] : own[i] == 1 ? y0[i] : y0[i] + y1[i];
    }
}

/* out[batch, out, h, w] in the layout outside; same, other: [batch, h, w, out], kept for the backward, or NULL.
 * 0, or 1 without memory. */
EXPORT int direct_forward(const Direct *s, const int64_t *runs, const int32_t *own, const float *x, const float *weight,
                          const float *bias, float *out, float *kept_same, float *kept_other) {
    int64_t area = s->kernel_h * s->kernel_w, bands = (s->out_h + s->band - 1) / s->band, segments = s->runs * area;
    int64_t band_w = s->in_w + 2 * s->pad_w, blocks = lane_blocks(s->out), wide = blocks * BLOCK;
    int64_t rows_in = (s->band - 1) * s->stride_h + (s->kernel_h - 1) * s->dilation_h + 1;
    Lanes *lanes = (Lanes *)scratch(blocks * sizeof(Lanes) / sizeof(float));
    float *weights = scratch(area * s->in * wide);
    int64_t *offsets = (int64_t *)scratch(4 * segments);
    int failed = !lanes || !weights || !offsets;
    if (!failed) {
        forward_lanes(s, weight, lanes, weights);
        for (int64_t b = 0; b < blocks; b++) pack_forward(s, runs, weight, lanes + b);
        int64_t channel = 0;
        for (int64_t run = 0; run < s->runs; channel += runs[2 * run++])
            forward_segments(s, channel, runs[2 * run], band_w, offsets + run * area, offsets + segments + run * area);
    }
#pragma omp parallel num_threads((int)s->threads)
    {
        float *band = scratch(rows_in * band_w * s->in), *ys = scratch(2 * s->inputs * s->out_w * BLOCK);
        float *line = scratch(3 * s->out_w * s->out);
        if (!band || !ys || !line) failed = 1;
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * bands; item++) {
            if (failed) continue;
            int64_t image = item / bands, first = item % bands * s->band, end = least(first + s->band, s->out_h);
            int64_t need = (end - 1 - first) * s->stride_h + (s->kernel_h - 1) * s->dilation_h + 1;
            fill_band(band, x + image * s->in * s->in_h * s->in_w, first * s->stride_h - s->pad_h, need, s->pad_w, band_w,
                      s->in_h, s->in_w, s->in, (int)s->last);
            for (int64_t row = first; row < end; row++) {
                int64_t place = (image * s->out_h + row) * s->out_w * s->out;
                float *same = kept_same ? kept_same + place : line + s->out_w * s->out;
                float *other = kept_same ? kept_other + place : line + 2 * s->out_w * s->out;
                const float *from = band + (row - first) * s->stride_h * band_w * s->in;
                for (int64_t b = 0; b < blocks; b++) {
                    const Lanes *l = lanes + b;
                    int64_t step = s->out_w * BLOCK, channel = 0;
                    uint64_t seen = 0;
                    /* A generation in several runs: the later ones are added. */
                    for (int64_t run = 0; run < s->runs; channel += runs[2 * run++]) {
                        int64_t input = runs[2 * run + 1];
                        float *y = ys + (seen >> input & 1 ? s->inputs : input) * step;
                        Segments part = {offsets + run * area, offsets + segments + run * area, area};
                        row_of_blocks(l, from, from, s->stride_w * s->in, s->out_w, &part,
                                      l->weights + channel * area * l->vectors * LANES, y, BLOCK);
                        if (seen >> input & 1)
                            for (int64_t i = 0; i < step; i++) ys[input * step + i] += y[i];
                        seen |= (uint64_t)1 << input;
                    }
                    for (int64_t t = 0; t < s->out_w; t++) {
                        int64_t at = t * s->out + l->start;
                        if (s->inputs == 2)
                            settle_two(own + l->start, ys + t * BLOCK, ys + step + t * BLOCK, l->width, same + at,
                                       other + at);
                        else
                            settle(s, own + l->start, ys + t * BLOCK, step, l->width, same + at, other + at);
                    }
                }
                float *to = s->last ? out + place : line;
                for (int64_t i = 0; i < s->out_w * s->out; i++) to[i] = attended(same[i], other[i]);
                if (bias)
                    for (int64_t t = 0; t < s->out_w; t++)
                        for (int64_t o = 0; o < s->out; o++) to[t * s->out + o] += bias[o];
                if (!s->last)
                    copy_row(line, s->out, out + image * s->out * s->out_h * s->out_w, row, s->out_h, s->out_w, s->out, 0,
                             1);
            }
        }
        free(band);
        free(ys);
        free(line);
    }
    free(lanes);
    free(weights);
    free(offsets);
    return failed;
}

/* The backward */

/* One row of d: [width][inputs][out] from the gradient of the output and the kept accumulators. */
static void unattend_row(const Direct *s, const int32_t *own, const float *grad, const float *same, const float *other,
                         float *d) {
    for (int64_t t = 0; t < s->out_w; t++, grad += s->out, same += s->out, other += s->out, d += s->inputs * s->out)
        for (int64_t o = 0; o < s->out; o++) {
            float d_same, d_other;
            unattended(grad[o], same[o], other[o], &d_same, &d_other);
            for (int64_t j = 0; j < s->inputs; j++) d[j * s->out + o] = own[o] == j ? d_same : d_other;
        }
}

static void unattend_row_two(const Direct *s, const int32_t *own, const float *grad, const float *same,
                             const float *other, float *d) {
    int64_t n = s->out;
    for (int64_t t = 0; t < s->out_w; t++, grad += n, same += n, other += n, d += 2 * n)
        for (int64_t o = 0; o < n; o++) {
            float d_same, d_other;
            unattended(grad[o], same[o], other[o], &d_same, &d_other);
            d[o] = own[o] == 0 ? d_same : d_other;
            d[n + o] = own[o] == 1 ? d_same : d_other;
        }
}

/* grad_x in the layout outside and grad_weight [out, in, kh, kw]; either may be NULL. 0, or 1 without memory. */
EXPORT int direct_backward(const Direct *s, const int64_t *runs, const int32_t *own, const float *x, const float *weight,
                           const float *grad, const float *kept_same, const float *kept_other, float *grad_x,
                           float *grad_weight) {
    int64_t area = s->kernel_h * s->kernel_w, bands = (s->in_h + s->band - 1) / s->band;
    int64_t reach_h = (s->kernel_h - 1) * s->dilation_h, reach_w = (s->kernel_w - 1) * s->dilation_w;
    int64_t out_blocks = lane_blocks(s->out), wide = out_blocks * BLOCK, depth = s->inputs * s->out;
    int64_t x_w = s->in_w + 2 * s->pad_w, d_w = s->in_w + reach_w, d_left = reach_w - s->pad_w;
    int64_t most_blocks = lane_blocks(s->in) + s->runs, sums = area * s->in * wide;
    Lanes *lanes = (Lanes *)scratch(most_blocks * sizeof(Lanes) / sizeof(float));
    float *weights = scratch(area * s->out * most_blocks * BLOCK);
    float *totals = grad_weight ? scratch(s->threads * sums) : NULL;
    int64_t *offsets = (int64_t *)scratch(4 * area);
    int failed = !lanes || !weights || !offsets || (grad_weight && !totals);
    int64_t blocks = 0;
    if (!failed) {
        blocks = backward_lanes(s, runs, lanes, weights);
        if (grad_x)
            for (int64_t b = 0; b < blocks; b++) pack_backward(s, weight, lanes + b);
        if (totals) memset(totals, 0, s->threads * sums * sizeof(float));
        for (int64_t tap = 0; tap < area; tap++) {
            int64_t ky = tap / s->kernel_w, kx = tap % s->kernel_w;
            offsets[tap] = ((reach_h - ky * s->dilation_h) * d_w + reach_w - kx * s->dilation_w) * depth;
            offsets[area + tap] = s->out;
        }
    }
#pragma omp parallel num_threads((int)s->threads)
    {
        int thread = 0;
#ifdef _OPENMP
        extern int omp_get_thread_num(void);
        thread = omp_get_thread_num();
#endif
        int64_t tall = s->band + reach_h, rows_most = s->band + 2 * reach_h;
        float *d = scratch(tall * d_w * depth), *band = scratch((rows_most + reach_h) * x_w * s->in);
        float *line = scratch(most(s->in_w * most_blocks * BLOCK, s->out_w * s->out));
        if (!d || !band || !line) failed = 1;
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * bands; item++) {
            if (failed) continue;
            int64_t image = item / bands, first = item % bands * s->band, end = least(first + s->band, s->in_h);
            const float *grads = grad + image * s->out * s->out_h * s->out_w;
            int64_t top = first + s->pad_h - reach_h; /* the output row in the first row of d */
            for (int64_t r = 0; r < end - first + reach_h; r++) {
                int64_t row = top + r, place = (image * s->out_h + row) * s->out_w * s->out;
                float *to = d + r * d_w * depth;
                if (row < 0 || row >= s->out_h) {
                    memset(to, 0, d_w * depth * sizeof(float));
                    continue;
                }
                const float *g = grads + row * s->out_w * s->out;
                if (!s->last) {
                    copy_row(line, s->out, (float *)grads, row, s->out_h, s->out_w, s->out, 0, 0);
                    g = line;
                }
                int64_t right = d_w - d_left - s->out_w;
                memset(to, 0, d_left * depth * sizeof(float));
                memset(to + (d_w - right) * depth, 0, right * depth * sizeof(float));
                (s->inputs == 2 ? unattend_row_two : unattend_row)(s, own, g, kept_same + place, kept_other + place,
                                                                   to + d_left * depth);
            }
            if (grad_x)
                for (int64_t row = first; row < end; row++) {
                    Segments part = {offsets, offsets + area, area};
                    const float *from = d + (row - first) * d_w * depth;
                    for (int64_t b = 0; b < blocks; b++) {
                        const Lanes *l = lanes + b;
                        row_of_blocks(l, from + l->first * s->out, from + l->second * s->out, depth, s->in_w, &part,
                                      l->weights, line, BLOCK);
                        float *image_x = grad_x + image * s->in * s->in_h * s->in_w;
                        if (s->last)
                            for (int64_t t = 0; t < s->in_w; t++)
                                memcpy(image_x + (row * s->in_w + t) * s->in + l->start, line + t * BLOCK,
                                       l->width * sizeof(float));
                        else
                            copy_row(line, BLOCK, image_x + l->start * s->in_h * s->in_w, row, s->in_h, s->in_w, l->width,
                                     0, 1);
                    }
                }
            if (!grad_weight) continue;
            /* Output rows go to the band that has them all in d: all bands together have each row once. */
            int64_t from = most(top, 0), until = end == s->in_h ? s->out_h : least(end + s->pad_h - reach_h, s->out_h);
            if (until <= from) continue;
            fill_band(band, x + image * s->in * s->in_h * s->in_w, from - s->pad_h, until - from + reach_h, s->pad_w, x_w,
                      s->in_h, s->in_w, s->in, (int)s->last);
            float *total = totals + thread * sums;
            for (int64_t tap = 0; tap < area; tap++) {
                int64_t shift = tap / s->kernel_w * s->dilation_h * x_w + tap % s->kernel_w * s->dilation_w, channel = 0;
                for (int64_t run = 0; run < s->runs; channel += runs[2 * run++])
                    for (int64_t c = channel, left = runs[2 * run]; left > 0;) {
                        int64_t some = piece(left);
                        for (int64_t o = 0; o < s->out; o += BLOCK) {
                            int64_t vectors = (least(BLOCK, s->out - o) + LANES - 1) / LANES;
                            OUTER_FOR[some][vectors - 1](
                                band + shift * s->in + c, s->in, x_w * s->in,
                                d + ((from - top) * d_w + d_left) * depth + runs[2 * run + 1] * s->out + o, depth,
                                d_w * depth, until - from, s->out_w, total + (tap * s->in + c) * wide + o, wide);
                        }
                        c += some;
                        left -= some;
                    }
            }
        }
        free(d);
        free(band);
        free(line);
    }
    if (grad_weight && !failed)
        for (int64_t o = 0; o < s->out; o++)
            for (int64_t c = 0; c < s->in; c++)
                for (int64_t tap = 0; tap < area; tap++) {
                    float sum = 0;
                    for (int64_t thread = 0; thread < s->threads; thread++)
                        sum += totals[thread * sums + (tap * s->in + c) * wide + o];
                    grad_weight[(o * s->in + c) * area + tap] = sum;
                }
    free(lanes);
    free(weights);
    free(totals);
    free(offsets);
    return failed;
}
