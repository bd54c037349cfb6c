/* The cross convolution, directly: no patches, no padding of a generation's channels, no maps in between.
 *
 * A band of rows is copied into the cache with its border of zeros, channels fastest whatever the layout outside. There a
 * block of 4 to 6 positions times up to 4 vectors of output channels stays in registers while the kernel's taps and the
 * channels of one input generation pass by; then the attention is applied to the row.
 *
 *     forward    y[j][t, o]   = sum over taps and the channels c of input generation j    x[t + tap, c] * w[tap, c, o]
 *     backward   gx[t, c]     = sum over taps and o           d[generation of c][t - tap, o] * w[tap, o, c]
 *                gw[tap, c, o] = sum over t                   x[t + tap, c] * d[generation of c][t, o]
 *
 * In gx the two sides of a vector may belong to different generations: then it is multiplied by a blend of two values.
 * The stride is 1, and borders are at most the kernel's reach less one.
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
#define WEIGHTS_AT_ONCE 32768 /* 128 KiB: with a band of x, less than a core's level 2 cache */

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Mirrors nrfx.nn.native.Direct. last: channels are the fastest dim outside. inputs: how many input generations there are;
 * runs: [runs][2] of (width, input), own: [out], the input of each output channel's own generation, -1 for none. */
typedef struct {
    int64_t batch, in, out, in_h, in_w, out_h, out_w, kernel_h, kernel_w, pad_h, pad_w, dilation_h, dilation_w,
        last, inputs, runs, threads, band;
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

/* y[T, N * LANES] (+)= sum over segments of x * w. Vectors before `pure` take x, later ones x2; vector `pure` itself takes
 * both, by mask, where `mixed`. */
INLINE void block(const int T, const int N, const int pure, const int mixed, const float *x, const float *x2, int64_t x_ld,
                  const Segments *s, const float *w, const Mask *mask, float *y, int64_t y_ld, int add) {
    Vector sum[6][4];
#pragma GCC unroll 6
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) sum[t][v] = add ? *(Vector *)(y + t * y_ld + v * LANES) : (Vector){0};
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
                      int64_t, int);

#define BLOCK_OF(T, N, P, M)                                                                                           \
    static void block_##T##N##P##M(const float *x, const float *x2, int64_t x_ld, const Segments *s, const float *w,   \
                                   const Mask *mask, float *y, int64_t y_ld, int add) {                                \
        block(T, N, P, M, x, x2, x_ld, s, w, mask, y, y_ld, add);                                                      \
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
BLOCKS(4)
BLOCKS(5)
BLOCKS(6)
static const Block BLOCK_FOR[3][VECTORS][VECTORS + 1][2] = {ROWS(4), ROWS(5), ROWS(6)}; /* [T - 4][N - 1][pure][mixed] */

/* What a block of output channels needs: which x, which vectors take which of two, and its weights. */
typedef struct {
    int64_t start, width, vectors, first, second, pure, mixed; /* first, second: the generations of its two parts */
    Mask mask;
    float *weights;
} Lanes;

/* y[rows][length][BLOCK] (+)= of rows of positions, by as few and as equal blocks of 4 to 6 positions as there can be;
 * where 4 do not fit, the last overlaps the one before, which must then not be added to: its own positions are put aside.
 * length is at least 4. Taps are taken a few at a time, so that their weights stay in the cache for all rows. */
static void rows_of_blocks(const Lanes *lanes, const float *x, const float *x2, int64_t x_ld, int64_t x_row, int64_t rows,
                           int64_t length, const Segments *s, const float *weights, float *y, int add) {
    int64_t wide = lanes->vectors * LANES, at_once = most(WEIGHTS_AT_ONCE / (s->lengths[0] * wide), 1);
    for (int64_t first = 0; first < s->segments; first += at_once) {
        Segments part = {s->offsets + first, s->lengths + first, least(at_once, s->segments - first)};
        for (int64_t row = 0; row < rows; row++)
            for (int64_t t = 0, parts = (length + 5) / 6; parts > 0; parts--) {
                int64_t step = most((length - t + parts - 1) / parts, 4), at = row * x_row, seen = t;
                t = least(t, length - step);
                float *to = y + (row * length + t) * BLOCK, aside[3 * BLOCK];
                memcpy(aside, to, (seen - t) * BLOCK * sizeof(float));
                BLOCK_FOR[step - 4][lanes->vectors - 1][lanes->pure][lanes->mixed](
                    x + at + t * x_ld, x2 + at + t * x_ld, x_ld, &part, weights + first * s->lengths[0] * wide, &lanes->mask,
                    to, BLOCK, add || first);
                memcpy(to, aside, (seen - t) * BLOCK * sizeof(float));
                t += step;
            }
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

/* [blocks of out][run][ky][kx][c of run][lanes] */
static void forward_lanes(const Direct *s, const int64_t *runs, const float *weight, Lanes *l, float *to) {
    int64_t area = s->kernel_h * s->kernel_w;
    for (int64_t start = 0; start < s->out; start += BLOCK, l++) {
        set_lanes(l, start, least(BLOCK, s->out - start), BLOCK);
        l->weights = to;
        for (int64_t run = 0, channel = 0; run < s->runs; channel += runs[2 * run++])
            for (int64_t tap = 0; tap < area; tap++)
                for (int64_t c = channel; c < channel + runs[2 * run]; c++, to += l->vectors * LANES)
                    for (int64_t i = 0; i < l->vectors * LANES; i++)
                        to[i] = i < l->width ? weight[((start + i) * s->in + c) * area + tap] : 0;
    }
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

/* The forward */

typedef struct {
    const Direct *shape;
    const int64_t *runs;
    const int32_t *own;
    Lanes *lanes;
    float *weights;
    int64_t *offsets, *lengths, blocks; /* of each run's taps, in the band of x */
} Forward;

static void free_forward(Forward *f) {
    free(f->lanes);
    free(f->weights);
    free(f->offsets);
}

static int prepare_forward(Forward *f, const Direct *s, const int64_t *runs, const int32_t *own, const float *weight) {
    int64_t area = s->kernel_h * s->kernel_w, segments = s->runs * area, band_w = s->in_w + 2 * s->pad_w;
    int64_t blocks = lane_blocks(s->out);
    *f = (Forward){s, runs, own, (Lanes *)scratch(blocks * sizeof(Lanes) / sizeof(float)),
                   scratch(area * s->in * blocks * BLOCK), (int64_t *)scratch(4 * segments), NULL, blocks};
    if (!f->lanes || !f->weights || !f->offsets) return 1;
    f->lengths = f->offsets + segments;
    forward_lanes(s, runs, weight, f->lanes, f->weights);
    int64_t at = 0, channel = 0;
    for (int64_t run = 0; run < s->runs; channel += runs[2 * run++])
        for (int64_t ky = 0; ky < s->kernel_h; ky++)
            for (int64_t kx = 0; kx < s->kernel_w; kx++, at++) {
                f->offsets[at] = (ky * s->dilation_h * band_w + kx * s->dilation_w) * s->in + channel;
                f->lengths[at] = runs[2 * run];
            }
    return 0;
}

/* same and other of one position from the y of each input; a channel without own input has same = 0. */
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

static void settle_two(const int32_t *own, const float *y0, const float *y1, int64_t width, float *same, float *other) {
    for (int64_t i = 0; i < width; i++) {
        same[i] = own[i] == 0 ? y0[i] : own[i] == 1 ? y1[i] : 0;
        other[i] = own[i] == 0 ? y1[i] : own[i] == 1 ? y0[i] : y0[i] + y1[i];
    }
}

/* same and other, [rows, out_w, out], of rows whose first patch starts at x; ys: scratch for one block of each input. */
static void accumulate_rows(const Forward *f, const float *x, int64_t rows, float *ys, float *same, float *other) {
    const Direct *s = f->shape;
    int64_t area = s->kernel_h * s->kernel_w, positions = rows * s->out_w, step = positions * BLOCK;
    int64_t x_row = (s->in_w + 2 * s->pad_w) * s->in;
    for (int64_t b = 0; b < f->blocks; b++) {
        const Lanes *l = f->lanes + b;
        uint64_t seen = 0;
        for (int64_t run = 0, channel = 0; run < s->runs; channel += f->runs[2 * run++]) {
            int64_t input = f->runs[2 * run + 1];
            Segments taps = {f->offsets + run * area, f->lengths + run * area, area};
            rows_of_blocks(l, x, x, s->in, x_row, rows, s->out_w, &taps, l->weights + channel * area * l->vectors * LANES,
                           ys + input * step, seen >> input & 1);
            seen |= (uint64_t)1 << input; /* a generation in several runs: the later ones are added */
        }
        for (int64_t t = 0; t < positions; t++) {
            float *to_same = same + t * s->out + l->start, *to_other = other + t * s->out + l->start;
            if (s->inputs == 2)
                settle_two(f->own + l->start, ys + t * BLOCK, ys + step + t * BLOCK, l->width, to_same, to_other);
            else
                settle(s->inputs, f->own + l->start, ys + t * BLOCK, step, l->width, to_same, to_other);
        }
    }
}

/* out[batch, out, h, w] in the layout outside; same, other: [batch, h, w, out], kept for the backward, or NULL.
 * 0, or 1 without memory. */
EXPORT int direct_forward(const Direct *s, const int64_t *runs, const int32_t *own, const float *x, const float *weight,
                          const float *bias, float *out, float *kept_same, float *kept_other) {
    int64_t bands = (s->out_h + s->band - 1) / s->band, reach = (s->kernel_h - 1) * s->dilation_h;
    int64_t band_w = s->in_w + 2 * s->pad_w, size = s->out_w * s->out;
    Forward f;
    int failed = prepare_forward(&f, s, runs, own, weight);
#pragma omp parallel num_threads((int)s->threads)
    {
        float *band = scratch((s->band + reach) * band_w * s->in), *ys = scratch(s->inputs * s->band * s->out_w * BLOCK);
        float *line = scratch((1 + 2 * s->band) * size);
        if (!band || !ys || !line) failed = 1;
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * bands; item++) {
            if (failed) continue;
            int64_t image = item / bands, first = item % bands * s->band, end = least(first + s->band, s->out_h);
            fill_band(band, x + image * s->in * s->in_h * s->in_w, first - s->pad_h, end - first + reach, s->pad_w, band_w,
                      s->in_h, s->in_w, s->in, (int)s->last);
            int64_t start = (image * s->out_h + first) * size;
            float *sames = kept_same ? kept_same + start : line + size;
            float *others = kept_same ? kept_other + start : line + (1 + s->band) * size;
            accumulate_rows(&f, band, end - first, ys, sames, others);
            for (int64_t row = first; row < end; row++) {
                float *same = sames + (row - first) * size, *other = others + (row - first) * size;
                float *to = s->last ? out + (image * s->out_h + row) * size : line;
                for (int64_t i = 0; i < size; i++) to[i] = attended(same[i], other[i]);
                if (bias)
                    for (int64_t t = 0; t < s->out_w; t++)
                        for (int64_t o = 0; o < s->out; o++) to[t * s->out + o] += bias[o];
                if (!s->last)
                    copy_row(line, s->out, out + image * s->out_h * size, row, s->out_h, s->out_w, s->out, 0, 1);
            }
        }
        free(band);
        free(ys);
        free(line);
    }
    free_forward(&f);
    return failed;
}

/* The backward */

/* Per output position, d of each input generation: d[width][inputs][out]. */
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

typedef struct {
    const Direct *shape;
    const int64_t *runs;
    Lanes *lanes;
    float *weights, *totals; /* totals: [threads][tap][in][blocks of out] */
    int64_t *offsets, *lengths, blocks, sums, wide, d_w, d_left, depth, reach_h;
} Backward;

static void free_backward(Backward *b) {
    free(b->lanes);
    free(b->weights);
    free(b->totals);
    free(b->offsets);
}

static int prepare_backward(Backward *b, const Direct *s, const int64_t *runs, const float *weight, int with_x,
                            int with_weight) {
    int64_t area = s->kernel_h * s->kernel_w, reach_w = (s->kernel_w - 1) * s->dilation_w;
    int64_t most_blocks = lane_blocks(s->in) + s->runs, wide = lane_blocks(s->out) * BLOCK, sums = area * s->in * wide;
    *b = (Backward){s, runs, (Lanes *)scratch(most_blocks * sizeof(Lanes) / sizeof(float)),
                    with_x ? scratch(area * s->out * most_blocks * BLOCK) : NULL,
                    with_weight ? scratch(s->threads * sums) : NULL, (int64_t *)scratch(4 * area), NULL, 0, sums, wide,
                    s->in_w + reach_w, reach_w - s->pad_w, s->inputs * s->out, (s->kernel_h - 1) * s->dilation_h};
    if (!b->lanes || !b->offsets || (with_x && !b->weights) || (with_weight && !b->totals)) return 1;
    if (with_weight) memset(b->totals, 0, s->threads * sums * sizeof(float));
    if (with_x) {
        b->blocks = backward_lanes(s, runs, b->lanes, b->weights);
        for (int64_t i = 0; i < b->blocks; i++) pack_backward(s, weight, b->lanes + i);
    }
    b->lengths = b->offsets + area;
    for (int64_t tap = 0; tap < area; tap++) {
        int64_t up = b->reach_h - tap / s->kernel_w * s->dilation_h, left = reach_w - tap % s->kernel_w * s->dilation_w;
        b->offsets[tap] = (up * b->d_w + left) * b->depth;
        b->lengths[tap] = s->out;
    }
    return 0;
}

/* Rows of the gradient of x, from the row of d that the first tap of the first one reads; lines: scratch for one block. */
static void input_rows(const Backward *b, const float *d, int64_t first, int64_t rows, float *lines, float *image) {
    const Direct *s = b->shape;
    Segments taps = {b->offsets, b->lengths, s->kernel_h * s->kernel_w};
    for (int64_t i = 0; i < b->blocks; i++) {
        const Lanes *l = b->lanes + i;
        rows_of_blocks(l, d + l->first * s->out, d + l->second * s->out, b->depth, b->d_w * b->depth, rows, s->in_w, &taps,
                       l->weights, lines, 0);
        for (int64_t row = 0; row < rows; row++) {
            float *line = lines + row * s->in_w * BLOCK;
            if (s->last)
                for (int64_t t = 0; t < s->in_w; t++)
                    memcpy(image + ((first + row) * s->in_w + t) * s->in + l->start, line + t * BLOCK,
                           l->width * sizeof(float));
            else
                copy_row(line, BLOCK, image + l->start * s->in_h * s->in_w, first + row, s->in_h, s->in_w, l->width, 0, 1);
        }
    }
}

/* Adds what rows of positions give to the gradient of the weight, [tap][in][blocks of out]. */
static void weight_rows(const Backward *b, const float *x, const float *d, int64_t rows, float *total) {
    const Direct *s = b->shape;
    int64_t x_w = s->in_w + 2 * s->pad_w;
    for (int64_t tap = 0; tap < s->kernel_h * s->kernel_w; tap++) {
        int64_t shift = tap / s->kernel_w * s->dilation_h * x_w + tap % s->kernel_w * s->dilation_w, c = 0;
        for (int64_t run = 0; run < s->runs; run++)
            for (int64_t left = b->runs[2 * run], some; left > 0; left -= some, c += some) {
                some = piece(left);
                for (int64_t o = 0; o < s->out; o += BLOCK) {
                    int64_t vectors = (least(BLOCK, s->out - o) + LANES - 1) / LANES;
                    OUTER_FOR[some][vectors - 1](x + shift * s->in + c, s->in, x_w * s->in,
                                                 d + b->runs[2 * run + 1] * s->out + o, b->depth, b->d_w * b->depth, rows,
                                                 s->out_w, total + (tap * s->in + c) * b->wide + o, b->wide);
                }
            }
    }
}

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
    Forward f = {0};
    Backward b;
    int failed = prepare_backward(&b, s, runs, weight, grad_x != NULL, grad_weight != NULL);
    if (!kept_same) failed |= prepare_forward(&f, s, runs, own, weight);
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
        if (!d || !band || !line || (!kept_same && !ys)) failed = 1;
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * bands; item++) {
            if (failed) continue;
            int64_t image = item / bands, first = item % bands * s->band, end = least(first + s->band, s->in_h);
            int64_t top = first + s->pad_h - b.reach_h, rows = end - first + b.reach_h; /* output rows in d */
            const float *grads = grad + image * s->out_h * size;
            if (grad_weight || !kept_same)
                fill_band(band, x + image * s->in * s->in_h * s->in_w, top - s->pad_h, rows + b.reach_h, s->pad_w, x_w,
                          s->in_h, s->in_w, s->in, (int)s->last);
            for (int64_t r = 0; r < rows; r++) {
                float *to = d + r * b.d_w * b.depth;
                int64_t row = top + r, place = (image * s->out_h + row) * size, right = b.d_w - b.d_left - s->out_w;
                if (row < 0 || row >= s->out_h) {
                    memset(to, 0, b.d_w * b.depth * sizeof(float));
                    continue;
                }
                if (!kept_same) accumulate_rows(&f, band + r * x_w * s->in, 1, ys, again, again + size);
                if (!s->last) copy_row(line, s->out, (float *)grads, row, s->out_h, s->out_w, s->out, 0, 0);
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
    free_forward(&f);
    free_backward(&b);
    return failed;
}
