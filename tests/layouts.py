"""Arrays of any backend from NumPy arrays, in every memory layout that an op may meet."""

import numpy as np

from tests.cuda_on_cpu.arrays import DeviceArray


def put(backend, values, layout="contiguous"):
    """An array of `backend` with the values of a NumPy array (None stays None)."""
    if values is None:
        return None
    stored, view = LAYOUTS[layout]
    return _seen(backend.from_host(np.ascontiguousarray(stored(values))), view)


def get(backend, array):
    """The values of a backend's array as a NumPy array (None stays None)."""
    return None if array is None else backend.to_host(array)


def repeated(backend, values, samples):
    """The one row of `values` seen `samples` times: an array whose first stride is 0."""
    assert len(values) == 1
    array = backend.from_host(values)
    shape = (samples, *values.shape[1:])
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy
        return cupy.broadcast_to(array, shape)
    return _seen(array, lambda stored: np.broadcast_to(stored, shape))


def of_nan(backend, shape, dtype):
    """An array for a result, which has to overwrite every NaN."""
    return backend.from_host(np.full(shape, np.nan, dtype))


def slice_of_batch(backend, shape, dtype):
    """Some samples of a larger batch in the backend's favourite memory order, all NaN."""
    batch = backend.empty_batch((shape[0] + 3, *shape[1:]), dtype)
    backend.copy(of_nan(backend, batch.shape, dtype), batch)
    return batch[2:2 + shape[0]]


def _every_second(values):
    wider = np.full((*values.shape[:-1], 2 * values.shape[-1]), np.nan, values.dtype)
    wider[..., ::2] = values
    return wider


def _read_only(array):
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return array


def _reversed(array):
    return array[(slice(None, None, -1),) * array.ndim]


# Each: how values are stored, and the view of what is stored that has them again.
LAYOUTS = {
    "contiguous": (lambda values: values, lambda array: array),
    "batch-last": (lambda values: np.moveaxis(values, 0, -1),
                   lambda array: array.transpose(array.ndim - 1, *range(array.ndim - 1))),
    "transposed": (lambda values: values.transpose(), lambda array: array.transpose()),
    "negative strides": (_reversed, _reversed),
    "every second element": (_every_second, lambda array: array[..., ::2]),
    "read-only": (lambda values: values, _read_only),
}


def _seen(array, view):
    """`view` of an array; a DeviceArray offers no more than the kernels' launch code may use."""
    if isinstance(array, DeviceArray):
        return DeviceArray(view(array._values), array.device)
    return view(array)
