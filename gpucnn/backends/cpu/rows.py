"""A convolution as products of whole rows of pixels, which are shifted afterwards.

Columns hold every pixel kernel area times. Here a matrix holds rows of the input as they lie in
memory, each only for the `lines` output rows that are computed together: its rows are (input map,
row of the window), its columns the pixels of a row. A product by the weights (kernel column,
output map, line) gives for each kernel column what that column's weights contribute, at every
pixel of the row; added up, each shifted by its column, that is the output. Products with few output
maps so have kernel width * lines times as many rows, which BLAS needs to be quick.
"""

from math import prod

import numpy as np

from gpucnn.backends.cpu.arrays import scratch
from gpucnn.backends.cpu.memory import zeros
from gpucnn.backends.cpu.small_products import multiply, multiply_by_rows

# More than a core's L2 cache holds: the calls for small groups cost more than slower memory does.
ROWS_BYTES = 2 * 1024 * 1024   # of input rows of all maps
GROUP_BYTES = 2 * 1024 * 1024  # of rows and products of the groups that are computed at once
LINE = 16                      # numbers of float32 in a line of the cache


class RowProducts:
    """The products of a table's `Groups` by rows. Load weights before use."""

    cell = (1, 1)
    reads_any_strides = writes_any_strides = False

    def __init__(self, convolution, groups, lines, dtype):
        self._convolution = convolution
        self._lines = lines
        self._reach = window_rows(convolution, lines)
        self.parts = [_Part(convolution, one, lines, self._reach, dtype) for one in groups]
        self._most_rows = max(sum(part.shape) for part in self.parts)

    def load(self, weight):
        """Compute with these weights (n_connections, *kernel) from now on."""
        for part in self.parts:
            part.load(weight)

    def forward(self, samples, workspace):
        """What convolves blocks of so many samples."""
        return _Forward(self)

    def weight_gradient(self, dz, workspace):
        """What gives the gradient by the weights, from an array that holds blocks' dz."""
        return _WeightGradient(self, dz)

    def input_gradient(self, dz, maps, workspace):
        """What gives that by an input of so many maps."""
        return _InputGradient(self, dz)

    def no_gradient(self):
        """Arrays for a block's gradient to be added to."""
        return [part.no_gradient() for part in self.parts]

    def finish_gradient(self, gradients, grad_weight):
        """Write gradients that are complete into grad_weight."""
        for part, gradient in zip(self.parts, gradients, strict=True):
            part.finish_gradient(gradient, grad_weight)

    def bands(self, source):
        """Slices of output rows, and a view (maps, window rows, steps, width, samples) of the
        input rows of each; one step is `lines` output rows."""
        maps, _, width, samples = source.shape
        lines, step = self._lines, self._lines * self._convolution.stride[0]
        steps = self._convolution.out_size[0] // lines
        row_bytes = max(1, width * samples * source.itemsize)
        at_once = max(1, min(steps, ROWS_BYTES // (maps * self._reach * row_bytes),
                             GROUP_BYTES // (self._most_rows * row_bytes)))
        one_map, row, pixel, sample = source.strides
        for first in range(0, steps, at_once):
            count = min(at_once, steps - first)
            yield (slice(first * lines, (first + count) * lines),
                   np.ndarray((maps, self._reach, count, width, samples), source.dtype, source,
                              first * step * row, (one_map, row, step * row, pixel, sample)))


class _Lane:
    """Blocks of samples by `RowProducts`, in scratch arrays of a workspace. What it gives are
    functions of a block, as those by columns; but maps are C-contiguous, and all their samples are
    read and written."""

    def __init__(self, products, dz=None):
        self._products = products
        self._dz = dz

    def _bands(self, source, workspace):
        """Slices of output rows, and the `_Rows` of the input that each needs."""
        for rows, by_row in self._products.bands(source):
            maps, reach = by_row.shape[:2]
            copied = _Rows(maps, reach, by_row.shape[2:], "conv2d.rows", source.dtype, workspace)
            np.copyto(copied.by_pixel(maps, reach), by_row)
            yield rows, copied


class _Forward(_Lane):
    """Convolves."""

    def on(self, source, target, workspace):
        """A function that convolves source (maps, height, width, samples) into target (out_maps,
        out_height, out_width, samples); it yields slices of output rows as they are done."""
        def convolve(read, written):
            for rows, by_map in self._bands(source, workspace):
                for part in self._products.parts:
                    part.forward(by_map, target[:, rows], workspace)
                yield rows

        return convolve


class _WeightGradient(_Lane):
    """The gradient by the weights."""

    def on(self, source, workspace):
        """A function that adds it to `gradients`."""
        def add(read, gradients):
            for rows, by_map in self._bands(source, workspace):
                for part, gradient in zip(self._products.parts, gradients, strict=True):
                    part.add_gradient(by_map, self._dz[:, rows], gradient, workspace)

        return add


class _InputGradient(_Lane):
    """The gradient by the input, no map of which may be in two groups of one shape."""

    def on(self, target, workspace):
        """A function that sets target (maps, height, width, samples), of the input with its
        padding."""
        def compute(written):
            target.fill(0)
            for rows, by_row in self._products.bands(target):
                for part in self._products.parts:
                    part.add_grad_input(self._dz[:, rows], by_row, workspace)

        return compute


class _Rows:
    """Rows of pixels, (groups, rows) of them, with a margin between them: at distances of a power
    of two, which widths and numbers of samples tend to have, all rows of a product would compete
    for the same lines of the cache. `pixels` is the shape (steps, width, samples) of a row."""

    def __init__(self, groups, rows, pixels, name, dtype, workspace):
        self.pixels = pixels
        self.length = prod(pixels)
        self.pitch = self.pitch_of(pixels)
        self.memory = scratch(workspace, name, (groups, rows * self.pitch), dtype)

    @staticmethod
    def pitch_of(pixels):
        """Numbers from one row to the next: an odd number of the cache's lines."""
        return LINE * (-(-prod(pixels) // LINE) | 1)

    def matrices(self, groups, rows, some=slice(None)):
        """(groups, rows, pixels); `some` picks from the groups of the memory."""
        return self.memory[some].reshape(groups, rows, self.pitch)[:, :, :self.length]

    def by_pixel(self, *shape):
        """(*shape, steps, width, samples)."""
        rows = self.memory.reshape(*shape, self.pitch)[..., :self.length]
        return rows.reshape(*shape, *self.pixels, copy=False)


class _Part:
    """`Groups` of one shape; their matrices are (groups, kernel width * outputs * lines,
    inputs * window rows)."""

    def __init__(self, convolution, groups, lines, reach, dtype):
        self._groups = groups
        self._lines = lines
        self._reach = reach
        self._kernel = convolution.kernel
        self._stride = convolution.stride
        self._out_width = convolution.out_size[1]
        count, n_outputs, n_inputs = groups.connections.shape
        self._shape = (count, self._kernel[1], n_outputs, lines, n_inputs, reach)
        self._matrix = zeros((count, prod(self._shape[1:4]), prod(self._shape[4:])), dtype)

    def load(self, weight):
        """Set the matrices, which are zero where no window reaches."""
        weights = np.moveaxis(self._groups.weights(weight), -1, 1)
        for window in self._lines_of(self._matrix.reshape(self._shape)):
            window[...] = weights

    @property
    def shape(self):
        """(rows, depth) of a matrix."""
        return self._matrix.shape[1:]

    def forward(self, rows, band, workspace):
        """Write the groups' maps of an output band (out_maps, rows, width, samples)."""
        by_line = self._by_line(band)
        for some, factors in self._in_turn(rows, workspace):
            product, (term, *terms), _ = self._product(len(factors), rows.pixels, factors.dtype,
                                                       workspace)
            multiply(self._matrix[some], factors, out=product)
            out = self._of_outputs(by_line, some)
            outputs = term if out is None else out
            if not terms and out is not None:
                np.copyto(outputs, term)
            for number, other in enumerate(terms):
                np.add(outputs if number else term, other, out=outputs)
            if out is None:
                by_line[self._groups.outputs[some]] = outputs

    def no_gradient(self):
        return np.zeros_like(self._matrix.swapaxes(1, 2), order="C")

    def add_gradient(self, rows, dz, gradient, workspace):
        """Add a band's gradient to `gradient` (groups, inputs * window rows, kernel width * outputs
        * lines): BLAS is quicker with few columns than with few rows."""
        by_line = self._by_line(dz)
        for some, factors in self._in_turn(rows, workspace):
            product = self._grad_product(by_line, some, rows.pixels, workspace)
            total = gradient[some]
            total += multiply_by_rows(factors, product, out=scratch(
                workspace, "conv2d.gradient_term", total.shape, total.dtype))

    def add_grad_input(self, dz, by_row, workspace):
        """Add a band's gradient to by_row (maps, window rows, steps, width, samples)."""
        by_line, n_inputs, depth = self._by_line(dz), self._shape[4], self._matrix.shape[2]
        pixels = by_row.shape[2:]
        for some in self._turns(_Rows.pitch_of(pixels) * dz.itemsize):
            product = self._grad_product(by_line, some, pixels, workspace)
            count = len(product)
            grad_rows = _Rows(count * n_inputs, self._reach, pixels, "conv2d.grad_rows", dz.dtype,
                              workspace)
            multiply(self._matrix[some].swapaxes(1, 2), product,
                     out=grad_rows.matrices(count, depth))
            terms = grad_rows.by_pixel(count * n_inputs, self._reach)
            inputs = _part_of(self._groups.input_run, some, n_inputs)
            for row in range(self._reach):  # for one row of the windows no pixel is there twice
                by_row[inputs, row] += terms[:, row]

    def _grad_product(self, by_line, some, pixels, workspace):
        """The gradient by the product of some groups: dz where each kernel column meets it."""
        product, terms, rests = self._product(some.stop - some.start, pixels, by_line.dtype,
                                              workspace)
        outputs = self._of_outputs(by_line, some)
        if outputs is None:
            outputs = by_line[self._groups.outputs[some]]
        for rest in rests:
            rest.fill(0)
        for term in terms:
            np.copyto(term, outputs)
        return product

    def finish_gradient(self, gradient, grad_weight):
        """Write a gradient that is complete into grad_weight."""
        gradient = gradient.swapaxes(1, 2).reshape(self._shape)
        total = sum(self._lines_of(gradient))
        self._groups.put_gradient(np.moveaxis(total, 1, -1), grad_weight)

    def _lines_of(self, matrix):
        """For each line, the part of a matrix (groups, kernel width, outputs, inputs, kernel
        height) that has its weights."""
        for line in range(self._lines):
            first = line * self._stride[0]
            yield matrix[:, :, :, line, :, first:first + self._kernel[0]]

    def _turns(self, row_bytes):
        """Slices of groups that are computed at once."""
        group_bytes = sum(self.shape) * row_bytes
        at_once = max(1, GROUP_BYTES // max(1, group_bytes))
        for first in range(0, len(self._matrix), at_once):
            yield slice(first, min(first + at_once, len(self._matrix)))

    def _in_turn(self, rows, workspace):
        """Slices of groups, and their input rows (groups, inputs * window rows, pixels)."""
        groups = self._groups
        n_inputs, depth = self._shape[4], self._matrix.shape[2]
        for some in self._turns(rows.pitch * rows.memory.itemsize):
            count = some.stop - some.start
            if groups.input_run is not None:
                yield some, rows.matrices(count, depth, _part_of(groups.input_run, some, n_inputs))
                continue
            chosen = _Rows(count * n_inputs, self._reach, rows.pixels, "conv2d.chosen_rows",
                           rows.memory.dtype, workspace)
            np.take(rows.memory, groups.inputs[some].reshape(-1), axis=0, out=chosen.memory,
                    mode="clip")
            yield some, chosen.matrices(count, depth)

    def _product(self, groups, pixels, dtype, workspace):
        """An array for a product (groups, kernel width * outputs * lines, pixels); its parts of
        each kernel column where they meet the output's pixels: (groups, outputs, lines, steps,
        out_width, samples); and parts that together are all of the others."""
        count, stride = self._matrix.shape[1], self._stride[1]
        product = _Rows(groups, count, pixels, "conv2d.row_product", dtype, workspace)
        by_column = product.by_pixel(groups, *self._shape[1:4])
        width = (self._out_width - 1) * stride + 1
        terms, rests = [], []
        for column in range(self._kernel[1]):
            mine = by_column[:, column]
            terms.append(mine[:, :, :, :, column:column + width:stride])
            rests += [mine[:, :, :, :, :column], mine[:, :, :, :, column + width:]]
            rests += [mine[:, :, :, :, column + between:column + width:stride]
                      for between in range(1, stride)]
        return product.matrices(groups, count), terms, rests

    def _by_line(self, band):
        """A band (maps, rows, width, samples) as (maps, lines, steps, width, samples)."""
        maps, rows, width, samples = band.shape
        return band.reshape(maps, rows // self._lines, self._lines, width, samples,
                            copy=False).swapaxes(1, 2)

    def _of_outputs(self, by_line, some):
        """The groups' output maps of a band, a view, or None where it takes a copy."""
        run = self._groups.output_run
        if run is None:
            return None
        n_outputs = self._shape[2]
        outputs = by_line[_part_of(run, some, n_outputs)]
        return outputs.reshape(-1, n_outputs, *outputs.shape[1:], copy=False)


def _part_of(run, groups, maps):
    """Which maps of a run are those of a slice of groups of so many maps."""
    step = run.step
    return slice(run.start + groups.start * maps * step,
                 run.start + (groups.stop * maps - 1) * step + 1, step)


def window_rows(convolution, lines):
    """How many input rows are seen by so many neighbouring output rows."""
    return (lines - 1) * convolution.stride[0] + convolution.kernel[0]
