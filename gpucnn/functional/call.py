"""One call of a function: its arrays, checked, and where its results go."""

import numpy as np

from gpucnn.backends.base import Workspace as Scratch
from gpucnn.devices import as_array, backend_of
from gpucnn.errors import ArgumentError, DeviceError, DTypeError, ShapeError


class Workspace(Scratch):
    """Scratch memory that calls keep from one to the next, on the device of the first.

    Hand the same one to any calls that run one after the other: on one stream, in one thread. It
    grows to the largest size asked for, and may hold on to arrays that two calls in a row have been
    given: then the next one with them begins sooner. A CUDA graph that was captured with it goes on
    using its memory, so that it must not grow while the graph is in use: `seal()` makes sure of it.
    """

    def __init__(self):
        super().__init__(_Memory())

    def seal(self):
        """Let every later call that would need more memory raise `ArgumentError` instead."""
        self._backend.sealed = True

    def bind(self, backend, where):
        """Belong to `backend` from the first call on; raises `DeviceError` for another."""
        owner = self._backend.owner
        if owner is None:
            self._backend.owner = backend
        elif owner is not backend:
            raise DeviceError(f"{where}: expected a workspace of {backend.device} like x, got one "
                              f"of {owner.device}")


class _Memory:
    """What a workspace's buffers are made of."""

    def __init__(self):
        self.owner = None
        self.sealed = False

    def empty(self, shape, dtype):
        if self.sealed:
            raise ArgumentError(f"sealed workspace: expected a call that needs no more memory, got "
                                f"one that needs {shape[0]} numbers of {dtype} at once")
        return self.owner.empty(shape, dtype)


class Call:
    """The array arguments of one call: on one device, of one type, x checked to be maps."""

    def __init__(self, where, *, flat_batches=False, **arrays):
        self.where = where
        self._arrays = {name: None if value is None else as_array(value, f"{where}: {name}")
                        for name, value in arrays.items()}
        for name, value in arrays.items():
            if value is None and not name.startswith("bias"):
                raise DTypeError(f"{where}: expected {name} to be an array, got None")
        self.backend = backend_of(*self._arrays.values(), where=where)
        x = self._arrays["x"]
        self.dtype = self._checked_dtype(x)
        ranks = (2, 3, 4) if flat_batches else (3, 4)
        if x.ndim not in ranks:
            flat = "(samples, features), " if flat_batches else ""
            raise ShapeError(f"{where}: expected x of shape {flat}(maps, height, width) or "
                             f"(samples, maps, height, width), got {x.shape}")
        self._single = x.ndim == 3
        self.samples = 1 if self._single else x.shape[0]
        self.features = x.shape[0 if self._single else 1]
        self.size = tuple(x.shape[-2:])
        if 0 in x.shape[0 if self._single else 1:]:
            raise ShapeError(f"{where}: expected x with at least one map and pixel, got {x.shape}")

    def _checked_dtype(self, x):
        if x.dtype not in (np.float32, np.float64):
            raise DTypeError(f"{self.where}: expected x of float32 or float64, got {x.dtype}")
        for name, array in self._arrays.items():
            if array is not None and array.dtype != x.dtype:
                raise DTypeError(f"{self.where}: expected {name} of {x.dtype} like x, "
                                 f"got {array.dtype}")
        return x.dtype

    def __getitem__(self, name):
        return self._arrays[name]

    # -- arrays --------------------------------------------------------------------------------

    def expect(self, name, shape):
        """Check an array's shape; None in `shape` stands for any size of at least one."""
        array = self._arrays[name]
        if array is None:
            return
        fits = array.ndim == len(shape) and all(
            size == wanted or (wanted is None and size > 0)
            for size, wanted in zip(array.shape, shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ShapeError(f"{self.where}: expected {name} of shape ({wanted}), got "
                             f"{array.shape} (x has shape {self._arrays['x'].shape})")

    def expect_batch(self, name, shape):
        """Check an array that has the samples of x in front of `shape`."""
        self.expect(name, self.of_batch(shape))

    def of_batch(self, shape):
        """`shape` with the samples of x in front, if x has any."""
        return shape if self._single else (self.samples, *shape)

    def batch(self, name):
        """An array with its sample axis, added if x is one sample."""
        return self._batched(self._arrays[name])

    def contiguous(self, name, workspace):
        """An array, or its copy if it is not C-contiguous: one that can be reshaped."""
        array = self._arrays[name]
        if array.flags.c_contiguous:
            return array
        copy = self.scratch(workspace, f"contiguous {name}", array.shape)
        if copy is None:
            copy = self.backend.empty(array.shape, array.dtype)
        self.backend.copy(array, copy)
        return copy

    def _batched(self, array):
        return array[None] if self._single and array is not None else array

    # -- results -------------------------------------------------------------------------------

    def scratch(self, workspace, name, shape):
        """An array for what nobody gets to see, or None (a new one) without a workspace."""
        return None if workspace is None else workspace.take(name, shape, self.dtype)

    def result(self, op, *arguments, out, workspace, shape, **options):
        """The one result, of `shape`, of a backend's op: in the caller's `out` if there is one."""
        out = self.checked_out("out", out, shape)
        result = op(*arguments, **options, out=self._batched(out),
                    workspace=self.checked(workspace))
        return self._unbatched(result) if out is None else out

    def gradients(self, op, *arguments, out, workspace, shapes, needs_grad_input, **options):
        """The gradients of a backend's op, of the `shapes` in a named tuple; grad_input is the
        first. They go to the arrays in the caller's tuple `out`, where it has them."""
        if not needs_grad_input:
            shapes = shapes._replace(grad_input=None)
        given = type(shapes)(*self.checked_outs(out, shapes._asdict()))
        gradients = op(*arguments, **options, needs_grad_input=needs_grad_input,
                       out=given._replace(grad_input=self._batched(given.grad_input)),
                       workspace=self.checked(workspace))
        if given.grad_input is not None:
            return gradients._replace(grad_input=given.grad_input)
        return gradients._replace(grad_input=self._unbatched(gradients.grad_input))

    def _unbatched(self, array):
        return array[0] if self._single and array is not None else array

    def checked(self, workspace):
        """The caller's workspace, if it is one and of this device."""
        if isinstance(workspace, Workspace):
            workspace.bind(self.backend, self.where)
        elif workspace is not None and not isinstance(workspace, Scratch):
            raise ArgumentError(f"{self.where}: expected workspace to be a "
                                f"gpucnn.functional.Workspace, got {type(workspace).__name__}")
        return workspace

    def checked_outs(self, out, shapes):
        """The caller's arrays for several results, by name, of these `shapes`; None for those that
        are to be new. A shape of None is a result that is not wanted."""
        if out is None:
            return (None,) * len(shapes)
        if not isinstance(out, tuple) or len(out) != len(shapes):
            got = f"{len(out)} arrays" if isinstance(out, tuple) else type(out).__name__
            raise ArgumentError(f"{self.where}: expected out to be a tuple of arrays or None for "
                                f"({', '.join(shapes)}), got {got}")
        return tuple(self.checked_out(f"{name} of out", array, shape)
                     for array, (name, shape) in zip(out, shapes.items(), strict=True))

    def checked_out(self, name, out, shape):
        """The caller's array for one result; DLPack objects are shared, None stays None."""
        if out is None:
            return None
        where = f"{self.where}: expected {name}"
        if shape is None:
            raise ArgumentError(f"{where} to be None, since nobody asks for it, got "
                                f"{type(out).__name__}")
        array = as_array(out, f"{self.where}: {name}", self.backend)
        owner = backend_of(array, where=self.where)
        if owner is not self.backend:
            raise DeviceError(f"{where} on {self.backend.device} like x, got one on {owner.device}")
        if tuple(array.shape) != tuple(shape):
            raise ShapeError(f"{where} of shape {tuple(shape)}, got {array.shape}")
        if array.dtype != self.dtype:
            raise DTypeError(f"{where} of {self.dtype} like x, got {array.dtype}")
        if not array.flags.c_contiguous:
            raise ArgumentError(f"{where} to be C-contiguous, got strides {array.strides}")
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            raise ArgumentError(f"{where} to be writeable, got a read-only array")
        for other, values in self._arrays.items():
            shared = isinstance(values, np.ndarray) and np.shares_memory(array, values)
            if array is values or shared:
                raise ArgumentError(f"{where} to share no memory with the inputs, got memory of "
                                    f"{other}")
        return array
