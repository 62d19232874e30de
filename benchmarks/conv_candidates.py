"""Every kernel that is considered for a convolution, its estimated time beside its measured one.

    python -m benchmarks.conv_candidates --device cuda --shape 128,64,64,32,3 --density 25,12.5

For whoever fits the estimates (gpucnn/backends/cuda/conv2d_kernels/speed.py) or asks which kernel
is the best on a GPU of their own; benchmarks/README.md says how to read it.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import report
from benchmarks.conv_cases import DENSITIES, SHAPES, Shape, cases, densities
from benchmarks.machine import machine
from benchmarks.options import gpu, some_of, whole_number
from benchmarks.sides import BenchmarkError
from gpucnn import get_backend
from gpucnn.backends.base import Workspace
from gpucnn.backends.cuda.conv2d_kernels.choice import FAMILIES, KEPT, PRECISIONS, candidates
from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT, Problem
from gpucnn.backends.cuda.conv2d_kernels.speed import Speed
from gpucnn.errors import GpucnnError

HEAD = ("| batch, in, out, size, kernel | table | op | kernel | estimated us | measured us | "
        "measured / estimated | of the best |\n" + "| --- " * 8 + "|")


@dataclass(frozen=True)
class Timed:
    """A candidate of an op, with the seconds that it takes."""

    name: str
    estimated: float
    measured: float


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        backend = get_backend(options.device)
        shapes = options.shape or [Shape.parse(text) for text in SHAPES["cuda"]]
        rows = [case for shape in shapes for case in cases(shape, options.density, ())]
        print(report.heading(options, machine(), f"candidates on {backend.description}")
              + f"\n\n{HEAD}", flush=True)
        for case in rows:
            for op in (FORWARD, GRAD_INPUT, GRAD_WEIGHT):
                found = timed(backend, case, op, kept=options.kept, families=options.family,
                              precision=options.precision)
                if found:
                    print(table(case, op, found), flush=True)
    except (BenchmarkError, GpucnnError) as error:
        print(f"benchmarks.conv_candidates: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def timed(backend, case, op, *, kept=KEPT, families=FAMILIES, precision=PRECISIONS[0]):
    """The `Timed` candidates of an op on a CUDA backend, at most `kept` of each family (or each
    part of it that the choice keeps candidates of), the quickest first."""
    shape, values = case.shape, case.arrays()
    problem = Problem(op, shape.samples, (shape.size,) * 2, (shape.kernel,) * 2, (1, 1), (0, 0),
                      case.table, np.dtype(np.float32), "identity", precision)
    x, weight, grad_output = (backend.from_host(values[name])
                              for name in ("x", "weight", "grad_output"))
    output, bias = (backend.empty(each, np.float32)
                    for each in (grad_output.shape, (case.table.out_maps,)))
    grad_input, grad_weight = (backend.empty(each.shape, np.float32) for each in (x, weight))
    arrays, results = {
        FORWARD: ((x, weight, None), (output,)),
        GRAD_INPUT: ((grad_output, grad_output, weight), (grad_input,)),
        GRAD_WEIGHT: ((grad_output, grad_output, x), (grad_weight, bias))}[op]
    workspace = Workspace(backend)
    found = []
    for each in candidates(problem, Speed.of(backend.runtime.profile), kept=kept):
        if each.family in families:
            launch = partial(backend.conv2d_chooser.launch, problem, each, arrays, results,
                             workspace)
            found.append(Timed(each.name, each.seconds, backend.runtime.seconds(launch)))
    return sorted(found, key=lambda each: each.measured)


def table(case, op, found):
    """The rows of an op's `Timed` candidates; the one that would be taken by its estimate is
    marked."""
    chosen = min((each for each in found if not each.name.startswith("ring")),
                 key=lambda each: each.estimated, default=None)
    return "\n".join(
        f"| {case.shape} | {case.name}, {100 * case.table.density:.3g} % | {op} | "
        f"{each.name}{' *' if each is chosen else ''} | {1e6 * each.estimated:.1f} | "
        f"{1e6 * each.measured:.1f} | {each.measured / each.estimated:.2f} | "
        f"{each.measured / found[0].measured:.2f} |" for each in found)


def _parser():
    made = argparse.ArgumentParser(prog="python -m benchmarks.conv_candidates",
                                   description="Every kernel that is considered for a convolution, "
                                               "its estimated time beside its measured one.")
    made.set_defaults(model="convolution")
    made.add_argument("--device", type=gpu, default="cuda", help="cuda or cuda:N (default: cuda)")
    made.add_argument("--shape", type=Shape.parse, action="append", metavar="N,I,O,SIZE,KERNEL",
                      help="as of benchmarks.conv")
    made.add_argument("--density", type=densities, default=DENSITIES, help="as of benchmarks.conv")
    made.add_argument("--kept", type=whole_number, default=KEPT,
                      help="how many candidates of a family are timed, the best by estimate "
                           "(default: %(default)d, as autotune does)")
    made.add_argument("--family", type=some_of(FAMILIES), default=list(FAMILIES),
                      help=f"of {', '.join(FAMILIES)}, separated by commas (default: all)")
    made.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    return made


if __name__ == "__main__":
    sys.exit(main())
