"""PyTorch's side of the convolutions: cuDNN's on a GPU, oneDNN's on a CPU.

A table is a dense weight with zeros where nothing is joined. Putting them there again after each
update takes a product more, as does masking the gradient by the weight; neither is timed. A grouped
table is a grouped convolution as well, which needs no mask.
"""

import numpy as np

from benchmarks.conv_cases import FORWARD, GRAD_INPUT, GRAD_WEIGHT
from benchmarks.conv_clocks import Calls, torch_clock
from benchmarks.peers_torch import import_torch
from benchmarks.precisions import FLOAT32, in_each_precision


def settings(device, cores):
    """Maps first and channels last in memory; on a CPU one thread and all cores, on a GPU both
    precisions."""
    orders = {"NCHW": {}, "channels last": {"channels_last": True}}
    if device != "cpu":
        return in_each_precision(orders, device)
    return {f"{threads} thread{'s' * (threads > 1)}, {order}": keywords | {"threads": threads}
            for threads in sorted({1, cores}) for order, keywords in orders.items()}


def seconds(measured):
    """Pass -> seconds, and their sum."""
    return measured | {"sum": sum(measured.values())}


class Worker:
    """Computes cases, densely or by groups; `load` one before anything else."""

    def __init__(self, device, threads=None, channels_last=False, precision=FLOAT32):
        self._torch = torch = import_torch(device, precision)
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        if threads is not None:
            torch.set_num_threads(threads)
        self._calls = Calls(torch_clock(torch, device))

    def load(self, case, grouped=False):
        values = case.arrays()
        self._case, self._groups = case, case.groups if grouped else 1
        x, grad_output = (self._on_device(values[name]) for name in ("x", "grad_output"))
        weight = self._on_device(self._dense(values["weight"]))
        shape = [1, 1], [0, 0], [1, 1], False, [0, 0], self._groups

        def forward():
            self._output = self._torch.ops.aten.convolution(x, weight, None, *shape)

        def backward(*wanted):
            return self._torch.ops.aten.convolution_backward(grad_output, x, weight, None, *shape,
                                                             [*wanted, False])

        self._work = {FORWARD: forward, GRAD_INPUT: lambda: backward(True, False),
                      GRAD_WEIGHT: lambda: backward(False, True)}

    def results(self):
        """output, grad_input and grad_weight, of the connections, as NumPy arrays."""
        self._work[FORWARD]()
        grad_input, grad_weight = self._work[GRAD_INPUT]()[0], self._work[GRAD_WEIGHT]()[1]
        found = {"output": self._output, GRAD_INPUT: grad_input, GRAD_WEIGHT: grad_weight}
        found = {name: array.cpu().contiguous().numpy() for name, array in found.items()}
        found[GRAD_WEIGHT] = found[GRAD_WEIGHT][self._places()]
        return found

    def count(self, seconds):
        """What is timed -> how many calls fill a window, and the seconds of one."""
        with self._torch.inference_mode():
            return {name: self._calls.count(work, seconds)
                    for name, work in self._work.items()}

    def measure(self, counts):
        """What is timed -> seconds of one of so many calls."""
        with self._torch.inference_mode():
            return {name: self._calls.seconds(work, counts[name])
                    for name, work in self._work.items()}

    def versions(self):
        found = {"PyTorch": self._torch.__version__}
        if self._device != "cpu":
            found["cuDNN"] = str(self._torch.backends.cudnn.version())
            found["GPU"] = self._torch.cuda.get_device_name(self._device)
        return found

    def _places(self):
        """Where each connection's weight stands: output map, and input map of its group."""
        in_maps, out_maps = self._case.table.pairs
        return out_maps, in_maps % (self._case.shape.in_maps // self._groups)

    def _dense(self, weight):
        shape = self._case.shape
        dense = np.zeros((shape.out_maps, shape.in_maps // self._groups, *weight.shape[1:]),
                         np.float32)
        dense[self._places()] = weight
        return dense

    def _on_device(self, values):
        return self._torch.tensor(values, device=self._device).contiguous(
            memory_format=self._format)
