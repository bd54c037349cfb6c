/* Copies between an image, in the layout outside, and rows with the channels fastest. */
#include "direct.h"

/* One image row of `width` positions to or from [width, ld]. The trap: with the channels far apart outside, eight at a time,
 * for then both sides touch whole cache lines often enough. */
INLINE void copy_far(float *band, int64_t ld, float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
                     int back) {
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

/* A row of an image, [width, channels] of it, to positions that lie ld floats apart. */
void row_in(float *band, int64_t ld, const float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
            int last) {
    if (!last) {
        copy_far(band, ld, (float *)image, row, height, width, channels, 0);
        return;
    }
    for (int64_t t = 0; t < width; t++)
        memcpy(band + t * ld, image + (row * width + t) * channels, channels * sizeof(float));
}

/* And back: to some channels of an image that has image_channels, from the one where `image` points. */
void row_out(const float *band, int64_t ld, float *image, int64_t row, int64_t height, int64_t width, int64_t channels,
             int64_t image_channels, int last) {
    if (!last) {
        copy_far((float *)band, ld, image, row, height, width, channels, 1);
        return;
    }
    for (int64_t t = 0; t < width; t++)
        memcpy(image + (row * width + t) * image_channels, band + t * ld, channels * sizeof(float));
}

/* Rows [row, row + rows) of an image of x with its padding on both sides, [rows, pad + in_w + pad, in]; zeros outside. */
void fill_band(float *band, const Direct *s, const float *image, int64_t row, int64_t rows) {
    int64_t width = s->in_w + 2 * s->pad_w, side = s->pad_w * s->in;
    for (int64_t r = row; r < row + rows; r++, band += width * s->in) {
        if (r < 0 || r >= s->in_h) {
            memset(band, 0, width * s->in * sizeof(float));
            continue;
        }
        memset(band, 0, side * sizeof(float));
        row_in(band + side, s->in, image, r, s->in_h, s->in_w, s->in, (int)s->last);
        memset(band + side + s->in_w * s->in, 0, side * sizeof(float));
    }
}
