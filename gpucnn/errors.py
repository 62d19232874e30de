"""The library's errors. Each says what was expected, what came, and where.

Every class also derives from the built-in error that fits it, so that code which
catches `ValueError` or `TypeError` goes on working.
"""


class GpucnnError(Exception):
    """Base of all errors that gpucnn raises on purpose."""


class ArgumentError(GpucnnError, ValueError):
    """An argument has a value that the function does not take."""


class ShapeError(GpucnnError, ValueError):
    """An array, an image or a network's input has the wrong shape."""


class DTypeError(GpucnnError, TypeError):
    """An array has the wrong element type, or is not an array at all."""


class DeviceError(GpucnnError, RuntimeError):
    """A device is missing or unusable, or arrays of several devices were mixed."""


class TableError(GpucnnError, ValueError):
    """A connection table is malformed or does not fit its layer."""


class DataError(GpucnnError, ValueError):
    """Images or labels hold values that training cannot take (NaN, a label out of range)."""


class FileFormatError(GpucnnError, ValueError):
    """A file is truncated, corrupt, or of another format than its reader expects."""


class KernelError(GpucnnError, RuntimeError):
    """A CUDA kernel does not compile, or was launched with arguments that it does not take."""


class MissingDependencyError(GpucnnError, ImportError):
    """An optional package is needed for this and is not installed."""


class TrainingError(GpucnnError, ArithmeticError):
    """Training went wrong: the loss is no longer a finite number."""


class DownloadError(GpucnnError, OSError):
    """Files could not be downloaded, or what came is not what was expected."""
