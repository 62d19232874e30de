"""The ways in which PyTorch runs a step: all train the same numbers, from orders on the device."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import ours, peers_torch, torch_ways
from benchmarks.race_task import RaceTask
from benchmarks.task import Task

torch = pytest.importorskip("torch")

TOLERANCE = 2e-5
BATCH_SIZE, ORDERED = 4, 12  # samples ordered at once, so that orders are uploaded again and again


class ShortRace(RaceTask):
    """A race's task on a few of the embedded digits, 18 of which leave a small batch over."""

    def dataset(self):
        return super().dataset()[::250][:18]

    def test_set(self):
        return super().test_set()[:50]


@pytest.fixture
def race():
    return ShortRace("two_stage", BATCH_SIZE, data="digits", epochs=2)


@pytest.fixture(autouse=True)
def few_ordered_at_once(monkeypatch):
    monkeypatch.setattr(torch_ways, "ORDERED_AT_ONCE", ORDERED)


def trainer(task, way="resident"):
    return peers_torch.Trainer(task, way=way, threads=1)


def check_same(values, reference):
    for name, array in reference.items():
        np.testing.assert_allclose(values[name], array, rtol=1e-3, atol=TOLERANCE, err_msg=name)


def check_race(peer, task):
    """Two epochs with shifts, changing rates and a small batch, and the test, as ours."""
    reference = ours.Trainer(task)
    for one in (reference, peer):
        one.reset(task.initial_values(3))
        for number in (1, 2):
            one.train(*task.epoch(3, number))
    check_same(peer.parameters(), reference.parameters())
    assert abs(peer.misread() - reference.misread()) <= 1


def test_a_resident_order_gives_the_losses_of_eager_steps():
    task = Task("two_stage", BATCH_SIZE)
    reference, peer = trainer(task, "eager"), trainer(task)
    np.testing.assert_allclose(peer.losses(7), reference.losses(7), rtol=TOLERANCE)
    for one in (reference, peer):
        one.run(5 * BATCH_SIZE)
    check_same(peer.parameters(), reference.parameters())


@pytest.mark.parametrize("way", ["eager", "resident"])
def test_a_race_trains_the_same_numbers_in_every_way(race, way):
    check_race(trainer(race, way), race)


def test_the_compiled_step_is_one_graph_and_trains_the_same_numbers(monkeypatch):
    # Traced as for a GPU, but run by PyTorch's own operations, which need no compiler.
    monkeypatch.setitem(torch_ways.COMPILE_OPTIONS, "backend", "aot_eager")
    task = Task("lenet5", BATCH_SIZE)
    reference, peer = trainer(task, "eager"), trainer(task)
    peer._way = torch_ways.Resident(torch, peer._step, scheduled=False, compiled=True,
                                    captured=False)
    np.testing.assert_allclose(peer.losses(4), reference.losses(4), rtol=TOLERANCE)


def test_a_reset_gives_the_bits_of_a_fresh_start(race):
    peer = trainer(race)
    ends = []
    for _ in range(2):
        peer.reset(race.initial_values(0))
        peer.train(*race.epoch(0, 1))
        ends.append(peer.parameters())
        ends[-1] = {name: values.copy() for name, values in ends[-1].items()}
    for name, values in ends[0].items():
        np.testing.assert_array_equal(values, ends[1][name], name)


class HostGraphs:
    """PyTorch with graphs that run on the host: what is captured is run there and then, and again
    at each replay. A CUDA graph runs nothing when it is captured, which parameters that are put
    back afterwards do not tell apart."""

    def __init__(self):
        self.cuda = self
        self.replays = []
        self.streams = []

    def __getattr__(self, name):
        return getattr(torch, name)

    def CUDAGraph(self):
        return SimpleNamespace()

    @contextmanager
    def graph(self, graph, stream):
        assert self.streams[-1] is stream
        yield
        way = self.capturing

        def replay():
            self.replays.append(way._batch_size)
            way._loss.copy_(way._advance())

        graph.replay = replay

    @contextmanager
    def stream(self, stream):
        self.streams.append(stream)
        yield
        self.streams.pop()

    def current_stream(self, device):
        return self.streams[-1] if self.streams else Stream()


class Stream:
    """A stream that waits for nothing, since the host does everything in turn."""

    def wait_stream(self, other):
        assert isinstance(other, Stream)


class CapturedOnTheHost(torch_ways.Resident):
    """A resident step with a stream of the host."""

    def __init__(self, graphs, step, **options):
        super().__init__(graphs, step, **options)
        self._stream = Stream()

    def _capture(self):
        self._torch.capturing = self
        super()._capture()


def test_captured_steps_are_replayed_from_the_state_before_their_warm_up(race, monkeypatch):
    peer, graphs = trainer(race), HostGraphs()
    monkeypatch.setattr(torch_ways, "Resident", CapturedOnTheHost)
    peer._way = torch_ways.Resident(graphs, peer._step, scheduled=True, compiled=False,
                                    captured=True)
    check_race(peer, race)
    assert graphs.replays == 2 * [4, 4, 4, 4, 2] and not graphs.streams


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("way", ["graph", "compile+graph"])
def test_graphs_train_the_same_numbers_on_a_gpu(way):
    task = Task("lenet5", 64, "cuda")
    np.testing.assert_allclose(trainer(task, way).losses(6), trainer(task, "eager").losses(6),
                               rtol=1e-4)
