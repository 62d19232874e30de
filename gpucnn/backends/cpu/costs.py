"""What the ways to compute a convolution through a table are estimated to cost on this machine.

Each method gives seconds for one group of maps and one sample. Only their proportions matter: they
decide which way is taken.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from gpucnn.backends.cpu.rows import window_rows
from gpucnn.backends.cpu.vectors import has_avx512


@dataclass(frozen=True)
class Costs:
    """What an estimate counts with, in seconds but for the `extra` ones.

    A product takes as long as with so many more rows, and so much longer sums: what it reads and
    writes takes time, too. BLAS computes `row_step` rows in the time of one; with a single row it
    multiplies a vector, and reads each number of the matrix once.
    """

    multiply_add: float
    row_step: int
    extra_rows: float
    extra_depth: float
    extra_rows_by_rows: float   # of factors that lie apart in memory
    extra_depth_by_rows: float
    sum_multiply_add: float     # of products whose sums run over all pixels
    extra_rows_of_sums: float
    extra_columns_of_sums: float
    long_sums: float            # times as long takes one that runs over more than an output row
    vector_number: float
    product: float              # a call of BLAS
    call: float                 # of NumPy
    moved_number: float         # to columns; added_number when it is added back
    added_number: float
    summed_number: float        # added in a run that is long; sum_call for each
    sum_call: float
    gathered_number: float      # of output maps
    row_number: float           # moved by rows; chosen_number if maps are chosen
    chosen_number: float
    run: float                  # of numbers that lie together

    def forward_by_columns(self, convolution, n_inputs, n_outputs, samples, shares_lines):
        """Columns copied, and a product by them: the seconds of a group, and the calls of NumPy for
        as many groups as are computed at once."""
        depth, pixels = n_inputs * convolution.area, _pixels(convolution)
        return (self._product(n_outputs, depth, pixels)
                + self._copies(convolution, n_inputs, n_outputs, samples, shares_lines)), 4

    def weight_by_columns(self, convolution, n_inputs, n_outputs, samples, shares_lines):
        """The same, and of shared lines the gradients of all output rows added up."""
        depth, pixels = n_inputs * convolution.area, _pixels(convolution)
        seconds = self._copies(convolution, n_inputs, n_outputs, samples, shares_lines)
        product = self._product_of_sums(depth, n_outputs, pixels)
        if shares_lines:
            return seconds + product + self._matrices(convolution, n_outputs, depth, samples), 4
        return seconds + self.long_sums * product, 4

    def backward_by_columns(self, convolution, n_inputs, n_outputs, samples, shares_lines):
        """A product that gives the columns' gradient, and its addition: by phases of the stride, or
        by lines and then by shifts."""
        depth, pixels = n_inputs * convolution.area, _pixels(convolution)
        seconds = self._product(depth, n_outputs, pixels)
        if shares_lines:
            steps = convolution.kernel[0] / convolution.stride[0] + convolution.kernel[1]
            lines = _line_numbers(convolution, n_inputs) * self._moved(convolution, samples)
            return (seconds + self._matrices(convolution, n_outputs, depth, samples)
                    + depth * pixels * self.added_number + 2 * lines), 3 + steps
        added = self.added_number + 2 * self.run / (samples * convolution.out_size[1])
        return seconds + depth * pixels * added, 2 + 2 * convolution.area / prod(convolution.stride)

    def by_input(self, convolution, fan_out, out_maps, samples, bands):
        """Each input map's lines copied, multiplied for as many output maps as its `fan_out`, and
        added, all in so many bands of rows; and the outputs' sums put where they belong."""
        pixels, fan_out = _pixels(convolution), fan_out[fan_out > 0]
        product = sum(count * self._product(rows, convolution.area, pixels) for rows, count
                      in zip(*map(np.ndarray.tolist, np.unique(fan_out, return_counts=True)),
                             strict=True))
        n_inputs, n_connections = len(fan_out), int(fan_out.sum())
        lines = _line_numbers(convolution, n_inputs) * self._moved(convolution, samples)
        calls = (bands * (n_inputs * 2 * self.call + n_connections * self.sum_call)
                 + n_inputs * convolution.out_size[0] * self.product)
        sums = (n_connections + out_maps) * pixels * self.summed_number
        return product + lines + sums + calls / samples

    def moving_cells(self, convolution, cell, n_outputs, samples):
        """Pixels of output cells that are put where they belong, or fetched from there."""
        if cell == (1, 1):
            return 0.0
        run = samples * (convolution.out_size[1] if cell[1] == 1 else 1)
        return n_outputs * _pixels(convolution) * (self.moved_number + self.run / run)

    def gathering(self, convolution, n_outputs):
        """Output maps brought together that lie apart."""
        return n_outputs * _pixels(convolution) * self.gathered_number

    def by_rows(self, convolution, n_inputs, n_outputs, lines, *, moves, chooses):
        """A product by rows for `lines` output rows at a time, what it gives moved so many times,
        and the rows of maps that have to be chosen."""
        rows, depth = convolution.kernel[1] * n_outputs * lines, n_inputs * window_rows(
            convolution, lines)
        pixels = convolution.out_size[0] // lines * convolution.padded_size[1]
        product = self.multiply_add * ((rows + self.extra_rows_by_rows)
                                       * (depth + self.extra_depth_by_rows) * pixels)
        return (product + (1 + moves) * rows * pixels * self.row_number
                + chooses * depth * pixels * self.chosen_number)

    def copying_rows(self, convolution, in_maps, lines):
        """All maps' rows copied, for `lines` output rows at a time."""
        pixels = convolution.out_size[0] // lines * convolution.padded_size[1]
        return in_maps * window_rows(convolution, lines) * pixels * self.row_number

    def _copies(self, convolution, n_inputs, n_outputs, samples, shares_lines):
        """Columns copied, and what products of shared lines cost besides."""
        depth = n_inputs * convolution.area
        if not shares_lines:
            return (depth * _pixels(convolution) * self._moved(convolution, samples)
                    + self.product / samples)
        return (_line_numbers(convolution, n_inputs) * self._moved(convolution, samples)
                + self._matrices(convolution, n_outputs, depth, samples))

    def _matrices(self, convolution, n_outputs, depth, samples):
        """BLAS is called, and brings a matrix into its own form, for each output row."""
        return (convolution.out_size[0]
                * (self.product + n_outputs * depth * self.moved_number) / samples)

    def _moved(self, convolution, samples):
        """The time that a number takes to be copied to a column."""
        run = samples * (convolution.out_size[1] if convolution.stride[1] == 1 else 1)
        return self.moved_number + self.run / run

    def _product(self, rows, depth, columns):
        if rows == 1:
            return self.vector_number * depth * columns
        return self.multiply_add * ((self._in_steps(rows) + self.extra_rows)
                                    * (depth + self.extra_depth) * columns)

    def _product_of_sums(self, rows, columns, depth):
        if 1 in (rows, columns):
            return self.vector_number * rows * columns * depth
        return self.sum_multiply_add * ((self._in_steps(rows) + self.extra_rows_of_sums)
                                        * (columns + self.extra_columns_of_sums) * depth)

    def _in_steps(self, rows):
        return -(-rows // self.row_step) * self.row_step


# Fitted to the times of all ways for several dozen tables, three passes each, on one thread: the
# first on an AMD EPYC of family 25, model 1, where what is taken takes 5 per cent longer than the
# quickest, on average, and 1.6 times at worst; the second on model 17 (6 per cent, 2.1 times), but
# for inputs by themselves and cells of 2x1, whose cost is a guess there. `sum_call` is what makes
# two threads choose well, which wait for each other: one alone adds in a fifth of it. What AVX2 has
# for sums was fitted later, to 17 products by themselves (0.8 to 1.25 of their times).
AVX2 = Costs(
    multiply_add=1 / 31e9, row_step=4, extra_rows=3, extra_depth=6.1, extra_rows_by_rows=14.6,
    extra_depth_by_rows=46, sum_multiply_add=1 / 43e9, extra_rows_of_sums=5.8,
    extra_columns_of_sums=18.5, long_sums=0.95, vector_number=0.074e-9, product=0.35e-6, call=3e-6,
    moved_number=0.33e-9, added_number=1.07e-9, summed_number=0.24e-9, sum_call=6e-6,
    gathered_number=0.21e-9, row_number=0.046e-9, chosen_number=0.55e-9, run=10.8e-9)
AVX512 = Costs(
    multiply_add=1 / 60e9, row_step=1, extra_rows=1.5, extra_depth=17, extra_rows_by_rows=10,
    extra_depth_by_rows=17, sum_multiply_add=1 / 60e9, extra_rows_of_sums=17,
    extra_columns_of_sums=1.5, long_sums=1.1, vector_number=0.045e-9, product=0, call=2e-6,
    moved_number=0.33e-9, added_number=0.2e-9, summed_number=0.3e-9, sum_call=6e-6,
    gathered_number=0, row_number=0.07e-9, chosen_number=1.1e-9, run=5e-9)


def costs_here():
    """Those of this machine."""
    return AVX512 if has_avx512() else AVX2


def _line_numbers(convolution, n_inputs):
    """Numbers of all lines."""
    lines = (convolution.out_size[0] - 1) * convolution.stride[0] + convolution.kernel[0]
    return lines * n_inputs * convolution.kernel[1] * convolution.out_size[1]


def _pixels(convolution):
    return convolution.out_size[0] * convolution.out_size[1]
