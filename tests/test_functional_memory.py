"""gpucnn.functional in the caller's memory: `out`, a workspace, and what a graph can capture."""

import numpy as np
import pytest

from gpucnn import ConnectionTable, devices, functional
from gpucnn.backends.cuda import CudaBackend
from gpucnn.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from gpucnn.functional import Workspace
from tests.cuda_on_cpu.arrays import DeviceArray
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.layouts import get, of_nan, put

TABLE = ConnectionTable.from_pairs([[0, 1, 1, 2], [0, 0, 1, 2]])
OPTIONS = {"stride": 2, "padding": 1, "activation": "tanh"}
# Each call: the function, its arrays' shapes, its other arguments.
CALLS = {
    "conv2d": (functional.conv2d, [(5, 3, 7, 6), (4, 3, 2), (3,)],
               {"connections": TABLE, **OPTIONS}),
    "conv2d_backward": (functional.conv2d_backward,
                        [(5, 3, 4, 4), (5, 3, 4, 4), (5, 3, 7, 6), (4, 3, 2)],
                        {"connections": TABLE, **OPTIONS}),
    "subsample2d": (functional.subsample2d, [(5, 3, 6, 6), (3,), (3,)], {"activation": "tanh"}),
    "subsample2d_backward": (functional.subsample2d_backward,
                             [(5, 3, 3, 3), (5, 3, 3, 3), (5, 3, 6, 6), (3,)],
                             {"activation": "tanh"}),
    "max_pool2d": (functional.max_pool2d, [(5, 3, 6, 6)], {}),
    "max_pool2d_backward": (functional.max_pool2d_backward,
                            [(5, 3, 3, 3), (5, 3, 3, 3), (5, 3, 6, 6)], {}),
    "dense": (functional.dense, [(5, 3, 2, 2), (4, 3), (4,)], {"activation": "tanh"}),
    "dense_backward": (functional.dense_backward,
                       [(5, 4, 2, 2), (5, 4, 2, 2), (5, 3, 2, 2), (4, 3)], {"activation": "tanh"}),
    "classifier": (functional.classifier, [(5, 3, 4, 4), (6, 3, 3, 3), (6,), (4, 6), (4,)], {}),
    "classifier_backward": (
        functional.classifier_backward,
        [(5, 4, 2, 2), (5, 6, 2, 2), (5, 4, 2, 2), (5, 3, 4, 4), (6, 3, 3, 3), (6,), (4, 6), (4,)],
        {}),
}
each_call = pytest.mark.parametrize("name", CALLS)


def arrays_of(backend, name, samples=None, layout="contiguous"):
    generator = np.random.default_rng(0)
    values = [generator.standard_normal(shape) for shape in CALLS[name][1]]
    if samples is not None:
        values = [array[:samples] if array.shape[0] == 5 else array for array in values]
    return [put(backend, array, layout) for array in values]


def called(name, arrays, **memory):
    """The results of a call, always as a tuple."""
    function, _, options = CALLS[name]
    results = function(*arrays, **options, **memory)
    return tuple(results) if isinstance(results, tuple) else (results,)


def places(backend, results):
    """`out` for a call with such results."""
    arrays = tuple(of_nan(backend, array.shape, array.dtype) for array in results)
    return arrays if len(arrays) > 1 else arrays[0]


@each_call
@pytest.mark.parametrize("samples", [5, 0])
def test_results_go_to_out_and_are_those_without_it(name, samples, known_arrays):
    arrays = arrays_of(known_arrays, name, samples)
    expected = called(name, arrays)
    out = places(known_arrays, expected)
    results = called(name, arrays, out=out, workspace=Workspace())
    for result, place, array in zip(results, out if isinstance(out, tuple) else (out,), expected,
                                    strict=True):
        assert result is place
        np.testing.assert_array_equal(get(known_arrays, result), get(known_arrays, array))


@pytest.mark.parametrize("name", ["conv2d", "conv2d_backward", "max_pool2d", "classifier_backward"])
def test_one_sample_goes_to_an_out_without_a_batch(name, known_arrays):
    arrays = [array[0] if array.shape[0] == 5 else array
              for array in arrays_of(known_arrays, name)]
    expected = called(name, arrays)
    out = places(known_arrays, expected)
    for result, array in zip(called(name, arrays, out=out), expected, strict=True):
        np.testing.assert_array_equal(get(known_arrays, result), get(known_arrays, array))


def test_none_in_out_stands_for_a_new_array(known_arrays):
    arrays = arrays_of(known_arrays, "conv2d_backward")
    expected = called("conv2d_backward", arrays)
    place = of_nan(known_arrays, (4, 3, 2), np.float64)
    results = called("conv2d_backward", arrays, out=(None, place, None))
    assert results[1] is place
    for result, array in zip(results, expected, strict=True):
        np.testing.assert_array_equal(get(known_arrays, result), get(known_arrays, array))


@pytest.mark.parametrize("name", ["conv2d_backward", "subsample2d_backward", "dense_backward"])
def test_the_gradient_by_the_input_may_be_left_out(name, known_arrays):
    arrays = arrays_of(known_arrays, name)
    expected = called(name, arrays)
    first, *others = called(name, arrays, needs_grad_input=False)
    assert first is None
    for result, array in zip(others, expected[1:], strict=True):
        np.testing.assert_array_equal(get(known_arrays, result), get(known_arrays, array))


@pytest.mark.parametrize("bias", ["both", "none"])
@each_call
def test_a_workspace_is_reused_by_calls_of_any_size(name, bias, known_arrays):
    workspace = Workspace()
    for samples in (2, 5, 1):
        for layout in ("contiguous", "transposed"):
            arrays = arrays_of(known_arrays, name, samples, layout)
            if bias == "none" and name.startswith("classifier"):
                arrays[-1] = arrays[-3] = None
            for result, array in zip(called(name, arrays, workspace=workspace),
                                     called(name, arrays), strict=True):
                if array is not None:
                    np.testing.assert_array_equal(get(known_arrays, result),
                                                  get(known_arrays, array))


# -- captured --------------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch):
    """A CUDA backend on the host whose arrays `functional` knows."""
    backend = CudaBackend(HostRuntime())
    monkeypatch.setattr(devices, "_array_types", {DeviceArray: backend})
    return backend


@each_call
def test_a_warm_call_allocates_copies_and_waits_for_nothing(name, device, monkeypatch):
    """So that it can be captured in a CUDA graph."""
    arrays = arrays_of(device, name)
    workspace = Workspace()
    expected = [get(device, array) for array in called(name, arrays, workspace=workspace)]
    out = places(device, expected)
    called(name, arrays, out=out, workspace=workspace)
    workspace.seal()
    with monkeypatch.context() as patch:
        for method in ("empty", "upload", "download", "copy", "compile", "synchronize"):
            patch.setattr(device.runtime, method, lambda *_, method=method: pytest.fail(method))
        graph = device.runtime.capture(lambda: called(name, arrays, out=out, workspace=workspace))
    places_of_results = out if isinstance(out, tuple) else (out,)
    for place in places_of_results:
        device.copy(of_nan(device, place.shape, place.dtype), place)
    graph.launch()
    for place, values in zip(places_of_results, expected, strict=True):
        np.testing.assert_array_equal(get(device, place), values)


@each_call
def test_a_warm_call_on_strided_arrays_allocates_nothing(name, device, monkeypatch):
    arrays = arrays_of(device, name, layout="transposed")
    workspace = Workspace()
    out = places(device, called(name, arrays, workspace=workspace))
    workspace.seal()
    monkeypatch.setattr(device.runtime, "empty", lambda *_: pytest.fail("empty"))
    called(name, arrays, out=out, workspace=workspace)


@pytest.mark.cuda
@each_call
def test_a_call_is_captured_by_cupy_and_replayed(name, cuda):
    cupy = pytest.importorskip("cupy")
    arrays = arrays_of(cuda, name)
    workspace = Workspace()
    expected = [get(cuda, array) for array in called(name, arrays, workspace=workspace)]
    out = places(cuda, expected)
    cuda.synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        called(name, arrays, out=out, workspace=workspace)
        workspace.seal()
        stream.begin_capture()
        called(name, arrays, out=out, workspace=workspace)
        graph = stream.end_capture()
        for place in out if isinstance(out, tuple) else (out,):
            place.fill(float("nan"))
        graph.launch(stream)
        stream.synchronize()
    for place, values in zip(out if isinstance(out, tuple) else (out,), expected, strict=True):
        np.testing.assert_array_equal(get(cuda, place), values)


# -- what is refused -------------------------------------------------------------------------------


def conv2d(out, **options):
    x, weight = np.ones((2, 3, 6, 6)), np.ones((4, 3, 3))
    return functional.conv2d(x, weight, None, TABLE, out=out, **options)


def read_only():
    array = np.ones((2, 3, 4, 4))
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(("out", "error", "message"), [
    (np.ones((2, 3, 4, 5)), ShapeError,
     r"conv2d: expected out of shape \(2, 3, 4, 4\), got \(2, 3, 4, 5\)"),
    (np.ones((2, 3, 4, 4), np.float32), DTypeError,
     "conv2d: expected out of float64 like x, got float32"),
    (np.ones((2, 3, 4, 8))[..., ::2], ArgumentError, "out to be C-contiguous, got strides"),
    (read_only(), ArgumentError, "expected out to be writeable, got a read-only array"),
    ([1.0], DTypeError, "conv2d: out: expected a NumPy or CuPy array or a DLPack object, got list"),
    ((np.ones((2, 3, 4, 4)),), DTypeError, "got tuple"),
], ids=["shape", "type", "strides", "read-only", "list", "tuple"])
def test_an_out_that_does_not_fit_is_refused(out, error, message):
    with pytest.raises(error, match=message):
        conv2d(out)


def test_an_out_that_shares_memory_with_an_input_is_refused(known_arrays):
    memory = np.ones((2, 2, 4, 4))
    x = known_arrays.from_host(memory)
    with pytest.raises(ArgumentError, match="subsample2d: expected out to share no memory with the "
                                            "inputs, got memory of x"):
        functional.subsample2d(x, known_arrays.from_host(np.ones(2)), None, pool_size=1, out=x)
    with pytest.raises(ArgumentError, match="got memory of x"):
        functional.max_pool2d(memory[:1], out=memory.reshape(-1)[16:24].reshape(1, 2, 2, 2))


def test_an_out_of_another_device_is_refused(device):
    with pytest.raises(DeviceError, match="expected out on cpu like x, got one on cuda-on-cpu"):
        conv2d(device.empty((2, 3, 4, 4), np.float64))


@pytest.mark.parametrize(("out", "message"), [
    (np.ones((4, 3, 3)), r"a tuple of arrays or None for \(grad_input, grad_weight, grad_bias\), "
                         r"got ndarray"),
    ((None, None), "got 2 arrays"),
    ((np.ones((2, 3, 6, 6)), None, None), "expected grad_input of out to be None, since nobody "
                                          "asks for it, got ndarray"),
], ids=["array", "pair", "unwanted"])
def test_an_out_that_is_no_tuple_of_the_gradients_is_refused(out, message):
    y = np.ones((2, 3, 4, 4))
    with pytest.raises(ArgumentError, match=message):
        functional.conv2d_backward(y, y, np.ones((2, 3, 6, 6)), np.ones((4, 3, 3)), TABLE, out=out,
                                   needs_grad_input=False)


def test_a_workspace_belongs_to_one_device(device):
    workspace = Workspace()
    functional.dense(np.ones((1, 2)), np.ones((3, 2)), None, workspace=workspace)
    x = device.from_host(np.ones((1, 2)))
    with pytest.raises(DeviceError, match="dense: expected a workspace of cuda-on-cpu like x, got "
                                          "one of cpu"):
        functional.dense(x, device.from_host(np.ones((3, 2))), None, workspace=workspace)


def test_what_is_no_workspace_is_refused():
    with pytest.raises(ArgumentError, match=r"expected workspace to be a gpucnn\.functional\."
                                            r"Workspace, got dict"):
        functional.max_pool2d(np.ones((1, 2, 2)), workspace={})


def test_a_sealed_workspace_does_not_grow(device):
    workspace = Workspace()
    called("conv2d", arrays_of(device, "conv2d", 2, "transposed"), workspace=workspace)
    workspace.seal()
    called("conv2d", arrays_of(device, "conv2d", 1, "transposed"), workspace=workspace)
    with pytest.raises(ArgumentError, match="sealed workspace: expected a call that needs no more "
                                            "memory, got one that needs 630 numbers of float64"):
        called("conv2d", arrays_of(device, "conv2d", 5, "transposed"), workspace=workspace)


# -- the choice of a kernel ------------------------------------------------------------------------


class Chooser(CudaBackend):
    """A CUDA backend that only tells what it was asked for."""

    def conv2d(self, x, weight, bias, connections, *, out, workspace, **options):
        self.asked = options
        return x

    def conv2d_backward(self, grad_output, output, x, weight, connections, *, out, workspace,
                        **options):
        self.asked = options
        return functional.Conv2dGradients(None, weight, None)


CHOICE = {"kernel": "tiled", "autotune": True, "precision": "tf32"}


@pytest.mark.parametrize("choice", [{}, CHOICE, {"precision": "tf32"}], ids=str)
def test_a_choice_of_kernel_reaches_the_cuda_backend(choice, monkeypatch):
    backend = Chooser(HostRuntime())
    monkeypatch.setattr(devices, "_array_types", {DeviceArray: backend})
    x, weight = (backend.from_host(np.ones(shape)) for shape in ((2, 3, 1, 1), (4, 1, 1)))
    common = {"stride": (1, 1), "padding": (0, 0), "activation": "identity"}
    functional.conv2d(x, weight, None, TABLE, **choice)
    assert backend.asked == {**common, **choice}
    functional.conv2d_backward(x, x, x, weight, TABLE, needs_grad_input=False, **choice)
    assert backend.asked == {**common, **choice, "needs_grad_input": False}


@pytest.mark.parametrize(("choice", "message"), [
    ({"kernel": "tiled"}, "expected kernel=None on cpu, which has no CUDA kernels to choose from, "
                          "got kernel='tiled'"),
    ({"autotune": True}, "expected autotune=False on cpu"),
    (CHOICE, "expected kernel=None, autotune=False, precision='float32' on cpu"),
])
def test_there_is_no_choice_of_kernel_on_the_cpu(choice, message):
    with pytest.raises(ArgumentError, match=f"conv2d: {message}"):
        conv2d(None, **choice)
    y = np.ones((2, 3, 4, 4))
    with pytest.raises(ArgumentError, match=f"conv2d_backward: {message}"):
        functional.conv2d_backward(y, y, np.ones((2, 3, 6, 6)), np.ones((4, 3, 3)), TABLE, **choice)
