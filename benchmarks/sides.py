"""The sides of a benchmark: this library, and its peers by name.

A side is a module that trains in a process of its own. It has:

- `settings(device, cores)`: label -> keywords of `Trainer`, for each setting worth trying; the
  contest itself calls it, in its own process. A side is judged by its best setting.
- `Trainer(task, **keywords)`: builds the task's network with its initial values, and holds the
  task's data on the device. Raises `BenchmarkError` if what it needs is missing. It has
  - `losses(steps)`: train on the next `steps` batches of the task's order; the loss of each.
  - `train(samples)`: train on the next `samples` of the order; returns when the device is done.
  - `parameters()`: the parameters as NumPy arrays, named and shaped as this library's.
  - `versions()`: name -> version of what it ran on.

To add a peer, write such a module, import its framework inside functions, and name it in `PEERS`.
"""

import importlib

OURS = "gpucnn"
PEERS = {"torch": "benchmarks.peers_torch"}
_MODULES = {OURS: "benchmarks.ours"} | PEERS


class BenchmarkError(Exception):
    """A benchmark cannot be run, or its sides do not train the same numbers."""


def side(name):
    """The module of a side."""
    return importlib.import_module(_MODULES[name])
