"""Which kernel computes a convolution: by estimates, by name, or by measuring.

Every family of kernels offers plans for a `Problem`, each with the cycles of the busiest
multiprocessor and the bytes through the second cache; with the bytes of the arrays they make an
estimate in seconds (speed.py), and the smallest is taken. So there is no threshold of density:
tiles.py's time falls with the connections, matrix.py's does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpucnn.backends.cuda.conv2d_kernels import (
    general,
    matrix,
    remembered,
    ring,
    tiles,
    weight,
)
from gpucnn.backends.cuda.conv2d_kernels.problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT, Problem
from gpucnn.backends.cuda.conv2d_kernels.speed import Speed
from gpucnn.errors import ArgumentError, KernelError
from gpucnn.shapes import pair

FAMILIES = ("tiles", "ring", "matrix", "tensor_cores", "general")
UNFITTED = ("ring",)  # whose estimates no GPU's times are in: taken if named or measured
PRECISIONS = ("float32", "tf32")
KEPT = 3            # plans of a family: the best by estimate, which measuring compares
MOST_CHOICES = 512  # that a backend remembers


@dataclass(frozen=True)
class Candidate:
    """A kernel that can compute a problem: its `name`, such as "tiles:4x8x2:8x1x1", which begins
    with its family's, and its estimated `seconds`."""

    name: str
    seconds: float
    plan: Any

    @property
    def family(self):
        """One of FAMILIES."""
        return self.name.partition(":")[0]


def candidates(problem, speed, kept=KEPT):
    """The `Candidate`s for a problem, at most `kept` of a family, the fastest by estimate first,
    but for those of UNFITTED families, which are the last."""
    if problem.op == GRAD_WEIGHT:
        own = [weight.plans(problem, speed)]
    else:
        own = [tiles.plans(problem, speed),
               *(ring.plans(problem, speed, warps) for warps in ring.WARPS)]
    found = []
    for family in (*own, matrix.plans(problem, speed, tensor_cores=False),
                   matrix.plans(problem, speed, tensor_cores=True), general.plans(problem, speed)):
        timed = {}
        for plan in family:
            seconds = speed.seconds(plan.cycles, plan.l2_bytes, problem.bytes, plan.launches)
            if plan.label not in timed or seconds < timed[plan.label].seconds:
                timed[plan.label] = Candidate(plan.label, seconds, plan)
        found += sorted(timed.values(), key=lambda each: each.seconds)[:kept]
    return sorted(found, key=lambda each: (each.family in UNFITTED, each.seconds))


class Conv2dChooser:
    """Chooses for one backend, once for each problem and way to choose."""

    def __init__(self, backend):
        self._backend = backend
        self._speed = Speed.of(backend.runtime.profile)
        self._chosen = {}

    def run(self, problem, arrays, results, *, kernel, autotune, workspace):
        """Launch the kernel that is chosen for `problem`, on contiguous arrays."""
        def work(candidate):
            self.launch(problem, candidate, arrays, results, workspace)

        work(self.choose(problem, kernel=kernel, measure=work if autotune else None))

    def launch(self, problem, candidate, arrays, results, workspace):
        """Launch a `Candidate`: arrays are x, weight and bias; grad_output, output and weight; or
        grad_output, output and x; results are output; grad_input; or grad_weight and grad_bias."""
        plan, backend = candidate.plan, self._backend
        if isinstance(plan, tiles.TilePlan):
            tiles.launch(backend, problem, plan, arrays, *results)
        elif isinstance(plan, weight.WeightPlan):
            weight.launch(backend, problem, plan, arrays, results, self._speed, workspace)
        elif isinstance(plan, matrix.MatrixPlan):
            matrix.launch(backend, problem, plan, arrays, results, workspace)
        else:
            general.launch(backend, problem, plan, arrays, results, workspace)

    def choose(self, problem, *, kernel=None, measure=None):
        """The `Candidate` of the given name or family, the fastest as measured by
        `measure(candidate)`, or the fastest by estimate."""
        name = _name_for(problem.op, kernel)
        key = problem, name, measure is not None
        if key not in self._chosen:
            while len(self._chosen) >= MOST_CHOICES:
                self._chosen.pop(next(iter(self._chosen)))
            self._chosen[key] = self._choose(problem, name, measure)
        return self._chosen[key]

    def _choose(self, problem, name, measure):
        found = _named(problem, self._speed, name)
        if measure is None or len(found) == 1:
            return found[0]
        runtime = self._backend.runtime
        names = tuple(each.name for each in found)
        best = remembered.recall(runtime.profile.name, problem, names)
        if best is None:
            times = [runtime.seconds(partial(measure, each)) for each in found]
            best = names[int(np.argmin(times))]
            remembered.remember(runtime.profile.name, problem, names, best)
        return found[names.index(best)]


def _name_for(op, kernel):
    """What `kernel`, a name or names by op, says of an op."""
    return kernel.get(op) if isinstance(kernel, Mapping) else kernel


def _named(problem, speed, name):
    """The candidates of a name or family, or for None all that are worth comparing."""
    if name is None:
        return candidates(problem, speed)
    if not isinstance(name, str) or name.partition(":")[0] not in FAMILIES:
        raise ArgumentError(f"conv2d: expected a kernel of {', '.join(FAMILIES)}, got {name!r}")
    found = candidates(problem, speed, kept=None if ":" in name else KEPT)
    matching = [each for each in found if name in (each.name, each.family)]
    if not matching:
        others = ", ".join(dict.fromkeys(each.family for each in found))
        height, width = problem.kernel_size
        raise KernelError(
            f"conv2d: the kernel {name!r} does not compute {problem.op} of a {height}x{width} "
            f"kernel with stride {problem.stride} in {problem.dtype} on this device; {others} do")
    return matching


# -- what would be chosen ------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelChoice:
    """One op of a convolution: its `candidates`, the chosen one first, the multiply-adds of its
    connections, the bytes that it has to move, and the `limit` that these set, in seconds."""

    op: str
    candidates: tuple[Candidate, ...]
    multiply_adds: int
    bytes: int
    limit: float

    @property
    def name(self):
        """The chosen kernel."""
        return self.candidates[0].name

    @property
    def seconds(self):
        """Its estimated time."""
        return self.candidates[0].seconds

    def __str__(self):
        lines = [f"{self.op}: {self.multiply_adds / 1e6:.1f} M multiply-adds, "
                 f"{self.bytes / 1e6:.1f} MB, limit {1e6 * self.limit:.1f} us"]
        for each in self.candidates:
            mark = "*" if each is self.candidates[0] else " "
            lines.append(f"  {mark} {each.name:<34} {1e6 * each.seconds:9.1f} us  "
                         f"{self.limit / each.seconds:4.2f} of the limit")
        return "\n".join(lines)


def conv2d_kernels(profile, x_shape, kernel_size, connections, *, stride=1, padding=0,
                   activation="identity", dtype="float32", precision="float32", kernel=None):
    """The `KernelChoice`s of forward, grad_input and grad_weight on the device of a
    `DeviceProfile`; print them to see what was considered. The other arguments as of
    `gpucnn.conv2d`; nothing is computed.

    Times are estimates that rank kernels, by constants fitted to an H200's (speed.py).
    """
    speed = Speed.of(profile)
    base = Problem(FORWARD, x_shape[0], tuple(x_shape[2:]),
                   pair(kernel_size, "kernel_size", least=1), pair(stride, "stride", least=1),
                   pair(padding, "padding", least=0), connections, np.dtype(dtype), activation,
                   checked_precision(precision))
    choices = []
    for op in (FORWARD, GRAD_INPUT, GRAD_WEIGHT):
        problem = replace(base, op=op)
        found = _named(problem, speed, _name_for(op, kernel))
        limit = max(problem.bytes / speed.bandwidth,
                    problem.multiply_adds / (speed.cores * speed.multiprocessors * speed.clock))
        choices.append(KernelChoice(op, tuple(found), problem.multiply_adds, problem.bytes, limit))
    return choices


def checked_precision(precision):
    """`precision`, or an `ArgumentError`."""
    if precision not in PRECISIONS:
        raise ArgumentError(f"precision: expected one of {', '.join(PRECISIONS)}, got "
                            f"{precision!r}")
    return precision
