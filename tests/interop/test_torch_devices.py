"""Tensors on a GPU: the right device, torch's stream and torch's memory.

Without a GPU on stand-ins: CuPy's is tests/fake_cupy.py, whose launches run on the host, and
tensors of the CPU pass for those of a GPU. With one, marked `cuda`, on the GPU itself.
"""

import contextlib
import gc
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from gpucnn import devices
from gpucnn.backends.cuda import CudaBackend, finding
from gpucnn.backends.cuda.runtime import CupyRuntime
from gpucnn.errors import DeviceError
from tests import fake_cupy

torch = pytest.importorskip("torch")

from gpucnn.interop.torch import Conv2d, Subsample2d, tensors  # noqa: E402
from tests.interop.models import UNEVEN, check, filled, gradients, normal  # noqa: E402


def network(**options):
    """A table convolution, a ReLU in place, and subsampling."""
    return filled(torch.nn.Sequential(
        Conv2d(5, 7, (3, 2), stride=(1, 2), padding=1, connections=UNEVEN, **options),
        torch.nn.ReLU(inplace=True), Subsample2d(7, activation="tanh", **options)))


# -- which device, which stream --------------------------------------------------------------------


class Stream:
    """CuPy's stream around one of another library's."""

    def __init__(self, log, pointer, device):
        self._log, self._name = log, f"stream {pointer} of device {device}"

    def __enter__(self):
        self._log.append(self._name)

    def __exit__(self, *_):
        self._log.append(f"end of {self._name}")


@pytest.fixture
def entered(monkeypatch):
    """Two GPUs of a stand-in; the list of devices and streams that are entered and left."""
    log = []

    @contextlib.contextmanager
    def device_of(library, index):
        log.append(f"{library} device {index}")
        yield
        log.append(f"end of {library} device {index}")

    cupy = fake_cupy.FakeCupy(gpus=2)
    cupy.cuda.Device = lambda index: device_of("cupy", index)
    cupy.cuda.ExternalStream = lambda pointer, device: Stream(log, pointer, device)
    monkeypatch.setattr(finding.importlib, "import_module", lambda name: cupy)
    monkeypatch.setattr(torch.cuda, "device", lambda index: device_of("torch", index))
    monkeypatch.setattr(torch.cuda, "current_stream",
                        lambda index: SimpleNamespace(cuda_stream=1000 + index))
    tensors._cuda.cache_clear()
    yield log
    tensors._cuda.cache_clear()


@pytest.mark.parametrize("index", [0, 1])
def test_a_tensor_s_device_and_torch_s_stream_on_it_are_where_the_ops_run(index, entered):
    backend, context = tensors.place_of(torch.device("cuda", index), "Conv2d")
    assert backend.device == f"cuda:{index}"
    entered.clear()
    with context:
        assert entered == [f"torch device {index}", f"cupy device {index}",
                           f"stream {1000 + index} of device {index}"]
    assert entered[3:] == [f"end of {name}" for name in reversed(entered[:3])]


def test_the_stream_is_that_of_each_call(entered, monkeypatch):
    pointers = iter([7, 8])
    monkeypatch.setattr(torch.cuda, "current_stream",
                        lambda index: SimpleNamespace(cuda_stream=next(pointers)))
    for _ in range(2):
        with tensors.place_of(torch.device("cuda", 0), "Conv2d")[1]:
            pass
    assert [name for name in entered if name.startswith("stream")] == [
        "stream 7 of device 0", "stream 8 of device 0"]


def test_the_device_is_left_after_an_error(entered):
    with pytest.raises(ZeroDivisionError), tensors.place_of(torch.device("cuda", 1), "Conv2d")[1]:
        raise ZeroDivisionError
    assert entered.count("end of stream 1001 of device 1") == 1


def test_a_cuda_tensor_without_cupy_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
    tensors._cuda.cache_clear()
    monkeypatch.setattr(finding.importlib, "import_module", missing)
    with pytest.raises(DeviceError, match=r"'cuda:0': CuPy is not installed: pip install gpucnn\["):
        tensors.place_of(torch.device("cuda", 0), "Conv2d")


# -- the kernels on torch's memory -----------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch):
    """The CUDA kernels, run on the host, behind every tensor; gives CuPy's stand-in."""
    cupy = fake_cupy.FakeCupy()
    backend = CudaBackend(CupyRuntime(cupy))
    monkeypatch.setattr(devices, "_array_types", {fake_cupy.ndarray: backend})
    monkeypatch.setattr(tensors, "place_of",
                        lambda device, where: (backend, contextlib.nullcontext()))
    return cupy


@pytest.mark.parametrize("build", [
    lambda: Conv2d(5, 7, (3, 2), connections=UNEVEN, activation="tanh", dtype=torch.float64),
    lambda: Conv2d(5, 7, (3, 2), connections=UNEVEN, bias=False, dtype=torch.float64),
    lambda: Subsample2d(5, activation="tanh", dtype=torch.float64),
], ids=["conv2d", "conv2d without bias", "subsample2d"])
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.transpose(2, 3), lambda x: x[:0]],
                         ids=["contiguous", "transposed", "empty"])
def test_the_kernels_give_torch_s_output_and_gradients(build, view, kernels):
    check(filled(build()), view(normal(3, 5, 6, 6)))


def test_gradcheck_passes_through_the_kernels(kernels):
    module = filled(Conv2d(5, 7, 2, connections=UNEVEN, activation="tanh", dtype=torch.float64))
    x = normal(1, 5, 3, 3, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: torch.func.functional_call(
            module, {"weight": weight, "bias": bias}, (x,)), (x, module.weight, module.bias))


def test_all_memory_is_torch_s(kernels, monkeypatch):
    """So that torch's graphs keep it, and one allocator has it all."""
    model = network(dtype=torch.float64)
    x = normal(40, 5, 9, 9).transpose(2, 3).requires_grad_()
    expected = gradients(model(x), x, *model.parameters())  # uploads the table
    taken = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: taken.append(
        options["dtype"]) or empty(*shape, **options))
    monkeypatch.setattr(kernels, "empty", lambda *_: pytest.fail("memory of CuPy's"))
    for ours, theirs in zip(gradients(model(x), x, *model.parameters()), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert taken and set(taken) == {torch.float64}, "scratch memory"


def test_scratch_memory_is_given_back_when_the_call_ends(kernels, monkeypatch):
    """At once, whenever Python next collects garbage."""
    spaces = []

    class Watched(tensors.Workspace):
        def __init__(self, memory):
            super().__init__(memory)
            spaces.append(weakref.ref(self))

    monkeypatch.setattr(tensors, "Workspace", Watched)
    gc.disable()
    try:
        network()(normal(2, 5, 9, 9).float()).sum().backward()
        assert len(spaces) == 4 and not any(space() for space in spaces)
    finally:
        gc.enable()


def test_every_call_has_scratch_memory_of_its_own(kernels):
    spaces = []
    for _ in range(2):
        with tensors.sharing(torch.device("cpu"), "Conv2d", tensors.HostMemory()) as shared:
            buffer = shared.workspace.take("x", (3, 4), np.float32)
            assert buffer.shape == (3, 4) and buffer.dtype == np.float32
            assert shared.workspace.take("x", (2, 2), np.float32).size == 4
            spaces.append(shared.workspace)
    assert spaces[0] is not spaces[1]


def test_an_array_shares_its_tensor_s_memory(kernels):
    x = torch.zeros(2, 3, requires_grad=True)
    with tensors.sharing(x.device, "Conv2d", tensors.HostMemory()) as shared:
        array = shared.array(x)
        array.set(np.ones((2, 3), np.float32))
        assert shared.array(None) is None
    assert x.detach().sum() == 6


# -- without torch ---------------------------------------------------------------------------------


def test_without_torch_the_module_says_what_to_install():
    code = ("import sys; sys.modules['torch'] = None\n"
            "import gpucnn\n"
            "from gpucnn.errors import MissingDependencyError\n"
            "try: import gpucnn.interop.torch\n"
            "except MissingDependencyError as error: print(error)")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ("gpucnn.interop.torch: expected the package torch, which is not "
                                  "installed: pip install gpucnn[torch]")


# -- on a GPU --------------------------------------------------------------------------------------


@pytest.fixture
def gpu(cuda):
    """A `torch.device` of a GPU that both libraries can use."""
    if not torch.cuda.is_available():
        pytest.skip("needs a PyTorch that can use the GPU")
    return torch.device("cuda", 0)


def on_cpu_and(device, x, model):
    """[(output, gradients)] of a model's two copies, the second on `device`, all on the CPU."""
    results = []
    for place in (torch.device("cpu"), device):
        model, moved = model.to(place), x.detach().to(place).requires_grad_()
        output = model(moved)
        assert output.device == place
        results.append([tensor.detach().cpu() for tensor in
                        (output, *gradients(output, moved, *model.parameters()))])
    return results


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_gpu_gives_what_the_cpu_gives(gpu, dtype):
    x = normal(9, 5, 9, 9).to(dtype).transpose(2, 3)
    for cpu, cuda in zip(*on_cpu_and(gpu, x, network(dtype=dtype)), strict=True):
        torch.testing.assert_close(cuda, cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.cuda
def test_gradcheck_passes_on_a_gpu(gpu):
    module = filled(Conv2d(5, 7, 2, connections=UNEVEN, dtype=torch.float64, activation="tanh"))
    module.to(gpu)
    x = normal(2, 5, 4, 4).to(gpu).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: torch.func.functional_call(
            module, {"weight": weight, "bias": bias}, (x,)), (x, module.weight, module.bias))


@pytest.mark.cuda
def test_an_empty_batch_on_a_gpu(gpu):
    model = network(device=gpu)
    x = torch.zeros(0, 5, 9, 9, device=gpu, requires_grad=True)
    grad_x, *others = gradients(model(x), x, *model.parameters())
    assert grad_x.shape == x.shape and not any(gradient.any() for gradient in others)


@pytest.mark.cuda
def test_autocast_on_a_gpu_computes_in_float32(gpu):
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 1), network()).to(gpu)
    with torch.autocast("cuda", dtype=torch.float16):
        output = model(normal(2, 2, 9, 9).float().to(gpu))
    assert output.dtype == torch.float32
    output.sum().backward()
    assert model[0].weight.grad.dtype == torch.float32


@pytest.mark.cuda
def test_work_is_ordered_on_torch_s_stream_without_waiting(gpu):
    """Each stream's call reads what is written before it on that stream, and nothing earlier."""
    module = torch.nn.Sequential(Conv2d(1, 1, 1, bias=False, device=gpu))
    torch.nn.init.ones_(module[0].weight)
    x = torch.zeros(64, 1, 256, 256, device=gpu)
    module(x)  # compiles
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(gpu)
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(100_000_000)
        x.fill_(3)
        output = module(x)
        done = stream.record_event()
        assert not done.query(), "the call has waited for the device"
        total = output.sum()
    stream.synchronize()
    assert total.item() == 3 * x.numel()


@pytest.mark.cuda
def test_a_training_step_is_captured_in_torch_s_cuda_graph(gpu):
    model = network(device=gpu)
    x = torch.zeros(16, 5, 9, 9, device=gpu, requires_grad=True)
    batches = [normal(16, 5, 9, 9, seed=seed).float().to(gpu) for seed in range(3)]

    def step():
        return gradients_of_sum(model(x), x, *model.parameters())

    def gradients_of_sum(output, *wanted):
        return output, *torch.autograd.grad(output.square().sum(), wanted)

    side = torch.cuda.Stream(gpu)
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream(gpu).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    others = [torch.empty(1 << 20, device=gpu).fill_(torch.nan) for _ in range(8)]
    for batch in batches:
        with torch.no_grad():
            x.copy_(batch)
        graph.replay()
        got = [tensor.clone() for tensor in captured]
        for ours, theirs in zip(got, step(), strict=True):
            assert torch.equal(ours, theirs)
    del others


@pytest.mark.cuda
def test_the_tensor_s_device_decides_whatever_the_current_one_is(gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    second = torch.device("cuda", 1)
    x = normal(9, 5, 9, 9).float()
    with torch.cuda.device(0):
        for cpu, cuda in zip(*on_cpu_and(second, x, network()), strict=True):
            torch.testing.assert_close(cuda, cpu, rtol=1e-4, atol=1e-4)
        assert torch.cuda.current_device() == 0
    with pytest.raises(DeviceError, match="expected weight on cuda:1 like x, got it on cuda:0"):
        network(device=gpu)(x.to(second))
