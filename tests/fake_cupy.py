"""A stand-in for the part of CuPy that `CupyRuntime` uses, on the host's CUDA runner.

It lets the runtime's own code run without a GPU. Names, arguments and results are CuPy's; what is
not here, `CupyRuntime` must not use. Tests with a GPU run the same code on CuPy itself.
"""

import contextlib
from types import SimpleNamespace

import numpy as np

from tests.cuda_on_cpu.arrays import DeviceArray
from tests.cuda_on_cpu.runtime import HostRuntime


class ndarray(DeviceArray):
    """A device array with CuPy's own transfers."""

    __slots__ = ("_index",)
    current = 0

    def __init__(self, values, device):
        super().__init__(values, device)
        self._index = getattr(device, "id", ndarray.current)

    @property
    def device(self):
        return SimpleNamespace(id=self._index)

    @device.setter
    def device(self, name):
        pass

    @property
    def data(self):
        """A memory pointer that can be set to a byte."""
        def memset_async(value, size):
            assert size == self.nbytes and self._values.flags.c_contiguous
            self._values.view(np.uint8).reshape(-1)[...] = value
        return SimpleNamespace(memset_async=memset_async)

    def set(self, host):
        """As CuPy: the host array must have this array's shape and type."""
        if host.dtype != self.dtype:
            raise TypeError(f"{host.dtype} array cannot be set to {self.dtype} array")
        if host.shape != self.shape:
            raise ValueError(f"Shape mismatch. {host.shape} {self.shape}")
        assert self._values.flags.c_contiguous and host.flags.c_contiguous
        self._values[...] = host

    def get(self):
        """A NumPy copy."""
        return self._values.copy()


class FakeError(RuntimeError):
    """CuPy's CUDARuntimeError."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class _OwnedByFake(HostRuntime):
    def owns(self, array):
        return isinstance(array, ndarray)


class FakeCupy:
    """A module-like object: `gpus` devices, 0 for a machine without."""

    ndarray = ndarray

    def __init__(self, gpus=1):
        self.gpus = gpus
        self.entered = []
        self.runtime = _OwnedByFake()
        properties = {"name": b"Fake GPU", "major": 9, "minor": 0, "multiProcessorCount": 4}
        self.cuda = SimpleNamespace(
            is_available=lambda: gpus > 0,
            Device=self._device,
            compiler=SimpleNamespace(CompileException=RuntimeError),
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)),
            runtime=SimpleNamespace(getDeviceCount=lambda: gpus,
                                    getDeviceProperties=lambda index: properties,
                                    driverGetVersion=lambda: 12090 if gpus else 0,
                                    CUDARuntimeError=FakeError))

    @contextlib.contextmanager
    def _device(self, index):
        before, ndarray.current = ndarray.current, index
        self.entered.append(index)
        try:
            yield
        finally:
            ndarray.current = before

    def empty(self, shape, dtype):
        return ndarray.empty(shape, dtype, "fake")

    def copyto(self, out, source):
        out._values[...] = source._values

    def from_dlpack(self, external):
        return ndarray(np.from_dlpack(external), "fake")

    def RawModule(self, *, code, backend, options):
        assert backend == "nvrtc" and "--std=c++17" in options
        functions = []

        def compile():
            functions.append(self.runtime.compile(code, "fake"))

        def get_function(name):
            launcher = functions[0](name)

            def kernel(grid, block, arguments):
                assert len(grid) == len(block) == 1 and isinstance(arguments, tuple)
                nulls = tuple(None if isinstance(a, np.uintp) else a for a in arguments)
                launcher(*grid, *block, nulls)

            return kernel

        return SimpleNamespace(compile=compile, get_function=get_function)
