"""gpucnn.data: IDX files, datasets, MNIST at hand and from a server, embedded digits, pictures."""

import gzip
import hashlib
import http.server
import os
import socket
import stat
import struct
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gpucnn.data
from gpucnn.data import (
    Dataset,
    digits,
    download_mnist,
    fit_digit,
    load_mnist,
    read_idx,
    read_picture,
    write_idx,
)
from gpucnn.data.mnist import FILES, MIRRORS
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DeviceError,
    DownloadError,
    DTypeError,
    FileFormatError,
    MissingDependencyError,
    ShapeError,
)
from gpucnn.files import write_atomically

IDX_TYPES = ("uint8", "int8", "int16", "int32", "float32", "float64")


def small_images(n=6, height=5, width=4, dtype="uint8"):
    return (np.arange(n * height * width) % 251).reshape(n, height, width).astype(dtype)


def small_dataset(labels=(0, 1, 2, 0, 1, 2), **options):
    return Dataset(small_images(len(labels)), np.array(labels), **options)


# Files that appear whole or not at all


def test_write_atomically_writes_and_replaces_a_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"first, the longer")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("broken_call", ["replace", "fsync"])
def test_write_atomically_keeps_the_old_content_when_the_disk_fails(
    tmp_path, monkeypatch, broken_call
):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, broken_call, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomically_leaves_nothing_behind_when_the_data_are_not_bytes(tmp_path):
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "text")
    assert os.listdir(tmp_path) == []


def test_write_atomically_names_a_missing_directory_and_refuses_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere"):
        write_atomically(tmp_path / "nowhere" / "file", b"")
    with pytest.raises(IsADirectoryError, match="got a directory"):
        write_atomically(tmp_path, b"")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_write_atomically_keeps_permissions_and_follows_links(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomically(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# IDX


@pytest.mark.parametrize("name", ["array", "array.gz"])
@pytest.mark.parametrize("dtype", IDX_TYPES)
def test_idx_gives_back_every_type_in_native_byte_order(tmp_path, dtype, name):
    array = (np.arange(24).reshape(2, 3, 4) * 5 - 7).astype(dtype)
    write_idx(tmp_path / name, array)
    back = read_idx(tmp_path / name)
    assert back.dtype == np.dtype(dtype) and back.dtype.isnative
    assert back.flags.c_contiguous and back.flags.writeable
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1, 1, 1, 1)])
def test_idx_gives_back_scalars_and_empty_arrays(tmp_path, shape):
    write_idx(tmp_path / "array", np.ones(shape, "float32"))
    assert read_idx(tmp_path / "array").shape == shape


def test_idx_writes_big_endian_and_transposed_arrays_by_their_values(tmp_path):
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    write_idx(tmp_path / "array", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "array"), array)


def test_idx_file_has_the_documented_bytes(tmp_path):
    write_idx(tmp_path / "array", np.array([[1, -2]], "int16"))
    assert (tmp_path / "array").read_bytes() == bytes.fromhex(
        "00000b02 00000001 00000002 0001 fffe"
    )


def test_gzipped_idx_has_the_same_bytes_each_time_without_name_or_time(tmp_path):
    write_idx(tmp_path / "a.gz", small_images())
    write_idx(tmp_path / "b.gz", small_images())
    data = (tmp_path / "a.gz").read_bytes()
    assert data == (tmp_path / "b.gz").read_bytes()
    assert data[3] == 0 and data[4:8] == bytes(4)


def test_read_idx_tells_gzip_by_content_and_not_by_name(tmp_path):
    write_idx(tmp_path / "a.gz", small_images())
    (tmp_path / "zipped").write_bytes((tmp_path / "a.gz").read_bytes())
    write_idx(tmp_path / "b", small_images())
    (tmp_path / "plain.gz").write_bytes((tmp_path / "b").read_bytes())
    np.testing.assert_array_equal(read_idx(tmp_path / "zipped"), small_images())
    np.testing.assert_array_equal(read_idx(str(tmp_path / "plain.gz")), small_images())


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got an empty file"),
        (b"\0\0\x08", "expected an IDX file"),
        (b"\x89PNG\r\n\x1a\n", "got the bytes 89 50 4e 47"),
        (b"\0\0\x0a\x01\0\0\0\0", "expected an IDX file"),
        (b"\0\0\x08\x03\0\0\0\1", "expected 3 axis sizes, 12 bytes, got 4 bytes"),
        (b"\0\0\x08\x01\0\0\0\5abcd", "expected 5 bytes .* got 4 bytes"),
        (b"\0\0\x08\x01\0\0\0\3abcd", "expected 3 bytes .* got more"),
        (b"\0\0\x08\x41" + 4 * 0x41 * b"\0", "expected a shape that NumPy can hold"),
    ],
)
def test_read_idx_says_what_is_wrong_with_a_file(tmp_path, pack, data, message):
    (tmp_path / "file").write_bytes(pack(data))
    with pytest.raises(FileFormatError, match=message) as caught:
        read_idx(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)


def corrupted(data, how):
    if how == "truncated":
        return data[: len(data) // 2]
    if how == "wrong checksum":
        return data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]
    if how == "trailing bytes":
        return data + b"more"
    return data[:12] + bytes(byte ^ 0xFF for byte in data[12:-8]) + data[-8:]


@pytest.mark.parametrize("how", ["truncated", "wrong checksum", "trailing bytes", "garbled"])
def test_read_idx_refuses_a_corrupt_gzip_file(tmp_path, how):
    write_idx(tmp_path / "a.gz", small_images())
    (tmp_path / "a.gz").write_bytes(corrupted((tmp_path / "a.gz").read_bytes(), how))
    with pytest.raises(FileFormatError, match=r"a\.gz: expected a whole gzip file"):
        read_idx(tmp_path / "a.gz")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_read_idx_claims_no_memory_on_a_headers_word(tmp_path, pack):
    huge = b"\0\0\x0e\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    (tmp_path / "huge").write_bytes(pack(huge + b"few"))
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="got 3 bytes"):
            read_idx(tmp_path / "huge")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_read_idx_stops_early_in_a_gzip_file_that_unpacks_to_far_more(tmp_path):
    (tmp_path / "bomb").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\3" + bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=r"expected 3 bytes .* got more"):
            read_idx(tmp_path / "bomb")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_read_idx_names_a_missing_file_and_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")
    with pytest.raises(FileFormatError, match="got a directory"):
        read_idx(tmp_path)


def test_write_idx_refuses_what_the_format_cannot_hold(tmp_path):
    with pytest.raises(DTypeError, match=r"expected one of uint8.*got int64"):
        write_idx(tmp_path / "a", np.arange(3))
    with pytest.raises(DTypeError, match="got bool"):
        write_idx(tmp_path / "a", np.ones(3, bool))
    with pytest.raises(DTypeError, match="expected a NumPy array, got list"):
        write_idx(tmp_path / "a", [1, 2])
    with pytest.raises(ArgumentError, match="axes of at most 4294967295"):
        write_idx(tmp_path / "a", np.empty((2**32, 0), "uint8"))
    assert os.listdir(tmp_path) == []


# Dataset


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", ">f4"])
@pytest.mark.parametrize("maps", [None, 1, 3])
def test_dataset_stores_images_by_sample_map_row_and_column(dtype, maps):
    images = small_images().astype(dtype)
    if maps:
        images = np.repeat(images[:, None], maps, axis=1)
    dataset = Dataset(images, np.arange(6), name="small")
    assert dataset.images.shape == (6, maps or 1, 5, 4)
    assert dataset.image_shape == (maps or 1, 5, 4)
    assert dataset.images.dtype == np.dtype(dtype).newbyteorder("=")
    assert dataset.images.dtype.isnative and dataset.images.flags.c_contiguous
    np.testing.assert_array_equal(dataset.images.reshape(images.shape), images)
    assert (len(dataset), dataset.classes, dataset.name) == (6, 6, "small")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", ">i4", "uint32", "int64", "uint64"])
def test_dataset_stores_labels_of_any_integer_type_as_int32(dtype):
    dataset = Dataset(small_images(3), np.array([4, 0, 2], dtype))
    assert dataset.labels.dtype == np.int32 and dataset.labels.dtype.isnative
    assert dataset.labels.tolist() == [4, 0, 2]
    assert dataset.classes == 5


def test_dataset_stores_strided_images_contiguously():
    images = np.asfortranarray(small_images())[::-1, :, ::2]
    dataset = Dataset(images, np.zeros(6, int))
    assert dataset.images.flags.c_contiguous
    np.testing.assert_array_equal(dataset.images[:, 0], images)


def test_dataset_does_not_change_with_the_arrays_it_was_made_from():
    images, labels = small_images(), np.zeros(6, "int32")
    dataset = Dataset(images, labels)
    images[:], labels[:] = 9, 5
    assert dataset.images[0, 0, 0, 0] == 0 and not dataset.labels.any()


def test_dataset_and_its_parts_are_read_only():
    dataset = small_dataset()
    for part in (dataset, dataset[1:3], dataset[np.array([1, 3])]):
        with pytest.raises(ValueError, match="read-only"):
            part.images[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            part.labels[0] = 1
        with pytest.raises(AttributeError):
            part.images = small_images()


class DLPackArray:
    """An array of some other library: DLPack's two methods and nothing more."""

    def __init__(self, array, device_type=1):
        self.array, self.device_type = array, device_type

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device_type, 0


def test_dataset_takes_dlpack_arrays_on_the_cpu():
    dataset = Dataset(DLPackArray(small_images()), DLPackArray(np.arange(6)))
    np.testing.assert_array_equal(dataset.images[:, 0], small_images())
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_dataset_refuses_an_array_on_a_gpu():
    with pytest.raises(DeviceError, match="images: expected an array on the CPU"):
        Dataset(DLPackArray(small_images(), device_type=2), np.arange(6))


def test_dataset_explains_a_dlpack_array_that_numpy_cannot_take():
    class Refusing(DLPackArray):
        def __dlpack__(self, **options):
            raise BufferError("needs a gradient")

    with pytest.raises(DTypeError, match=r"labels: .*needs a gradient"):
        Dataset(small_images(), Refusing(np.arange(6)))


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        ([[[1]]], np.zeros(1, int), DTypeError, "images: expected a NumPy or .* got list"),
        (small_images(), [0] * 6, DTypeError, "labels: expected a NumPy or .* got list"),
        (small_images(dtype="int64"), np.zeros(6, int), DTypeError, "uint8, .* got int64"),
        (small_images(dtype="float16"), np.zeros(6, int), DTypeError, "got float16"),
        (small_images(), np.zeros(6), DTypeError, "labels of an integer type, got float64"),
        (small_images(), np.zeros(6, bool), DTypeError, "labels of an integer type, got bool"),
        (small_images()[0], np.zeros(5, int), ShapeError, r"height, width\), got \(5, 4\)"),
        (small_images()[None, None], np.zeros(1, int), ShapeError, "expected images of shape"),
        (small_images()[:, :0], np.zeros(6, int), ShapeError, r"got \(6, 0, 4\)"),
        (small_images(), np.zeros((6, 1), int), ShapeError, r"\(samples,\), got \(6, 1\)"),
        (small_images(), np.zeros(5, int), DataError, "got 5 labels and 6 images"),
        (small_images(2), np.array([0, -1]), DataError, "got -1 at sample 1"),
        (small_images(2), np.array([-1, -1]), DataError, "from 0 to 0, got -1 at sample 0"),
        (small_images(1), np.array([2**32]), DataError, "got 4294967296 at sample 0"),
    ],
)
def test_dataset_says_what_it_expected_and_got(images, labels, error, message):
    with pytest.raises(error, match=f"Dataset 'bad': .*{message}|Dataset 'bad': {message}"):
        Dataset(images, labels, name="bad")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dataset_refuses_nan_and_infinity_and_names_the_image(dtype, value):
    images = small_images(dtype=dtype)
    images[4, 2, 1] = value
    with pytest.raises(DataError, match=f"finite pixels, got {value} in image 4"):
        Dataset(images, np.zeros(6, int))


def test_dataset_takes_floats_whose_sum_would_overflow():
    images = np.full((9, 2, 2), np.finfo("float32").max, "float32")
    assert len(Dataset(images, np.zeros(9, int))) == 9


def test_dataset_refuses_labels_beyond_the_given_classes():
    assert small_dataset(classes=7).classes == 7
    with pytest.raises(DataError, match="labels from 0 to 1, got 2 at sample 2"):
        small_dataset(classes=2)


@pytest.mark.parametrize("classes", [0, -3, 2.0, True, "3", 2**31])
def test_dataset_refuses_an_impossible_number_of_classes(classes):
    with pytest.raises(ArgumentError, match="classes"):
        small_dataset(classes=classes)


def test_dataset_refuses_a_name_that_is_no_str():
    with pytest.raises(ArgumentError, match="expected a str as name, got 3"):
        small_dataset(name=3)


def test_dataset_without_samples_needs_the_number_of_classes():
    assert len(Dataset(small_images(0), np.zeros(0, int), classes=3)) == 0
    assert len(Dataset(small_images(0, dtype="float32"), np.zeros(0, int), classes=3)) == 0
    with pytest.raises(ArgumentError, match="expected classes="):
        Dataset(small_images(0), np.zeros(0, int))


@pytest.mark.parametrize(
    "index",
    [
        slice(1, 4),
        slice(None, None, -2),
        slice(9, None),
        np.array([5, 0, 0, -1]),
        np.array([], int),
        np.arange(6) % 2 == 0,
    ],
    ids=["slice", "backwards", "empty slice", "indices", "no indices", "mask"],
)
def test_dataset_is_cut_by_slices_indices_and_masks(index):
    dataset = small_dataset(name="small")
    part = dataset[index]
    np.testing.assert_array_equal(part.images, dataset.images[index])
    np.testing.assert_array_equal(part.labels, dataset.labels[index])
    assert part.images.flags.c_contiguous and part.labels.flags.c_contiguous
    assert (part.name, part.classes) == ("small", 3)


def test_dataset_slice_shares_memory():
    dataset = small_dataset()
    assert np.shares_memory(dataset[2:5].images, dataset.images)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, DTypeError, "expected a slice, an integer array or a boolean mask, got 3"),
        ([0, 1], DTypeError, "got \\[0, 1\\]"),
        (np.array([0.0]), DTypeError, "got float64"),
        (np.array([[0]]), ShapeError, r"got shape \(1, 1\)"),
        (np.ones(5, bool), ShapeError, r"mask of shape \(6,\), got \(5,\)"),
        (np.array([0, 6]), ArgumentError, "from -6 to 5, got 0 to 6"),
        (np.array([-7]), ArgumentError, "from -6 to 5, got -7 to -7"),
    ],
)
def test_dataset_refuses_other_indices(index, error, message):
    with pytest.raises(error, match=message):
        small_dataset()[index]


def test_dataset_is_not_iterable():
    with pytest.raises(TypeError, match="not iterable"):
        iter(small_dataset())


def test_balanced_takes_the_first_of_every_class_in_the_original_order():
    dataset = small_dataset(labels=(2, 0, 0, 1, 2, 0, 1, 2, 1))
    chosen = dataset.balanced(2)
    kept = np.array([0, 1, 2, 3, 4, 6])
    np.testing.assert_array_equal(chosen.labels, dataset.labels[kept])
    np.testing.assert_array_equal(chosen.images, dataset.images[kept])


def test_balanced_names_a_class_that_has_too_few():
    with pytest.raises(ArgumentError, match="at least 2 samples of every class, got 1 of class 1"):
        small_dataset(labels=(0, 1, 0)).balanced(2)
    with pytest.raises(ArgumentError, match="got 0 of class 3"):
        small_dataset(classes=4).balanced(1)
    with pytest.raises(ArgumentError, match="per_class: expected at least 1, got 0"):
        small_dataset().balanced(0)


def test_split_holds_back_the_last_samples():
    first, last = small_dataset(labels=(0, 1, 2, 2, 1, 0)).split(2)
    assert first.labels.tolist() == [0, 1, 2, 2] and last.labels.tolist() == [1, 0]
    assert first.classes == last.classes == 3


@pytest.mark.parametrize("count", [0, 6, 7, 1.5])
def test_split_leaves_no_part_empty(count):
    with pytest.raises(ArgumentError, match="split: "):
        small_dataset().split(count)


def test_dataset_tells_what_it_is():
    assert repr(small_dataset(name="small")) == (
        "Dataset('small', 6 images of 1x5x4 uint8, 3 classes)"
    )
    assert repr(small_dataset()) == "Dataset(6 images of 1x5x4 uint8, 3 classes)"


# MNIST's files at hand


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


# Downloads, from a server on this machine


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


# Pictures


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image")


def ink_on(ground, ink, *, height=12, width=9):
    """A bar of `ink` on a `ground`, off the border."""
    picture = np.full((height, width), ground, np.uint8)
    picture[3:8, 4:6] = ink
    return picture


@pytest.mark.parametrize("ending", ["png", "bmp", "pgm", "tif", "gif"])
def test_read_picture_gives_the_greys_of_a_picture_on_a_dark_ground(tmp_path, pillow, ending):
    picture = ink_on(10, 200)
    pillow.fromarray(picture).save(tmp_path / f"digit.{ending}")
    grey = read_picture(tmp_path / f"digit.{ending}")
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, picture)


def test_read_picture_reads_jpeg_in_colour(tmp_path, pillow):
    pillow.fromarray(ink_on(20, 220, height=48, width=40)).convert("RGB").save(tmp_path / "a.jpg")
    grey = read_picture(str(tmp_path / "a.jpg"))
    assert grey.shape == (48, 40)
    assert abs(int(np.median(grey)) - 20) < 4


def test_read_picture_inverts_dark_ink_on_a_light_ground(tmp_path, pillow):
    pillow.fromarray(ink_on(250, 30)).save(tmp_path / "paper.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "paper.png"), ink_on(5, 225))


@pytest.mark.parametrize("ground", [10, 250])
def test_read_picture_obeys_a_given_invert(tmp_path, pillow, ground):
    picture = ink_on(ground, 128)
    pillow.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", invert=False), picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", invert=True), 255 - picture)


def test_read_picture_weighs_colours_by_luma(tmp_path, pillow):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    pillow.fromarray(colours).save(tmp_path / "a.png")
    grey = read_picture(tmp_path / "a.png", invert=False)
    np.testing.assert_allclose(grey[0], [76, 150, 29], atol=1)


def test_read_picture_puts_transparent_parts_on_white(tmp_path, pillow):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1, 1, 3], pixels[2, 2, 3] = 255, 128
    pillow.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.full((4, 4), 255)
    expected[1, 1], expected[2, 2] = 0, 127
    grey = read_picture(tmp_path / "a.png", invert=False)
    np.testing.assert_allclose(grey, expected, atol=1)


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_read_picture_puts_transparent_greys_and_palettes_on_white(tmp_path, pillow, mode):
    ink = pillow.fromarray(ink_on(0, 255))
    if mode == "LA":
        picture = pillow.merge("LA", (pillow.new("L", ink.size, 0), ink))
        picture.save(tmp_path / "a.png")
    else:
        ink.point(lambda value: value // 255).convert("P").save(tmp_path / "a.png", transparency=0)
    grey = read_picture(tmp_path / "a.png", invert=False)
    ground, bar = grey[0, 0], grey[4, 4]
    assert ground == 255 and bar < 10


def test_read_picture_scales_sixteen_bits_to_eight(tmp_path, pillow):
    picture = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        pillow.fromarray(picture).save(tmp_path / name)
        grey = read_picture(tmp_path / name, invert=False)
        assert grey.dtype == np.uint8
        assert grey[0].tolist() == [0, 0, 1, 1, 128, 255]


def test_read_picture_puts_a_transparent_sixteen_bit_grey_on_white(tmp_path, pillow):
    picture = np.array([[0, 700, 65535]], np.uint16)
    pillow.fromarray(picture).save(tmp_path / "a.png", transparency=700)
    assert read_picture(tmp_path / "a.png", invert=False)[0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_read_picture_refuses_greys_of_no_known_range(tmp_path, pillow, dtype):
    pillow.fromarray(np.full((3, 3), 70000, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(FileFormatError, match=r"a\.tif: expected a picture"):
        read_picture(tmp_path / "a.tif")


def test_read_picture_applies_a_cameras_orientation(tmp_path, pillow):
    exif = pillow.Exif()
    exif[0x0112] = 6  # the camera was held so that the stored rows are columns
    picture = pillow.fromarray(ink_on(0, 255))
    picture.save(tmp_path / "a.png", exif=exif)
    grey = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(grey, np.rot90(ink_on(0, 255), -1))


@pytest.mark.parametrize("cut", [0, 8, 40, -30])
def test_read_picture_names_a_file_that_is_no_whole_picture(tmp_path, pillow, cut):
    pillow.fromarray(ink_on(0, 255)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=r"cut\.png: expected a picture"):
        read_picture(tmp_path / "cut.png")


def test_read_picture_refuses_other_files_directories_and_options(tmp_path, pillow):
    write_idx(tmp_path / "idx.png", small_images())
    with pytest.raises(FileFormatError, match=r"idx\.png: expected a picture"):
        read_picture(tmp_path / "idx.png")
    with pytest.raises(FileFormatError, match="got a directory"):
        read_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_picture(tmp_path / "nothing-here")
    with pytest.raises(ArgumentError, match="invert of None, True or False, got 'yes'"):
        read_picture(tmp_path / "idx.png", invert="yes")


def test_read_picture_says_how_to_install_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install gpucnn\[cli\]"):
        read_picture(tmp_path / "a.png")


def centre_of_mass(image):
    rows, columns = np.indices(image.shape)
    return (image * rows).sum() / image.sum(), (image * columns).sum() / image.sum()


def test_fit_digit_scales_the_longer_side_to_twenty_of_28_pixels():
    picture = np.zeros((300, 200), np.uint8)
    picture[40:140, 20:70] = 255
    image = fit_digit(picture)
    assert image.shape == (28, 28) and image.dtype == np.uint8
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert (len(rows), len(columns)) == (20, 10)
    assert image.max() == 255 and set(np.unique(image)) == {0, 255}
    assert np.abs(np.array(centre_of_mass(image)) - 14).max() <= 0.5


def test_fit_digit_enlarges_a_small_digit():
    image = fit_digit(ink_on(0, 255))
    assert len(np.flatnonzero(image.any(1))) == 20 and len(np.flatnonzero(image.any(0))) == 8


def test_fit_digit_centres_by_mass_and_not_by_extent():
    picture = np.zeros((60, 60), np.uint8)
    picture[5:55, 5:30] = 255
    picture[45:55, 5:55] = 255
    image = fit_digit(picture)
    assert np.abs(np.array(centre_of_mass(image)) - 14).max() <= 0.5
    rows = np.flatnonzero(image.any(1))
    assert rows[0] + rows[-1] != 27


def test_fit_digit_keeps_all_ink_where_the_mass_is_at_one_end():
    picture = np.zeros((100, 100), np.uint8)
    picture[:10, :] = 255
    picture[:, 49:51] = 255
    image = fit_digit(picture, size=(20, 20))
    assert len(np.flatnonzero(image.any(1))) == 14


def test_fit_digit_takes_means_over_areas():
    picture = np.zeros((40, 40), np.uint8)
    picture[0, 0] = picture[-1, -1] = 255
    picture[0:20, 20:40] = 255
    image = fit_digit(picture)
    values, counts = np.unique(image, return_counts=True)
    assert values.tolist() == [0, 64, 255] and counts.tolist() == [28 * 28 - 102, 2, 100]


def test_fit_digit_leaves_mnists_own_digits_nearly_as_they_are():
    test = digits()[1]
    images = test.images[:100, 0].astype(float)
    fitted = np.array([fit_digit(image) for image in test.images[:100, 0]], float)
    assert np.linalg.norm(fitted - images) / np.linalg.norm(images) < 0.2


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (28, 56), (2, 2)])
def test_fit_digit_gives_the_size_asked_for(size):
    assert fit_digit(ink_on(0, 255), size).shape == size
    assert fit_digit(ink_on(0, 255), size).any()


def test_fit_digit_finds_a_small_digit_on_noisy_unevenly_lit_paper():
    rng = np.random.default_rng(1)
    picture = np.linspace(30, 80, 600) + rng.normal(0, 6, (400, 600))
    picture[100:160, 420:440] += 130
    image = fit_digit(picture.clip(0, 255).astype(np.uint8))
    assert len(np.flatnonzero(image.any(1))) == 20
    assert len(np.flatnonzero(image.any(0))) == 7
    assert image.max() == 255 and np.median(image) == 0


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((28, 28), np.uint8),
        np.full((50, 40), 255, np.uint8),
        np.zeros((0, 5), np.uint8),
        ink_on(100, 105),
        np.random.default_rng(0).normal(128, 20, (200, 300)).clip(0, 255).astype(np.uint8),
        np.tile(np.arange(256, dtype=np.uint8), (9, 1)),
    ],
    ids=["black", "white", "no pixels", "nearly even", "noise", "a slope of light"],
)
def test_fit_digit_refuses_an_empty_picture(picture):
    with pytest.raises(DataError, match="got an empty picture"):
        fit_digit(picture)


def test_fit_digit_refuses_other_arrays_and_sizes():
    with pytest.raises(DTypeError, match="expected a uint8 array, got float64"):
        fit_digit(np.zeros((5, 5)))
    with pytest.raises(DTypeError, match="got list"):
        fit_digit([[0]])
    with pytest.raises(ShapeError, match=r"\(height, width\), got \(1, 5, 5\)"):
        fit_digit(np.zeros((1, 5, 5), np.uint8))
    with pytest.raises(ArgumentError, match="fit_digit: size: expected at least 2, got 1"):
        fit_digit(ink_on(0, 255), size=1)
