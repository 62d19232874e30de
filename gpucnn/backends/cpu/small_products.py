"""Matrix products cut into pieces that OpenBLAS computes without copying its factors first.

It has a path for small products that is up to three times as fast where one side is short. What
counts as small was found by timing products of many shapes; results are the same but for rounding.
"""

from gpucnn.backends.cpu.arrays import matmul

SMALL_PRODUCT = 900_000  # multiply-adds
SMALL_RESULT = 1_200     # numbers, of a product with a factor that is read along its rows
SHORTEST_CHUNK = 128     # columns
FEWEST_ROWS = 24         # of a piece of that
MOST_SPLIT_COLUMNS = 48  # of that; with more, pieces would have too few rows


def multiply(left, right, out):
    """out = left @ right, stacks of (rows, depth) and (depth, columns), in chunks of columns."""
    rows, depth = left.shape[-2:]
    columns = right.shape[-1]
    chunk = SMALL_PRODUCT // (rows * depth)
    if chunk < SHORTEST_CHUNK:
        chunk = max(1, columns)
    for first in range(0, columns, chunk):
        some = slice(first, first + chunk)
        matmul(left, right[..., some], out=out[..., some])
    return out


def multiply_by_rows(left, right, out):
    """out = left @ the transpose of right, stacks of (rows, depth) and (columns, depth), in chunks
    of rows of the result."""
    rows, depth = left.shape[-2:]
    columns = right.shape[-2]
    chunk = rows
    if columns <= MOST_SPLIT_COLUMNS:
        chunk = max(1, SMALL_RESULT // columns)
        small = SMALL_PRODUCT // (columns * max(1, depth))
        if small >= FEWEST_ROWS:
            chunk = min(chunk, small)
    right = right.swapaxes(-1, -2)
    for first in range(0, rows, chunk):
        some = slice(first, first + chunk)
        matmul(left[..., some, :], right, out=out[..., some, :])
    return out
