"""What must agree before sides are measured: the numbers of training, the labels of inference."""

import numpy as np

from benchmarks.precisions import FLOAT32, TOLERANCES
from benchmarks.sides import OURS, BenchmarkError

CHECKED_STEPS = 20
NO_DIFFERENCE = {"loss_difference": 0.0, "parameter_difference": 0.0}
LEAST_EQUAL_LABELS = 0.999  # rounding may decide between two outputs that are as good as equal


def same_training(sides, parameter_tolerances=TOLERANCES):
    """Precision -> the largest differences of losses and of parameters from ours, in the first
    steps.

    sides: processes, ours in float32 first, with whom all others are compared. Raises
    `BenchmarkError` if initial parameters are not the same bits, a loss differs by more than
    `TOLERANCES` allows its side's precision, or an array of parameters by more than
    `parameter_tolerances` does.
    """
    ours, *others = [(process, process.ask("parameters"), process.ask("losses", CHECKED_STEPS),
                      process.ask("parameters")) for process in sides]
    found = {FLOAT32: dict(NO_DIFFERENCE)}
    for process, before, losses, after in others:
        same_parameters(process, before, ours[1])
        differences = found.setdefault(process.precision, dict(NO_DIFFERENCE))
        loss = difference(losses, ours[2], TOLERANCES[process.precision],
                          f"{where(process)}: losses")
        parameter = close_parameters(process, after, ours[3], parameter_tolerances)
        for name, value in (("loss_difference", loss), ("parameter_difference", parameter)):
            differences[name] = max(differences[name], value)
    return found


def same_parameters(process, values, reference):
    """Raise `BenchmarkError` unless a process begins with the parameters of ours, bit for bit."""
    if set(values) != set(reference) or any(
            not np.array_equal(array, reference[name]) for name, array in values.items()):
        raise BenchmarkError(f"{where(process)}: expected the initial parameters of {OURS}, got "
                             f"others")


def close_parameters(process, values, reference, tolerances):
    """The largest difference of an array of parameters from ours; raises `BenchmarkError` if it is
    more than the tolerance of the process's precision."""
    return max(difference(array, reference[name], tolerances[process.precision],
                          f"{where(process)}: {name}") for name, array in values.items())


def same_labels(sides):
    """The smallest share of images to which a peer gives our label.

    sides: processes, ours first. Raises `BenchmarkError` if it is too small.
    """
    ours, *peers = [(process, process.ask("labels")) for process in sides]
    smallest = 1.0
    for process, labels in peers:
        here = f"{where(process)}: labels"
        if labels.shape != ours[1].shape:
            raise BenchmarkError(f"{here}: expected shape {ours[1].shape}, got {labels.shape}")
        equal = float(np.mean(labels == ours[1]))
        if equal < LEAST_EQUAL_LABELS:
            raise BenchmarkError(f"{here}: expected those of {OURS} for at least "
                                 f"{100 * LEAST_EQUAL_LABELS:g} % of the images, got them for "
                                 f"{100 * equal:.2f} %")
        smallest = min(smallest, equal)
    return {"equal_labels": smallest}


def difference(values, reference, tolerance, what):
    """The norm of a difference over the norm of ours; `BenchmarkError` if above the tolerance."""
    found = np.linalg.norm(np.subtract(values, reference)) / np.linalg.norm(reference)
    if not found <= tolerance:
        raise BenchmarkError(f"{what}: expected those of {OURS} after {CHECKED_STEPS} steps to "
                             f"{tolerance:g}, got a difference of {found:.2g}")
    return float(found)


def where(process):
    """What an error calls a process."""
    return f"{process.name}, {process.setting}"
