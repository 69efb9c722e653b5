/* A convolution is a matrix product: weights (outputs, channels * kernel) times the patches, one column for each output
 * pixel. The patch matrix is never stored; its panels are gathered from the image when the product needs them. */

#ifndef IMAGE
#define IMAGE
struct image { size_t channels, height, width; };
struct steps { size_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x; };
#endif

/* panel (depth, PANEL): rows k, k + 1 and so on of the patch matrix, whose columns begin at the given corners. */
#define gather_patches NAME(gather_patches)
static void gather_patches(const real *from, struct image n, struct steps by, const size_t *corner, size_t k, size_t depth,
                           real *panel) {
    int adjacent = corner[PANEL - 1] == corner[0] + PANEL - 1;
    size_t j = k % by.kernel_width, i = k / by.kernel_width % by.kernel_height;
    size_t channel = k / by.kernel_width / by.kernel_height;
    for (real *end = panel + depth * PANEL; panel < end; panel += PANEL) {
        const real *tap = from + (channel * n.height + i * by.dilation_y) * n.width + j * by.dilation_x;
        if (adjacent) {
            for (size_t p = 0; p < PANEL; p += LANES) store(panel + p, load(tap + corner[0] + p));
        } else {
            for (size_t p = 0; p < PANEL; p++) panel[p] = tap[corner[p]];
        }
        if (++j == by.kernel_width) j = 0, i++;
        if (i == by.kernel_height) i = 0, channel++;
    }
}

/* out (batch, groups * outputs, out_height, out_width) += the convolution of x (batch, groups * channels, height, width),
 * padded already, with w (groups * outputs, channels, kernel_height, kernel_width). n and by hold the fields of the
 * structs above; channels and outputs are those of one group. */
EXPORT NAME(conv2d)(const real *x, const real *w, const size_t *n, const size_t *by, size_t batch, size_t groups,
                    size_t outputs, size_t out_height, size_t out_width, real *out) {
    struct image image = {n[0], n[1], n[2]};
    struct steps steps = {by[0], by[1], by[2], by[3], by[4], by[5]};
    size_t depth = image.channels * steps.kernel_height * steps.kernel_width, pixels = out_height * out_width;
    real panel[DEPTH * PANEL];
    size_t corner[PANEL]; /* where the patch of a pixel begins; after the last pixel it is repeated */
    for (size_t i = 0; i < batch * groups; i++) {
        const real *from = x + i * image.channels * image.height * image.width;
        const real *weights = w + i % groups * outputs * depth;
        for (size_t pixel = 0; pixel < pixels; pixel += PANEL) {
            for (size_t p = 0; p < PANEL; p++) {
                size_t at = smaller(pixel + p, pixels - 1);
                corner[p] = at / out_width * steps.stride_y * image.width + at % out_width * steps.stride_x;
            }
            for (size_t k = 0; k < depth; k += DEPTH) {
                size_t part = smaller(DEPTH, depth - k);
                gather_patches(from, image, steps, corner, k, part, panel);
                multiply_panel(weights + k, depth, panel, outputs, part, pixels - pixel, out + i * outputs * pixels + pixel,
                               pixels);
            }
        }
    }
}
