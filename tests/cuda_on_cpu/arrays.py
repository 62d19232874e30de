"""The host runtime's arrays: they stand for arrays on a GPU.

NumPy must not read them, just as it must not read CuPy's: code that does so by mistake would
fail on a GPU alone.
"""

import ctypes
import math
from types import SimpleNamespace

import numpy as np

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.restype = None
_libc.free.argtypes = [ctypes.c_void_p]


class Memory:
    """Bytes of exactly the asked size, at first 0xFF (NaN in floating point), freed with the
    last array that uses them."""

    def __init__(self, nbytes):
        self._free = _libc.free  # module globals may be gone when the interpreter ends
        self.address = _libc.malloc(nbytes)
        if self.address is None:
            raise MemoryError(f"expected {nbytes} bytes of memory, got none")
        ctypes.memset(self.address, 0xFF, nbytes)
        self.__array_interface__ = {"version": 3, "shape": (nbytes,), "typestr": "|u1",
                                    "data": (self.address, False)}

    def __del__(self):
        if getattr(self, "address", None) is not None:
            self._free(self.address)


class DeviceArray:
    """An array on the device named `device`.

    It has what `gpucnn.backends.cuda.runtime.Runtime` promises of arrays and nothing more. Any
    use by NumPy raises TypeError.
    """

    __slots__ = ("_values", "device")
    __array_ufunc__ = None
    __hash__ = None
    __iter__ = None

    def __init__(self, values, device):
        self._values = values
        self.device = device

    @classmethod
    def empty(cls, shape, dtype, device):
        """A C-contiguous array in memory of its own."""
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        dtype = np.dtype(dtype)
        memory = Memory(math.prod(shape) * dtype.itemsize)
        return cls(np.asarray(memory).view(dtype).reshape(shape), device)

    @property
    def shape(self):
        """The lengths of the axes."""
        return self._values.shape

    @property
    def dtype(self):
        """The type of an element."""
        return self._values.dtype

    @property
    def ndim(self):
        """The number of axes."""
        return self._values.ndim

    @property
    def size(self):
        """The number of elements."""
        return self._values.size

    @property
    def itemsize(self):
        """The bytes of an element."""
        return self._values.itemsize

    @property
    def nbytes(self):
        """The bytes of all elements."""
        return self._values.nbytes

    @property
    def strides(self):
        """The bytes from one element to the next, along each axis."""
        return self._values.strides

    @property
    def flags(self):
        """An object with `c_contiguous`."""
        return SimpleNamespace(c_contiguous=self._values.flags.c_contiguous)

    def reshape(self, *shape):
        """A view of another shape. Raises ValueError where only a copy would do."""
        shape = shape[0] if len(shape) == 1 else shape
        view = self._values.reshape(shape)
        if self.size and not np.may_share_memory(view, self._values):
            raise ValueError(f"expected an array that can be seen as {shape} without a copy, got "
                             f"one of shape {self.shape} with strides {self.strides}")
        return type(self)(view, self.device)

    def __getitem__(self, index):
        index = index if isinstance(index, tuple) else (index,)
        for part in index:
            basic = part is None or part is Ellipsis or isinstance(part, (int, slice, np.integer))
            if not basic or isinstance(part, bool):
                raise TypeError(f"expected basic slicing of a device array, got {part!r}")
        if Ellipsis not in index:
            index = (*index, Ellipsis)  # NumPy gives an array even where no axis is left
        return type(self)(self._values[index], self.device)

    def __len__(self):
        return len(self._values)

    def __repr__(self):
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"

    def _refuse(self, *_, **__):
        raise TypeError(f"an array on {self.device} is used as if it were on the host; the "
                        f"runtime's `download` copies it")

    __array__ = __array_function__ = __bool__ = __eq__ = __ne__ = _refuse
