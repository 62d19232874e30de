"""Matrix products cut into pieces that OpenBLAS computes without copying its factors first.

With AVX-512 it has a path for small products that is up to three times as fast where one side is
short. What counts as small was found by timing products of many shapes; results are the same but
for rounding. Other cores copy the factors of every product, and nothing is cut for them.
"""

import sys

from gpucnn.backends.cpu.arrays import matmul
from gpucnn.backends.cpu.vectors import has_avx512

SMALL_PRODUCT = 900_000 if has_avx512() else sys.maxsize  # multiply-adds
SMALL_RESULT = 1_200 if has_avx512() else sys.maxsize     # numbers; a factor is read along rows
SHORTEST_CHUNK = 128     # columns
CHUNK_STEP = 16          # columns that chunks are multiples of: they fill the widest vectors
FEWEST_ROWS = 24         # of a piece of that
MOST_SPLIT_COLUMNS = 48  # of that; with more, pieces would have too few rows


def multiply(left, right, out):
    """out = left @ right, stacks of (rows, depth) and (depth, columns), in equal chunks of columns
    if some number of them fits. All are one call of NumPy: between calls threads that share
    Python's lock wait for it."""
    matmul(*pieces(left, right, out))
    return out


def pieces(left, right, out):
    """The factors and the result that `multiply` gives to that call."""
    rows, depth = left.shape[-2:]
    count = _chunk_count(right.shape[-1], SMALL_PRODUCT // (rows * depth))
    if count == 1:
        return left, right, out
    return left[..., None, :, :], in_chunks(right, count), in_chunks(out, count)


def _chunk_count(columns, most):
    """The smallest number of equal chunks of at most `most` columns, 1 where none fits."""
    if most < SHORTEST_CHUNK:
        return 1
    return next((count for count in range(-(-columns // most), columns // SHORTEST_CHUNK + 1)
                 if columns % count == 0 and columns // count % CHUNK_STEP == 0), 1)


def in_chunks(matrices, count):
    """A view (..., count, rows, columns of a chunk) of matrices (..., rows, columns)."""
    chunks = matrices.reshape(*matrices.shape[:-1], count, -1, copy=False)
    return chunks.swapaxes(-3, -2)


def multiply_by_rows(left, right, out):
    """out = left @ the transpose of right, stacks of (rows, depth) and (columns, depth), in chunks
    of rows of the result."""
    for factor, turned, part in pieces_by_rows(left, right, out):
        matmul(factor, turned, part)
    return out


def pieces_by_rows(left, right, out):
    """The factors and results of the calls that `multiply_by_rows` takes."""
    rows, depth = left.shape[-2:]
    columns = right.shape[-2]
    chunk = rows
    if columns <= MOST_SPLIT_COLUMNS:
        chunk = max(1, SMALL_RESULT // columns)
        small = SMALL_PRODUCT // (columns * max(1, depth))
        if small >= FEWEST_ROWS:
            chunk = min(chunk, small)
    right = right.swapaxes(-1, -2)
    parts = [slice(first, first + chunk) for first in range(0, rows, chunk)]
    return [(left[..., some, :], right, out[..., some, :]) for some in parts]
