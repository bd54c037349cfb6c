/* Products whose sums stay in registers. */
#include "direct.h"

#define WEIGHTS_AT_ONCE 32768 /* 128 KiB: with a band of x, less than a core's level 2 cache */

int64_t panels_of(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

Panel panel_at(int64_t start, int64_t width, float *weights) {
    return (Panel){start, width, (width + LANES - 1) / LANES, 0, weights};
}

/* One tile: y[T, BLOCK] (+)= sum over stretches of x[t, c] * w[c, N * LANES]. T and N are constants where it is inlined:
 * all loops over them are unrolled, and `sum` never sees memory. */
INLINE void tile(const int T, const int N, const float *x, int64_t x_ld, const Stretches *s, const float *w, float *y,
                 int add) {
    Vector sum[6][4];
#pragma GCC unroll 6
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) sum[t][v] = add ? *(Vector *)(y + t * BLOCK + v * LANES) : (Vector){0};
    for (int64_t stretch = 0; stretch < s->count; stretch++) {
        const float *from = x + s->offsets[stretch];
        for (int64_t c = 0; c < s->lengths[stretch]; c++, w += N * LANES) {
            Vector weights[4];
#pragma GCC unroll 4
            for (int v = 0; v < N; v++) weights[v] = *(const Vector *)(w + v * LANES);
#pragma GCC unroll 6
            for (int t = 0; t < T; t++)
#pragma GCC unroll 4
                for (int v = 0; v < N; v++) sum[t][v] += from[t * x_ld + c] * weights[v];
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
        for (int v = 0; v < N; v++) *(Vector *)(y + t * BLOCK + v * LANES) = sum[t][v];
}

#if VECTORS == 4
#define EACH_WIDTH(OF, ROWS) OF(ROWS, 1) OF(ROWS, 2) OF(ROWS, 3) OF(ROWS, 4)
#else
#define EACH_WIDTH(OF, ROWS) OF(ROWS, 1) OF(ROWS, 2)
#endif

typedef void (*Tile)(const float *, int64_t, const Stretches *, const float *, float *, int);
#define TILE(T, N)                                                                                                     \
    static void tile_##T##N(const float *x, int64_t x_ld, const Stretches *s, const float *w, float *y, int add) {     \
        tile(T, N, x, x_ld, s, w, y, add);                                                                             \
    }
#define TILE_NAME(T, N) tile_##T##N,
EACH_WIDTH(TILE, 4)
EACH_WIDTH(TILE, 5)
EACH_WIDTH(TILE, 6)
static const Tile TILES[3][VECTORS] = {{EACH_WIDTH(TILE_NAME, 4)}, {EACH_WIDTH(TILE_NAME, 5)}, {EACH_WIDTH(TILE_NAME, 6)}};

/* y[rows][length][BLOCK] (+)= of rows of positions, by as few and as equal tiles as there can be. length is at least 4.
 * The stretches are taken a few at a time, so that their weights stay in the cache for all rows; they are equally long.
 * The trap: where fewer than 4 positions are left, the last tile begins early and meets some positions again. With `add`
 * these would get their sum twice, so they are put aside and put back. */
void multiply_rows(const Panel *panel, const float *x, int64_t x_ld, int64_t x_row, int64_t rows, int64_t length,
                   const Stretches *from, const float *weights, float *y, int add) {
    int64_t wide = panel->vectors * LANES, at_once = most(WEIGHTS_AT_ONCE / (from->lengths[0] * wide), 1);
    for (int64_t first = 0; first < from->count; first += at_once) {
        Stretches part = {from->offsets + first, from->lengths + first, least(at_once, from->count - first)};
        for (int64_t row = 0; row < rows; row++)
            for (int64_t t = 0, tiles = (length + 5) / 6; tiles > 0; tiles--) {
                int64_t step = most((length - t + tiles - 1) / tiles, 4), seen = t;
                t = least(t, length - step);
                float *to = y + (row * length + t) * BLOCK, aside[3 * BLOCK];
                memcpy(aside, to, (seen - t) * BLOCK * sizeof(float));
                TILES[step - 4][panel->vectors - 1](x + row * x_row + t * x_ld, x_ld, &part,
                                                    weights + first * from->lengths[0] * wide, to, add || first);
                memcpy(to, aside, (seen - t) * BLOCK * sizeof(float));
                t += step;
            }
    }
}

/* to[I, N * LANES] += x[t, 0..I) * d[t, N * LANES] over rows of positions; I and N as T and N above. */
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
#define OUTER(I, N)                                                                                                    \
    static void outer_##I##N(const float *x, int64_t x_ld, int64_t x_row, const float *d, int64_t d_ld, int64_t d_row, \
                             int64_t rows, int64_t length, float *to, int64_t to_ld) {                                 \
        outer(I, N, x, x_ld, x_row, d, d_ld, d_row, rows, length, to, to_ld);                                          \
    }
#define OUTER_NAME(I, N) outer_##I##N,
EACH_WIDTH(OUTER, 1)
EACH_WIDTH(OUTER, 5)
EACH_WIDTH(OUTER, 6)
static const Outer OUTERS[7][VECTORS] = {
    [1] = {EACH_WIDTH(OUTER_NAME, 1)}, [5] = {EACH_WIDTH(OUTER_NAME, 5)}, [6] = {EACH_WIDTH(OUTER_NAME, 6)}};

static int64_t piece(int64_t left) { /* of 6 and 5, of 1 where that does not come out */
    int64_t fives = (6 - left % 6) % 6;
    return fives * 5 > left ? (left >= 6 ? 6 : 1) : left > fives * 5 ? 6 : 5;
}

/* to[channels, width] += x[t, channels] * d[t, width] over rows of positions. d and to are read and written up to whole
 * vectors of width: what lies behind must exist, and counts for nothing. */
void add_products(const float *x, int64_t x_ld, int64_t x_row, const float *d, int64_t d_ld, int64_t d_row, int64_t rows,
                  int64_t length, int64_t channels, int64_t width, float *to, int64_t to_ld) {
    for (int64_t c = 0, some; c < channels; c += some) {
        some = piece(channels - c);
        for (int64_t o = 0; o < width; o += BLOCK) {
            int64_t vectors = (least(BLOCK, width - o) + LANES - 1) / LANES;
            OUTERS[some][vectors - 1](x + c, x_ld, x_row, d + o, d_ld, d_row, rows, length, to + c * to_ld + o, to_ld);
        }
    }
}
