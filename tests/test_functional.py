"""gpucnn.functional: one sample or a batch, arrays of any origin, and clear errors."""

import numpy as np
import pytest

import gpucnn
from gpucnn import ConnectionTable, devices, functional
from gpucnn.errors import (
    ArgumentError,
    DeviceError,
    DTypeError,
    GpucnnError,
    ShapeError,
    TableError,
)
from tests import oracle
from tests.cases import DOUBLE, Conv2dCase, DenseCase, MaxPool2dCase, Subsample2dCase
from tests.cuda_on_cpu.arrays import DeviceArray
from tests.cuda_on_cpu.runtime import HostRuntime
from tests.layouts import LAYOUTS, get, put, repeated
from tests.representative import UNEVEN_TABLE

CASES = {
    "conv2d": Conv2dCase(UNEVEN_TABLE, 3, (7, 6), (3, 2), (2, 3), (1, 2), "tanh", DOUBLE),
    "subsample2d": Subsample2dCase((3, 2, 8, 7), (2, 2), (2, 2), "sigmoid", DOUBLE),
    "max_pool2d": MaxPool2dCase((3, 2, 8, 7), (2, 2), (2, 2), DOUBLE),
    "dense": DenseCase(3, 5, 18, (2, 3), "sigmoid", DOUBLE),
    "dense of features": DenseCase(3, 5, 18, None, "sigmoid", DOUBLE),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def call(case, arrays):
    """The public function and its gradients, on arrays of any kind: results by name."""
    x, grad_output, bias = arrays["x"], arrays["grad_output"], arrays.get("bias")
    if isinstance(case, MaxPool2dCase):
        output = functional.max_pool2d(x, **case.options)
        return {"output": output, "grad_input": functional.max_pool2d_backward(
            grad_output, output, x, **case.options)}
    if isinstance(case, Conv2dCase):
        parameters, options = (arrays["weight"],), case.options | {"connections": case.table}
        forward, backward = functional.conv2d, functional.conv2d_backward
    elif isinstance(case, Subsample2dCase):
        parameters, options = (arrays["coefficient"],), case.options
        forward, backward = functional.subsample2d, functional.subsample2d_backward
    else:
        parameters, options = (arrays["weight"],), {"activation": case.activation}
        forward, backward = functional.dense, functional.dense_backward
    output = forward(x, *parameters, bias, **options)
    return {"output": output,
            **backward(grad_output, output, x, *parameters, **options)._asdict()}


def on_host(backend, results):
    return {name: get(backend, array) for name, array in results.items()}


# -- what is taken ---------------------------------------------------------------------------------


@each_case
def test_the_functions_and_their_gradients_match_plain_loops(case, known_arrays):
    arrays = {name: put(known_arrays, array) for name, array in case.arrays().items()}
    results = on_host(known_arrays, call(case, arrays))
    oracle.assert_close(results, case.expected(results), case.dtype)


@each_case
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_of_any_layout_are_taken_and_left_as_they_are(case, layout, known_arrays):
    values = case.arrays()
    arrays = {name: put(known_arrays, array, layout) for name, array in values.items()}
    results = on_host(known_arrays, call(case, arrays))
    oracle.assert_close(results, case.expected(results), case.dtype)
    for name, array in arrays.items():
        assert get(known_arrays, array).tobytes() == values[name].tobytes()


@each_case
def test_results_are_contiguous_arrays_of_the_inputs_device(case, known_arrays):
    arrays = {name: put(known_arrays, array) for name, array in case.arrays().items()}
    for array in call(case, arrays).values():
        assert known_arrays.owns(array)
        assert array.flags.c_contiguous


@pytest.mark.parametrize("case", [case for name, case in CASES.items() if "features" not in name],
                         ids=[name for name in CASES if "features" not in name])
def test_one_sample_needs_no_batch(case, known_arrays):
    backend = known_arrays
    values = case.arrays()
    for name in ("x", "grad_output"):
        values[name] = values[name][:1]
    arrays = {name: put(backend, array) for name, array in values.items()}
    of_batch = on_host(backend, call(case, arrays))
    single = arrays | {name: arrays[name][0] for name in ("x", "grad_output")}
    of_one = on_host(backend, call(case, single))
    for name, array in of_batch.items():
        expected = array[0] if name in ("output", "grad_input") else array
        np.testing.assert_array_equal(of_one[name], expected, strict=True)


@each_case
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(case, known_arrays):
    values = case.arrays()
    for name in ("x", "grad_output"):
        values[name] = values[name][:0]
    arrays = {name: put(known_arrays, array) for name, array in values.items()}
    for name, array in on_host(known_arrays, call(case, arrays)).items():
        if name in ("output", "grad_input"):
            of = values["grad_output"] if name == "output" else values["x"]
            assert array.shape == of.shape
        else:
            assert array.size and not array.any()


def test_a_broadcast_sample_is_taken(known_arrays):
    case = Subsample2dCase((1, 2, 6, 6))
    values = case.arrays()
    coefficient = put(known_arrays, values["coefficient"])
    many = functional.subsample2d(repeated(known_arrays, values["x"], 5), coefficient, None)
    one = functional.subsample2d(put(known_arrays, values["x"]), coefficient, None)
    for sample in range(5):
        np.testing.assert_array_equal(get(known_arrays, many)[sample], get(known_arrays, one)[0])


def test_an_int_stands_for_a_pair_and_the_stride_for_the_pool_size(known_arrays):
    x = put(known_arrays, np.random.default_rng(0).standard_normal((2, 3, 9, 9)))
    one = put(known_arrays, np.ones(3))

    def same(first, second):
        np.testing.assert_array_equal(get(known_arrays, first), get(known_arrays, second))

    same(functional.subsample2d(x, one, None, pool_size=3),
         functional.subsample2d(x, one, None, pool_size=(3, 3), stride=(3, 3)))
    same(functional.subsample2d(x, one, None),
         functional.subsample2d(x, one, None, pool_size=[2, 2], stride=np.int64(2)))
    same(functional.max_pool2d(x, pool_size=3), functional.max_pool2d(x, pool_size=3, stride=3))
    weight = put(known_arrays, np.ones((3, 2, 2)))
    table = ConnectionTable.one_to_one(3)
    same(functional.conv2d(x, weight, None, table, stride=2, padding=1),
         functional.conv2d(x, weight, None, table, stride=(2, 2), padding=(1, 1)))


def test_the_gradient_by_the_input_may_be_left_out(known_arrays):
    case = CASES["conv2d"]
    arrays = {name: put(known_arrays, array) for name, array in case.arrays().items()}
    output = functional.conv2d(arrays["x"], arrays["weight"], None, case.table, **case.options)
    gradients = functional.conv2d_backward(
        arrays["grad_output"], output, arrays["x"], arrays["weight"], case.table, **case.options,
        needs_grad_input=False)
    assert gradients.grad_input is None
    assert gradients.grad_weight.shape == arrays["weight"].shape


def test_every_function_is_importable_from_the_package():
    for name in functional.__all__:
        if name.islower():
            assert getattr(gpucnn, name) is getattr(functional, name)


# -- DLPack ----------------------------------------------------------------------------------------


class Foreign:
    """An array of another library, which speaks DLPack and nothing else."""

    def __init__(self, array, device=None):
        self._array, self._device = array, device

    def __dlpack__(self, **keywords):
        return self._array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self._device or self._array.__dlpack_device__()


@each_case
def test_dlpack_objects_are_taken_and_numpy_arrays_given(case):
    values = case.arrays()
    foreign = {name: Foreign(array) for name, array in values.items()}
    results = call(case, foreign)
    for name, expected in call(case, values).items():
        assert type(results[name]) is np.ndarray
        np.testing.assert_array_equal(results[name], expected)


def test_dlpack_objects_may_be_mixed_with_numpy_arrays():
    case = CASES["dense"]
    values = case.arrays()
    expected = call(case, values)["output"]
    np.testing.assert_array_equal(
        call(case, values | {"weight": Foreign(values["weight"])})["output"], expected)


def test_dlpack_memory_of_another_kind_of_device_is_refused():
    x = Foreign(np.ones((1, 4, 4)), device=(10, 0))
    with pytest.raises(DeviceError, match=r"max_pool2d: x: expected memory of a CPU or an NVIDIA "
                                          r"GPU, got a DLPack device of type 10"):
        functional.max_pool2d(x)


def test_dlpack_memory_that_cannot_be_shared_is_refused():
    class Locked(Foreign):
        def __dlpack__(self, **keywords):
            raise BufferError("it requires a gradient")

    with pytest.raises(DTypeError, match="x: Locked cannot be shared by DLPack: it requires"):
        functional.max_pool2d(Locked(np.ones((1, 4, 4))))


# -- errors: what was expected, what came, and where -----------------------------------------------

TABLE = ConnectionTable.full(2, 3)


def conv2d(x=(4, 2, 6, 6), weight=(6, 3, 3), bias=(3,), table=TABLE, dtype=np.float32, **options):
    return functional.conv2d(*(None if shape is None else np.ones(shape, dtype)
                               for shape in (x, weight, bias)), table, **options)


def conv2d_backward(grad_output=(4, 3, 4, 4), output=(4, 3, 4, 4), x=(4, 2, 6, 6),
                    weight=(6, 3, 3)):
    return functional.conv2d_backward(*map(np.ones, (grad_output, output, x, weight)), TABLE)


def subsample2d(x=(4, 2, 6, 6), coefficient=(2,), bias=(2,), **options):
    return functional.subsample2d(np.ones(x), np.ones(coefficient), np.ones(bias), **options)


def subsample2d_backward(grad_output=(4, 2, 3, 3), output=(4, 2, 3, 3), x=(4, 2, 6, 6),
                         coefficient=(2,)):
    return functional.subsample2d_backward(*map(np.ones, (grad_output, output, x, coefficient)))


def max_pool2d_backward(grad_output=(4, 2, 3, 3), output=(4, 2, 3, 3), x=(4, 2, 6, 6)):
    return functional.max_pool2d_backward(*map(np.ones, (grad_output, output, x)))


def dense(x=(4, 5), weight=(3, 5), bias=(3,), **options):
    return functional.dense(np.ones(x), np.ones(weight), np.ones(bias), **options)


def dense_backward(grad_output=(4, 3), output=(4, 3), x=(4, 5), weight=(3, 5)):
    return functional.dense_backward(*map(np.ones, (grad_output, output, x, weight)))


def classifier(x=(4, 2, 5, 5), weight1=(7, 2, 5, 5), bias1=(7,), weight2=(3, 7), bias2=(3,),
               **options):
    return functional.classifier(*map(np.ones, (x, weight1, bias1, weight2, bias2)), **options)


def classifier_backward(grad_output=(4, 3, 1, 1), hidden=(4, 7, 1, 1), output=(4, 3, 1, 1),
                        x=(4, 2, 5, 5)):
    return functional.classifier_backward(
        *map(np.ones, (grad_output, hidden, output, x, (7, 2, 5, 5), (7,), (3, 7), (3,))))


WRONG = [
    # wrong rank
    (conv2d, {"x": (6, 6)}, ShapeError,
     "conv2d: expected x of shape (maps, height, width) or (samples, maps, height, width), "
     "got (6, 6)"),
    (conv2d, {"weight": (6, 9)}, ShapeError,
     "conv2d: expected weight of shape (6, any, any), got (6, 9)"),
    (dense, {"x": (5,)}, ShapeError, "dense: expected x of shape (samples, features), "),
    (subsample2d, {"x": (2, 1, 4, 6, 6)}, ShapeError, "got (2, 1, 4, 6, 6)"),
    # wrong shape
    (conv2d, {"bias": (2,)}, ShapeError,
     "conv2d: expected bias of shape (3), got (2,) (x has shape (4, 2, 6, 6))"),
    (conv2d, {"x": (4, 2, 0, 6)}, ShapeError, "at least one map and pixel, got (4, 2, 0, 6)"),
    (conv2d, {"weight": (6, 0, 3)}, ShapeError, "weight of shape (6, any, any), got (6, 0, 3)"),
    (conv2d_backward, {"grad_output": (4, 3, 4, 5)}, ShapeError,
     "conv2d_backward: expected grad_output of shape (4, 3, 4, 4), got (4, 3, 4, 5)"),
    (conv2d_backward, {"output": (3, 3, 4, 4)}, ShapeError,
     "conv2d_backward: expected output of shape (4, 3, 4, 4), got (3, 3, 4, 4)"),
    (conv2d_backward, {"x": (2, 6, 6)}, ShapeError,
     "expected grad_output of shape (3, 4, 4), got (4, 3, 4, 4)"),
    (subsample2d, {"coefficient": (3,)}, ShapeError,
     "subsample2d: expected coefficient of shape (2), got (3,)"),
    (subsample2d_backward, {"output": (4, 2, 3, 2)}, ShapeError,
     "subsample2d_backward: expected output of shape (4, 2, 3, 3), got (4, 2, 3, 2)"),
    (subsample2d_backward, {"coefficient": (1,)}, ShapeError,
     "subsample2d_backward: expected coefficient of shape (2), got (1,)"),
    (max_pool2d_backward, {"grad_output": (4, 2, 3)}, ShapeError,
     "max_pool2d_backward: expected grad_output of shape (4, 2, 3, 3), got (4, 2, 3)"),
    (dense, {"weight": (3, 4)}, ShapeError, "dense: expected weight of shape (any, 5), got (3, 4)"),
    (dense, {"bias": (4,)}, ShapeError, "dense: expected bias of shape (3), got (4,)"),
    (dense_backward, {"grad_output": (4, 4)}, ShapeError,
     "dense_backward: expected grad_output of shape (4, 3), got (4, 4)"),
    (dense_backward, {"x": (4, 5, 1, 1)}, ShapeError,
     "dense_backward: expected grad_output of shape (4, 3, 1, 1), got (4, 3)"),
    (classifier, {"weight1": (7, 3, 5, 5)}, ShapeError,
     "classifier: expected weight1 of shape (any, 2, any, any), got (7, 3, 5, 5)"),
    (classifier, {"weight2": (3, 6)}, ShapeError,
     "classifier: expected weight2 of shape (any, 7), got (3, 6)"),
    (classifier, {"bias1": (3,)}, ShapeError, "classifier: expected bias1 of shape (7), got (3,)"),
    (classifier, {"bias2": (7,)}, ShapeError, "classifier: expected bias2 of shape (3), got (7,)"),
    (classifier_backward, {"hidden": (4, 6, 1, 1)}, ShapeError,
     "classifier_backward: expected hidden of shape (4, 7, 1, 1), got (4, 6, 1, 1)"),
    (classifier_backward, {"output": (3, 3, 1, 1)}, ShapeError,
     "classifier_backward: expected output of shape (4, 3, 1, 1), got (3, 3, 1, 1)"),
    (classifier_backward, {"grad_output": (4, 2, 1, 1)}, ShapeError,
     "classifier_backward: expected grad_output of shape (4, 3, 1, 1), got (4, 2, 1, 1)"),
    (classifier_backward, {"x": (4, 2, 6, 5)}, ShapeError,
     "classifier_backward: expected hidden of shape (4, 7, 2, 1), got (4, 7, 1, 1)"),
    # windows
    (conv2d, {"weight": (6, 7, 3)}, ShapeError,
     "conv2d: expected maps of at least 7x3 pixels, got 6x6"),
    (conv2d, {"weight": (6, 3, 9), "padding": 1}, ShapeError,
     "expected maps of at least 3x9 pixels with padding 1x1, got 6x6"),
    (subsample2d, {"pool_size": (2, 7)}, ShapeError,
     "subsample2d: expected maps of at least 2x7 pixels, got 6x6"),
    (classifier, {"weight1": (7, 2, 6, 5)}, ShapeError,
     "classifier: expected maps of at least 6x5 pixels, got 5x5"),
    # options
    (conv2d, {"stride": 0}, ArgumentError, "conv2d: stride: expected at least 1, got 0"),
    (conv2d, {"stride": (1, -2)}, ArgumentError, "conv2d: stride: expected at least 1, got -2"),
    (conv2d, {"stride": 1.5}, ArgumentError, "conv2d: stride: expected an int, got 1.5"),
    (conv2d, {"stride": (1, 2, 3)}, ArgumentError,
     "conv2d: stride: expected an int or a pair, got (1, 2, 3)"),
    (conv2d, {"stride": True}, ArgumentError, "conv2d: stride: expected an int, got True"),
    (conv2d, {"padding": -1}, ArgumentError, "conv2d: padding: expected at least 0, got -1"),
    (subsample2d, {"pool_size": 0}, ArgumentError,
     "subsample2d: pool_size: expected at least 1, got 0"),
    (subsample2d, {"stride": "2"}, ArgumentError, "subsample2d: stride: expected an int, got '2'"),
    (conv2d, {"activation": "swish"}, ArgumentError,
     "conv2d: expected an activation of identity, scaled_tanh, tanh, sigmoid, relu, got 'swish'"),
    (classifier, {"activation": "swish"}, ArgumentError, "classifier: expected an activation of"),
    (dense, {"activation": None}, ArgumentError, "dense: expected an activation of identity"),
    (subsample2d, {"activation": ["tanh"]}, ArgumentError, "got ['tanh']"),
    # tables
    (conv2d, {"table": ConnectionTable.full(4, 3)}, TableError,
     "conv2d: expected a table of 2 input maps (x has shape (4, 2, 6, 6)), got one of 4"),
    (conv2d, {"table": [[0, 1], [0, 0]]}, TableError,
     "conv2d: expected connections to be a ConnectionTable, got list"),
    (conv2d, {"table": None}, TableError, "to be a ConnectionTable, got NoneType"),
    (conv2d, {"table": ConnectionTable.full(2, 2)}, ShapeError,
     "conv2d: expected weight of shape (4, any, any), got (6, 3, 3)"),
    # types
    (conv2d, {"dtype": np.float16}, DTypeError,
     "conv2d: expected x of float32 or float64, got float16"),
    (conv2d, {"dtype": np.int64}, DTypeError, "expected x of float32 or float64, got int64"),
    (conv2d, {"dtype": ">f4"}, DTypeError, "expected x of float32 or float64, got >f4"),
    (conv2d, {"x": None}, DTypeError, "conv2d: expected x to be an array, got None"),
    (conv2d, {"weight": None}, DTypeError, "conv2d: expected weight to be an array, got None"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), WRONG,
                         ids=[f"{wrong[0].__name__} {wrong[1]}" for wrong in WRONG])
def test_a_wrong_argument_is_an_error_that_says_what_was_expected(function, arguments, error,
                                                                  message):
    with pytest.raises(error) as caught:
        function(**arguments)
    assert message in str(caught.value)
    assert isinstance(caught.value, GpucnnError)


def test_arrays_of_two_types_are_refused():
    x, weight = np.ones((1, 2, 4, 4)), np.ones((6, 3, 3), np.float32)
    with pytest.raises(DTypeError, match="conv2d: expected weight of float64 like x, got float32"):
        functional.conv2d(x, weight, None, TABLE)


@pytest.mark.parametrize("value", [[[1.0, 2.0]], 3.0, "x", np.float32(1)],
                         ids=["list", "float", "str", "NumPy scalar"])
def test_what_is_no_array_is_refused(value):
    kind = type(value).__name__
    with pytest.raises(DTypeError, match=f"dense: weight: expected a NumPy or CuPy array or a "
                                         f"DLPack object, got {kind}"):
        functional.dense(np.ones((1, 2)), value, None)


def test_arrays_of_two_devices_are_refused(cuda_on_cpu, monkeypatch):
    monkeypatch.setattr(devices, "_array_types", {DeviceArray: cuda_on_cpu})
    x = cuda_on_cpu.from_host(np.ones((1, 2)))
    with pytest.raises(DeviceError, match="dense: expected arrays of one device, got arrays of "
                                          "cpu, cuda-on-cpu"):
        functional.dense(x, np.ones((1, 2)), None)


def test_arrays_of_an_unknown_library_are_refused():
    other = HostRuntime(device="elsewhere").upload(np.ones((1, 2)))
    with pytest.raises(DTypeError, match=r"expected a NumPy or CuPy array .* got DeviceArray"):
        functional.dense(other, other, None)
