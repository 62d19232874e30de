"""A training step in PyTorch: what every way of running it shares."""

from contextlib import contextmanager

import numpy as np

from benchmarks.torch_layers import torch_layers
from gpucnn.losses import get_loss


class Step:
    """The parameters, pictures and optimiser of a task on a device, and the pieces of a step."""

    def __init__(self, torch, task, device):
        self._torch = torch
        self.device = device
        self.batch_size = task.batch_size
        self._loss = torch_loss(torch, task.loss)
        network = task.network()
        self._layers = torch_layers(torch, network, device)
        self._masked = [layer for _, layer in self._layers
                        if getattr(layer, "mask", None) is not None]
        # A rate that changes is a tensor, which a captured graph reads anew in each step.
        self.rate = (torch.tensor(task.learning_rate, dtype=torch.float32, device=device)
                     if task.scheduled else None)
        self._trained = [tensor for _, layer in self._layers
                         for tensor in layer.parameters.values()]
        self._optimizer = torch.optim.SGD(
            self._trained, lr=task.learning_rate if self.rate is None else self.rate,
            momentum=task.momentum, weight_decay=task.weight_decay, fused=True)
        images, labels = task.padded_pictures()
        self._images = torch.from_numpy(images).to(device)
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self._low, self._scale = scaling(network)

    def batch(self, numbers):
        """(x, labels) of the pictures of these numbers, a tensor on the device."""
        x = self.scaled(self._images.index_select(0, numbers))
        return x, self._labels.index_select(0, numbers)

    def scaled(self, images):
        """uint8 images as the network's input."""
        return images.to(self._torch.float32).mul_(self._scale).add_(self._low)

    def outputs(self, x):
        """The network's outputs, (samples, classes)."""
        for _, layer in self._layers:
            x = layer(x)
        return x.flatten(1)

    def loss(self, x, labels):
        """The loss of a batch, from which `update` goes back."""
        return self._loss(self.outputs(x), labels)

    def update(self, loss):
        """Backward pass and update of the parameters; the loss as a mere number on the device."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for layer in self._masked:
            layer.mask_gradient()
        self._optimizer.step()
        return loss.detach()

    def parameters(self):
        """Name -> NumPy array, as this library has it."""
        return {f"{name}.{parameter}": values for name, layer in self._layers
                for parameter, values in layer.values().items()}

    def reset(self, values):
        """Start again from the parameters given, named and shaped as this library's, at rest."""
        with self._torch.no_grad():
            for name, layer in self._layers:
                for parameter, tensor in layer.parameters.items():
                    stored = layer.stored(parameter, values[f"{name}.{parameter}"])
                    tensor.copy_(self._torch.from_numpy(np.ascontiguousarray(stored)))
            for velocity in self._velocities().values():
                velocity.zero_()

    @contextmanager
    def preserved(self):
        """Steps taken within leave no trace in parameters and velocities."""
        before = [tensor.detach().clone() for tensor in self._trained]
        velocities = {tensor: velocity.clone() for tensor, velocity in self._velocities().items()}
        yield
        with self._torch.no_grad():
            for tensor, values in zip(self._trained, before, strict=True):
                tensor.copy_(values)
            for tensor, velocity in self._velocities().items():
                if tensor in velocities:
                    velocity.copy_(velocities[tensor])
                else:
                    velocity.zero_()

    def _velocities(self):
        """Tensor -> its velocity, in place; none before the first step."""
        return {tensor: state["momentum_buffer"]
                for tensor, state in self._optimizer.state.items()}


def torch_loss(torch, name):
    """A loss of this library as a function of outputs (samples, classes) and labels."""
    if name == "cross_entropy":
        return torch.nn.functional.cross_entropy
    target = get_loss(name).target

    def mse(outputs, labels):
        here = labels[:, None] == torch.arange(outputs.shape[1], device=labels.device)
        return 0.5 * (outputs - target * (2.0 * here - 1)).square().sum() / len(labels)

    return mse


def scaling(network):
    """(what uint8 zero becomes, the width of one uint8 step)."""
    low, high = network.input_range
    return low, (high - low) / 255
