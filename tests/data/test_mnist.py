"""MNIST's files: at hand, from a server on this machine, and the embedded digits."""

import hashlib
import http.server
import os
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import gpucnn.data
from gpucnn.data import (
    digits,
    download_mnist,
    load_mnist,
    read_idx,
    write_idx,
)
from gpucnn.data.mnist import FILES, MIRRORS
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    FileFormatError,
    MissingDependencyError,
)
from tests.data.small import small_images


def write_mnist(directory, *, spelling="-idx", ending="", train=6, test=3):
    """Four small files with MNIST's names; the largest training label is 5."""
    directory.mkdir(exist_ok=True)
    arrays = (small_images(train), np.arange(train), small_images(test), np.arange(test))
    for name, array in zip(FILES, arrays, strict=True):
        write_idx(directory / (name.replace("-idx", spelling) + ending), array.astype("uint8"))
    return directory


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
def test_load_mnist_reads_every_spelling_of_the_names(tmp_path, spelling, ending):
    train, test = load_mnist(write_mnist(tmp_path / "mini", spelling=spelling, ending=ending))
    np.testing.assert_array_equal(train.images[:, 0], small_images(6))
    np.testing.assert_array_equal(test.images[:, 0], small_images(3))
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5] and test.labels.tolist() == [0, 1, 2]
    assert (train.name, test.name) == ("mini train", "mini test")


def test_load_mnist_gives_both_sets_the_same_classes(tmp_path):
    train, test = load_mnist(str(write_mnist(tmp_path)))
    assert train.classes == test.classes == 6


def test_load_mnist_names_every_missing_file_and_where_it_looked(tmp_path):
    write_mnist(tmp_path)
    for name in FILES[1:3]:
        (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path)
    message = str(caught.value)
    for name in ("train-labels-idx1-ubyte.gz", "t10k-images.idx3-ubyte", str(tmp_path)):
        assert name in message
    assert "train-images" not in message and "t10k-labels" not in message


def test_load_mnist_names_a_missing_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a directory, found none at .*nowhere"):
        load_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_load_mnist_refuses_images_and_labels_that_differ_in_number(tmp_path, name):
    write_mnist(tmp_path)
    write_idx(tmp_path / name, read_idx(tmp_path / name)[:-1])
    with pytest.raises(DataError, match="as many labels as images") as caught:
        load_mnist(tmp_path)
    assert name in str(caught.value)


def test_load_mnist_refuses_a_file_of_another_kind(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / FILES[0], np.zeros(6, "uint8"))
    with pytest.raises(FileFormatError, match=r"train-images.*3 axes, got uint8 of shape \(6,\)"):
        load_mnist(tmp_path)
    write_idx(tmp_path / FILES[0], small_images(dtype="int32"))
    with pytest.raises(FileFormatError, match=r"expected uint8 elements .* got int32"):
        load_mnist(tmp_path)


class Server:
    """Serves a directory on 127.0.0.1 and keeps the names that were asked for."""

    def __init__(self, directory):
        self.requests = requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(directory))

            def do_GET(self):
                requests.append(self.path.lstrip("/"))
                super().do_GET()

            def log_message(self, *_):
                pass

        self.directory = directory
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hashes(self):
        return {
            path.name: "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
            for path in self.directory.iterdir()
        }

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server(write_mnist(tmp_path / "served", ending=".gz"))
    yield running
    running.close()


def test_download_mnist_fetches_four_files_that_load(tmp_path, server):
    directory = download_mnist(
        directory=tmp_path / "here", base_url=server.url, hashes=server.hashes()
    )
    assert directory == tmp_path / "here"
    assert sorted(server.requests) == sorted(f"{name}.gz" for name in FILES)
    train, test = load_mnist(directory)
    assert (len(train), len(test)) == (6, 3)


def test_download_mnist_fetches_again_only_what_is_missing_or_damaged(tmp_path, server):
    options = {"directory": str(tmp_path / "here"), "base_url": server.url + "/"}
    options["hashes"] = server.hashes()
    download_mnist(**options)
    server.requests.clear()
    download_mnist(**options)
    assert server.requests == []
    (tmp_path / "here" / f"{FILES[0]}.gz").unlink()
    (tmp_path / "here" / f"{FILES[2]}.gz").write_bytes(b"damaged")
    assert len(load_mnist(download_mnist(**options))[0]) == 6
    assert server.requests == [f"{FILES[0]}.gz", f"{FILES[2]}.gz"]


def test_download_mnist_uses_the_users_cache_by_default(tmp_path, server, monkeypatch):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    directory = download_mnist("fashion-mnist", base_url=server.url, hashes=server.hashes())
    assert directory == tmp_path / "cache" / "gpucnn" / "fashion-mnist"
    assert len(load_mnist(directory)[0]) == 6


def test_download_mnist_refuses_a_corrupt_file_and_keeps_nothing_of_it(tmp_path, server):
    hashes = server.hashes()
    (server.directory / f"{FILES[1]}.gz").write_bytes(b"something else")
    with pytest.raises(DownloadError, match=f"wrong file from .*{FILES[1]}") as caught:
        download_mnist(directory=tmp_path / "here", base_url=server.url, hashes=hashes)
    assert caught.value.__suppress_context__
    assert os.listdir(tmp_path / "here") == [f"{FILES[0]}.gz"]


def test_download_mnist_expects_the_published_files_unless_told_otherwise(tmp_path, server):
    with pytest.raises(DownloadError, match=MIRRORS["mnist"][1][f"{FILES[0]}.gz"]):
        download_mnist(directory=tmp_path / "here", base_url=server.url)


def test_download_mnist_says_that_a_server_has_no_such_file(tmp_path, server):
    hashes = server.hashes()
    (server.directory / f"{FILES[0]}.gz").unlink()
    with pytest.raises(DownloadError, match=f"cannot fetch {server.url}/{FILES[0]}.gz: 404"):
        download_mnist(directory=tmp_path / "here", base_url=server.url, hashes=hashes)


def test_download_mnist_says_that_a_server_cannot_be_reached(tmp_path, monkeypatch):
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DownloadError, match=f"cannot fetch {url}") as caught:
            download_mnist(directory=tmp_path / "here", base_url=url)
    assert isinstance(caught.value, OSError) and caught.value.__suppress_context__


def test_download_mnist_refuses_unknown_names_addresses_and_hashes(tmp_path):
    with pytest.raises(ArgumentError, match="one of mnist, fashion-mnist, got 'emnist'"):
        download_mnist("emnist")
    with pytest.raises(ArgumentError, match="http or https URL, got 'ftp://"):
        download_mnist(directory=tmp_path, base_url="ftp://127.0.0.1/")
    with pytest.raises(ArgumentError, match=r"expected hashes of train-images.* got other"):
        download_mnist(directory=tmp_path, hashes={"other": "md5:0"})


def test_download_mnist_says_how_to_install_pooch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install gpucnn\[data\]"):
        download_mnist(directory=tmp_path)


# The embedded digits


@pytest.mark.parametrize(("part", "per_class"), [(0, 500), (1, 100)])
def test_digits_are_balanced_mnist_images(part, per_class):
    dataset = digits()[part]
    assert dataset.images.shape == (10 * per_class, 1, 28, 28)
    assert dataset.images.dtype == np.uint8 and dataset.images.max() == 255
    assert dataset.classes == 10
    assert np.bincount(dataset.labels).tolist() == [per_class] * 10


def test_digits_keep_the_order_of_mnist():
    train, test = digits()
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_digits_are_read_once():
    assert digits() is digits()


def test_digits_files_stay_small():
    files = list((Path(gpucnn.data.__file__).parent / "digits").iterdir())
    assert sorted(file.name for file in files) == sorted(f"{name}.gz" for name in FILES)
    assert sum(file.stat().st_size for file in files) < 1_500_000
