"""What must agree before sides are measured: the numbers of training, the labels of inference."""

import numpy as np

from benchmarks.sides import OURS, BenchmarkError

CHECKED_STEPS = 20
TOLERANCE = 1e-4  # norm of a difference over the norm of ours: float32 summed in other orders
LEAST_EQUAL_LABELS = 0.999  # rounding may decide between two outputs that are as good as equal


def same_training(sides, parameter_tolerance=TOLERANCE):
    """The largest differences of losses and of parameters from ours, in the first steps.

    sides: processes, ours first. Raises `BenchmarkError` if a loss differs by more than `TOLERANCE`
    or an array of parameters by more than `parameter_tolerance`.
    """
    ours, *peers = [(process, process.ask("parameters"), process.ask("losses", CHECKED_STEPS),
                     process.ask("parameters")) for process in sides]
    loss_difference = parameter_difference = 0.0
    for process, before, losses, after in peers:
        where = f"{process.name}, {process.setting}"
        if set(before) != set(ours[1]) or any(
                not np.array_equal(values, ours[1][name]) for name, values in before.items()):
            raise BenchmarkError(f"{where}: expected the initial parameters of {OURS}, got others")
        loss_difference = max(loss_difference, _difference(losses, ours[2], TOLERANCE,
                                                           f"{where}: losses"))
        parameter_difference = max(parameter_difference, *(
            _difference(values, ours[3][name], parameter_tolerance, f"{where}: {name}")
            for name, values in after.items()))
    return {"loss_difference": loss_difference, "parameter_difference": parameter_difference}


def same_labels(sides):
    """The smallest share of images to which a peer gives our label.

    sides: processes, ours first. Raises `BenchmarkError` if it is too small.
    """
    ours, *peers = [(process, process.ask("labels")) for process in sides]
    smallest = 1.0
    for process, labels in peers:
        where = f"{process.name}, {process.setting}: labels"
        if labels.shape != ours[1].shape:
            raise BenchmarkError(f"{where}: expected shape {ours[1].shape}, got {labels.shape}")
        equal = float(np.mean(labels == ours[1]))
        if equal < LEAST_EQUAL_LABELS:
            raise BenchmarkError(f"{where}: expected those of {OURS} for at least "
                                 f"{100 * LEAST_EQUAL_LABELS:g} % of the images, got them for "
                                 f"{100 * equal:.2f} %")
        smallest = min(smallest, equal)
    return {"equal_labels": smallest}


def _difference(values, reference, tolerance, what):
    difference = np.linalg.norm(np.subtract(values, reference)) / np.linalg.norm(reference)
    if not difference <= tolerance:
        raise BenchmarkError(f"{what}: expected those of {OURS} after {CHECKED_STEPS} steps to "
                             f"{tolerance:g}, got a difference of {difference:.2g}")
    return float(difference)
