"""Ensembles: what they average, what they take, and that they come back from files."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gpucnn
from gpucnn import Conv2d, Dense, Ensemble, Flatten, Network, evaluate, load_network, save_network
from gpucnn.errors import ArgumentError, DataError, DTypeError, FileFormatError, ShapeError


def network(seed=0, maps=3, last=(), output="identity", shape=(1, 8, 8), **keywords):
    """Two layers, of which the first has so many maps, and `last` behind them."""
    return Network([Conv2d(1, maps, 8, name="c1"),
                    Dense(maps, 4, activation=output, name="output"), *last], shape,
                   **({"seed": seed, "device": "cpu"} | keywords))


def images(count=5, size=(8, 8), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size), np.uint8)


def softmax(outputs):
    powers = np.exp(outputs.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def rewritten(path, change):
    """The file with its description changed."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    header = change(json.loads(metadata["description"]))
    save_file(load_file(path), path, metadata | {"description": json.dumps(header)})


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "ensemble.safetensors"
    Ensemble([network(0), network(1, maps=5)]).save(path)
    return path


# -- what is averaged ----------------------------------------------------------------------------

def test_linear_networks_give_their_mean_probabilities():
    networks = [network(seed) for seed in range(3)]
    ensemble = Ensemble(networks)
    expected = np.mean([softmax(one.outputs(images())) for one in networks], axis=0)
    outputs = ensemble.outputs(images())
    assert ensemble.averages == "probabilities"
    assert outputs.shape == (5, 4, 1, 1) and outputs.dtype == np.float32
    assert np.allclose(outputs, expected, atol=1e-6)
    assert np.allclose(outputs.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("activation", ["scaled_tanh", "sigmoid", "relu"])
def test_squashed_networks_give_their_mean_outputs(activation):
    networks = [network(seed, output=activation) for seed in range(3)]
    ensemble = Ensemble(networks)
    expected = np.mean([one.outputs(images()) for one in networks], axis=0)
    assert ensemble.averages == "outputs"
    assert np.allclose(ensemble.outputs(images()), expected, atol=1e-6)


def test_the_last_layer_with_an_activation_decides():
    assert Ensemble([network(last=[Flatten()])]).averages == "probabilities"
    assert Ensemble([network(last=[Flatten()], output="tanh")]).averages == "outputs"


def test_an_ensemble_of_one_predicts_as_its_network():
    one = network()
    assert np.array_equal(Ensemble([one]).predict(images()), one.predict(images()))


def test_a_sure_network_outvotes_two_that_are_hardly_sure():
    networks = [network(seed) for seed in range(3)]
    for one, (label, sureness) in zip(networks, ((0, 9.0), (2, 0.1), (2, 0.1)), strict=True):
        one["output"].weight[...] = 0
        one["output"].bias[...] = 0
        one["output"].bias[label] = sureness
    assert Ensemble(networks).predict(images()).tolist() == [0] * 5


def test_networks_of_other_layers_types_and_ranges_answer_together():
    networks = [network(0), network(1, maps=6, dtype="float64", last=[Flatten()]),
                network(2, input_range=(0, 1))]
    outputs = Ensemble(networks).outputs(images())
    expected = np.mean([softmax(one.outputs(images()).reshape(5, 4)) for one in networks], axis=0)
    assert outputs.dtype == np.float64 and outputs.shape == (5, 4, 1, 1)
    assert np.allclose(outputs[:, :, 0, 0], expected, atol=1e-6)


def test_larger_images_give_a_label_at_every_position():
    assert Ensemble([network(0), network(1)]).predict(images(2, (10, 9))).shape == (2, 3, 2)


def test_very_sure_networks_do_not_overflow():
    one = network()
    one["output"].bias[...] = [1e4, 0, 0, 0]
    with np.errstate(all="raise", under="ignore"):
        assert np.allclose(Ensemble([one]).outputs(images())[:, :, 0, 0], [1, 0, 0, 0])


@pytest.mark.parametrize("threads", [1, 2])
def test_evaluate_measures_an_ensemble(threads):
    ensemble = Ensemble([network(0), network(1)])
    labels = ensemble.predict(images(20))
    labels[:5] = (labels[:5] + 1) % 4
    assert evaluate(ensemble, (images(20), labels), threads=threads) == 25


def test_an_ensemble_of_trained_networks_errs_less_than_they_do_in_the_mean():
    train, test = gpucnn.digits()
    networks = [gpucnn.two_stage(seed=seed, device="cpu") for seed in range(3)]
    gpucnn.fit_many(networks, train[:1500], epochs=3, batch_size=20, seed=[0, 1, 2],
                    optimizer=gpucnn.SGD(0.02, momentum=0.9))
    mean = np.mean([evaluate(one, test) for one in networks])
    assert evaluate(Ensemble(networks), test) < mean < 20


def test_an_ensemble_tells_what_it_is():
    ensemble = Ensemble([network(0), network(1)])
    assert len(ensemble) == 2
    assert repr(ensemble) == ("<Ensemble: 2 networks, input (1, 8, 8), 4 classes, averages "
                              "probabilities>")


def test_an_ensemble_moves_to_another_device(cuda_on_cpu):
    ensemble = Ensemble([network(0), network(1)])
    before = ensemble.outputs(images())
    assert ensemble.to(cuda_on_cpu) is ensemble
    assert {one.device for one in ensemble.networks} == {"cuda-on-cpu"}
    assert np.allclose(ensemble.outputs(images()), before, atol=1e-5)


# -- what is refused -----------------------------------------------------------------------------

@pytest.mark.parametrize(("networks", "error", "message"), [
    ([], ArgumentError, r"networks, at least one, got \[\]"),
    (network(), ArgumentError, "a list of networks"),
    ([network(), 3], ArgumentError, "expected networks.* 3]"),
    ([network(), network(output="tanh")], ArgumentError,
     "got activation 'identity' for network 0 and 'tanh' for network 1"),
    ([network(), network(shape=(1, 9, 9), last=[Conv2d(4, 4, 2, activation="identity")])],
     ShapeError, r"images of shape, got \(1, 8, 8\) for network 0 and \(1, 9, 9\)"),
    ([network(), network(last=[Dense(4, 5, activation="identity")])], ShapeError,
     "as many classes, got 4 for network 0 and 5 for network 1"),
    ([network(shape=(1, 9, 9))], ShapeError, "one answer an image, got an output of .4, 2, 2."),
], ids=["none", "a network", "no network", "activation", "input", "classes", "positions"])
def test_networks_that_do_not_fit_together_are_refused(networks, error, message):
    with pytest.raises(error, match=message):
        Ensemble(networks)


def test_images_that_a_network_cannot_take_are_refused():
    ensemble = Ensemble([network(0), network(1, dtype="float64")])
    with pytest.raises(DTypeError, match="uint8 or float64"):
        ensemble.outputs(np.zeros((1, 8, 8), np.float32))
    with pytest.raises(DataError, match="labels of 0 to 3"):
        evaluate(ensemble, (images(2), np.array([0, 4])))


def test_images_at_which_networks_give_other_numbers_of_positions_are_refused():
    strided = Network([Conv2d(1, 4, 8, stride=2, activation="identity")], (1, 8, 8), device="cpu")
    with pytest.raises(ShapeError, match=r"12x8, got \(5, 1\) of .* \(3, 1\) of network 1"):
        Ensemble([network(), strided]).predict(images(1, (12, 8)))


# -- files ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("output", ["identity", "scaled_tanh"])
def test_an_ensemble_comes_back_as_it_was(tmp_path, output):
    ensemble = Ensemble([network(0, output=output), network(1, maps=5, output=output),
                         network(2, dtype="float64", output=output, input_range=(0, 1))])
    ensemble.save(tmp_path / "ensemble")
    loaded = Ensemble.load(tmp_path / "ensemble", device="cpu")
    assert repr(loaded) == repr(ensemble)
    for one, other in zip(loaded.networks, ensemble.networks, strict=True):
        assert np.array_equal(one.parameters.flat, other.parameters.flat)
    assert np.array_equal(loaded.outputs(images()), ensemble.outputs(images()))


def test_tables_come_back_and_saving_twice_gives_the_same_bytes(tmp_path):
    ensemble = Ensemble([gpucnn.lenet5(seed=seed, device="cpu") for seed in range(12)])
    ensemble.save(tmp_path / "first")
    Ensemble.load(tmp_path / "first", device="cpu").save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_an_ensemble_is_read_by_another_device(saved, cuda_on_cpu):
    loaded = Ensemble.load(saved, device=cuda_on_cpu)
    assert np.allclose(loaded.outputs(images()),
                       Ensemble.load(saved, device="cpu").outputs(images()), atol=1e-5)


def test_a_file_of_another_kind_is_refused_with_what_it_is(saved, tmp_path):
    save_network(network(), tmp_path / "network")
    with pytest.raises(FileFormatError, match=r"expected a gpucnn ensemble .* 'gpucnn network'"):
        Ensemble.load(tmp_path / "network", device="cpu")
    with pytest.raises(FileFormatError, match=r"an ensemble: gpucnn\.Ensemble\.load reads that"):
        load_network(saved, device="cpu")
    with pytest.raises(FileNotFoundError, match="expected a gpucnn ensemble file, got no file"):
        Ensemble.load(tmp_path / "absent", device="cpu")


@pytest.mark.parametrize(("change", "message"), [
    (lambda header: [], "descriptions of an ensemble's networks, got none"),
    (lambda header: {"networks": []}, "got none"),
    (lambda header: {"networks": "two"}, "got none"),
    (lambda header: {"networks": [*header["networks"], header["networks"][0]]},
     "a fault at 'c1.connections'"),
    (lambda header: {"networks": header["networks"][::-1]}, "fits together"),
    (lambda header: {"networks": [None]}, "complete description"),
])
def test_a_description_that_does_not_hold_is_refused(saved, change, message):
    rewritten(saved, change)
    with pytest.raises(FileFormatError, match=message):
        Ensemble.load(saved, device="cpu")


def test_networks_in_a_file_that_do_not_fit_together_are_the_files_fault(saved):
    def squash(header):
        header["networks"][1]["layers"][-1]["options"]["activation"] = "tanh"
        return header

    rewritten(saved, squash)
    with pytest.raises(FileFormatError, match=r"fits together: Ensemble: .* 'tanh'"):
        Ensemble.load(saved, device="cpu")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        Ensemble([network()]).save(tmp_path / "no" / "ensemble")
    assert list(tmp_path.iterdir()) == []
