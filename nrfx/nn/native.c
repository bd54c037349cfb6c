/* The cross convolution on the CPU: two accumulators, and the attention while they are still in the cache.
 *
 *     same  = sum over the runs of the own input generation      W[rows, run] * col[run]
 *     other = sum over all other runs                            W[rows, run] * col[run]
 *     out   = same + 2 sigmoid(same) * other + bias
 *
 * `col` is what the kernel sees at each position: the input itself for a kernel of one, else its patches (im2col), made
 * for one tile of positions at a time. All products are the BLAS's sgemm that torch itself uses, given as a pointer.
 * Everything is float32; only the element-wise functions at the end also take bfloat16.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Gemm)(const char *, const char *, const int *, const int *, const int *, const float *, const float *,
                     const int *, const float *, const int *, const float *, float *, const int *);

/* Mirrors nrfx.nn.native.Shape. `last`: channels are the fastest dim, a patch is ordered (run, ky, kx, channel);
 * otherwise positions are, and it is ordered (channel, ky, kx). A row of runs is (width, generation). */
typedef struct {
    int64_t batch, in, out, in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
        dilation_w, last, generations, runs, threads, tile, rows;
} Shape;

/* sigmoid by exp(z) = 2^n * p(z - n ln 2); relative error below 2e-7, and a loop over it becomes vector code. */
static inline float sigmoid(float x) {
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
    power.i = (shifted.i - 0x4B400000 + 127) << 23;
    return 1.0f / (1.0f + (p * r * r + r + 1.0f) * power.f);
}

/* Patches */

static int whole(const Shape *s) {
    return s->kernel_h == 1 && s->kernel_w == 1 && s->stride_h == 1 && s->stride_w == 1 && !s->pad_h && !s->pad_w;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* The output columns [*first, *end) of one row whose input column, at kernel column kx, lies inside the image. */
static void inside(const Shape *s, int64_t kx, int64_t *first, int64_t *end) {
    int64_t shift = kx * s->dilation_w - s->pad_w;
    *first = shift >= 0 ? 0 : (-shift + s->stride_w - 1) / s->stride_w;
    *end = shift >= s->in_w ? 0 : (s->in_w - 1 - shift) / s->stride_w + 1;
    *end = *end > s->out_w ? s->out_w : *end;
}

/* One row of patches, col[t], t in [start, start + count), of one channel at (ky, kx); or its transpose, which adds. */
static inline __attribute__((always_inline)) void patch_row(const Shape *s, float *x, float *col, int64_t ky, int64_t kx,
                                                            int64_t start, int64_t count, int back) {
    int64_t first, end;
    inside(s, kx, &first, &end);
    for (int64_t t = start; t < start + count;) {
        int64_t oy = t / s->out_w, ox = t % s->out_w;
        int64_t stop = ox + (start + count - t) < s->out_w ? ox + (start + count - t) : s->out_w;
        int64_t iy = oy * s->stride_h + ky * s->dilation_h - s->pad_h;
        float *to = col + (t - start) - ox;
        int64_t from = clamp(first, ox, stop), until = clamp(end, from, stop);
        if (iy < 0 || iy >= s->in_h) from = until = stop;
        float *row = x + iy * s->in_w + kx * s->dilation_w - s->pad_w;
        if (back) {
            if (s->stride_w == 1)
                for (int64_t i = from; i < until; i++) row[i] += to[i];
            else
                for (int64_t i = from; i < until; i++) row[i * s->stride_w] += to[i];
        } else {
            for (int64_t i = ox; i < from; i++) to[i] = 0;
            if (s->stride_w == 1)
                for (int64_t i = from; i < until; i++) to[i] = row[i];
            else
                for (int64_t i = from; i < until; i++) to[i] = row[i * s->stride_w];
            for (int64_t i = until; i < stop; i++) to[i] = 0;
        }
        t += stop - ox;
    }
}

static inline __attribute__((always_inline)) void patches_first(const Shape *s, float *x, float *col, int64_t start,
                                                                int64_t count, int back) {
    for (int64_t c = 0; c < s->in; c++)
        for (int64_t ky = 0; ky < s->kernel_h; ky++)
            for (int64_t kx = 0; kx < s->kernel_w; kx++, col += count)
                patch_row(s, x + c * s->in_h * s->in_w, col, ky, kx, start, count, back);
}

static inline __attribute__((always_inline)) void patches_last(const Shape *s, const int64_t *runs, float *x, float *col,
                                                               int64_t start, int64_t count, int back) {
    int64_t width = s->in * s->kernel_h * s->kernel_w;
    for (int64_t t = start; t < start + count; t++, col += width) {
        int64_t top = t / s->out_w * s->stride_h - s->pad_h, left = t % s->out_w * s->stride_w - s->pad_w;
        float *to = col;
        int64_t channel = 0;
        for (int64_t run = 0; run < s->runs; channel += runs[2 * run++]) {
            int64_t n = runs[2 * run];
            for (int64_t ky = 0; ky < s->kernel_h; ky++)
                for (int64_t kx = 0; kx < s->kernel_w; kx++, to += n) {
                    int64_t iy = top + ky * s->dilation_h, ix = left + kx * s->dilation_w;
                    int outside = iy < 0 || iy >= s->in_h || ix < 0 || ix >= s->in_w;
                    float *from = x + (iy * s->in_w + ix) * s->in + channel;
                    if (back && !outside)
                        for (int64_t i = 0; i < n; i++) from[i] += to[i];
                    else if (!back && outside)
                        for (int64_t i = 0; i < n; i++) to[i] = 0;
                    else if (!back)
                        for (int64_t i = 0; i < n; i++) to[i] = from[i];
                }
        }
    }
}

static void gather(const Shape *s, const int64_t *runs, const float *x, float *col, int64_t start, int64_t count) {
    if (s->last)
        patches_last(s, runs, (float *)x, col, start, count, 0);
    else
        patches_first(s, (float *)x, col, start, count, 0);
}

static void scatter(const Shape *s, const int64_t *runs, float *x, float *col, int64_t start, int64_t count) {
    if (s->last)
        patches_last(s, runs, x, col, start, count, 1);
    else
        patches_first(s, x, col, start, count, 1);
}

/* The three products of a block of rows with one run of columns. A matrix of the map is [channels, positions], stored
 * with positions fastest, or channels fastest (`last`); its leading dim is the distance of two of the slower ones. */

typedef struct {
    Gemm gemm;
    int last, count, depth; /* positions in the tile; depth: columns of the whole weight */
    const float *weight;    /* [out, depth] */
} Product;

static const float ONE = 1, ZERO = 0;

/* y[rows, t] = (accumulate) + weight[rows, columns] * col[columns, t] */
static void forward_product(const Product *p, int64_t row, int rows, int64_t column, int columns, const float *col,
                            int col_ld, int accumulate, float *y, int y_ld) {
    const float *w = p->weight + row * p->depth + column;
    const float *beta = accumulate ? &ONE : &ZERO;
    if (p->last)
        p->gemm("T", "N", &rows, &p->count, &columns, &ONE, w, &p->depth, col + column, &col_ld, beta, y, &y_ld);
    else
        p->gemm("N", "N", &p->count, &rows, &columns, &ONE, col + column * col_ld, &col_ld, w, &p->depth, beta, y, &y_ld);
}

/* col[columns, t] = (accumulate) + weight[rows, columns]^T * y[rows, t] */
static void input_product(const Product *p, int64_t row, int rows, int64_t column, int columns, const float *y, int y_ld,
                          int accumulate, float *col, int col_ld) {
    const float *w = p->weight + row * p->depth + column;
    const float *beta = accumulate ? &ONE : &ZERO;
    if (p->last)
        p->gemm("N", "N", &columns, &p->count, &rows, &ONE, w, &p->depth, y, &y_ld, beta, col + column, &col_ld);
    else
        p->gemm("N", "T", &p->count, &columns, &rows, &ONE, y, &y_ld, w, &p->depth, beta, col + column * col_ld, &col_ld);
}

/* grad[rows, columns] += y[rows, t] * col[columns, t]^T */
static void weight_product(const Product *p, int64_t row, int rows, int64_t column, int columns, const float *y, int y_ld,
                           const float *col, int col_ld, float *grad) {
    float *to = grad + row * p->depth + column;
    if (p->last)
        p->gemm("N", "T", &columns, &rows, &p->count, &ONE, col + column, &col_ld, y, &y_ld, &ONE, to, &p->depth);
    else
        p->gemm("T", "N", &columns, &rows, &p->count, &ONE, col + column * col_ld, &col_ld, y, &y_ld, &ONE, to, &p->depth);
}

/* Both accumulators of a block of rows that belong to `generation`; bit 0 of the result: same is set, bit 1: other is. */
static int accumulate(const Product *p, const Shape *s, const int64_t *runs, int64_t generation, int64_t row, int rows,
                      const float *col, int col_ld, float *same, float *other, int y_ld) {
    int64_t column = 0;
    int area = (int)(s->kernel_h * s->kernel_w), set = 0;
    for (int64_t run = 0; run < s->runs; run++) {
        int columns = (int)runs[2 * run] * area, bit = runs[2 * run + 1] == generation ? 1 : 2;
        forward_product(p, row, rows, column, columns, col, col_ld, set & bit, bit == 1 ? same : other, y_ld);
        set |= bit;
        column += columns;
    }
    return set;
}

/* Which channel and which positions a line of a block holds, and where. */
typedef struct {
    int64_t lines, length, line_step;
} Walk;

static Walk walk(const Shape *s, int64_t count, int64_t rows, int64_t ld) {
    Walk w = {s->last ? count : rows, s->last ? rows : count, ld};
    return w;
}

static void attend_line(float *out, const float *same, const float *other, int64_t n, float bias, const float *biases) {
    if (same && other)
        for (int64_t i = 0; i < n; i++) out[i] = same[i] + 2 * sigmoid(same[i]) * other[i];
    else if (out != (same ? same : other))
        memcpy(out, same ? same : other, n * sizeof(float));
    if (biases)
        for (int64_t i = 0; i < n; i++) out[i] += biases[i];
    else if (bias != 0)
        for (int64_t i = 0; i < n; i++) out[i] += bias;
}

/* d same, d other from d out. Without one of them the other's gradient is d out itself. */
static void unattend_line(float *d_same, float *d_other, const float *grad, const float *same, const float *other,
                          int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float gate = sigmoid(same[i]), g = grad[i];
        float twice = 2 * gate * g;
        d_same[i] = g + twice * (1 - gate) * other[i];
        d_other[i] = twice;
    }
}

static float *scratch(int64_t floats) {
    return aligned_alloc(64, (size_t)(floats * sizeof(float) + 63) / 64 * 64);
}

/* Where a block of rows starts in a map of `channels` of one image, and the leading dim of that map. */
static int64_t origin(const Shape *s, int64_t row, int64_t start, int64_t channels, int64_t positions) {
    return s->last ? start * channels + row : row * positions + start;
}

/* out[batch, out, positions]; same, other: the accumulators, kept for the backward, or NULL. 0, or 1 without memory. */
int cross_forward(Gemm gemm, const Shape *s, const int64_t *runs, const int64_t *rows_of, const float *x,
                  const float *weight, const float *bias, float *out, float *same, float *other) {
    int64_t positions = s->out_h * s->out_w, tiles = (positions + s->tile - 1) / s->tile;
    int64_t depth = s->in * s->kernel_h * s->kernel_w;
    int64_t ld = s->last ? s->out : positions;
    int direct = whole(s), failed = 0;
#pragma omp parallel num_threads((int)s->threads)
    {
        float *patches = direct ? NULL : scratch(depth * s->tile);
        float *own = same ? NULL : scratch(2 * s->rows * s->tile);
        if ((!direct && !patches) || (!same && !own)) failed = 1;
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t item = 0; item < s->batch * tiles; item++) {
            if (failed) continue;
            int64_t image = item / tiles, start = item % tiles * s->tile;
            int64_t count = positions - start < s->tile ? positions - start : s->tile;
            const float *pixels = x + image * s->in * s->in_h * s->in_w;
            const float *col = patches;
            int64_t col_ld = s->last ? depth : count;
            if (direct) {
                col = pixels + origin(s, 0, start, s->in, positions);
                col_ld = s->last ? s->in : positions;
            } else
                gather(s, runs, pixels, patches, start, count);
            Product p = {gemm, (int)s->last, (int)count, (int)depth, weight};
            int64_t row = 0;
            for (int64_t g = 0; g < s->generations; g++)
                for (int64_t end = row + rows_of[g]; row < end;) {
                    int64_t rows = end - row < s->rows ? end - row : s->rows;
                    int64_t at = image * s->out * positions + origin(s, row, start, s->out, positions);
                    int64_t y_ld = same ? ld : s->last ? rows : count;
                    float *y0 = same ? same + at : own, *y1 = same ? other + at : own + s->rows * s->tile;
                    int set = accumulate(&p, s, runs, g, row, (int)rows, col, (int)col_ld, y0, y1, (int)y_ld);
                    Walk w = walk(s, count, rows, y_ld);
                    for (int64_t l = 0; l < w.lines; l++)
                        attend_line(out + at + l * ld, set & 1 ? y0 + l * y_ld : NULL, set & 2 ? y1 + l * y_ld : NULL,
                                    w.length, bias && !s->last ? bias[row + l] : 0, bias && s->last ? bias + row : NULL);
                    row += rows;
                }
        }
        free(patches);
        free(own);
    }
    return failed;
}

/* grad_x and grad_weight (either may be NULL) from grad, and from same and other where they were kept. */
int cross_backward(Gemm gemm, const Shape *s, const int64_t *runs, const int64_t *rows_of, const float *x,
                   const float *weight, const float *grad, const float *same, const float *other, float *grad_x,
                   float *grad_weight) {
    int64_t positions = s->out_h * s->out_w, tiles = (positions + s->tile - 1) / s->tile;
    int64_t area = s->kernel_h * s->kernel_w, depth = s->in * area, map = s->in * s->in_h * s->in_w;
    int64_t ld = s->last ? s->out : positions;
    int direct = whole(s), failed = 0;
    /* Tiles of one image add to the same pixels where patches overlap: then a thread takes whole images. */
    int64_t chunk = direct ? 1 : tiles;
    float *sums = s->threads > 1 && grad_weight ? scratch((s->threads - 1) * s->out * depth) : NULL;
    if (s->threads > 1 && grad_weight && !sums) return 1;
    if (grad_weight) memset(grad_weight, 0, s->out * depth * sizeof(float));
    if (sums) memset(sums, 0, (s->threads - 1) * s->out * depth * sizeof(float));
    if (grad_x && !direct) memset(grad_x, 0, s->batch * map * sizeof(float));
#pragma omp parallel num_threads((int)s->threads)
    {
        int thread = 0;
#ifdef _OPENMP
        extern int omp_get_thread_num(void);
        thread = omp_get_thread_num();
#endif
        float *own_sum = thread && sums ? sums + (thread - 1) * s->out * depth : grad_weight;
        float *patches = direct ? NULL : scratch(2 * depth * s->tile);
        float *blocks = scratch(4 * s->rows * s->tile);
        if ((!direct && !patches) || !blocks) failed = 1;
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t part = 0; part < s->batch * tiles / chunk; part++)
            for (int64_t item = part * chunk; item < (part + 1) * chunk && !failed; item++) {
                int64_t image = item / tiles, start = item % tiles * s->tile;
                int64_t count = positions - start < s->tile ? positions - start : s->tile;
                const float *pixels = x + image * map;
                const float *col = patches;
                float *grad_col = patches + depth * s->tile;
                int64_t col_ld = s->last ? depth : count;
                if (direct) {
                    int64_t at = origin(s, 0, start, s->in, positions);
                    col = pixels + at;
                    grad_col = grad_x + image * map + at;
                    col_ld = s->last ? s->in : positions;
                } else if (grad_weight || !same)
                    gather(s, runs, pixels, patches, start, count);
                Product p = {gemm, (int)s->last, (int)count, (int)depth, weight};
                int64_t row = 0;
                for (int64_t g = 0; g < s->generations; g++)
                    for (int64_t end = row + rows_of[g]; row < end;) {
                        int64_t rows = end - row < s->rows ? end - row : s->rows;
                        int64_t at = image * s->out * positions + origin(s, row, start, s->out, positions);
                        int64_t d_ld = s->last ? rows : count, y_ld = same ? ld : d_ld, set = 0;
                        const float *y0 = same + at, *y1 = other + at;
                        float *d0 = blocks, *d1 = blocks + s->rows * s->tile;
                        if (same)
                            for (int64_t run = 0; run < s->runs; run++) set |= runs[2 * run + 1] == g ? 1 : 2;
                        else {
                            float *fresh = blocks + 2 * s->rows * s->tile;
                            y0 = fresh;
                            y1 = fresh + s->rows * s->tile;
                            set = accumulate(&p, s, runs, g, row, (int)rows, col, (int)col_ld, fresh,
                                             fresh + s->rows * s->tile, (int)y_ld);
                        }
                        Walk w = walk(s, count, rows, y_ld);
                        for (int64_t l = 0; l < w.lines; l++)
                            if (set == 3)
                                unattend_line(d0 + l * d_ld, d1 + l * d_ld, grad + at + l * ld, y0 + l * y_ld,
                                              y1 + l * y_ld, w.length);
                            else
                                memcpy((set & 1 ? d0 : d1) + l * d_ld, grad + at + l * ld, w.length * sizeof(float));
                        int64_t column = 0;
                        for (int64_t run = 0; run < s->runs; column += runs[2 * run++] * area) {
                            int columns = (int)(runs[2 * run] * area);
                            const float *d = runs[2 * run + 1] == g ? d0 : d1;
                            if (grad_x)
                                input_product(&p, row, (int)rows, column, columns, d, (int)d_ld, row > 0, grad_col,
                                              (int)col_ld);
                            if (grad_weight)
                                weight_product(&p, row, (int)rows, column, columns, d, (int)d_ld, col, (int)col_ld,
                                               own_sum);
                        }
                        row += rows;
                    }
                if (grad_x && !direct) scatter(s, runs, grad_x + image * map, grad_col, start, count);
            }
        free(patches);
        free(blocks);
    }
    if (sums)
        for (int64_t t = 0; t < s->threads - 1; t++)
            for (int64_t i = 0; i < s->out * depth; i++) grad_weight[i] += sums[t * s->out * depth + i];
    free(sums);
    return failed;
}

/* The attention alone, on what one convolution for each input generation gave: ys[j] is [outer, out, inner]. */

static inline __attribute__((always_inline)) float load(const void *x, int64_t i, int half) {
    if (!half) return ((const float *)x)[i];
    union {
        uint32_t i;
        float f;
    } wide = {(uint32_t)((const uint16_t *)x)[i] << 16};
    return wide.f;
}

static inline __attribute__((always_inline)) void store(void *x, int64_t i, float value, int half) {
    if (!half) {
        ((float *)x)[i] = value;
        return;
    }
    union {
        float f;
        uint32_t i;
    } wide = {value};
    uint32_t rounded = (wide.i + 0x7FFF + ((wide.i >> 16) & 1)) >> 16;
    ((uint16_t *)x)[i] = value != value ? 0x7FC0 : (uint16_t)rounded;
}

#define MAX_INPUTS 64

typedef struct {
    int64_t outer, out, inner, inputs, generations, threads;
} Maps;

/* Element i of the sum of all maps but `own`, from `from` on. */
static inline __attribute__((always_inline)) float others(void *const *ys, int64_t inputs, int64_t own, int64_t i,
                                                          int half) {
    float sum = 0;
    for (int64_t j = 0; j < inputs; j++)
        if (j != own) sum += load(ys[j], i, half);
    return sum;
}

static inline __attribute__((always_inline)) void attend_span(void *const *ys, int64_t inputs, int64_t own, void *out,
                                                              int64_t from, int64_t n, int half) {
    if (inputs == 2 && own >= 0) { /* the common case, without a loop inside */
        const void *same = ys[own], *other = ys[1 - own];
        for (int64_t i = from; i < from + n; i++) {
            float y = load(same, i, half);
            store(out, i, y + 2 * sigmoid(y) * load(other, i, half), half);
        }
        return;
    }
    for (int64_t i = from; i < from + n; i++) {
        float sum = others(ys, inputs, own, i, half);
        float y = own < 0 ? 0 : load(ys[own], i, half);
        store(out, i, own < 0 ? sum : y + 2 * sigmoid(y) * sum, half);
    }
}

static inline __attribute__((always_inline)) void unattend_span(void *const *ys, int64_t inputs, int64_t own,
                                                                const void *grad, void *const *grads, int64_t from,
                                                                int64_t n, int half) {
    if (inputs == 2 && own >= 0) {
        const void *same = ys[own], *other = ys[1 - own];
        void *d_same = grads[own], *d_other = grads[1 - own];
        for (int64_t i = from; i < from + n; i++) {
            float gate = sigmoid(load(same, i, half)), g = load(grad, i, half);
            float twice = 2 * gate * g;
            store(d_same, i, g + twice * (1 - gate) * load(other, i, half), half);
            store(d_other, i, twice, half);
        }
        return;
    }
    for (int64_t i = from; i < from + n; i++) {
        float gate = own < 0 ? 0.5f : sigmoid(load(ys[own], i, half)), g = load(grad, i, half);
        float twice = 2 * gate * g;
        if (own >= 0) store(grads[own], i, g + twice * (1 - gate) * others(ys, inputs, own, i, half), half);
        for (int64_t j = 0; j < inputs; j++)
            if (j != own) store(grads[j], i, twice, half);
    }
}

/* The part of [0, outer * out * inner) that thread `part` of `parts` takes, cut where generations begin. */
#define EACH_SPAN(CALL)                                                                          \
    int64_t total = m->outer;                                                                    \
    _Pragma("omp parallel for num_threads((int)m->threads) schedule(static)") for (int64_t o = 0; o < total; o++) { \
        int64_t at = o * m->out * m->inner;                                                      \
        for (int64_t g = 0; g < m->generations; g++) {                                           \
            int64_t n = rows_of[g] * m->inner;                                                   \
            if (n) CALL;                                                                         \
            at += n;                                                                             \
        }                                                                                        \
    }

/* rows_of[g]: rows of output generation g; own[g]: which of ys is its own, -1 for none. half: bfloat16. */
void attend_forward(const Maps *m, const int64_t *rows_of, const int64_t *own, void *const *ys, void *out, int64_t half) {
    if (half) {
        EACH_SPAN(attend_span(ys, m->inputs, own[g], out, at, n, 1))
    } else {
        EACH_SPAN(attend_span(ys, m->inputs, own[g], out, at, n, 0))
    }
}

void attend_backward(const Maps *m, const int64_t *rows_of, const int64_t *own, void *const *ys, const void *grad,
                     void *const *grads, int64_t half) {
    if (half) {
        EACH_SPAN(unattend_span(ys, m->inputs, own[g], grad, grads, at, n, 1))
    } else {
        EACH_SPAN(unattend_span(ys, m->inputs, own[g], grad, grads, at, n, 0))
    }
}
