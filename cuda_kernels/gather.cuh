// One pixel of a gathered image: where it lies in the data set, or the background.

// How an image of height x width lies in a larger one: centred, then moved.
struct Placement {
    int top, left;
    __device__ Placement(int height, int width, int out_height, int out_width, const int *shift)
        : top((out_height - height) / 2 + (shift ? shift[0] : 0)),
          left((out_width - width) / 2 + (shift ? shift[1] : 0)) {}
};

// The place of what lies under (y, x) of the larger image, among the pixels of a small one's maps; or -1.
__device__ __forceinline__ long long placed(int map, int height, int width, Placement placement, int y, int x) {
    const int from_y = y - placement.top, from_x = x - placement.left;
    const bool inside = from_y >= 0 && from_y < height && from_x >= 0 && from_x < width;
    return inside ? ((long long)map * height + from_y) * width + from_x : -1;
}

// value(pixel) of a map's pixel under (y, x) of the larger image, or `background`.
template <typename Pixel, typename T, typename Value>
__device__ __forceinline__ T placed_pixel(const Pixel *map, int height, int width, Placement placement, int y,
                                          int x, T background, Value value) {
    const long long from = placed(0, height, width, placement, y, x);
    return from >= 0 ? value(map[from]) : background;
}
