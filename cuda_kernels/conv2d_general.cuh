// A batch of maps cut into tiles of TILE_SAMPLES x TILE_HEIGHT x TILE_WIDTH pixels.
//
// Included behind constants.h. One tile shape takes pixels of one large map, another the single
// pixels of many samples; the host picks the one that wastes least.

constexpr int TILE_PIXELS = TILE_SAMPLES * TILE_HEIGHT * TILE_WIDTH;

// Which pixel of its tile has number `i`.
struct TilePixel {
    int sample, row, column;
    __device__ explicit TilePixel(int i)
        : sample(i / (TILE_HEIGHT * TILE_WIDTH)), row(i / TILE_WIDTH % TILE_HEIGHT),
          column(i % TILE_WIDTH) {}
};

// The first pixel of a tile.
struct TileOrigin {
    int sample, row, column;
};

// The reals between one sample's staged window and the next: odd, so that lanes on other samples hit
// other banks.
__host__ __device__ constexpr int sample_stride(int height, int width) { return (height * width) | 1; }

// Stages the windows of HEIGHT x WIDTH pixels that a tile needs of each of `maps` maps, by all threads:
// staged[map][sample][row][column] = pixel(map, sample, row, column), samples at sample_stride.
template <int THREADS, int HEIGHT, int WIDTH, typename Pixel>
__device__ void stage(real *staged, int maps, Pixel pixel) {
    for (int i = threadIdx.x; i < maps * TILE_SAMPLES * HEIGHT * WIDTH; i += THREADS) {
        const int column = i % WIDTH, row = i / WIDTH % HEIGHT;
        const int sample = i / (WIDTH * HEIGHT) % TILE_SAMPLES, map = i / (WIDTH * HEIGHT * TILE_SAMPLES);
        staged[(map * TILE_SAMPLES + sample) * sample_stride(HEIGHT, WIDTH) + row * WIDTH + column] =
            pixel(map, sample, row, column);
    }
}

struct TileGrid {
    int samples, rows, columns;  // how many tiles along each axis
    __device__ TileGrid(int n, int height, int width)
        : samples((n + TILE_SAMPLES - 1) / TILE_SAMPLES), rows((height + TILE_HEIGHT - 1) / TILE_HEIGHT),
          columns((width + TILE_WIDTH - 1) / TILE_WIDTH) {}
    __device__ int tiles() const { return samples * rows * columns; }
    __device__ TileOrigin origin(int tile) const {
        return {tile / (rows * columns) * TILE_SAMPLES, tile / columns % rows * TILE_HEIGHT,
                tile % columns * TILE_WIDTH};
    }
};
