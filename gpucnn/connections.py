"""Connection tables: which input maps each output map of a convolution sees."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpucnn.errors import ArgumentError, TableError
from gpucnn.shapes import whole_number

_LENET5_C3 = (  # Table I of LeCun et al. 1998: the input maps (S2) of each of C3's 16 output maps
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)


@dataclass(frozen=True, eq=False)
class CompressedOrder:
    """Connections sorted by one side's map, then by the other's.

    Those of map `m` are `connections[starts[m]:starts[m + 1]]`, numbers of columns of the table's
    `pairs`; `others` holds the map at the other end of each. int32, read-only.
    """

    starts: np.ndarray
    connections: np.ndarray
    others: np.ndarray


class ConnectionTable:
    """The pairs (input map, output map) that are joined, in the order of a layer's weights.

    A convolution's weight has the shape (n_connections, kernel_height, kernel_width); weight `c`
    joins input map `pairs[0, c]` to output map `pairs[1, c]`. Tables are immutable. They are equal
    if they have the same maps and the same pairs in the same order.

    Build one with `from_matrix`, `from_pairs`, `full`, `one_to_one`, `grouped`, `random` or
    `lenet5_c3`. Every output map must have at least one input; an input map may go unused.
    """

    def __init__(self, pairs, in_maps, out_maps):
        self._pairs = _read_only(_checked_pairs(pairs))
        self._in_maps = whole_number(in_maps, "in_maps", least=1)
        self._out_maps = whole_number(out_maps, "out_maps", least=1)
        self._check()

    # -- ways to make one ----------------------------------------------------------------------

    @classmethod
    def from_pairs(cls, pairs, in_maps=None, out_maps=None):
        """The table of `pairs`, integers of shape (2, n_connections): input maps, output maps.

        A number of maps that is not given is one more than the largest map named.
        Raises `TableError` for duplicate pairs, maps out of range or an output map without input.
        """
        pairs = _checked_pairs(pairs)
        largest = pairs.max(axis=1)
        return cls(pairs, int(largest[0]) + 1 if in_maps is None else in_maps,
                   int(largest[1]) + 1 if out_maps is None else out_maps)

    @classmethod
    def from_matrix(cls, matrix):
        """The table of a matrix (in_maps, out_maps) whose non-zero elements are connections.

        The connections come in the order of `numpy.nonzero`: by input map, then by output map.
        """
        matrix = _as_array(matrix, "connection matrix")
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise TableError(f"connection matrix: expected shape (in_maps, out_maps), "
                             f"got {matrix.shape}")
        if matrix.dtype.kind not in "biuf" or not np.isfinite(matrix).all():
            raise TableError(f"connection matrix: expected finite numbers or bools, "
                             f"got {matrix.dtype}" + (" with NaN or infinity"
                                                      if matrix.dtype.kind == "f" else ""))
        return cls(np.stack(np.nonzero(matrix)), *matrix.shape)

    @classmethod
    def full(cls, in_maps, out_maps):
        """Every input map joined to every output map, listed by output map and then by input map,
        so that a layer's weights are in the order that other libraries store dense ones in."""
        in_maps = whole_number(in_maps, "in_maps", least=1)
        out_maps = whole_number(out_maps, "out_maps", least=1)
        out_map, in_map = np.divmod(np.arange(in_maps * out_maps), in_maps)
        return cls(np.stack([in_map, out_map]), in_maps, out_maps)

    @classmethod
    def one_to_one(cls, maps):
        """Map i joined to map i alone (a depthwise convolution)."""
        return cls.from_matrix(np.eye(whole_number(maps, "maps", least=1), dtype=bool))

    @classmethod
    def grouped(cls, in_maps, out_maps, groups):
        """Maps in `groups` equal runs; each run of outputs sees the run of inputs beside it."""
        in_maps = whole_number(in_maps, "in_maps", least=1)
        out_maps = whole_number(out_maps, "out_maps", least=1)
        groups = whole_number(groups, "groups", least=1)
        if in_maps % groups or out_maps % groups:
            raise ArgumentError(f"grouped table: expected groups that divide {in_maps} input and "
                                f"{out_maps} output maps, got {groups}")
        block = np.ones((in_maps // groups, out_maps // groups), bool)
        return cls.from_matrix(np.kron(np.eye(groups, dtype=bool), block))

    @classmethod
    def random(cls, in_maps, out_maps, *, density, seed):
        """Random connections, round(density * in_maps * out_maps) of them but at least one for
        each output map. The same `seed` gives the same table."""
        in_maps = whole_number(in_maps, "in_maps", least=1)
        out_maps = whole_number(out_maps, "out_maps", least=1)
        if not isinstance(density, (int, float)) or not 0 < density <= 1:
            raise ArgumentError(f"random table: expected a density in (0, 1], got {density!r}")
        generator = np.random.Generator(np.random.Philox(whole_number(seed, "seed", least=0)))
        matrix = np.zeros((in_maps, out_maps), bool)
        matrix[generator.integers(in_maps, size=out_maps), np.arange(out_maps)] = True
        free = np.flatnonzero(~matrix)
        wanted = max(0, round(density * matrix.size) - out_maps)
        matrix.flat[generator.choice(free, size=wanted, replace=False)] = True
        return cls.from_matrix(matrix)

    @classmethod
    def lenet5_c3(cls):
        """Layer C3 of LeNet-5: 6 to 16 maps, 60 connections (LeCun et al. 1998, Table I)."""
        matrix = np.zeros((6, 16), bool)
        for out_map, in_maps in enumerate(_LENET5_C3):
            matrix[list(in_maps), out_map] = True
        return cls.from_matrix(matrix)

    # -- what it holds -------------------------------------------------------------------------

    @property
    def pairs(self):
        """int32, shape (2, n_connections), read-only: the input maps, then the output maps."""
        return self._pairs

    @property
    def in_maps(self):
        """How many input maps there are, unused ones among them."""
        return self._in_maps

    @property
    def out_maps(self):
        """How many output maps there are; each has at least one input."""
        return self._out_maps

    @property
    def n_connections(self):
        """How many pairs are joined."""
        return self._pairs.shape[1]

    @property
    def density(self):
        """The share of all possible connections that exist, in (0, 1]."""
        return self.n_connections / (self._in_maps * self._out_maps)

    @cached_property
    def matrix(self):
        """bool, shape (in_maps, out_maps), read-only: True where joined."""
        matrix = np.zeros((self._in_maps, self._out_maps), bool)
        matrix[self._pairs[0], self._pairs[1]] = True
        return _read_only(matrix)

    @cached_property
    def fan_in(self):
        """int32, shape (out_maps,), read-only: how many input maps each output map sees."""
        return _read_only(np.bincount(self._pairs[1], minlength=self._out_maps).astype(np.int32))

    @cached_property
    def fan_out(self):
        """int32, shape (in_maps,), read-only: how many output maps see each input map."""
        return _read_only(np.bincount(self._pairs[0], minlength=self._in_maps).astype(np.int32))

    @cached_property
    def by_output(self):
        """The `CompressedOrder` by output map; `others` are input maps, ascending."""
        return self._compressed(of=1)

    @cached_property
    def by_input(self):
        """The `CompressedOrder` by input map; `others` are output maps, ascending."""
        return self._compressed(of=0)

    def _compressed(self, of):
        maps = self._pairs[of]
        others = self._pairs[1 - of]
        connections = np.lexsort((others, maps)).astype(np.int32)
        counts = self.fan_out if of == 0 else self.fan_in
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        return CompressedOrder(_read_only(starts), _read_only(connections),
                               _read_only(others[connections]))

    def _check(self):
        for side, maps, name in ((0, self._in_maps, "input"), (1, self._out_maps, "output")):
            outside = (self._pairs[side] < 0) | (self._pairs[side] >= maps)
            if outside.any():
                connection = int(np.argmax(outside))
                raise TableError(f"connection {connection}: expected an {name} map of 0 to "
                                 f"{maps - 1}, got {self._pairs[side, connection]}")
        flat = self._pairs[0].astype(np.int64) * self._out_maps + self._pairs[1]
        distinct, first = np.unique(flat, return_index=True)
        if len(distinct) < len(flat):
            twice = int(np.setdiff1d(np.arange(len(flat)), first)[0])
            raise TableError(f"connection {twice}: expected distinct pairs, got "
                             f"(input {self._pairs[0, twice]}, output {self._pairs[1, twice]}) "
                             f"a second time")
        if not self.fan_in.all():
            raise TableError(f"output map {int(np.argmin(self.fan_in))}: expected at least one "
                             f"input map, got none")

    # -- as a value ----------------------------------------------------------------------------

    def __eq__(self, other):
        if not isinstance(other, ConnectionTable):
            return NotImplemented
        return self is other or (self._in_maps == other._in_maps
                                 and self._out_maps == other._out_maps
                                 and np.array_equal(self._pairs, other._pairs))

    @cached_property
    def _hash(self):
        return hash((self._in_maps, self._out_maps, self._pairs.tobytes()))

    def __hash__(self):
        return self._hash

    def __reduce__(self):
        # without what was worked out: a hash is another process's, and copies could be written to
        return ConnectionTable, (np.array(self._pairs), self._in_maps, self._out_maps)

    def __repr__(self):
        return (f"<ConnectionTable: {self._in_maps} to {self._out_maps} maps, "
                f"{self.n_connections} connections, density {100 * self.density:.3g} %>")

    def __str__(self):
        """The grid that papers print: a row per input map, a column per output map, O where they
        are joined and X where not."""
        width = len(str(self._out_maps - 1))
        margin = len(str(self._in_maps - 1))
        lines = [" " * margin + "".join(f" {o:>{width}}" for o in range(self._out_maps))]
        for in_map, row in enumerate(self.matrix):
            lines.append(f"{in_map:>{margin}}"
                         + "".join(f" {'O' if joined else 'X':>{width}}" for joined in row))
        return "\n".join(lines)


def _as_array(values, what):
    try:
        return np.asarray(values)
    except ValueError as error:
        raise TableError(f"{what}: expected rows of one length, got others ({error})") from None


def _checked_pairs(pairs):
    pairs = _as_array(pairs, "connection pairs")
    if pairs.ndim != 2 or pairs.shape[0] != 2 or pairs.shape[1] == 0:
        raise TableError(f"connection pairs: expected shape (2, n_connections) with at least one "
                         f"connection, got {pairs.shape}")
    if pairs.dtype.kind not in "iu":
        raise TableError(f"connection pairs: expected integers, got {pairs.dtype}")
    limits = np.iinfo(np.int32)
    if pairs.min() < 0 or pairs.max() > limits.max:
        raise TableError(f"connection pairs: expected maps of 0 to {limits.max}, got "
                         f"{pairs.min() if pairs.min() < 0 else pairs.max()}")
    return pairs.astype(np.int32)


def _read_only(array):
    array.flags.writeable = False
    return array
