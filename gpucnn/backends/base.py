"""The contract of a backend: the ops that layers call, and the arrays they work on.

Every backend implements every op under the same name, and with the same meaning, which is
written here once. Throughout:

- Arrays belong to the backend (`owns`) and have one real type, float32 or float64. Batches of maps
  are (samples, maps, height, width); Dense takes (samples, features) as well.
- Shapes, types and values have been checked by the caller (`functional`, `layers`, `network`).
- `stride`, `padding` and `pool_size` are pairs (vertical, horizontal); `activation` is a name of
  `gpucnn.activations`.
- `out` is where a result goes, an array of the right shape, or for a backward op a tuple of its
  gradients, of which those of parameters are C-contiguous. Without it, or for a None in the tuple,
  the result is new and C-contiguous. Inputs are never changed.
- `workspace` keeps scratch memory from one call to the next. Without it scratch memory is new.
- Sums have a fixed order: the same inputs give the same bits.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from contextlib import nullcontext, suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np

MOST_KEPT = 512  # by a workspace, for ops that are called with ever other shapes


class Conv2dGradients(NamedTuple):
    """Gradients of `conv2d`, each of its array's shape; `grad_input` may be None."""

    grad_input: Any
    grad_weight: Any
    grad_bias: Any


class Subsample2dGradients(NamedTuple):
    """Gradients of `subsample2d`, each of its array's shape; `grad_input` may be None."""

    grad_input: Any
    grad_coefficient: Any
    grad_bias: Any


class DenseGradients(NamedTuple):
    """Gradients of `dense`, each of its array's shape; `grad_input` may be None."""

    grad_input: Any
    grad_weight: Any
    grad_bias: Any


class Workspace:
    """Scratch arrays that ops ask for by name; each grows to the largest size asked for."""

    may_hold_arrays = True  # those of callers, after two calls in a row with the same ones

    def __init__(self, backend):
        self._backend = backend
        self._buffers = {}
        self._kept = OrderedDict()

    def __getstate__(self):
        """A copy, and what is loaded from a pickle, begins empty."""
        return self.__dict__ | {"_buffers": {}, "_kept": OrderedDict()}

    def take(self, name, shape, dtype):
        """A C-contiguous array of unset values that nobody else uses under this `name`."""
        dtype = np.dtype(dtype)
        size = prod(shape)
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name, dtype] = self._backend.empty((size,), dtype)
            self._kept.clear()
        return buffer[:size].reshape(shape)

    def keep(self, key, make):
        """What `make` gave before under this `key`, or gives now, views of scratch arrays among it;
        all is made anew once a buffer has grown, since what is kept would hold the old one, and
        what has not been asked for the longest is given up beyond `MOST_KEPT`. It must not hold the
        workspace: both would then outlive the call until Python looks for cycles."""
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = make()
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        else:
            with suppress(KeyError):  # another thread may just have given it up
                self._kept.move_to_end(key)
        return kept


class CompiledStep(ABC):
    """A training step that a backend has lowered to its own steps."""

    @abstractmethod
    def train(self, images, labels, order, shifts, scalars, state, loss, totals, progress=None):
        """Train on batches of the program's batch_size, in order: forward, loss, backward, update.

        images (count, maps, height, width), uint8 or the network's type; labels (count,) int32;
        order (samples,) int32; shifts (samples, 2) int32 or None; scalars (batches, k), the
        optimiser's; state: its arrays by name. loss (1,) gets the mean loss of the last batch;
        totals (3,) float64 are added to as `Backend.mse` does. progress, if given, is called with
        numbers of samples, those of a batch or of several.
        """

    @abstractmethod
    def explain(self, *, profile=False):
        """A text: the steps in order, with their multiply-adds and bytes, and with `profile` their
        measured times; training state is left as it is."""


class CompiledMany(ABC):
    """Training steps of several networks of one program, each with its own parameters."""

    @abstractmethod
    def train(self, images, labels, orders, shifts, scalars, states, losses, totals,
              progress=None):
        """Train every network as `CompiledStep.train` trains one, on one copy of the data, to the
        same bits as the backend's step of that program does alone.

        images, labels: as there; orders (networks, samples) int32; shifts (networks, samples, 2)
        int32 or None; scalars (networks, batches, k); states: a dict of arrays for each network.
        losses (networks,) get the mean loss of each network's last batch; totals (networks, 3)
        float64 are added to. progress, if given, is called from one thread at a time with numbers
        of samples, networks * samples of them in all.
        """

    @abstractmethod
    def explain(self, *, profile=False):
        """A text: how the networks are divided, and the steps of one as in
        `CompiledStep.explain`."""


class CompiledOutputs(ABC):
    """The forward pass of a network, lowered to a backend's own steps."""

    @abstractmethod
    def outputs(self, images, out):
        """Fill out (samples, *output shape), an array of the host, for images (samples, maps,
        height, width) of uint8 or the network's type, on the host or the device, with the values
        that the parameters have at the time."""


class Backend(ABC):
    """The ops and arrays of one device. `device` is the name a user gives it."""

    device: str
    description: str

    # -- arrays --------------------------------------------------------------------------------

    @abstractmethod
    def owns(self, array):
        """Whether `array` is an array of this backend's device."""

    @abstractmethod
    def empty(self, shape, dtype):
        """A C-contiguous array of unset values."""

    @abstractmethod
    def zero(self, array):
        """Set every element of `array`, which is contiguous, to zero."""

    def zeros(self, shape, dtype):
        """A C-contiguous array of zeros."""
        array = self.empty(shape, dtype)
        self.zero(array)
        return array

    @abstractmethod
    def empty_batch(self, shape, dtype):
        """An array for a batch, samples first, in the memory order that the ops like best."""

    @abstractmethod
    def from_host(self, host, out=None):
        """A NumPy array's values in an array of the backend, `out` or a new one."""

    @abstractmethod
    def to_host(self, array):
        """The values of `array` as a new NumPy array; waits for the work that writes them."""

    @abstractmethod
    def from_dlpack(self, external):
        """An array of the backend that shares the memory of a DLPack object."""

    @abstractmethod
    def copy(self, source, out):
        """Copy an array of any strides into another of the same shape and type."""

    def computing(self):
        """A context to run many ops in, for what a backend sets up once around them."""
        return nullcontext()

    @abstractmethod
    def synchronize(self):
        """Wait until all work given to the device has ended."""

    # -- maps ----------------------------------------------------------------------------------

    @abstractmethod
    def conv2d(self, x, weight, bias, connections, *, stride, padding, activation,
               out=None, workspace=None):
        """Convolve maps through a connection table, add the bias, squash.

        x (samples, in_maps, height, width); weight (n_connections, kernel_height, kernel_width);
        bias (out_maps,) or None. Returns (samples, out_maps, out_height, out_width):
        output[n, o] = act(bias[o] + sum over connections c into o of corr(x[n, in(c)], weight[c])),
        corr being cross-correlation with `stride` and zero `padding`.
        """

    @abstractmethod
    def conv2d_backward(self, grad_output, output, x, weight, connections, *, stride, padding,
                        activation, needs_grad_input=True, out=None, workspace=None):
        """`Conv2dGradients` of `conv2d`, given its `output`. With dz = grad_output * act'(output):

        grad_bias[o] = sum dz[:, o]; grad_weight[c] = sum of corr(x[:, in(c)], dz[:, out(c)]);
        grad_input[n, i] = sum over connections c from i of the transposed corr of dz[n, out(c)].
        grad_input is None unless it is needed.
        """

    @abstractmethod
    def subsample2d(self, x, coefficient, bias, *, pool_size, stride, activation,
                    out=None, workspace=None):
        """Scale the sum of each pooling window, add the bias, squash.

        x (samples, maps, height, width); coefficient (maps,); bias (maps,) or None. Returns
        (samples, maps, out_height, out_width).
        """

    @abstractmethod
    def subsample2d_backward(self, grad_output, output, x, coefficient, *, pool_size, stride,
                             activation, needs_grad_input=True, out=None, workspace=None):
        """`Subsample2dGradients` of `subsample2d`. A pixel in several windows gets the sum of their
        gradients, one in no window gets zero."""

    @abstractmethod
    def max_pool2d(self, x, *, pool_size, stride, out=None, workspace=None):
        """The maximum of each pooling window. A NaN in a window is its maximum."""

    @abstractmethod
    def max_pool2d_backward(self, grad_output, output, x, *, pool_size, stride,
                            out=None, workspace=None):
        """The gradient by x: each window's goes to its first maximum in row-major order."""

    @abstractmethod
    def dense(self, x, weight, bias, *, activation, out=None, workspace=None):
        """Matrix product over the map axis, at every position: act(weight @ x[n, :, p] + bias).

        x (samples, in_features[, height, width]); weight (out_features, in_features); bias
        (out_features,) or None. Returns (samples, out_features[, height, width]).
        """

    @abstractmethod
    def dense_backward(self, grad_output, output, x, weight, *, activation,
                       needs_grad_input=True, out=None, workspace=None):
        """`DenseGradients` of `dense`, given its `output`."""

    # -- training ------------------------------------------------------------------------------

    @abstractmethod
    def gather(self, images, labels, order, shifts, *, input_range, out, out_labels):
        """Gather a batch: out[k] = images[order[k]], scaled, padded and shifted.

        images (count, maps, height, width), uint8 or the network's type; labels (count,) int32;
        order (samples,) int32; shifts (samples, 2) int32, pixels down and right, or None.
        out (samples, maps, out_height, out_width) with out_height >= height and so on; the image is
        centred, and what it does not cover is background. uint8 values 0..255 map linearly to
        `input_range` = (low, high); other types are taken as they are. The background is `low`.
        out_labels (samples,) int32 = labels[order]; both may be None.
        """

    @abstractmethod
    def mse(self, output, labels, *, target, grad_output, loss, totals, workspace=None):
        """Mean over samples of 0.5 * sum over classes of (output - t)^2, t = +target for the
        sample's label and -target for the other classes.

        output and grad_output (samples, classes); labels (samples,) int32. Writes the loss to
        loss[0] and its gradient to grad_output; adds to totals (3,), float64: the sum of the
        samples' losses, the number of samples whose largest output is not their label's, and the
        number of labels out of range. Such a sample counts as an error with loss and gradient 0.
        """

    @abstractmethod
    def cross_entropy(self, output, labels, *, grad_output, loss, totals, workspace=None):
        """Mean over samples of -log softmax(output)[label]; arrays as in `mse`."""

    @abstractmethod
    def sgd_step(self, parameters, gradients, velocity, scalars, *, momentum, nesterov,
                 weight_decay):
        """One update, in place, as PyTorch's SGD: g = gradient + weight_decay * parameter;
        velocity = momentum * velocity + g; parameter -= rate * (g + momentum * velocity if nesterov
        else velocity). All flat; `velocity` is None without momentum; scalars = [rate]."""

    @abstractmethod
    def adam_step(self, parameters, gradients, mean, square, scalars, *, beta1, beta2, epsilon,
                  weight_decay):
        """One update, in place, as PyTorch's Adam; scalars = [rate / (1 - beta1^t),
        1 / sqrt(1 - beta2^t)] of step t = 1, 2, ..."""

    # -- plans ---------------------------------------------------------------------------------

    def compile(self, program, parameters, gradients, *, threads=None):
        """A `CompiledStep` of the backend's own for this `Program`, on the flat arrays of a
        network's parameters and gradients; None where the plain, layer-by-layer plan is to run.

        threads: how many threads may work on a step, for a backend that has them; None for as many
        as the process may use.
        """

    def compile_many(self, program, parameters, *, threads=None):
        """A `CompiledMany` for networks of one `Program`, whose flat arrays of parameters are the
        list `parameters`; None where each is to train by a plan of its own. The rate of
        `program.optimizer` is the first network's: each has its own in the scalars. `threads` as
        in `compile`.
        """

    def compile_outputs(self, layers, input_shape, input_range, parameters, *, threads=None):
        """A `CompiledOutputs` for a chain of `LayerProgram`s and their flat array of parameters, or
        None where each layer's own op is to run; `threads` as in `compile`."""
