"""JAX's side of training many networks at once: a scan over the step of one network under `vmap`,
with parameters in stacks, a network a row."""

import numpy as np

from benchmarks import peers_jax
from benchmarks.online_task import names
from benchmarks.peers_jax import COLUMNS, COLUMNS_MAPS_LAST, CONVOLUTIONS
from benchmarks.precisions import in_each_precision


def settings(device, cores):
    """Convolutions whose weights differ from row to row are convolutions in groups, or products of
    matrices: on a GPU both are tried, on a CPU, where XLA is slow at the former, the latter."""
    if device == "cpu":
        return {"vmap in scan, columns": {"form": COLUMNS},
                "vmap in scan, columns, maps last": {"form": COLUMNS_MAPS_LAST}}
    return in_each_precision({"vmap in scan": {"form": CONVOLUTIONS},
                              "vmap in scan, columns": {"form": COLUMNS}}, device)


class ManyTrainer(peers_jax.Trainer):
    """Trains a task's networks with JAX."""

    def losses(self, steps):
        return np.ravel(super().losses(steps)).tolist()

    def parameters(self):
        return {name: values for number in self._task.checked for name, values in names(number, {
            f"{name}.{parameter}": array for name, layer in self._layers.items() if layer.initial
            for parameter, array in layer.values(
                {key: stack[number] for key, stack in self._state[0][name].items()}).items()
        }).items()}

    def _initial(self):
        networks = [network.parameter_values() for network in self._task.networks()]
        stored = [{name: layer.stored({parameter: values[f"{name}.{parameter}"]
                                       for parameter in layer.initial})
                   for name, layer in self._layers.items()} for values in networks]
        return self._jax.tree.map(lambda *arrays: np.stack(arrays), *stored)

    def _advance(self, state, batch, data):
        order, rate = batch
        one = super()._advance
        return self._jax.vmap(lambda state, number: one(state, (number[None], rate), data))(
            state, order)
