"""Which forms of the kernels the tests run.

The specialisations that generated cases draw from on a CUDA backend, where each is compiled; small
cases that launch every kernel; and how to collect the sources of what would be launched.
"""

from gpucnn import ConnectionTable
from gpucnn.backends.cuda import CudaBackend
from tests.cases import DOUBLE, FLOAT, Conv2dCase, DenseCase, MaxPool2dCase, Subsample2dCase
from tests.conv2d_cases import KERNEL_CASES
from tests.cuda_on_cpu.runtime import PROFILE, HostRuntime
from tests.online_cases import OnlineCase
from tests.plan_cases import SMALL_PLANS
from tests.training_cases import AdamCase, GatherCase, LossCase, SgdCase, WaitCase
from tests.update_cases import SMALL_UPDATES

# (kernel, stride, activation, type)
CONV2D = (
    ((5, 5), (1, 1), "scaled_tanh", FLOAT),
    ((3, 3), (2, 2), "relu", FLOAT),
    ((1, 1), (1, 1), "identity", FLOAT),
    ((2, 5), (3, 1), "sigmoid", FLOAT),
    ((4, 3), (1, 1), "scaled_tanh", DOUBLE),
    ((3, 2), (2, 3), "tanh", DOUBLE),
    ((1, 2), (3, 3), "relu", DOUBLE),
)
# (pool_size, stride, activation, type)
SUBSAMPLE2D = (
    ((2, 2), (2, 2), "scaled_tanh", FLOAT),
    ((3, 2), (1, 2), "relu", FLOAT),
    ((1, 1), (1, 1), "identity", FLOAT),
    ((2, 1), (3, 2), "tanh", FLOAT),
    ((2, 2), (2, 2), "sigmoid", DOUBLE),
    ((3, 3), (2, 2), "scaled_tanh", DOUBLE),
    ((1, 4), (3, 1), "relu", DOUBLE),
    ((4, 4), (3, 4), "identity", DOUBLE),
)
# (pool_size, stride, type)
MAX_POOL2D = (
    ((2, 2), (2, 2), FLOAT), ((3, 3), (2, 2), FLOAT), ((1, 1), (1, 1), FLOAT),
    ((2, 3), (3, 1), FLOAT), ((2, 2), (2, 2), DOUBLE), ((3, 2), (1, 3), DOUBLE),
    ((4, 1), (2, 2), DOUBLE), ((1, 3), (3, 1), DOUBLE),
)
# (activation, type)
DENSE = (("identity", FLOAT), ("scaled_tanh", FLOAT), ("relu", FLOAT), ("tanh", DOUBLE),
         ("sigmoid", DOUBLE))

# Input map 1 has no outputs, the fan-in is uneven, and weights are in no particular order.
UNEVEN_TABLE = ConnectionTable.from_pairs([[3, 0, 2, 0, 3], [1, 0, 1, 2, 0]], in_maps=4, out_maps=3)

# One or two of each op, and of plans; together they launch every kernel, in several blocks.
SMALL_OPS = {
    "conv2d": Conv2dCase(UNEVEN_TABLE, 3, (7, 6), (3, 2), (2, 3), (1, 2), "tanh", DOUBLE),
    "conv2d, many maps": Conv2dCase(ConnectionTable.random(9, 10, density=0.3, seed=1), 2, (9, 5),
                                    (5, 5), padding=(2, 2)),
    "conv2d, one position": Conv2dCase(ConnectionTable.full(2, 3), 5, (5, 5), (5, 5)),
    "subsample2d": Subsample2dCase((4, 3, 8, 9)),
    "subsample2d, overlapping": Subsample2dCase((2, 3, 8, 7), (3, 3), (2, 2), dtype=DOUBLE),
    "max_pool2d": MaxPool2dCase((4, 2, 9, 12)),
    "max_pool2d, overlapping": MaxPool2dCase((2, 3, 8, 7), (3, 3), (2, 2)),
    "dense": DenseCase(19, 40, 5, activation="relu"),
    "dense, positions": DenseCase(3, 5, 18, (2, 3), "sigmoid", DOUBLE),
    "gather": GatherCase(5, (4, 2, 5, 6), (9, 8)),
    "gather, reals": GatherCase(5, (4, 1, 6, 5), (6, 6), bytes=False, dtype=DOUBLE),
    "mse": LossCase("mse", 140, bad_labels=True),
    "cross_entropy": LossCase("cross_entropy", 140, bad_labels=True),
    "sgd_step": SgdCase(300, nesterov=True, weight_decay=0.01),
    "sgd_step, plain": SgdCase(300, momentum=0.0, dtype=DOUBLE),
    "adam_step": AdamCase(300, weight_decay=0.01),
} | KERNEL_CASES
SMALL_CASES = SMALL_OPS | SMALL_UPDATES | SMALL_PLANS | {"online": OnlineCase(), "wait": WaitCase()}


class RecordingRuntime(HostRuntime):
    """Launches nothing; `sources` has the text of every specialisation asked for, by its name."""

    def __init__(self, profile=PROFILE):
        super().__init__(device="recording", profile=profile)
        self.sources = {}

    def compile(self, source, name):
        self.sources[name] = source
        return lambda kernel: lambda blocks, threads, arguments, shared_bytes=0: None


def recorded_sources(work):
    """The sources of the kernels that `work(backend)` would launch, by their names."""
    runtime = RecordingRuntime()
    work(CudaBackend(runtime))
    return runtime.sources
