"""The peers of the benchmarks compute what this library computes, whatever its layers' options."""

import sys

import numpy as np
import pytest

from benchmarks import ours, peers_jax, peers_seed, peers_torch
from benchmarks.jax_layers import Form
from benchmarks.precisions import precision_of
from benchmarks.sides import OURS, PEERS, RACE_PEERS, BenchmarkError, side, supports
from benchmarks.task import PredictionTask, Task
from gpucnn import ConnectionTable, Conv2d, Dataset, Dense, Flatten, MaxPool2d, Network, Subsample2d

pytestmark = pytest.mark.thorough  # trains with other libraries

TOLERANCE = 2e-5
FORMS = [Form(columns, maps_last) for columns in (False, True) for maps_last in (False, True)]
MODULES = {"torch": (peers_torch, "torch"), "jax": (peers_jax, "jax"),
           "seed": (peers_seed, "scipy.signal")}


class OddTask(Task):
    """Every layer, with the options and activations that the benchmarks' models leave out; trained
    at the rate of the model that is named."""

    def network(self, device="cpu"):
        return Network([
            Conv2d(2, 4, 3, padding=1, stride=(2, 1), activation="tanh",
                   connections=ConnectionTable.random(2, 4, density=0.7, seed=1)),
            MaxPool2d(2, stride=1),
            Conv2d(4, 5, (3, 2), bias=False, activation="sigmoid"),
            Subsample2d(5, (2, 3), stride=2, trainable=False),
            Dense(5, 6, activation="relu"),
            MaxPool2d((1, 2)),
            Subsample2d(6, (1, 2), stride=1),
            Conv2d(6, 7, (2, 1)),
            Flatten(),
            Dense(7, 10, activation="identity"),
        ], (2, 13, 12), seed=3, device=device)

    def dataset(self):
        generator = np.random.default_rng(0)
        return Dataset(generator.integers(0, 256, (40, 2, 10, 12), np.uint8),
                       generator.integers(0, 10, 40), classes=10)


def check_training(module, task, steps=4, **keywords):
    """The same initial parameters, losses and trained parameters as ours."""
    reference, peer = ours.Trainer(task), module.Trainer(task, **keywords)
    before = peer.parameters()
    assert set(before) == set(reference.parameters())
    for name, values in reference.parameters().items():
        np.testing.assert_array_equal(before[name], values, name)
    np.testing.assert_allclose(peer.losses(steps), reference.losses(steps), rtol=TOLERANCE)
    after = peer.parameters()
    for name, values in reference.parameters().items():
        difference = np.linalg.norm(after[name] - values) / np.linalg.norm(values)
        assert difference < TOLERANCE, name
    return reference, peer


# -- training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [OddTask("lenet5", 3), Task("two_stage", 4)],
                         ids=["odd", "two_stage"])
def test_pytorch_trains_the_same_numbers(task):
    pytest.importorskip("torch")
    check_training(peers_torch, task)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_jax_trains_the_same_numbers_in_every_form(form):
    pytest.importorskip("jax")
    task = OddTask("lenet5", 3)
    _, peer = check_training(peers_jax, task, scan=False, form=form)
    weight = np.asarray(peer._state[0]["conv2d1"]["weight"])
    joined = task.network().layers[0].connections.matrix
    assert ((weight != 0).any(axis=(0, 1) if form.maps_last else (2, 3))
            == (joined if form.maps_last else joined.T)).all()


def test_jax_trains_the_same_numbers_by_a_scan():
    pytest.importorskip("jax")
    check_training(peers_jax, Task("relu_net", 2), scan=True, form=Form(columns=True))


def test_jax_trains_whole_scans_then_batches_then_the_samples_left_over():
    pytest.importorskip("jax")
    reference, peer = check_training(peers_jax, OddTask("lenet5", 64), 1, scan=True,
                                     form=Form(columns=True))
    assert peer.unit == 4 * 64
    for one in (reference, peer):
        one.run(peer.unit + 64 + 5)
    after = peer.parameters()
    for name, values in reference.parameters().items():
        np.testing.assert_allclose(after[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("task", [OddTask("lenet5", 1), Task("two_stage", 1), Task("relu_net", 1)],
                         ids=["odd", "two_stage", "relu_net"])
def test_the_seed_algorithm_trains_the_same_numbers(task):
    pytest.importorskip("scipy")
    check_training(peers_seed, task)


# -- inference ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keywords"), [
    ("torch", {"batch_size": 16}), ("jax", {"batch_size": 16, "form": Form(maps_last=True)}),
], ids=["torch", "jax"])
@pytest.mark.parametrize("model", ["two_stage", "relu_net"])
def test_predictors_give_our_labels(model, name, keywords):
    module, package = MODULES[name]
    pytest.importorskip(package)
    task = PredictionTask(model, 40, Task(model, 1, seed=5).network().parameter_values())
    labels = ours.Predictor(task).labels()
    assert labels.shape == (40,)
    assert np.mean(module.Predictor(task, **keywords).labels() == labels) >= 0.95


# -- settings and what is missing --------------------------------------------------------------


def test_pytorch_is_tried_with_one_thread_and_with_all_cores():
    assert {"threads": 1} in peers_torch.settings("cpu", cores=8).values()
    assert {"threads": 8} in peers_torch.settings("cpu", cores=8).values()
    threads = {keywords["threads"]
               for keywords in peers_torch.prediction_settings("cpu", cores=8).values()}
    assert threads == {1, 8}
    assert len(peers_torch.prediction_settings("cpu", cores=1)) == 3


def test_on_a_gpu_every_way_is_tried_in_both_precisions():
    ways = ("eager", "graph", "compile+graph")
    assert list(peers_torch.settings("cuda", cores=8)) == [
        f"{way}, {precision}" for precision in ("float32", "tf32") for way in ways]
    assert list(peers_jax.settings("cuda:1", cores=8)) == [
        f"{way}, {precision}" for precision in ("float32", "tf32") for way in ("scan", "jit step")]
    assert ours.settings("cuda", cores=8) == {"float32": {"precision": "float32"},
                                              "tf32": {"precision": "tf32"}}
    assert ours.settings("cpu", cores=8) == {"as it comes": {}}


@pytest.mark.parametrize(("keywords", "passed_on"), [
    (ours.settings("cuda", 1)["tf32"], {"precision": "tf32"}),
    (ours.settings("cpu", 1)["as it comes"], {})], ids=["a GPU's", "the CPU's"])
def test_our_trainer_asks_for_the_precision_of_its_setting(monkeypatch, keywords, passed_on):
    asked, compile_step = [], Network.compile_step

    def remember(network, *, loss, optimizer, batch_size, **others):
        asked.append(others)
        return compile_step(network, loss=loss, optimizer=optimizer, batch_size=batch_size)

    monkeypatch.setattr(Network, "compile_step", remember)
    ours.Trainer(Task("two_stage", 2), **keywords)
    assert asked == [passed_on]


@pytest.mark.parametrize("name", [OURS, *RACE_PEERS])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_racers_take_part_in_each_precision_of_a_device(name, device):
    settings = side(name).race_settings(device, 2)
    assert {precision_of(keywords) for keywords in settings.values()} == (
        {"float32"} if device == "cpu" else {"float32", "tf32"})
    assert not any(keywords.get("way") == "eager" for keywords in settings.values())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_jax_is_tried_with_a_scan_and_with_a_call_for_each_batch(device):
    scans = [keywords["scan"] for keywords in peers_jax.settings(device, cores=2).values()]
    assert True in scans and False in scans


def test_only_the_seed_algorithm_leaves_tasks_out():
    tasks = [Task("lenet5", 1), Task("lenet5", 16), Task("lenet5", 1, "cuda")]
    assert [supports("seed", task) for task in tasks] == [True, False, False]
    assert all(supports(name, task) for name in PEERS if name != "seed" for task in tasks)
    with pytest.raises(BenchmarkError, match="expected batch size 1 on the CPU, got batch size 16"):
        peers_seed.Trainer(tasks[1])


@pytest.mark.parametrize(("name", "wanted"), [
    ("torch", r"PyTorch to be installed \(pip install torch"),
    ("jax", r"JAX to be installed \(pip install jax"),
    ("seed", r"SciPy to be installed \(pip install scipy")])
def test_a_missing_package_is_an_error_that_says_what_to_install(name, wanted, monkeypatch):
    module, package = MODULES[name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BenchmarkError, match=f"peer {name}: expected {wanted}"):
        module.Trainer(Task("lenet5", 1))


def test_pytorch_computes_in_the_precision_asked_for():
    torch = pytest.importorskip("torch")
    for precision, allowed in (("tf32", True), ("float32", False)):
        peers_torch.import_torch("cpu", precision)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed


def test_jax_computes_in_the_precision_asked_for():
    pytest.importorskip("jax")
    for precision, wanted in (("tf32", "tensorfloat32"), ("float32", "float32")):
        jax, _ = peers_jax.import_jax("cpu", precision)
        assert jax.config.jax_default_matmul_precision == wanted


def test_jax_without_the_device_is_an_error_that_names_it():
    jax = pytest.importorskip("jax")
    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("this JAX has a GPU")
    with pytest.raises(BenchmarkError, match="expected a JAX with device 'cuda:1'"):
        peers_jax.Trainer(Task("lenet5", 1, "cuda:1"))
