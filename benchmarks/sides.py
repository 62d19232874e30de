"""The sides of a benchmark: this library, and its peers by name.

A side is a module that works in a process of its own. For training it has:

- `settings(device, cores)`: label -> keywords of `Trainer`, for each setting worth trying; the
  contest itself calls it, in its own process. A side is judged by its best setting. The keyword
  `precision`, one of `precisions.py`, tells what a setting is compared with; without it, float32.
- `Trainer(task, **keywords)`: builds the task's network with its initial values, and holds the
  task's data on the device. What is timed to be tuned waits for the first step, since sides are
  built at the same time. Raises `BenchmarkError` if what it needs is missing. It has
  - `losses(steps)`: train on the next `steps` batches of the task's order; the loss of each.
  - `run(samples)`: train on the next `samples` of the order; returns when the device is done.
  - `parameters()`: the parameters as NumPy arrays, named and shaped as this library's.
  - `versions()`: name -> version of what it ran on.

For the race (`RACE_PEERS`) it has `race_settings(device, cores)`, and its `Trainer`

  - `reset(parameters)`: begin again with these, at rest, to the same bits as a fresh one.
  - `train(order, shifts, rates)`: train on the samples of an order, int32, moved by shifts, (n, 2)
    or None, in batches of which each has its own learning rate. The last may be smaller.
  - `misread()`: how many pictures of the task's test set it gets wrong; waits for the training.

For inference (`INFERENCE_PEERS`) it has:

- `prediction_settings(device, cores)`: label -> keywords of `Predictor`.
- `Predictor(task, **keywords)`: builds the task's network with its trained parameters, and holds
  the task's images on the host, as uint8. It has
  - `labels()`: the label of each image, as a NumPy array.
  - `run(samples)`: find the labels of `samples` images, a multiple of the task's.
  - `versions()`: as above.

Either may have `unit`, of how many samples a window's must be a multiple, where that is not the
task's `unit`; and the module `supports(task)`, false for tasks that it leaves out by its nature.

To add a peer, write such a module, import its framework inside functions, and name it in `PEERS`.
"""

import importlib

OURS = "gpucnn"
PEERS = {"torch": "benchmarks.peers_torch", "jax": "benchmarks.peers_jax",
         "seed": "benchmarks.peers_seed"}
INFERENCE_PEERS = RACE_PEERS = ("torch", "jax")
_MODULES = {OURS: "benchmarks.ours"} | PEERS


class BenchmarkError(Exception):
    """A benchmark cannot be run, or its sides do not compute the same numbers."""


def side(name):
    """The module of a side."""
    return importlib.import_module(_MODULES[name])


def supports(name, task):
    """Whether a side takes part in a task."""
    return getattr(side(name), "supports", lambda task: True)(task)
