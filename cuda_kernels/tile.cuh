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
