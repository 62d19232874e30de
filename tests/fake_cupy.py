"""A stand-in for the part of CuPy that `CupyRuntime` uses, on the host's CUDA runner.

It lets the runtime's own code run without a GPU. Names, arguments and results are CuPy's; what is
not here, `CupyRuntime` must not use. Tests with a GPU run the same code on CuPy itself.
"""

import contextlib
import time
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


class _Stream:
    """A stream: launches made while it is current and captures are recorded, not run."""

    def __init__(self, cupy, non_blocking):
        assert non_blocking, "a stream that waits for the default one cannot be captured safely"
        self._cupy = cupy
        self.recorded = None

    def __enter__(self):
        self._cupy.streams.append(self)
        return self

    def __exit__(self, *_):
        assert self._cupy.streams.pop() is self and self.recorded is None, "a capture has not ended"

    def begin_capture(self):
        self.recorded = []

    def end_capture(self):
        recorded, self.recorded = self.recorded, None
        return SimpleNamespace(launch=lambda: [self._cupy.entered.append(ndarray.current),
                                               *(run() for run in recorded)])


class _Event:
    """A point in time, once it is recorded and waited for."""

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        assert self.time


class _Kernel:
    """A RawKernel. Its registers and local memory are made up, its static shared memory is 0."""

    num_regs, local_size_bytes, shared_size_bytes = 40, 16, 0

    def __init__(self, cupy, launcher):
        self._cupy = cupy
        self._launcher = launcher
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        assert len(grid) == len(block) == 1 and isinstance(arguments, tuple)
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        nulls = tuple(None if isinstance(a, np.uintp) else a for a in arguments)

        def run():
            self._launcher(*grid, *block, nulls, shared_mem)

        capturing = [stream.recorded for stream in self._cupy.streams[-1:]
                     if stream.recorded is not None]
        capturing[0].append(run) if capturing else run()


# cudaDeviceAttr: the values of an H100; the clock of its memory, 36, is not told
ATTRIBUTES = {13: 1_980_000, 37: 5120, 39: 2048, 81: 228 * 1024, 82: 65536, 97: 227 * 1024}


class FakeCupy:
    """A module-like object: `gpus` devices, 0 for a machine without."""

    ndarray = ndarray

    def __init__(self, gpus=1):
        self.gpus = gpus
        self.entered = []
        self.streams = []
        self.attributes = dict(ATTRIBUTES)
        self.runtime = _OwnedByFake()
        properties = {"name": b"Fake GPU", "major": 9, "minor": 0, "multiProcessorCount": 4}
        self.cuda = SimpleNamespace(
            is_available=lambda: gpus > 0,
            Device=self._device,
            compiler=SimpleNamespace(CompileException=RuntimeError),
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            Stream=lambda non_blocking=False: _Stream(self, non_blocking),
            Event=_Event,
            get_elapsed_time=lambda start, end: 1000 * (end.time - start.time),
            nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)),
            runtime=SimpleNamespace(getDeviceCount=lambda: gpus,
                                    getDeviceProperties=lambda index: properties,
                                    deviceGetAttribute=self._attribute,
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

    def _attribute(self, attribute, index):
        if attribute not in self.attributes:
            raise FakeError(1, "cudaErrorInvalidValue: invalid argument")
        return self.attributes[attribute]

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
            return _Kernel(self, functions[0](name))

        return SimpleNamespace(compile=compile, get_function=get_function)
