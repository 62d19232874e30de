"""The products of one stack of groups for some output rows of a block of samples.

What is kept here holds scratch arrays, but not the workspace that keeps it.
"""

from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import matmul, scratch
from gpucnn.backends.cpu.small_products import in_chunks, pieces, pieces_by_rows

FEWEST_SAMPLES_APART = 64  # of products that are written pixel by pixel
MOST_APART = 900_000       # multiply-adds of such a product


class _Factors:
    """What all passes multiply: the stack's matrices, and the rows of its output maps. Maps come as
    bands (out_maps, *cell, rows of cells, cells of a row, samples)."""

    def __init__(self, columns, stack, rows, samples):
        self._columns = columns
        self.stack = stack
        self._rows = rows
        self._count = rows.stop - rows.start
        self._pixels = self._count, columns.out_size[1], samples
        self._groups, self._n_rows, self._depth = stack.matrices.shape

    def _scratch(self, workspace, name, shape):
        return scratch(workspace, f"conv2d.{name}", shape, self.stack.matrices.dtype)

    def dz(self, band, workspace):
        """Calls that bring a band of dz, contiguous if the stack's maps are gathered from it, to
        matrices (groups, outputs * pixels of a cell, pixels * samples), and these as the windows'
        are multiplied."""
        stack, calls = self.stack, []
        if stack.outputs is None:
            maps = self._scratch(workspace, "chosen_dz", (len(stack.output_maps), *band.shape[1:]))
            calls.append((_choose, band, stack.output_maps, maps))
        else:
            maps = band[stack.outputs]
            if not maps.flags.c_contiguous:
                calls.append((np.copyto, self._scratch(workspace, "chosen_dz", maps.shape), maps))
                maps = calls[-1][1]
        matrices = maps.reshape(self._groups, self._n_rows, prod(self._pixels), copy=False)
        return calls, self._columns.pieces(matrices, self._count)


class Band(_Factors):
    """Windows copied to columns, forward and for the gradient by the weights."""

    def __init__(self, columns, stack, rows, samples, workspace):
        super().__init__(columns, stack, rows, samples)
        self._copies = columns.copies(self._groups, stack.n_inputs, self._count, samples,
                                      stack.matrices.dtype, workspace)
        self._factor = columns.matrices(self._copies)
        self._matrices = _with_rows(stack.matrices, self._factor)

    def convolving(self, source, band, workspace):
        """A function (read, written) that writes the stack's maps of an output band."""
        fill = self.filling(source, workspace)
        multiply, put = self._writing(band, workspace)

        def convolve(read, written):
            fill(read)
            multiply(written)
            if put is not None:
                put(written)

        return convolve

    def adding(self, factor, workspace):
        """A function (gradients) that adds the gradient by the matrices that the columns and those
        of dz give, transposed: BLAS is quicker with few columns than with few rows."""
        terms = self._scratch(workspace, "gradient_terms", (*self._factor.shape[:-1], self._n_rows))
        calls = [(matmul, *some) for some in pieces_by_rows(self._factor, factor, terms)]
        if terms.ndim == 4:
            total = self._scratch(workspace, "gradient_term", (
                self._groups, self._depth, self._n_rows))
            calls.append((np.add.reduce, terms, 1, None, total))
            terms = total
        number, part = self.stack.number, self.stack.part

        def add(gradients):
            run(calls)
            gradients[number][part] += terms

        return add

    def filling(self, source, workspace):
        """A function (read) that brings the windows of those samples to the columns."""
        stack, copies = self.stack, self._copies
        if isinstance(stack.inputs, slice):
            windows = self._columns.windows(source[stack.inputs], self._groups, self._rows)
            return lambda read: np.copyto(copies, windows[..., read])
        chosen = self._scratch(workspace, "chosen_x", (len(stack.inputs), *source.shape[1:]))
        windows = self._columns.windows(chosen, self._groups, self._rows)

        def fill(read):  # all samples: the source is contiguous
            _choose(source, stack.inputs, chosen)
            np.copyto(copies, windows)

        return fill

    def _writing(self, band, workspace):
        """A function (written) that multiplies and, if that leaves it to be done, one that brings
        the product to the stack's maps of a band."""
        stack, samples = self.stack, self._pixels[-1]
        maps = None if stack.outputs is None else band[stack.outputs]
        rows = _reshaped(maps, (self._groups, self._n_rows, *band.shape[3:]))
        if rows is not None and band.shape[-1] == samples:
            together = _reshaped(rows, (self._groups, self._n_rows, -1))
            if together is not None:
                return self._multiplying(together), None
        multiply = self._multiplying_by_pixel(rows)
        if multiply is not None:
            return multiply, None
        result = self._scratch(workspace, "product", (
            self._groups, self._n_rows, prod(self._pixels)))
        by_map = result.reshape(-1, *band.shape[1:-1], samples, copy=False)
        if maps is not None:
            return self._multiplying(result), lambda written: np.copyto(maps[..., written], by_map)

        def put(written):
            band[..., written][stack.output_maps] = by_map

        return self._multiplying(result), put

    def _multiplying(self, out):
        """A function (written) that multiplies, to matrices (groups, outputs * pixels of a cell,
        pixels * samples)."""
        left, right, out = pieces(self._matrices, self._factor,
                                  self._columns.pieces(out, self._count))
        return lambda written: matmul(left, right, out=out)

    def _multiplying_by_pixel(self, rows):
        """The same pixel by pixel, to rows (groups, outputs, rows of cells, cells of a row,
        samples) of which a block's samples lie apart; None where that is not possible or slow."""
        if rows is None or not self._is_small_by_pixel:
            return None
        right = in_chunks(self._factor, self._factor.shape[-1] // self._pixels[-1])
        left, pixels = self._matrices[..., None, :, :], rows.transpose(0, 2, 3, 1, 4)
        out = _reshaped(pixels, (*right.shape[:-2], *pixels.shape[-2:]))
        return None if out is None else lambda written: matmul(left, right, out=out[..., written])

    @property
    def _is_small_by_pixel(self):
        samples = self._pixels[-1]
        return (samples >= FEWEST_SAMPLES_APART
                and self._n_rows * self._depth * samples <= MOST_APART)


class GradBand(_Factors):
    """Columns' gradients from the matrices of dz."""

    def multiplying(self, factor, workspace):
        """A call (function, *arguments), and what it sets: the gradient by the columns."""
        grad_columns = self._scratch(workspace, "grad_columns", (
            *factor.shape[:-2], self._depth, factor.shape[-1]))
        matrices = _with_rows(self.stack.matrices.swapaxes(1, 2), factor)
        return (matmul, *pieces(matrices, factor, grad_columns)), grad_columns


def run(calls):
    """Call all of (function, *arguments)."""
    for call, *arguments in calls:
        call(*arguments)


def _choose(maps, indices, out):
    """out = maps[indices], which are in range."""
    np.take(maps, indices, axis=0, out=out, mode="clip")


def _with_rows(matrices, factor):
    """Matrices (groups, rows, depth) with an axis for output rows, if `factor` has one."""
    return matrices if factor.ndim == 3 else matrices[:, None]


def _reshaped(array, shape):
    """A view of that shape, or None where it takes a copy or there is no array."""
    try:
        return None if array is None else array.reshape(shape, copy=False)
    except ValueError:
        return None
