"""The end of a training step: cuda_kernels/update.cu, after matrix_partials.cu where batches are
large.

    update = Update(backend, "float32", sections, optimizer, batch_size, totals=BlockTotals(132, 4))
    update.launch(parameters, gradients, state, partials, saved, block_totals, number, next_number,
                  scalars, loss, totals, samples)

A *section* is a stretch of the flat parameter array whose gradients come from one place: `Rows` of
partial sums, a `Matrix` layer's saved input and gradient, or `Ready` ones. Places are in elements.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from gpucnn.backends.cuda.plan.optimizer_op import ask, op_of
from gpucnn.backends.cuda.plan.shares import STEP, TILE_IN, WHOLE_TILE, plan_shares, tiles
from gpucnn.backends.cuda.plan.sources import PlanSource
from gpucnn.errors import ArgumentError

THREADS = 256          # of update.cu
READY_WIDTH = 4 * THREADS
LARGE_SIZE = 16384     # rows longer than that are cut into parts of 128 parameters, not 32
SHARE_THREADS = 128    # of matrix_partials.cu
ALIGNMENT = 4          # rows of shares start at its multiples
PRECISIONS = ("float32", "tf32")
REAL_TYPES = {"float32": "float", "float64": "double"}


@dataclass(frozen=True)
class Rows:
    """Gradients of parameters offset..offset + size that are sums of rows of `partials`, an array
    [rows][size] that lies at `place`: of each of at most `blocks` blocks, which take `samples`
    samples at a time, `parts` rows. Rows of blocks that have no samples are not read."""

    offset: int
    size: int
    place: int
    parts: int
    blocks: int
    samples: int

    def rows(self, samples):
        """How many rows a batch of so many samples has."""
        return min(self.blocks, -(-samples // self.samples)) * self.parts


@dataclass(frozen=True)
class Matrix:
    """Gradients of a weight (outputs, inputs) at `offset`, and of a bias (outputs,) behind it: sums
    over the batch of dz[n][o] * x[n][i] and of dz[n][o]. The layer's input x (batch, inputs) and dz
    (batch, outputs) lie at these places of `saved`."""

    offset: int
    outputs: int
    inputs: int
    saved_input: int
    saved_gradient: int
    has_bias: bool = True

    @property
    def columns(self):
        """The inputs, and one more for the bias, whose input is 1."""
        return self.inputs + self.has_bias

    @property
    def size(self):
        return self.outputs * self.columns


@dataclass(frozen=True)
class Ready:
    """Parameters offset..offset + size whose gradients stand in the flat array already."""

    offset: int
    size: int


@dataclass(frozen=True)
class BlockTotals:
    """Rows of `block_totals`: one of each of at most `blocks` blocks, which take `samples` samples
    at a time."""

    blocks: int
    samples: int


@dataclass(frozen=True)
class KernelFigures:
    """A launch in numbers. `multiply_adds` are those that the result needs; `bytes` is what blocks
    read and write in global memory, mostly through L2."""

    name: str
    blocks: int
    threads: int
    shared_bytes: int
    multiply_adds: int
    bytes: int


class Update:
    """Finishes the gradients, updates the parameters, adds up the losses: one launch, or two.

    sections: in any order; together they are the whole flat array. optimizer: calls `sgd_step` or
    `adam_step` of the backend it is given. totals: None where the loss is not the fused kernels'.
    precision: "float32", or "tf32" for large batches on tensor cores. shares: how many shares of a
    batch matrix_partials.cu takes, 0 for none; estimated unless given.
    """

    def __init__(self, backend, dtype, sections, optimizer, batch_size, precision="float32", *,
                 totals=None, shares=None):
        self._backend = backend
        self._dtype = np.dtype(dtype)
        profile = backend.runtime.profile
        if precision not in PRECISIONS or (precision == "tf32" and (
                self._dtype != np.float32 or profile.compute_capability < (8, 0))):
            raise ArgumentError(f"update: expected a precision of {', '.join(PRECISIONS)}, the "
                                f"latter of float32 from compute capability 8.0 on, got "
                                f"{precision!r} of {self._dtype} on {profile.name}")
        self._tensor_cores = precision == "tf32"
        self._check(sections)
        self._rows = [each for each in sections if isinstance(each, Rows)]
        self._ready = [each for each in sections if isinstance(each, Ready)]
        # the largest first, so that no long item is left for the end
        self._matrices = sorted((each for each in sections if isinstance(each, Matrix)),
                                key=lambda matrix: -matrix.size)
        self._optimizer = optimizer
        self._op = op_of(optimizer, self._dtype)
        self._batch_size = batch_size
        self._shares = plan_shares(
            self._shapes, batch_size, self._dtype.itemsize, self._tensor_cores,
            profile.multiprocessors, shares)
        self._constants = backend.from_host(np.array(self._op.constants, self._dtype))
        self._share_rows = None
        if self._shares is not None:
            self._share_rows = backend.empty((self._share_places()[-1],), self._dtype)
        self._update = self._source("update.cu", self._update_header(totals))
        self._partials = None
        if self._shares is not None:
            self._partials = self._source("matrix_partials.cu", self._partials_header())

    def sources(self):
        """The specialisations that `launch` needs, to be prepared."""
        return [source for source in (self._partials, self._update) if source is not None]

    def launch(self, parameters, gradients, state, partials, saved, block_totals, number,
               next_number, scalars, loss, totals, samples):
        """One update from what the step has left behind.

        parameters, gradients: the flat arrays; state: the optimiser's; partials, saved: see `Rows`
        and `Matrix`, None where there are none; block_totals: (blocks, 3) float64, each block's
        sums of losses, errors and bad labels; number: int32 (1,), the row of `scalars` that holds
        this step's; next_number: int32 (1,), another place, which becomes number + 1; loss: (1,),
        becomes the mean; totals: (3,) float64, are added to (these three None without `totals`);
        samples: the size of this batch.
        """
        kernels, op = self._backend.kernels, ask(self._optimizer, parameters, gradients, state)
        if self._partials is not None:
            kernels.launch(self._partials, "matrix_partials", self._partials_blocks(),
                           SHARE_THREADS, saved, self._share_rows, samples)
        kernels.launch(self._update, "update", self._update_blocks(), THREADS, parameters,
                       gradients, *op.state, self._constants, partials, self._share_rows, saved,
                       block_totals, number, next_number, scalars, loss, totals, samples)

    def kernels(self):
        """The `KernelFigures` of the launches for a whole batch, in order."""
        figures, size = [], self._dtype.itemsize
        products = self._batch_size * sum(matrix.size for matrix in self._matrices)
        parameters = sum(each.size for each in (*self._rows, *self._matrices, *self._ready))
        moved = (3 + 2 * sum(array is not None for array in self._op.names)) * parameters
        moved += sum(each.rows(self._batch_size) * each.size for each in self._rows)
        if self._shares is None:
            moved += sum(self._tile_reals(matrix, WHOLE_TILE) for matrix in self._matrices)
        else:
            shared = self._share_rows.size
            moved += shared
            read = sum(self._tile_reals(matrix, (16 * each.rows, TILE_IN))
                       for matrix, each in zip(self._matrices, self._shares, strict=True))
            staged = 2 * STEP * (16 * max(each.rows for each in self._shares) + TILE_IN + 16)
            figures.append(KernelFigures(
                "matrix_partials", self._partials_blocks(), SHARE_THREADS, staged * size, products,
                (read + shared) * size))
            products = 0
        figures.append(KernelFigures("update", self._update_blocks(), THREADS,
                                     self._scratch() * size + 96 * 8, products, moved * size))
        return figures

    # -- how it works --------------------------------------------------------------------------

    @staticmethod
    def _check(sections):
        end = 0
        for section in sorted(sections, key=lambda each: each.offset):
            if section.offset != end:
                raise ArgumentError(f"update: expected a section that begins at parameter {end}, "
                                    f"got {section}")
            end += section.size

    @property
    def _shapes(self):
        return [(matrix.outputs, matrix.columns) for matrix in self._matrices]

    def _partials_blocks(self):
        return sum(each.blocks(shape)
                   for each, shape in zip(self._shares, self._shapes, strict=True))

    def _update_blocks(self):
        """One for each item of update.cu."""
        widths = [(each.size, _width(each.size)) for each in self._rows]
        widths += [(each.size, READY_WIDTH) for each in self._ready]
        if self._shares is not None:
            widths += [(matrix.size, _width(matrix.size)) for matrix in self._matrices]
        items = sum(-(-size // width) for size, width in widths)
        if self._shares is None:
            items += sum(tiles(shape, WHOLE_TILE) for shape in self._shapes)
        return items + 1

    def _scratch(self):
        """Sections::SCRATCH of update.cu."""
        if self._matrices and self._shares is None:
            return THREADS // 32 * WHOLE_TILE[0] * WHOLE_TILE[1]
        return max([1, *(THREADS // 32 * _width(each.size)
                         for each in (*self._rows, *self._matrices))])

    def _tile_reals(self, matrix, tile):
        """What the tiles of a matrix read of the saved arrays, each for itself."""
        return self._batch_size * (matrix.outputs * -(-matrix.columns // tile[1])
                                   + matrix.inputs * -(-matrix.outputs // tile[0]))

    def _share_places(self):
        """Where each matrix's rows lie, and the size of all."""
        places = [0]
        for matrix, each in zip(self._matrices, self._shares, strict=True):
            pitch = -(-matrix.size // ALIGNMENT) * ALIGNMENT
            places.append(places[-1] + each.count * pitch)
        return places

    def _update_header(self, totals):
        sections = []
        if self._shares is None:
            sections += [f"Matrix<{matrix.offset}, {_matrix(matrix)}>" for matrix in self._matrices]
        else:
            sections += [f"Shares<{matrix.offset}, {matrix.size}, {place}, {each.count}, "
                         f"{each.samples}>" for matrix, place, each
                         in zip(self._matrices, self._share_places(), self._shares, strict=False)]
        sections += [f"Rows<{each.offset}, {each.size}, {each.place}, {each.parts}, {each.blocks}, "
                     f"{each.samples}>" for each in self._rows]
        sections += [f"Ready<{each.offset}, {each.size}>" for each in self._ready]
        blocks, samples = (totals.blocks, totals.samples) if totals is not None else (0, 1)
        return (f"using Optimizer = {self._op.struct};\n{_list('Sections', sections)}"
                f"using Totals = BlockTotals<{blocks}, {samples}>;\n")

    def _partials_header(self):
        cores = str(self._tensor_cores).lower()
        products = [f"Product<{_matrix(matrix)}, {place}, {each.count}, {each.samples}, {cores}, "
                    f"{each.rows}>" for matrix, place, each
                    in zip(self._matrices, self._share_places(), self._shares, strict=False)]
        return _list("Products", products)

    def _source(self, file, header):
        headers = (("constants.h", f"using real = {REAL_TYPES[self._dtype.name]};\n"),
                   ("network.h", header))
        digest = hashlib.sha256(header.encode()).hexdigest()[:8]
        return PlanSource(file, self._dtype, headers, f"{file} ({self._dtype.name}, {digest})")


def _width(size):
    """The parameters of an item of rows."""
    return 128 if size > LARGE_SIZE else 32


def _matrix(matrix):
    return (f"{matrix.outputs}, {matrix.inputs}, {str(matrix.has_bias).lower()}, "
            f"{matrix.saved_input}, {matrix.saved_gradient}")


def _list(name, structs):
    return f"using {name} = List<\n    " + ",\n    ".join(structs) + ">;\n"
