"""Where a CUDA backend's arrays and launches come from.

`Runtime` is all that the CUDA backend asks of a machine. `CupyRuntime` gives it on a GPU. The
tests have one of their own, which runs the same `.cu` files on the host (tests/cuda_on_cpu/).
This module imports without CuPy; finding.py says whether CuPy and a GPU are there.
"""

import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress

import numpy as np

from gpucnn.backends.cuda.finding import Problem, import_cupy, software
from gpucnn.backends.cuda.kernels import pasted_source
from gpucnn.backends.cuda.profile import DeviceProfile, KernelResources, cupy_profile
from gpucnn.errors import DeviceError, DTypeError, KernelError, ShapeError

__all__ = ["CupyRuntime", "DeviceProfile", "Graph", "KernelResources", "Problem", "Runtime",
           "import_cupy"]

WAIT = "wait.cu"
WAITED = 1.5        # times as long as the host needs to queue what is timed
MOST_WAITED = 0.2   # seconds
USUAL_CLOCK = 2e9   # of a device that does not tell


class Graph(ABC):
    """Recorded launches, with the arrays that they use."""

    @abstractmethod
    def launch(self):
        """Run the launches in their order, after what was launched before."""


class Runtime(ABC):
    """Arrays and launches of one device. Its arrays offer `shape`, `dtype`, `ndim`, `size`,
    `nbytes`, `flags.c_contiguous`, `reshape` and basic slicing, as CuPy's do, and nothing else
    is asked of them."""

    device: str
    profile: DeviceProfile

    def __init__(self):
        self._thread = threading.local()  # a capture concerns the thread that makes it alone

    @abstractmethod
    def owns(self, array):
        """Whether `array` is an array on this runtime's device."""

    @abstractmethod
    def empty(self, shape, dtype):
        """A C-contiguous array of unset values."""

    @abstractmethod
    def zero(self, array):
        """Set every element of a contiguous array to zero."""

    @abstractmethod
    def upload(self, host, out=None):
        """A host array's values on the device: in `out` if given, else in a new array."""

    @abstractmethod
    def download(self, array):
        """A NumPy copy of a device array; waits for the work that writes it."""

    @abstractmethod
    def copy(self, source, out):
        """Copy a device array of any strides to another of the same shape and type."""

    @abstractmethod
    def from_dlpack(self, external):
        """A device array that shares the memory of a DLPack object."""

    @abstractmethod
    def compile(self, source, name):
        """Compile CUDA C++ `source`; returns a function from a kernel's name to its launcher,
        which is called as `launcher(blocks, threads, arguments, shared_bytes=0)`. An argument is
        a device array, a NumPy scalar of the parameter's own type, or None for a null pointer;
        `shared_bytes` is the size of the kernel's `extern __shared__` memory. A launcher's
        `resources`, if it has any, are the kernel's `KernelResources`."""

    @abstractmethod
    def synchronize(self):
        """Wait until all work that was launched has ended."""

    @abstractmethod
    def seconds(self, work, repetitions=10):
        """The device's time for one call of `work`, in seconds: the mean of `repetitions` calls in
        a row, after two that are not counted."""

    def capture(self, work):
        """A `Graph` of the launches that `work()` makes, which are not run. It keeps their arrays
        alive; scalars are those of the capture.

        Everything but launches is an error in a capture: memory must be there and kernels be
        compiled (`Kernels.prepare`) before. Other threads are not disturbed.
        """
        self._refuse_in_capture("capture")
        self._thread.captured = captured = []
        try:
            return self._capture(work, captured)
        finally:
            self._thread.captured = None

    @abstractmethod
    def _capture(self, work, captured):
        """The graph of `work()`; `captured` is `self._captured` meanwhile."""

    @property
    def _captured(self):
        """The list to which each launch of a running capture adds what it needs, or None."""
        return getattr(self._thread, "captured", None)

    def _refuse_in_capture(self, what):
        if self._captured is not None:
            raise DeviceError(f"{what}: a graph is being captured on {self.device}, which takes "
                              f"launches of compiled kernels only")


class CupyRuntime(Runtime):
    """A GPU through CuPy: launches go to the current stream, kernels are compiled by NVRTC and
    kept in CuPy's cache on disk."""

    def __init__(self, cupy, index=0):
        super().__init__()
        count = cupy.cuda.runtime.getDeviceCount()
        if not 0 <= index < count:
            raise DeviceError(f"device 'cuda:{index}': expected an index below {count}, "
                              f"the number of GPUs here")
        self._cupy = cupy
        self._index = index
        self.device = f"cuda:{index}"
        self.profile = cupy_profile(cupy, index, software(cupy))
        self._wait = None

    def _here(self):
        return self._cupy.cuda.Device(self._index)

    def owns(self, array):
        return isinstance(array, self._cupy.ndarray) and array.device.id == self._index

    def empty(self, shape, dtype):
        self._refuse_in_capture("empty")
        with self._here():
            return self._cupy.empty(shape, dtype)

    def zero(self, array):
        self._refuse_in_capture("zero")
        with self._here():
            array.data.memset_async(0, array.nbytes)

    def upload(self, host, out=None):
        self._refuse_in_capture("upload")
        host = np.asarray(host, order="C")  # ascontiguousarray gives a scalar an axis
        with self._here():
            if out is None:
                out = self._cupy.empty(host.shape, host.dtype)
            out.set(host)
        return out

    def download(self, array):
        self._refuse_in_capture("download")
        with self._here():
            return array.get()

    def copy(self, source, out):
        self._refuse_in_capture("copy")
        if source.shape != out.shape:  # CuPy would broadcast
            raise ShapeError(f"copy: expected `out` of shape {source.shape}, got {out.shape}")
        if source.dtype != out.dtype:  # CuPy would cast
            raise DTypeError(f"copy: expected `out` of type {source.dtype}, got {out.dtype}")
        with self._here():
            self._cupy.copyto(out, source)

    def from_dlpack(self, external):
        with self._here():
            return self._cupy.from_dlpack(external)

    def compile(self, source, name):
        self._refuse_in_capture(f"compile {name}")
        cupy = self._cupy
        with self._here():
            module = cupy.RawModule(code=source, backend="nvrtc", options=("--std=c++17",))
            try:
                module.compile()
            except cupy.cuda.compiler.CompileException as error:
                raise KernelError(f"{name} does not compile for {self.device}: {error}") from error

        def function(kernel_name):
            with self._here():
                return _CupyLauncher(self, kernel_name, module.get_function(kernel_name))

        return function

    def synchronize(self):
        self._refuse_in_capture("synchronize")
        with self._here():
            self._cupy.cuda.get_current_stream().synchronize()

    def wait(self, seconds):
        """Keep the device busy for about so long, on the current stream: launches queue up behind.
        The host takes longer to launch a small kernel than a device to run it."""
        if self._wait is None:
            self._wait = self.compile(pasted_source(WAIT, {}), WAIT)("wait")
        self._wait(1, 1, (np.int64(seconds * (self.profile.clock or USUAL_CLOCK)),))

    def seconds(self, work, repetitions=10):
        self._refuse_in_capture("seconds")
        work()
        self.synchronize()
        began = time.perf_counter()
        work()
        queueing = (time.perf_counter() - began) * repetitions
        with self._here():
            self.wait(min(MOST_WAITED, WAITED * queueing))
            start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
            start.record()
            for _ in range(repetitions):
                work()
            end.record()
            end.synchronize()
            return self._cupy.cuda.get_elapsed_time(start, end) / 1000 / repetitions

    def _capture(self, work, captured):
        cuda = self._cupy.cuda
        # The default stream cannot be captured, and a blocking one would wait for it. CuPy begins
        # in CUDA's relaxed mode, in which other threads may allocate and copy meanwhile.
        with self._here(), cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                work()
            except BaseException:
                with suppress(cuda.runtime.CUDARuntimeError):  # of what `work` did
                    stream.end_capture()
                raise
            return _CupyGraph(self, stream.end_capture(), captured)


class _CupyLauncher:
    """Launches one kernel on the current stream."""

    def __init__(self, runtime, name, kernel):
        self._runtime = runtime
        self._name = name
        self._kernel = kernel
        # asking makes the driver load the kernel, which it must not do in a capture
        self.resources = KernelResources(kernel.num_regs, kernel.local_size_bytes,
                                         kernel.shared_size_bytes)
        self._allowed = runtime.profile.shared_bytes - self.resources.static_shared_bytes

    def __call__(self, blocks, threads, arguments, shared_bytes=0):
        runtime = self._runtime
        with runtime._here():
            if shared_bytes > self._allowed:
                self._allow(shared_bytes)
            pointers = tuple(np.uintp(0) if a is None else a for a in arguments)
            self._kernel((blocks,), (threads,), pointers, shared_mem=shared_bytes)
        if runtime._captured is not None:
            runtime._captured.append(arguments)

    def _allow(self, shared_bytes):
        most = self._runtime.profile.dynamic_shared_bytes
        if shared_bytes > most:
            raise KernelError(f"kernel {self._name}: expected at most {most} bytes of dynamic "
                              f"shared memory on {self._runtime.device}, got {shared_bytes}")
        self._kernel.max_dynamic_shared_size_bytes = shared_bytes
        self._allowed = shared_bytes


class _CupyGraph(Graph):
    """A CUDA graph; it is launched on the current stream, which may be the default one."""

    def __init__(self, runtime, graph, arrays):
        self._runtime = runtime
        self._graph = graph
        self._arrays = arrays

    def launch(self):
        self._runtime._refuse_in_capture("launch of a graph")
        with self._runtime._here():
            self._graph.launch()
