"""IDX, the file format of MNIST: a magic number, the sizes of the axes, the elements.

Bytes 0 and 1 are zero, byte 2 is the element type, byte 3 the number of axes; one big-endian
32-bit size per axis follows, then the elements in row-major order, big-endian.
Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from gpucnn.errors import ArgumentError, DTypeError, FileFormatError
from gpucnn.files import write_atomically

ELEMENT_TYPES = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
GZIP_MAGIC = b"\x1f\x8b"
LARGEST_AXIS = 2**32 - 1
READ_AT_ONCE = 1 << 20


def read_idx(path):
    """The array in the IDX file `path`, plain or gzipped as its first bytes tell.

    Returns a new C-contiguous array of the file's shape in the machine's byte order: uint8,
    int8, int16, int32, float32 or float64.

    Raises `FileFormatError` for a file that is truncated, too long, corrupt or no IDX file, and
    for a directory; `FileNotFoundError` if there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise FileFormatError(f"{path}: expected an IDX file, got a directory")
    with open(path, "rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        try:
            return _parse(gzip.GzipFile(fileobj=file) if zipped else file, path)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FileFormatError(
                f"{path}: expected a whole gzip file, got a corrupt or truncated one ({error})"
            ) from error


def write_idx(path, array):
    """Write `array` to `path` as an IDX file, gzipped if the name ends in .gz.

    `array`: a NumPy array of any shape; uint8, int8, int16, int32, float32 or float64. The same
    array gives the same bytes. The file appears whole or not at all.

    Raises `DTypeError` for other types and `ArgumentError` for an axis of 2**32 or more.
    """
    if not isinstance(array, np.ndarray):
        raise DTypeError(f"write_idx: expected a NumPy array, got {type(array).__name__}")
    code = _code_of(array.dtype)
    if any(size > LARGEST_AXIS for size in array.shape):
        raise ArgumentError(
            f"write_idx: expected axes of at most {LARGEST_AXIS}, got shape {array.shape}"
        )
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    data = header + array.astype(ELEMENT_TYPES[code], copy=False).tobytes()
    write_atomically(path, _zipped(data) if Path(path).suffix == ".gz" else data)


def _parse(stream, path):
    """The array in a stream of IDX bytes. Reads as far as the header asks, and one byte more."""
    magic = _read_up_to(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in ELEMENT_TYPES:
        raise FileFormatError(
            f"{path}: expected an IDX file (two zero bytes, then a type from 0x08 to 0x0e and a "
            f"rank), got {_shown(magic)}"
        )
    stored, rank = ELEMENT_TYPES[magic[2]], magic[3]
    sizes = _read_up_to(stream, 4 * rank)
    if len(sizes) < 4 * rank:
        raise FileFormatError(
            f"{path}: expected {rank} axis sizes, {4 * rank} bytes, got {len(sizes)} bytes"
        )
    shape = struct.unpack(f">{rank}I", sizes)
    expected = math.prod(shape) * stored.itemsize
    content = _read_up_to(stream, expected + 1)
    if len(content) != expected:
        got = f"{len(content)} bytes" if len(content) < expected else "more"
        raise FileFormatError(
            f"{path}: expected {expected} bytes of elements ({stored.newbyteorder('=')} of shape "
            f"{shape}), got {got}"
        )
    try:
        array = np.frombuffer(content, stored).reshape(shape)
    except ValueError as error:
        raise FileFormatError(
            f"{path}: expected a shape that NumPy can hold, got {shape} ({error})"
        ) from error
    return array.astype(stored.newbyteorder("="), copy=False)


def _read_up_to(stream, count):
    """At most `count` bytes, in pieces: a header's promise alone must not claim memory."""
    content = bytearray()
    while len(content) < count:
        piece = stream.read(min(count - len(content), READ_AT_ONCE))
        if not piece:
            break
        content += piece
    return content


def _code_of(dtype):
    for code, stored in ELEMENT_TYPES.items():
        if stored == dtype.newbyteorder(">"):
            return code
    names = ", ".join(str(stored.newbyteorder("=")) for stored in ELEMENT_TYPES.values())
    raise DTypeError(f"write_idx: expected one of {names}, got {dtype}")


def _zipped(data):
    """`data` as gzip without name and time in the header: equal data give equal files."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def _shown(magic):
    return f"the bytes {magic.hex(' ')}" if magic else "an empty file"
