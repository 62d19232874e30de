"""PyTorch's side of training many networks at once: parameters in stacks, a network a row, whose
gradients `torch.func` takes under `vmap`; run as `torch_ways.py` runs the steps of one."""

import numpy as np

from benchmarks import peers_torch
from benchmarks.online_task import names
from benchmarks.precisions import in_each_precision
from benchmarks.torch_step import Step
from benchmarks.torch_ways import COMPILED_GRAPH, EAGER, GRAPH


def settings(device, cores):
    """On a CPU one thread and all cores; on a GPU every way, in both precisions."""
    if device == "cpu":
        return {f"vmap, {threads} thread{'s' * (threads > 1)}": {"threads": threads}
                for threads in sorted({1, cores})}
    return in_each_precision({f"vmap, {way}": {"way": way}
                              for way in (EAGER, GRAPH, COMPILED_GRAPH)}, device)


class ManyStep(Step):
    """A step of every network, for whose batches each network brings a sample."""

    def __init__(self, torch, task, device):
        super().__init__(torch, task, device)
        self._learning_rate = task.learning_rate
        self._checked = task.checked
        values = [network.parameter_values() for network in task.networks()]
        self._stacks = {
            name: {parameter: torch.tensor(np.stack([
                layer.stored(parameter, one[f"{name}.{parameter}"]) for one in values]),
                device=device) for parameter in layer.parameters}
            for name, layer in self._layers}
        self._trained = [tensor for stacks in self._stacks.values() for tensor in stacks.values()]
        self._gradients = torch.func.vmap(torch.func.grad_and_value(self._loss_of_one))

    def loss(self, x, labels):
        """(gradients, losses) of the networks, a sample for each."""
        return self._gradients(self._stacks, x[:, None], labels[:, None])

    def update(self, found):
        """Update all networks; their losses on the device."""
        gradients, losses = found
        for name, layer in self._layers:
            if getattr(layer, "mask", None) is not None:
                gradients[name]["weight"].mul_(layer.mask)
        self._torch._foreach_add_(self._trained, [
            gradients[name][parameter] for name, stacks in self._stacks.items()
            for parameter in stacks], alpha=-self._learning_rate)
        return losses

    def parameters(self):
        return {name: values for number in self._checked for name, values in names(number, {
            f"{name}.{parameter}": array for name, layer in self._layers for parameter, array
            in layer.values({key: stack[number] for key, stack in self._stacks[name].items()}
                            ).items()}).items()}

    def _loss_of_one(self, parameters, x, labels):
        for name, layer in self._layers:
            x = layer.apply(parameters[name], x)
        return self._loss(x.flatten(1), labels)


class ManyTrainer(peers_torch.Trainer):
    """Trains a task's networks with PyTorch."""

    step_type = ManyStep

    def losses(self, steps):
        order = self._order.take(steps * self._task.batch_size)
        return [loss for losses in self._way.losses(order) for loss in losses.tolist()]
