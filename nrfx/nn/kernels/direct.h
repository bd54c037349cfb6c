/* The cross convolution, directly: no patches, no maps in between. What its files share, and the words they use.
 *
 *     forward    y[j][t, o]    = sum over taps and the channels c of input j    x[t + tap, c] * w[tap, c, o]
 *     backward   gx[t, c]      = sum over taps and o           d[input of c][t - tap, o] * w[tap, o, c]
 *                gw[tap, c, o] = sum over t                    x[t + tap, c] * d[input of c][t, o]
 *
 * input         an input generation that has channels; a run is a stretch of neighbouring channels of one input
 * accumulators  two sums for each output: `same`, its y of the own input (0 where that has no channels), and `other`, the
 *               sum of its y of all other inputs. The attention (attention.h) makes the output of them
 * tap           one of the kernel_h * kernel_w positions of the kernel
 * band          some rows of an image in the cache, channels fastest, with the zeros that the padding means around them
 * panel         up to BLOCK neighbouring channels of the result, and the weights for them in the order of reading
 * tile          4 to 6 neighbouring positions of a row times the vectors of a panel: what is summed in registers at once
 *
 * The stride is 1, a row has at least 4 positions, and the padding is at most the kernel's reach:
 * nrfx.nn.native.takes says so in Python. Sizes are int64_t throughout: maps of more than 2^31 numbers exist.
 */
#pragma once
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

/* aligned(4): tensors lie where they like. */
typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* Mirrors nrfx.nn.native.Direct. last: channels are the fastest dim outside. inputs: how many there are. threads: at most
 * so many. band: rows of the result that one band yields. Beside it always: runs, [runs][2] of (width, input), and own,
 * [out], the own input of each output channel, -1 for none. */
typedef struct {
    int64_t batch, in, out, in_h, in_w, out_h, out_w, kernel_h, kernel_w, pad_h, pad_w, dilation_h, dilation_w,
        last, inputs, runs, threads, band;
} Direct;

/* tiles.c */

typedef struct {
    int64_t start, width, vectors, input; /* the channels, and in the backward the input to which they belong */
    float *weights;
} Panel;

/* Where a tile's factors lie: stretches of contiguous channels, as offsets from its first position. */
typedef struct {
    const int64_t *offsets, *lengths;
    int64_t count;
} Stretches;

int64_t panels_of(int64_t channels);
Panel panel_at(int64_t start, int64_t width, float *weights);
void multiply_rows(const Panel *panel, const float *x, int64_t x_ld, int64_t x_row, int64_t rows, int64_t length,
                   const Stretches *from, const float *weights, float *y, int add);
void add_products(const float *x, int64_t x_ld, int64_t x_row, const float *d, int64_t d_ld, int64_t d_row, int64_t rows,
                  int64_t length, int64_t channels, int64_t width, float *to, int64_t to_ld);

/* bands.c */

void row_in(float *band, int64_t ld, const float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
            int last);
void row_out(const float *band, int64_t ld, float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
             int64_t image_channels, int last);
void fill_band(float *band, const Direct *s, const float *image, int64_t row, int64_t rows);

/* accumulators.c */

typedef struct {
    const Direct *shape;
    const int64_t *runs;
    const int32_t *own;
    Panel *panels;
    float *weights;
    int64_t *offsets, *lengths, count; /* the stretches of each run's taps in a band; how many panels */
} Accumulators;

int prepare_accumulators(Accumulators *a, const Direct *s, const int64_t *runs, const int32_t *own, const float *weight);
void free_accumulators(Accumulators *a);
void accumulate(const Accumulators *a, const float *x, int64_t rows, float *ys, float *same, float *other);
