"""What the tests of the backends' plans share: networks, batches, and the plain plan beside a
backend's own.

Random chains (random_chains.py) stand for the networks that nobody thought of. Their parameters and
images are random reals, so that no two values tie where ReLU or max pooling has a corner.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import pytest

from gpucnn import (
    SGD,
    Adam,
    ConnectionTable,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    lenet5,
    two_stage,
)
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.plan.group import RESERVED_BYTES
from gpucnn.plans import PlainPlan
from tests.cases import DOUBLE, FLOAT, Case
from tests.cuda_on_cpu.runtime import PROFILE, HostRuntime
from tests.oracle import relative_error
from tests.random_chains import random_chain

EXACT = 1e-10   # in float64, as in oracle.py
CLOSE = 2e-5    # in float32, relative to float64
LOSSES = ("cross_entropy", "mse")
OPTIMIZERS = (SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
              SGD(lr=0.05, momentum=0.5), Adam(lr=0.01, weight_decay=0.01))

CHAINS = [random_chain(seed) for seed in range(50)]
MODELS = {"lenet5": partial(lenet5, device="cpu"), "two_stage": partial(two_stage, device="cpu")}
SOME_CHAINS = {str(chain): chain.network for chain in CHAINS[::5]}

each_chain = pytest.mark.parametrize("chain", CHAINS, ids=str)
each_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
each_loss = pytest.mark.parametrize("loss", LOSSES)


def each_of(builders):
    return pytest.mark.parametrize("build", builders.values(), ids=builders)


# -- batches ---------------------------------------------------------------------------------------


def batch(network, n, seed=0, size=None):
    """n images of reals in the network's range, and their labels."""
    generator = np.random.default_rng([seed, n])
    maps, *full_size = network.input_shape
    images = generator.uniform(*network.input_range, (n, maps, *(size or full_size)))
    return images.astype(network.dtype), generator.integers(0, network.output_shape[0], n)


def byte_batch(network, n, seed=0, size=None):
    """n images of bytes, and their labels."""
    generator = np.random.default_rng([seed, n])
    maps, *full_size = network.input_shape
    images = generator.integers(0, 256, (n, maps, *(size or full_size)), dtype=np.uint8)
    return images, generator.integers(0, network.output_shape[0], n)


# -- plans -----------------------------------------------------------------------------------------


def with_plan(build, *, dtype="float64", loss="cross_entropy", optimizer=OPTIMIZERS[0],
              batch_size=50, backend=None, **keywords):
    """(network, the plan that compile_step gives for it), on the CPU unless a backend is given."""
    network = build(dtype=dtype)
    if backend is not None:
        network.to(backend)
    return network, network.compile_step(loss=loss, optimizer=optimizer, batch_size=batch_size,
                                         **keywords)


def with_plain_plan(build, *, dtype="float64", loss="cross_entropy", optimizer=OPTIMIZERS[0],
                    batch_size=50):
    """(network, its plain plan) on the CPU: the reference."""
    network = build(dtype=dtype)
    return network, PlainPlan(network, network.program(loss=loss, optimizer=optimizer,
                                                       batch_size=batch_size))


def with_both_plans(build, *, backend=None, **options):
    """((network, plan), (network, plain plan)), the networks alike."""
    return with_plan(build, backend=backend, **options), with_plain_plan(build, **options)


# -- comparisons -----------------------------------------------------------------------------------


def gradients_of(network):
    """The gradients by name, as NumPy arrays."""
    return {name: network.backend.to_host(array) for name, array in network.gradients.items()}


def assert_alike(got, expected, tolerance=EXACT):
    """Compare dictionaries of NumPy arrays, array by array."""
    for name, reference in expected.items():
        error = relative_error(got[name], reference)
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


def assert_same_step(planned, plain, images, labels, tolerance=EXACT):
    """Train both by one step; compare losses, gradients and parameters."""
    (network, plan), (reference, plain_plan) = planned, plain
    loss, expected = plan.step(images, labels), plain_plan.step(images, labels)
    assert float(loss) == pytest.approx(float(expected), rel=tolerance)
    assert_alike(gradients_of(network), gradients_of(reference), tolerance)
    assert_alike(network.parameter_values(), reference.parameter_values(), tolerance)


def layer_by_layer(network, x):
    """The output of the layers one by one."""
    for layer in network.layers:
        x = layer.forward(x)
    return x


# -- on CUDA ---------------------------------------------------------------------------------------

# So few blocks that some go through several parts of a batch.
FEW_BLOCKS = replace(PROFILE, multiprocessors=3, max_blocks=2)


def cuda_backend(profile=FEW_BLOCKS, **options):
    """A new CUDA backend whose kernels run on the host."""
    return CudaBackend(HostRuntime(profile=profile, **options))


def at_once(builders):
    """Call each function of a dictionary, in threads: the host's compiler takes most of the time,
    and what it has compiled is kept for the tests."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(builders, pool.map(lambda build: build(), builders.values()), strict=True))


def small_network(dtype="float64", device="cpu"):
    """Some of everything, quickly compiled: a table, padding, windows apart and overlapping, a
    matrix. Input 1 x 12 x 10, five classes."""
    return Network([
        Conv2d(1, 4, 3, padding=(1, 0), name="c1"), Subsample2d(4, 2, name="s2"),
        Conv2d(4, 6, 2, connections=ConnectionTable.random(4, 6, density=0.4, seed=3), name="c3",
               activation="tanh"),
        MaxPool2d(2, stride=1, name="m4"), Flatten(name="flatten"),
        Dense(6 * 4 * 2, 5, activation="identity", name="output")],
        (1, 12, 10), dtype=dtype, device=device, seed=2)


@dataclass(frozen=True)
class PlanCase(Case):
    """One step of a plan, against the plain plan on the CPU. Reads and leaves what it finds on the
    backend it is given: its own network, trained on `samples` samples of a batch of more."""

    layers: tuple  # functions without arguments, each of a new layer
    input_shape: tuple
    samples: int = 5
    batch_size: int = 6
    loss: str = "cross_entropy"
    elements: int | None = None  # of shared memory that a block has, if few
    bytes: bool = True
    dtype: np.dtype = FLOAT
    seed: int = 0

    sums_by_block = True
    dtypes = MappingProxyType({"totals": np.dtype(np.float64)})

    @property
    def profile(self):
        """Of the device that the case needs."""
        if self.elements is None:
            return PROFILE
        return replace(PROFILE, dynamic_shared_bytes=RESERVED_BYTES
                       + self.elements * self.dtype.itemsize)

    def network(self, device="cpu", dtype=None):
        return Network([layer() for layer in self.layers], self.input_shape, device=device,
                       dtype=(dtype or self.dtype).name)

    def arrays(self):
        images, labels = (byte_batch if self.bytes else batch)(
            self.network(), self.samples, seed=self.seed)
        return {"images": images, "labels": labels.astype(np.int32)}

    def call(self, backend, arrays):
        network = self.network(backend)
        plan = network.compile_step(**self._options)
        plan.step(arrays["images"], arrays["labels"])
        return {"loss": plan._losses[:1], "totals": plan._totals[0], **network.gradients,
                **{f"new {name}": array for name, array in network.parameters.items()}}

    def expected(self, results):
        network = self.network(dtype=DOUBLE)
        plan = PlainPlan(network, network.program(**self._options))
        network.set_parameters(self.network().parameter_values())
        arrays = self.arrays()
        images = arrays["images"] if self.bytes else arrays["images"].astype(float)
        plan.step(images, arrays["labels"])
        return {"loss": plan._losses[:1], "totals": plan._totals[0], **network.gradients,
                **{f"new {name}": array for name, array in network.parameters.items()}}

    @property
    def _options(self):
        return {"loss": self.loss, "optimizer": SGD(lr=0.1, momentum=0.5),
                "batch_size": self.batch_size}


# For tests/representative.py: together they use every function of the plan's kernels, in several
# blocks, of which some take several parts of a batch.
SMALL_PLANS = {
    "plan, large kernel": PlanCase((
        partial(Conv2d, 1, 2, 7, padding=(1, 0)),  # more taps than registers
        partial(Subsample2d, 2, (3, 2), stride=(2, 1)), Flatten,
        partial(Dense, 2 * 2 * 3, 3, activation="identity")), (1, 9, 10)),
    "plan, tiles": PlanCase((  # of several pixels, some moved inwards from an edge
        partial(Conv2d, 1, 8, 3),
        partial(Conv2d, 8, 8, 3, padding=1, connections=ConnectionTable.one_to_one(8)),
        partial(Subsample2d, 8, (9, 11)), partial(Dense, 8, 21), partial(Dense, 21, 3)),
        (1, 11, 13)),
    "plan, strides": PlanCase((
        partial(Conv2d, 2, 3, (2, 3), stride=(1, 2), padding=1, bias=False),
        partial(Conv2d, 3, 4, 3, stride=(2, 1), connections=ConnectionTable.random(
            3, 4, density=0.5, seed=1)),
        partial(Subsample2d, 4, 1, stride=2), partial(Dense, 4, 3)), (2, 5, 5), loss="mse",
        bytes=False, dtype=DOUBLE),
    "plan, several groups": PlanCase((
        partial(Conv2d, 1, 3, 3, activation="relu"), partial(MaxPool2d, 2),
        partial(Conv2d, 3, 4, 3, padding=1), partial(MaxPool2d, 2, stride=1),
        partial(Subsample2d, 4, 2), Flatten, partial(Dense, 4, 3)), (1, 9, 9), loss="mse",
        elements=260),
}
