"""Whether the gradients of matrix layers are summed over the whole batch at once, by update.cu, or
a share of the samples at a time, by matrix_partials.cu before it.

Cycles are those of one multiprocessor, counted by hand for an H100; LeNet-5 (58,920 weights) is the
example:

- Whole, a 16 x 32 tile: a sample takes 512 multiply-adds, 4 cycles, and 192 bytes from L2, 8 cycles
  at what one of 132 multiprocessors gets. A lone block has 8 warps x 8 samples in flight, 12 KB in
  the 600-700 cycles that L2 takes: 10 cycles a sample. LeNet-5 has 131 tiles: 64 samples take
  0.4 us, 256 take 1.5 us, 1024 take 6 us.
- Shares, a 128 x 64 tile: a sample takes 8192 multiply-adds, 64 cycles, at three quarters of the
  FMA pipe 85 (64 of 70 instructions of the inner loop multiply, a barrier comes every 16 samples);
  on tensor cores 16, but 768 bytes from L2, 32. Over all 132 multiprocessors LeNet-5 comes to 6
  cycles a sample, in TF32 to 2.5.
- Shares also take a launch (1 us), the first loads and the last stores of a block (1.5 us), and the
  rows of partial sums through L2 and back: 27 x 59,000 reals, 2.3 us.

So LeNet-5 goes whole up to 2048 samples and in shares from 4096 on, at 16384 64 us instead of 93;
in TF32 from 2048 on, at 16384 28 us.
"""

from dataclasses import dataclass

STEP = 16                  # samples that matrix_partials.cu has in shared memory
LEAST_SAMPLES = 64         # of a share
TILE_IN = 64
WHOLE_TILE = (16, 32)
WHOLE_CYCLES = 10          # a sample of a whole tile
L2_BYTES = 24              # a cycle
FMA = 128 * 0.75           # multiply-adds a cycle
TENSOR_CORES = 512
# By how much a tile of 16 * rows outputs is slower for its loads from shared memory.
SLOWER = {8: 1.0, 4: 1.15, 2: 1.6, 1: 2.5}
FIXED_CYCLES = 4500        # launch, first loads, last stores
BLOCKS_AT_ONCE = 2         # on a multiprocessor


@dataclass(frozen=True)
class Shares:
    """One matrix in `count` shares of `samples` samples; `rows` is its ROWS in matrix_partials.cu.
    """

    count: int
    samples: int
    rows: int

    def blocks(self, matrix):
        """The blocks of matrix_partials.cu."""
        return self.count * tiles(matrix, (16 * self.rows, TILE_IN))


def plan_shares(matrices, batch_size, itemsize, tensor_cores, multiprocessors, count=None):
    """The `Shares` of each of matrices [(outputs, columns), ...], or None where the whole batch at
    once is quicker. A `count` of shares, 0 for none, is taken as it is."""
    if not matrices or count == 0:
        return None
    rows = [_best_rows(outputs, itemsize, tensor_cores) for outputs, _ in matrices]
    if count is not None:
        return [_in_shares(batch_size, -(-batch_size // count), r) for r in rows]
    cycles = [_tile_cycles(r, itemsize, tensor_cores) for r in rows]
    work = sum(tiles(matrix, (16 * r, TILE_IN)) * c
               for matrix, r, c in zip(matrices, rows, cycles, strict=True))
    # all blocks run at the same time and take the same time: a smaller tile takes more samples
    room = BLOCKS_AT_ONCE * multiprocessors
    samples = max(LEAST_SAMPLES, int(batch_size * work / (max(cycles) * room)))
    while True:
        samples = -(-samples // STEP) * STEP
        shares = [_in_shares(batch_size, int(samples * max(cycles) / c), r)
                  for r, c in zip(rows, cycles, strict=True)]
        blocks = sum(each.blocks(matrix) for matrix, each in zip(matrices, shares, strict=True))
        if blocks <= room or samples >= batch_size:
            break
        samples += STEP
    elements = sum(2 * each.count * outputs * columns
                   for each, (outputs, columns) in zip(shares, matrices, strict=True))
    shared = (FIXED_CYCLES + elements * itemsize / (L2_BYTES * multiprocessors)
              + -(-blocks // multiprocessors) * samples * max(cycles))
    whole_tiles = sum(tiles(matrix, WHOLE_TILE) for matrix in matrices)
    whole = batch_size * WHOLE_CYCLES * max(1.0, whole_tiles / multiprocessors)
    return shares if shared < whole else None


def _in_shares(batch_size, samples, rows):
    samples = -(-min(samples, batch_size) // STEP) * STEP
    return Shares(-(-batch_size // samples), samples, rows)


def tiles(matrix, tile):
    """How many tiles cover a matrix, both as (outputs, columns)."""
    return -(-matrix[0] // tile[0]) * -(-matrix[1] // tile[1])


def _best_rows(outputs, itemsize, tensor_cores):
    """The tile height that takes the fewest cycles. Doubles take half of the
    largest, as they take two registers each."""
    return min((r for r in SLOWER if itemsize == 4 or r < 8),
               key=lambda r: -(-outputs // (16 * r)) * _tile_cycles(r, itemsize, tensor_cores))


def _tile_cycles(rows, itemsize, tensor_cores):
    """A sample of a tile of 16 * rows x TILE_IN parameters."""
    products = 16 * rows * TILE_IN
    busy = products / TENSOR_CORES if tensor_cores else products / FMA * SLOWER[rows]
    return max(busy, (16 * rows + TILE_IN) * itemsize / L2_BYTES)
