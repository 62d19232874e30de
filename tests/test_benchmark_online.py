"""The benchmark of online training: all sides train the same numbers, one network and many at once,
and what it prints."""

import json
import re
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from benchmarks import (
    online,
    online_jax,
    online_limit,
    online_ours,
    online_torch,
    ours,
    peers_jax,
    peers_torch,
    torch_ways,
)
from benchmarks.contest import Comparison, Measurement
from benchmarks.online_task import OnlineTask
from benchmarks.sides import BenchmarkError
from benchmarks.tables import OnlineTable
from gpucnn.backends.cuda import CudaBackend
from tests import nvrtc
from tests.cuda_on_cpu.profiles import PROFILES
from tests.cuda_on_cpu.runtime import HostRuntime

pytestmark = pytest.mark.thorough  # trains with other libraries

TOLERANCE = 2e-5
NETWORKS = 3


def trained(trainer, steps=4, samples=6):
    """(initial parameters, losses, parameters at the end) of a trainer."""
    before = {name: values.copy() for name, values in trainer.parameters().items()}
    losses = trainer.losses(steps)
    trainer.run(samples)
    return before, losses, trainer.parameters()


def assert_same_training(trainer, reference):
    (before, losses, after), expected = trained(trainer), trained(reference)
    assert set(before) == set(expected[0])
    for name, values in expected[0].items():
        np.testing.assert_array_equal(before[name], values, name)
    np.testing.assert_allclose(losses, expected[1], rtol=TOLERANCE)
    for name, values in expected[2].items():
        assert np.linalg.norm(after[name] - values) < TOLERANCE * np.linalg.norm(values), name


# -- the same numbers ------------------------------------------------------------------------------


def test_pytorch_trains_one_network_to_the_same_numbers():
    pytest.importorskip("torch")
    task = OnlineTask("lenet5", 1)
    assert_same_training(peers_torch.Trainer(task, threads=1), ours.Trainer(task))


def test_jax_trains_one_network_to_the_same_numbers():
    pytest.importorskip("jax")
    task = OnlineTask("two_stage", 1)
    assert_same_training(peers_jax.Trainer(task), ours.Trainer(task))


@pytest.mark.parametrize("way", ["eager", "resident"])
def test_pytorch_trains_many_networks_to_the_same_numbers(way):
    pytest.importorskip("torch")
    task = OnlineTask("lenet5", NETWORKS)
    assert_same_training(online_torch.ManyTrainer(task, way=way, threads=1),
                         online_ours.ManyTrainer(task))


def test_pytorchs_step_of_many_networks_compiles_as_one_graph(monkeypatch):
    torch = pytest.importorskip("torch")
    # traced as for a GPU, but run by PyTorch's own operations, which need no compiler
    monkeypatch.setitem(torch_ways.COMPILE_OPTIONS, "backend", "aot_eager")
    task = OnlineTask("two_stage", NETWORKS)
    trainer = online_torch.ManyTrainer(task, threads=1)
    trainer._way = torch_ways.Resident(torch, trainer._step, scheduled=False, compiled=True,
                                       captured=False)
    assert_same_training(trainer, online_ours.ManyTrainer(task))


def test_jax_trains_many_networks_to_the_same_numbers():
    pytest.importorskip("jax")
    task = OnlineTask("two_stage", NETWORKS)
    assert_same_training(online_jax.ManyTrainer(task, form=peers_jax.COLUMNS),
                         online_ours.ManyTrainer(task))


@dataclass(frozen=True)
class Elsewhere(OnlineTask):
    """A task whose networks are on a given backend."""

    backend: object = None

    def networks(self, device="cpu"):
        return super().networks(self.backend)


def test_this_library_trains_many_networks_on_cuda_to_the_numbers_of_the_cpu():
    backend = CudaBackend(HostRuntime(profile=PROFILES["sm_80"]))
    trainer = online_ours.ManyTrainer(Elsewhere("two_stage", NETWORKS, backend=backend))
    assert_same_training(trainer, online_ours.ManyTrainer(OnlineTask("two_stage", NETWORKS)))
    assert {blocks for _, blocks, _ in backend.runtime.launches} == {NETWORKS}


def test_networks_differ_in_their_values_and_samples():
    task = OnlineTask("two_stage", NETWORKS)
    parameters = online_ours.ManyTrainer(task).parameters()
    assert task.checked == [0, 1, 2] and OnlineTask("two_stage", 1024).checked == [0, 512, 1023]
    assert not np.array_equal(*(parameters[f"network {number}: c1.weight"] for number in (0, 1)))


def test_what_has_no_room_for_online_training_is_an_error():
    backend = CudaBackend(HostRuntime())
    backend.compile_many = lambda *arguments, **keywords: None
    with pytest.raises(BenchmarkError, match="expected a network that is trained online"):
        online_ours.ManyTrainer(Elsewhere("two_stage", 2, backend=backend))


# -- settings --------------------------------------------------------------------------------------


def test_the_settings_are_those_of_one_network_and_of_many():
    one, many = (partial(OnlineTask("lenet5", count, "cuda").settings, cores=2)
                 for count in (1, 2))
    assert list(one(ours)) == list(many(ours)) == ["as it comes"]
    assert {"eager, float32", "graph, tf32", "compile+graph, tf32"} <= set(one(peers_torch))
    assert {"vmap, graph, float32", "vmap, compile+graph, tf32"} <= set(many(peers_torch))
    assert "scan, float32" in one(peers_jax) and "vmap in scan, tf32" in many(peers_jax)
    on_cpu = OnlineTask("lenet5", 2).settings
    assert list(on_cpu(peers_torch, cores=2)) == ["vmap, 1 thread", "vmap, 2 threads"]
    assert all("columns" in label for label in on_cpu(peers_jax, cores=2))


# -- the limit -------------------------------------------------------------------------------------


def test_the_limit_is_that_of_one_multiprocessor_for_each_network():
    speed = online_limit.Speed(multiply_adds=250e9, multiprocessors=100)
    assert speed.seconds(1e6, networks=1) == speed.seconds(1e6, networks=100) == 4e-6
    assert speed.seconds(1e6, networks=150) == pytest.approx(6e-6)
    assert str(speed) == "500 GFLOP/s of float32 in each of 100 multiprocessors"


def test_the_meter_counts_what_its_kernel_does():
    runtime = HostRuntime()
    runtime.seconds = lambda work: work() or 0.5
    speed = online_limit.SpeedMeter(CudaBackend(runtime), repeats=1).speed()
    of_thread = online_limit.CHAINS * online_limit.UNROLLED
    (_, blocks, threads), = runtime.launches
    assert speed.multiprocessors == runtime.profile.multiprocessors
    assert speed.multiply_adds * speed.multiprocessors * 0.5 == blocks * threads * of_thread


def test_the_meters_kernel_does_nothing_but_multiply_and_add():
    ptx = nvrtc.ptx_for(online_limit.SOURCE, "multiply_adds", "compute_90")
    fused = len(re.findall(r"\bfma\.rn\.f32", ptx))
    assert fused == online_limit.CHAINS * online_limit.UNROLLED


# -- the command -----------------------------------------------------------------------------------


def measured(side, *rates):
    return Measurement(side, "a setting", rates, {})


def test_a_row_has_updates_their_time_the_limit_and_the_best_peer():
    table = OnlineTable(["torch", "jax"], lambda networks: networks * 1e-6)
    assert table.head().splitlines()[0].startswith(
        "| networks | gpucnn | us an update of each | of the limit | torch | best setting |")
    row = table.rows(Comparison(10, (measured("gpucnn", 500_000.0, 500_000.0),
                                     measured("torch", 1000.0, 1000.0),
                                     measured("jax", 5000.0, 2000.0)), {}))
    assert row.startswith("| 10 | 500,000 | 20.0 | 50.0% | 1,000 | a setting | 500 | 500 to 500 |")
    assert row.endswith("| 3,500 | a setting | 175 | 100 to 250 | 175 |")
    assert OnlineTable([], None).rows(Comparison(1, (measured("gpucnn", 2e3),), {})) == (
        "| 1 | 2,000 | 500.0 | - |")


def test_it_prints_a_row_for_each_number_of_networks(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(peers_torch, "settings", lambda device, cores: {"1 thread": {"threads": 1}})
    monkeypatch.setattr(online_torch, "settings", peers_torch.settings)
    out = tmp_path / "measured.json"
    assert online.main(["--peer", "torch", "--networks", "1,2", "--seconds", "0.01", "--rounds",
                        "1", "--model", "two_stage", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "two_stage on cpu: online training, updates per second of all networks" in text
    for count in (1, 2):
        assert re.search(rf"^\| {count} \| [\d,]+ \| [\d,.]+ \| - \| [\d,]+ \| 1 thread \|", text,
                         re.MULTILINE)
    assert "Before timing, 20 steps from the same initial parameters: losses differ by" in text
    comparisons = json.loads(out.read_text())["comparisons"]
    assert [comparison["size"] for comparison in comparisons] == [1, 2]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--networks", "1,x"], "--networks: expected whole numbers"),
    (["--networks", "0"], "--networks: expected whole numbers"),
    (["--peer", "seed"], "--peer: expected some of torch, jax")])
def test_a_wrong_option_is_an_error_that_says_what_was_expected(arguments, message, capsys):
    with pytest.raises(SystemExit):
        online.main(arguments)
    assert message in capsys.readouterr().err


def test_a_model_for_which_mse_is_no_loss_is_refused(capsys):
    assert online.main(["--model", "relu_net"]) == 1
    assert "--model: expected one of lenet5, two_stage, got relu_net" in capsys.readouterr().err
