"""What the tests share: the backends, and how hypothesis looks for cases.

Every test that takes `backend` runs on NumPy, on the CUDA kernels compiled for the host, and,
where CuPy finds a GPU, there as well: `pytest -m cuda` runs those alone. Cases are the same in
every run; `pytest --hypothesis-profile search` looks for more.
"""

import signal

import pytest
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from gpucnn import devices, get_backend
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.runtime import import_cupy
from tests.cuda_on_cpu.arrays import DeviceArray
from tests.cuda_on_cpu.runtime import HostRuntime

threadpool_limits(1, user_api="blas")  # with more, tests crawl while other programs have the cores

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL_GRID = 3  # so that every kernel loops over what one grid does not cover

_settings = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", **_settings, max_examples=40, derandomize=True,
                          database=None)
settings.register_profile("search", **_settings, max_examples=500)
settings.load_profile("repeatable")

BACKENDS = [pytest.param("cpu", id="cpu"), pytest.param("cuda on cpu", id="cuda on cpu")]
if import_cupy()[1] is None:
    BACKENDS.append(pytest.param("cuda", id="cuda", marks=pytest.mark.cuda))


@pytest.fixture(scope="session")
def cuda_on_cpu():
    """The CUDA backend with its kernels compiled for the host."""
    return CudaBackend(HostRuntime(max_blocks=SMALL_GRID))


@pytest.fixture
def cuda():
    """The CUDA backend of a GPU, for what only a GPU can show."""
    problem = import_cupy()[1]
    if problem is not None:
        pytest.skip(f"needs a GPU: {problem.reason}")
    return get_backend("cuda")


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request):
    """Each backend in turn."""
    if request.param == "cuda on cpu":
        return request.getfixturevalue("cuda_on_cpu")
    return get_backend(request.param)


@pytest.fixture
def known_arrays(backend, monkeypatch):
    """The backend in turn, with its arrays known to `gpucnn.functional`."""
    monkeypatch.setattr(devices, "_array_types", dict(devices._array_types))
    if backend.device == "cuda-on-cpu":
        devices.register_arrays(DeviceArray, backend)
    return backend
