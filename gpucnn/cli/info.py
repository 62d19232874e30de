"""`gpucnn info`: versions, devices, and which CUDA kernels compile."""

import platform
from importlib import metadata

import click
import numpy as np

import gpucnn
from gpucnn.backends.cuda import CudaBackend
from gpucnn.cli.group import one_line
from gpucnn.errors import DeviceError, KernelError

CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")


@click.command()
def info():
    """Show versions, devices and kernels.

    Where there is a usable GPU, the CUDA kernels that training needs are compiled one by one.
    """
    for name, version in _versions():
        click.echo(f"{name:<8}{version}")
    cpu = gpucnn.get_backend("cpu")
    click.echo(f"\ndevices\n  {'cpu':<8}{cpu.description}")
    devices, reason = cuda_devices()
    for backend in devices:
        click.echo(f"  {backend.device:<8}{backend.description}")
    if not devices:
        click.echo(f"  {'cuda':<8}none: {reason}")
    click.echo("\nkernels")
    if not devices:
        click.echo("  none compiled: that takes a usable GPU")
    for backend in _one_of_each_architecture(devices):
        results = compile_kernels(backend)
        for name, problem in results.items():
            click.echo(f"  {'ok' if problem is None else 'error':<6} {name}"
                       + (f": {one_line(problem)}" if problem else ""))
        good = sum(problem is None for problem in results.values())
        click.echo(f"  {good} of {len(results)} compile for {backend.device}")


def cuda_devices():
    """The backends of all CUDA devices, and why there are none (or no more)."""
    backends = []
    while True:
        try:
            backends.append(gpucnn.get_backend(f"cuda:{len(backends)}"))
        except DeviceError as error:
            return backends, str(error).partition(": ")[2]


def compile_kernels(backend):
    """Compile what training steps and predictions of LeNet-5 and of a ReLU and max-pooling network
    need.

    Returns a dict from each specialisation's text to None, or to its `KernelError`.
    """
    runtime = CompileOnly(backend.runtime)
    compiling = CudaBackend(runtime)
    for network, loss, optimizer in (
            (gpucnn.lenet5(device=compiling), "cross_entropy", gpucnn.SGD(0.05, momentum=0.9)),
            (_relu_network(compiling), "mse", gpucnn.Adam())):
        plan = network.compile_step(loss=loss, optimizer=optimizer, batch_size=2)
        images = np.zeros((2, 28, 28), np.uint8)
        plan.step(images, np.zeros(2, np.int32))
        network.predict(images)
    return runtime.results


class CompileOnly:
    """A runtime that compiles the kernels it is asked for, notes the outcome, and launches none."""

    def __init__(self, runtime):
        self._runtime = runtime
        self.results = {}

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def compile(self, source, name):
        try:
            self._runtime.compile(source, name)
            self.results[name] = None
        except KernelError as error:
            self.results[name] = error
        return lambda kernel: lambda blocks, threads, arguments, shared_bytes=0: None


def _relu_network(backend):
    return gpucnn.Network([
        gpucnn.Conv2d(1, 4, 5, activation="relu"),
        gpucnn.MaxPool2d(2),
        gpucnn.Conv2d(4, 8, 5, activation="relu"),
        gpucnn.MaxPool2d(2),
        gpucnn.Flatten(),
        gpucnn.Dense(128, 10),
    ], (1, 28, 28), device=backend)


def _versions():
    yield "gpucnn", gpucnn.__version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "NumPy", np.__version__
    yield "CuPy", _cupy_version()
    yield "BLAS", _blas()


def _cupy_version():
    found = []
    for package in CUPY_PACKAGES:
        try:
            found.append(f"{metadata.version(package)} ({package})")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or "not installed"


def _blas():
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown without threadpoolctl: pip install gpucnn[cli]"
    libraries = {f"{library['internal_api']} {library['version']}, {library['num_threads']} threads"
                 for library in threadpool_info() if library["user_api"] == "blas"}
    return "; ".join(sorted(libraries)) or "none that threadpoolctl knows"


def _one_of_each_architecture(backends):
    return {backend.runtime.profile.compute_capability: backend
            for backend in reversed(backends)}.values()
