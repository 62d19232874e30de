"""What the tests of online training share: networks that leave nothing out, plans of a chosen kind,
and the plain plan beside them.

A plan of one sample an update is made of choices: how many threads and blocks train a network, and
where each weight lives. Here they are made for the planner, so that small networks meet all.
"""

from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from types import MappingProxyType
from unittest.mock import patch

import numpy as np

from gpucnn import (
    SGD,
    ConnectionTable,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    get_backend,
)
from gpucnn.backends.cuda.plan import online_group
from gpucnn.backends.cuda.plan.group import RESERVED_BYTES, spread_out
from gpucnn.backends.cuda.plan.online import OnlineMany, OnlineStep
from gpucnn.plans import CompiledPlan, PlainPlan, ResidentData
from tests.cases import DOUBLE, FLOAT, Case
from tests.cuda_on_cpu.profiles import PROFILES
from tests.plan_cases import byte_batch, cuda_backend, with_plain_plan

AMPERE, HOPPER = PROFILES["sm_80"], PROFILES["sm_90"]
PLAIN_SGD = SGD(lr=0.05)
_planning = Lock()


@dataclass(frozen=True)
class Choices:
    """What a planner is to choose: the threads of a block, how many of their registers hold
    weights, the blocks of a cluster, and into how many parts sums are cut at most."""

    threads: int = 64
    registers: int = 0
    blocks: int = 1
    most_parts: int = 4

    def group(self, program, profile):
        """The `OnlineGroup` of a program for a device. The blocks of a cluster divide whatever they
        can: small networks gain nothing by it, for what a barrier takes."""
        with _planning, patch.object(online_group, "CLUSTER_BARRIER", -10**6):
            planner = online_group._Planner(program, profile, self.most_parts)
            return spread_out(planner.chain, partial(planner.attempt, self.blocks, self.threads,
                                                     self.registers))


def with_room(profile, elements, itemsize):
    """The profile of a device on which a block has room for so many elements."""
    return replace(profile, dynamic_shared_bytes=RESERVED_BYTES + elements * itemsize)


def with_online_plan(build, *, backend=None, choices=None, dtype="float64", loss="cross_entropy",
                     optimizer=PLAIN_SGD):
    """(network, its online plan): with these choices, or as `compile_step` makes it."""
    network = build(dtype=dtype).to(backend or cuda_backend(AMPERE))
    options = {"loss": loss, "optimizer": optimizer, "batch_size": 1}
    if choices is None:
        plan = network.compile_step(**options)
        assert isinstance(plan._compiled, OnlineStep)
        return network, plan
    program = network.program(**options)
    step = OnlineStep(program, network.parameters.flat, network.gradients.flat, network.backend,
                      choices.group(program, network.backend.runtime.profile))
    return network, CompiledPlan(network, program, step)


def online_and_plain(build, *, dtype="float64", backend=None, choices=None, **options):
    """((network, online plan), (network, plain plan in float64)), the networks alike."""
    network, plan = with_online_plan(build, dtype=dtype, backend=backend, choices=choices,
                                     **options)
    reference, plain = with_plain_plan(build, batch_size=1, **{"optimizer": PLAIN_SGD, **options})
    reference.set_parameters(network.parameter_values())
    return (network, plan), (reference, plain)


def group_of(plan):
    """The `OnlineGroup` of an online plan."""
    return plan._compiled.kernel.planned


def homes_of(group):
    """Layer's name -> (kind of home, inputs of each warp's in registers), where it has a weight."""
    return {layer.link.spec.name: (home.kind, home.held)
            for layer, home in zip(group.group.layers, group.homes, strict=True)
            if layer.link.weight is not None}


# -- networks --------------------------------------------------------------------------------------


def odd_matrices(dtype="float64", device="cpu"):
    """Matrices whose sizes are multiples of nothing, the last with one output. Input 1 x 5 x 7."""
    return Network([Flatten(), Dense(35, 70, name="first"), Dense(70, 33, name="second"),
                    Dense(33, 1, name="third")], (1, 5, 7), dtype=dtype, device=device)


def even_matrices(dtype="float64", device="cpu"):
    """Matrices that are read in vectors. Input 1 x 6 x 8. Of 2,774 parameters, so that those of
    one network do not end where a vector does."""
    return Network([Flatten(), Dense(48, 40, name="first"), Dense(40, 18, name="second"),
                    Dense(18, 4, activation="identity", name="third")], (1, 6, 8), dtype=dtype,
                   device=device)


def large_kernel(dtype="float64", device="cpu"):
    """A convolution of more taps than a thread's registers hold. Input 2 x 11 x 10."""
    return Network([Conv2d(2, 3, (7, 6), padding=(1, 2), name="c1"),
                    Subsample2d(3, 2, name="s2"),
                    Conv2d(3, 4, (3, 4), stride=(1, 2), bias=False, name="c3"),
                    Dense(4, 3, activation="identity", name="output")], (2, 11, 10), dtype=dtype,
                   device=device)


def pooling_of_all_kinds(dtype="float64", device="cpu"):
    """Windows that lie side by side, overlap and leave gaps. Input 2 x 21 x 19."""
    return Network([MaxPool2d(2, stride=1), Subsample2d(2, 3, stride=2, activation="tanh"),
                    Conv2d(2, 4, 2, name="c3"), MaxPool2d((1, 2), stride=(2, 2)),
                    Subsample2d(4, 2, stride=1, trainable=False),
                    MaxPool2d((2, 1), stride=(1, 1)), Subsample2d(4, (1, 2), stride=(1, 2)),
                    Flatten(), Dense(8, 3, activation="identity")], (2, 21, 19), dtype=dtype,
                   device=device)


def bit_of_everything(dtype="float32", device="cpu"):
    """A table, padding, both kinds of pooling, and three matrices. Input 1 x 8 x 8.
    Of 415 parameters."""
    return Network([
        Conv2d(1, 3, 3, padding=(1, 0), name="c1"), Subsample2d(3, 2, name="s2"),
        Conv2d(3, 4, 2, connections=ConnectionTable.random(3, 4, density=0.5, seed=1), name="c3"),
        MaxPool2d((2, 1), stride=1, name="m4"), Flatten(name="flatten"),
        Dense(16, 12, name="global"), Dense(12, 9, name="held"),
        Dense(9, 3, activation="identity", name="output")], (1, 8, 8), dtype=dtype, device=device,
        seed=4)


# -- many networks ---------------------------------------------------------------------------------


class Trainees:
    """Networks that differ in their values, on one backend, and what each is trained with: an order
    of its own, rates and shifts."""

    def __init__(self, build, backend, *, count=3, samples=5, images=7, dtype="float32",
                 optimizer=PLAIN_SGD, loss="cross_entropy"):
        self.backend = backend
        self.networks = [build(dtype=dtype, device=backend) for _ in range(count)]
        generator = np.random.default_rng(5)
        for network in self.networks:
            network.set_parameters({
                name: values + 0.1 * generator.standard_normal(values.shape)
                for name, values in network.parameter_values().items()})
        self.program = self.networks[0].program(loss=loss, optimizer=optimizer, batch_size=1)
        self.images, labels = byte_batch(self.networks[0], images)
        self.labels = labels.astype(np.int32)
        self.orders = generator.integers(0, images, (count, samples), np.int32)
        self.shifts = generator.integers(-1, 2, (count, samples, 2), np.int32)
        self.rates = generator.uniform(0.01, 0.05, (count, samples))
        self.states = [optimizer.state(backend, self.program.n_parameters, np.dtype(dtype))
                       for _ in range(count)]
        self.losses = backend.zeros((count,), np.dtype(dtype))
        self.totals = backend.zeros((count, 3), np.float64)

    def together(self, choices=None, progress=None):
        """Train all by one `OnlineMany`, with these choices or as `compile_many` makes it; returns
        it."""
        flats = [network.parameters.flat for network in self.networks]
        many = self.backend.compile_many(self.program, flats) if choices is None else OnlineMany(
            self.program, flats, self.backend,
            choices.group(self.program, self.backend.runtime.profile))
        many.train(*self._data(), *self._places(slice(None)), self.states, self.losses,
                   self.totals, progress)
        return many

    def one_by_one(self, choices=None):
        """Train each by an `OnlineStep` of its own."""
        for k, network in enumerate(self.networks):
            arrays = self.program, network.parameters.flat, network.gradients.flat
            step = self.backend.compile(*arrays) if choices is None else OnlineStep(
                *arrays, self.backend, choices.group(self.program, self.backend.runtime.profile))
            step.train(*self._data(), *self._places(k), self.states[k], self.losses[k:k + 1],
                       self.totals[k])

    def plainly(self):
        """Train each by the plain plan."""
        for k, network in enumerate(self.networks):
            plan = PlainPlan(network, self.program)
            plan.state = self.states[k]
            plan._train(ResidentData(*self._data()), *self._places(k), self.losses[k:k + 1],
                        self.totals[k], None)

    def results(self):
        """Name -> array of all that training changes."""
        return {"losses": self.losses, "totals": self.totals,
                **{f"network {k}": network.parameters.flat
                   for k, network in enumerate(self.networks)},
                **{f"{name} {k}": array for k, state in enumerate(self.states)
                   for name, array in state.items()}}

    def bits(self):
        return {name: self.backend.to_host(array).tobytes()
                for name, array in self.results().items()}

    def _data(self):
        return [self.backend.from_host(array) for array in (self.images, self.labels)]

    def _places(self, which):
        """Orders, shifts and scalars of one network or of all."""
        dtype = np.dtype(self.program.dtype)
        rows = [self.program.optimizer.scalar_rows(0, rates) for rates in self.rates]
        return [self.backend.from_host(array[which]) for array in (
            self.orders, self.shifts, np.array(rows, dtype))]


@dataclass(frozen=True)
class OnlineCase(Case):
    """Three networks trained in one launch, against the plain plan on the CPU. Leaves what it finds
    on the backend it is given: its own networks."""

    choices: Choices = Choices(registers=6)
    elements: int = 800  # of shared memory that a block has
    dtype: np.dtype = FLOAT
    optimizer: object = PLAIN_SGD
    seed: int = 0

    dtypes = MappingProxyType({"totals": DOUBLE})

    @property
    def profile(self):
        """Of the device that the case needs."""
        return with_room(HOPPER, self.elements, self.dtype.itemsize)

    def arrays(self):
        return {}

    def call(self, backend, arrays):
        trainees = self._trainees(backend, self.dtype)
        trainees.together(self.choices)
        return trainees.results()

    def expected(self, results):
        trainees = self._trainees(get_backend("cpu"), DOUBLE)
        trainees.plainly()
        return trainees.results()

    def _trainees(self, backend, dtype):
        return Trainees(bit_of_everything, backend, dtype=dtype.name, optimizer=self.optimizer)
