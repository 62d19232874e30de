"""The CUDA backend: one file per op, under the op's name, each launching `cuda_kernels/`'s of that
name. It imports without CuPy and without a GPU; its `Runtime` brings both."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucnn.backends.base import Backend
from gpucnn.backends.cuda.conv2d import conv2d, conv2d_backward
from gpucnn.backends.cuda.conv2d_kernels.choice import Conv2dChooser
from gpucnn.backends.cuda.dense import dense, dense_backward
from gpucnn.backends.cuda.gather import gather
from gpucnn.backends.cuda.kernels import Kernels
from gpucnn.backends.cuda.losses import cross_entropy, mse
from gpucnn.backends.cuda.max_pool2d import max_pool2d, max_pool2d_backward
from gpucnn.backends.cuda.optimizers import adam_step, sgd_step
from gpucnn.backends.cuda.plan.grouping import partition
from gpucnn.backends.cuda.plan.online import OnlineMany, OnlineStep
from gpucnn.backends.cuda.plan.online_group import plan_online
from gpucnn.backends.cuda.plan.step import CudaStep
from gpucnn.backends.cuda.subsample2d import subsample2d, subsample2d_backward
from gpucnn.connections import CompressedOrder


@dataclass(frozen=True)
class DeviceTable:
    """A connection table's arrays on the device."""

    pairs: Any
    by_output: CompressedOrder
    by_input: CompressedOrder


class CudaBackend(Backend):
    """This library's kernels on one device. Arrays and launches come from a `Runtime`."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.kernels = Kernels(runtime)
        self.device = runtime.device
        self.conv2d_chooser = Conv2dChooser(self)
        self._tables = {}
        self._table_orders = {}

    @property
    def description(self):
        profile = self.runtime.profile
        details = ["compute capability {}.{}".format(*profile.compute_capability), profile.software]
        return f"{profile.name} ({', '.join(filter(None, details))})"

    def owns(self, array):
        return self.runtime.owns(array)

    def empty(self, shape, dtype):
        return self.runtime.empty(shape, dtype)

    def zero(self, array):
        self.runtime.zero(array)

    def empty_batch(self, shape, dtype):
        return self.runtime.empty(shape, dtype)

    def from_host(self, host, out=None):
        return self.runtime.upload(np.asarray(host), out)

    def to_host(self, array):
        return self.runtime.download(array)

    def from_dlpack(self, external):
        return self.runtime.from_dlpack(external)

    def copy(self, source, out):
        self.runtime.copy(source, out)

    def synchronize(self):
        self.runtime.synchronize()

    def contiguous(self, array, name, workspace):
        """`array` if it is C-contiguous or None, else a contiguous copy of it."""
        if array is None or array.flags.c_contiguous:
            return array
        copy = self.scratch(workspace, name, array.shape, array.dtype)
        self.runtime.copy(array, copy)
        return copy

    def scratch(self, workspace, name, shape, dtype):
        """A contiguous array of unset values, the workspace's if there is one."""
        if workspace is None:
            return self.runtime.empty(shape, dtype)
        return workspace.take(name, shape, dtype)

    def table(self, connections):
        """The `DeviceTable` of a connection table, uploaded once."""
        if connections not in self._tables:
            self._tables[connections] = DeviceTable(
                self.runtime.upload(connections.pairs), self._upload(connections.by_output),
                self._upload(connections.by_input))
        return self._tables[connections]

    def table_order(self, connections, build, *key):
        """`build(connections, *key)`, a dataclass of NumPy arrays and plain values, with its arrays
        on the device: made and uploaded once for each table and key."""
        name = connections, build, *key
        if name not in self._table_orders:
            order = build(connections, *key)
            self._table_orders[name] = replace(order, **{
                field: self.runtime.upload(array) for field, array in vars(order).items()
                if isinstance(array, np.ndarray)})
        return self._table_orders[name]

    def _upload(self, order):
        return CompressedOrder(*map(self.runtime.upload,
                                    (order.starts, order.connections, order.others)))

    def compile(self, program, parameters, gradients, *, threads=None):
        """Kernels made for this network, fused over as many layers as fit: see plan/__init__.py.
        Batches of one sample are trained without leaving a block, if one has room. Where no block
        has room for an image, layers run one by one."""
        planned = self._plan_online(program)
        if planned is not None:
            return OnlineStep(program, parameters, gradients, self, planned)
        if partition(program, self.runtime.profile) is None:
            return None
        step = CudaStep(program, parameters, gradients, self)
        if program.batch_size == 1:
            step.remarks.append("a launch for each step: no block has room for the maps and "
                                "weights of this network, which online training would take")
        return step

    def compile_many(self, program, parameters, *, threads=None):
        """All networks in one launch, for batches of one sample; see `compile`."""
        planned = self._plan_online(program, len(parameters))
        return None if planned is None else OnlineMany(program, parameters, self, planned)

    def _plan_online(self, program, networks=1):
        if program.batch_size > 1:
            return None
        return plan_online(program, self.runtime.profile, networks)

    conv2d_backward = conv2d_backward
    conv2d = conv2d
    subsample2d_backward = subsample2d_backward
    subsample2d = subsample2d
    max_pool2d_backward = max_pool2d_backward
    max_pool2d = max_pool2d
    dense_backward = dense_backward
    dense = dense
    gather = gather
    mse = mse
    cross_entropy = cross_entropy
    sgd_step = sgd_step
    adam_step = adam_step
