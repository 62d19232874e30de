"""Networks as files: what is saved comes back, and nothing else is taken for it."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpucnn
from gpucnn import (
    ConnectionTable,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
    Subsample2d,
    load_network,
    save_network,
)
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import ArgumentError, DeviceError, FileFormatError
from tests.cuda_on_cpu.runtime import HostRuntime


def every_layer(**keywords):
    table = ConnectionTable.from_pairs(np.array([[1, 0, 1], [0, 2, 1]]))
    return Network([
        Conv2d(1, 2, (3, 2), stride=(1, 2), padding=(0, 1), activation="relu", bias=False),
        Subsample2d(2, 2, stride=1, activation="tanh", trainable=False),
        Conv2d(2, 3, 3, connections=table, name="c3"), Subsample2d(3, (1, 2)),
        MaxPool2d((2, 1), stride=1), Flatten(), Dense(3, 2, activation="sigmoid", name="output"),
    ], (1, 7, 9), **({"device": "cpu", "seed": 4, "input_range": (0, 1)} | keywords))


def images(network, n=3):
    return np.random.default_rng(0).integers(0, 256, (n, *network.input_shape), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_network(every_layer(), path)
    return path


@pytest.mark.parametrize("build", [every_layer, gpucnn.lenet5, gpucnn.two_stage])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_network_comes_back_as_it_was(tmp_path, build, dtype):
    network = build(dtype=dtype, device="cpu")
    save_network(network, tmp_path / "model")
    loaded = load_network(tmp_path / "model", device="cpu")
    assert np.array_equal(loaded.parameters.flat, network.parameters.flat)
    assert loaded.dtype == network.dtype and loaded.input_range == network.input_range
    assert loaded.summary() == network.summary()
    assert repr(loaded.layers) == repr(network.layers)
    assert np.array_equal(loaded.outputs(images(network)), network.outputs(images(network)))


def test_the_tables_order_comes_back(saved):
    assert load_network(saved, device="cpu")["c3"].connections.pairs.tolist() == [[1, 0, 1],
                                                                                  [0, 2, 1]]


def test_files_of_one_device_are_read_by_another(tmp_path):
    backend = CudaBackend(HostRuntime())
    save_network(gpucnn.two_stage(device=backend, seed=8), tmp_path / "model")
    expected = gpucnn.two_stage(device="cpu", seed=8).parameters.flat
    assert np.array_equal(load_network(tmp_path / "model", device="cpu").parameters.flat, expected)
    on_cuda = load_network(tmp_path / "model", device=backend)
    assert np.array_equal(backend.to_host(on_cuda.parameters.flat), expected)


def test_parameters_are_stored_under_their_names(saved):
    arrays = load_file(saved)
    assert arrays["c3.weight"].shape == (3, 3, 3)
    assert arrays["c3.connections"].dtype == np.int32


def test_saving_over_a_file_replaces_it_whole(saved):
    before = saved.read_bytes()
    save_network(every_layer(seed=5), saved)
    assert len(saved.read_bytes()) == len(before) and saved.read_bytes() != before
    assert list(saved.parent.iterdir()) == [saved]


def test_arguments_in_the_wrong_order_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="expected a Network and a path, got"):
        save_network(tmp_path / "model", every_layer())


def test_saving_into_a_missing_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        save_network(every_layer(), tmp_path / "no" / "model")


def test_a_missing_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"got no file at .*absent"):
        load_network(tmp_path / "absent", device="cpu")
    with pytest.raises(FileFormatError, match="got a directory"):
        load_network(tmp_path, device="cpu")


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:100], lambda data: data[:-1], lambda data: data + b"x",
    lambda data: b"PK\x03\x04" + data[4:], lambda data: b"\xff" * len(data),
    lambda data: data[:8] + b"[" + data[9:],
])
def test_a_truncated_or_foreign_file_is_refused(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(FileFormatError, match="expected a safetensors file"):
        load_network(saved, device="cpu")


def rewritten(path, change_metadata=lambda metadata: metadata, change_arrays=lambda arrays: arrays):
    from safetensors import safe_open
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file(change_arrays(load_file(path)), path, change_metadata(metadata))


def described(change):
    def change_metadata(metadata):
        description = json.loads(metadata["description"])
        change(description["network"])
        return metadata | {"description": json.dumps(description)}
    return change_metadata


@pytest.mark.parametrize(("change", "message"), [
    (lambda metadata: None, "a safetensors file of something else"),
    (lambda metadata: metadata | {"format": "gpucnn training"}, "a run's checkpoint: finish that"),
    (lambda metadata: metadata | {"version": "2"}, "expected version 1 .* got '2'"),
    (lambda metadata: metadata | {"description": "{"}, "a description as JSON"),
    (lambda metadata: metadata | {"description": "[]"}, "complete description"),
    (described(lambda network: network.pop("layers")), "a fault at 'layers'"),
    (described(lambda network: network["layers"][0].update(type="Evil")), "a fault at 'Evil'"),
    (described(lambda network: network["layers"][0]["options"].update(extra=1)), "extra"),
    (described(lambda network: network.update(input_shape=[1, 2, 2])), "fits together.*at least"),
    (described(lambda network: network.update(seed=2**70)), "fits together.*at most"),
    (described(lambda network: network["layers"][0].update(options=["ab", "c"])), "complete"),
    (described(lambda network: network["layers"][0]["options"].update(in_maps="many")),
     "fits together|complete"),
])
def test_a_description_that_does_not_hold_is_refused(saved, change, message):
    rewritten(saved, change_metadata=change)
    with pytest.raises(FileFormatError, match=message):
        load_network(saved, device="cpu")


@pytest.mark.parametrize(("change", "message"), [
    (lambda arrays: {name: arrays[name] for name in arrays if name != "c3.bias"}, "c3.bias"),
    (lambda arrays: arrays | {"c3.weight": np.zeros((2, 3, 3), np.float32)},
     r"c3\.weight: expected shape \(3, 3, 3\)"),
    (lambda arrays: arrays | {"c3.connections": np.array([[0, 0], [0, 0]], np.int32)},
     "a second time"),
])
def test_arrays_that_do_not_fit_are_refused(saved, change, message):
    rewritten(saved, change_arrays=change)
    with pytest.raises(FileFormatError, match=message):
        load_network(saved, device="cpu")


def test_numbers_that_are_not_finite_are_refused(saved):
    rewritten(saved, change_arrays=lambda arrays: arrays | {
        "c3.bias": np.array([0, np.nan, 0], np.float32)})
    with pytest.raises(FileFormatError, match=r"got NaN or infinity in c3\.bias"):
        load_network(saved, device="cpu")


def test_a_file_of_types_that_numpy_does_not_know_is_foreign(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "foreign"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(FileFormatError, match="a safetensors file of something else"):
        load_network(path, device="cpu")


def test_an_unusable_device_is_not_the_files_fault(saved):
    with pytest.raises(DeviceError, match="'cpu', 'cuda'"):
        load_network(saved, device="tpu")
