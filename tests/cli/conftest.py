"""Data, a run and a trained network for the tests of the command line."""

import numpy as np
import pytest

import gpucnn
from tests.cli.calls import SMALL, succeed


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A directory with 120 training and 40 test digits as IDX files."""
    directory = tmp_path_factory.mktemp("few digits")
    for prefix, dataset, count in zip(("train", "t10k"), gpucnn.digits(), (120, 40), strict=True):
        gpucnn.write_idx(directory / f"{prefix}-images-idx3-ubyte", dataset.images[:count, 0])
        gpucnn.write_idx(directory / f"{prefix}-labels-idx1-ubyte",
                         dataset.labels[:count].astype(np.uint8))
    return directory


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    """(run directory, what training printed) of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, succeed("train", *SMALL, "--data", data, "--epochs", 2, "--out", out)


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """A file with a LeNet-5 that reads most digits, trained for a moment on the embedded ones."""
    train, _ = gpucnn.digits()
    network = gpucnn.lenet5(device="cpu")
    gpucnn.fit(network, train[:1000], epochs=4, batch_size=10,
               optimizer=gpucnn.SGD(0.01, 0.9), progress=False)
    path = tmp_path_factory.mktemp("models") / "reader.safetensors"
    gpucnn.save_network(network, path)
    return path
