"""What convolutions are measured on: shapes, tables, arrays, and the least that must be done."""

import argparse
import re
from dataclasses import dataclass

import numpy as np

from benchmarks.limit import FLOAT_BYTES, Work
from benchmarks.sides import BenchmarkError
from gpucnn import ConnectionTable
from gpucnn.errors import GpucnnError

SHAPES = {"cuda": ("256,1,6,32,5", "256,6,16,14,5", "4096,6,16,14,5", "128,64,64,32,3",
                   "128,64,64,32,5", "64,256,256,16,3", "64,128,128,28,5"),
          "cpu": ("64,1,6,32,5", "256,6,16,14,5", "32,64,64,32,3", "32,64,64,32,5",
                  "16,256,256,16,3", "16,128,128,28,5")}
DENSITIES = (100, 50, 25, 12.5, 6.25, 3.1)
GROUPS = (4, 16)
FEWEST_MAPS = 32  # of a shape that random tables and groups are tried on
FORWARD, GRAD_INPUT, GRAD_WEIGHT = PASSES = "forward", "grad_input", "grad_weight"


@dataclass(frozen=True)
class Shape:
    """A convolution without padding, stride 1, of square maps by square kernels."""

    samples: int
    in_maps: int
    out_maps: int
    size: int
    kernel: int

    @classmethod
    def parse(cls, text):
        """An option's shape, such as 128,64,64,32,3."""
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*){4}", text):
            raise argparse.ArgumentTypeError(
                f"expected batch,in_maps,out_maps,size,kernel, whole numbers of at least 1, "
                f"got {text!r}")
        shape = cls(*map(int, text.split(",")))
        if shape.kernel > shape.size:
            raise argparse.ArgumentTypeError(f"expected a kernel no larger than the maps, "
                                             f"got {text!r}")
        return shape

    def __str__(self):
        return ", ".join(map(str, (self.samples, self.in_maps, self.out_maps, self.size,
                                   self.kernel)))

    @property
    def out_size(self):
        return self.size - self.kernel + 1


@dataclass(frozen=True)
class Case:
    """One row: a shape and a table, whose `name` says how it was made; `groups` of a grouped
    table, else 1."""

    shape: Shape
    name: str
    table: ConnectionTable
    groups: int = 1

    def arrays(self):
        """x, weight and grad_output, float32, the same in every process."""
        shape, generator = self.shape, np.random.default_rng(0)
        count, out = self.table.n_connections, shape.out_size
        fan_in = count / shape.out_maps * shape.kernel**2
        sizes = {"x": (shape.samples, shape.in_maps, shape.size, shape.size),
                 "weight": (count, shape.kernel, shape.kernel),
                 "grad_output": (shape.samples, shape.out_maps, out, out)}
        values = {name: generator.standard_normal(size, dtype=np.float32)
                  for name, size in sizes.items()}
        values["weight"] *= fan_in ** -0.5
        return values

    def work(self):
        """Pass -> the `Work` that no way of computing spares: a multiply-add for each connection,
        pixel of the kernel and pixel of the output; each array read or written once."""
        shape = self.shape
        pixels = shape.samples * shape.out_size**2
        weight = self.table.n_connections * shape.kernel**2
        x = shape.samples * shape.in_maps * shape.size**2
        everything = FLOAT_BYTES * (x + weight + pixels * shape.out_maps)
        return dict.fromkeys(PASSES, Work(pixels * weight, everything))

    def least_seconds(self, speed, precision):
        """The least time of all passes together at a `limit.Speed`."""
        return sum(work.seconds(speed, precision) for work in self.work().values())


def cases(shape, densities, groups):
    """The rows of a shape: for small ones the table that LeNet-5 has there, for others random
    tables of `densities` (per cent, 100 being full), then grouped ones, then one to one."""
    in_maps, out_maps = shape.in_maps, shape.out_maps
    if min(in_maps, out_maps) < FEWEST_MAPS:
        if (in_maps, out_maps) == (6, 16):
            return [Case(shape, "Table I", ConnectionTable.lenet5_c3())]
        return [Case(shape, "full", ConnectionTable.full(in_maps, out_maps))]
    found = []
    for density in densities:
        if density == 100:
            found.append(Case(shape, "full", ConnectionTable.full(in_maps, out_maps)))
            continue
        try:
            table = ConnectionTable.random(in_maps, out_maps, density=density / 100, seed=0)
        except GpucnnError as error:
            raise BenchmarkError(f"--density: {error}") from error
        found.append(Case(shape, "random", table))
    found += [Case(shape, f"{count} groups", ConnectionTable.grouped(in_maps, out_maps, count),
                   count)
              for count in groups if in_maps % count == out_maps % count == 0]
    if groups and in_maps == out_maps:
        found.append(Case(shape, "one to one", ConnectionTable.one_to_one(in_maps), in_maps))
    return found


def densities(text):
    """An option's densities in per cent, separated by commas."""
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = [0.0]
    if not all(0 < one <= 100 for one in found):
        raise argparse.ArgumentTypeError(f"expected per cents above 0 and up to 100, separated by "
                                         f"commas, got {text!r}")
    return found
