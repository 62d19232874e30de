"""IDX files: what is written is read, and nothing else is."""

import gzip
import os
import struct
import tracemalloc

import numpy as np
import pytest

from gpucnn.data import (
    read_idx,
    write_idx,
)
from gpucnn.errors import (
    ArgumentError,
    DTypeError,
    FileFormatError,
)
from tests.data.small import small_images

IDX_TYPES = ("uint8", "int8", "int16", "int32", "float32", "float64")


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
