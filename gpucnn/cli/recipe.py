"""The settings of a training run that the user left open, and the objects that they stand for."""

from gpucnn.errors import ArgumentError
from gpucnn.optimizers import SGD, Adam
from gpucnn.schedules import Constant, Cosine, StepDecay

SCHEDULES = {"constant": Constant, "step": StepDecay, "cosine": Cosine}


def complete(settings, samples):
    """`settings` with a value for each that was None; `samples`: how many training samples.

    cross_entropy: momentum 0.9, weight decay 5e-4, shifts of 1 pixel. mse: none of these, as in
    LeCun et al. 1998. Raises `ArgumentError` for settings that exclude each other.
    """
    settings = dict(settings)
    loss, optimizer = settings["loss"], settings["optimizer"]
    if optimizer == "adam" and settings["momentum"] is not None:
        raise ArgumentError("--momentum: expected --optimizer sgd with it, got adam")
    if settings["early_stopping"] is not None and settings["validation"] is None:
        raise ArgumentError("--early-stopping: expected --validation N with it, samples to choose "
                            "the epoch by; the test set must not choose")
    tuned = loss == "cross_entropy"
    defaults = {
        "epochs": max(6, round(200_000 / samples)),
        "lr": default_rate(loss, optimizer, min(settings["batch_size"], samples)),
        "momentum": 0.9 if tuned and optimizer == "sgd" else 0.0,
        "weight_decay": 5e-4 if tuned and optimizer == "sgd" else 0.0,
        "shift": 1 if tuned else 0,
    }
    settings |= {name: value for name, value in defaults.items() if settings[name] is None}
    make_optimizer(settings)  # raises before anything is written if it cannot take its numbers
    return settings


def default_rate(loss, optimizer, batch_size):
    """The learning rate for a batch size.

    Means over larger batches allow larger steps, up to where training diverges: found by trial on
    the embedded digits.
    """
    if optimizer == "adam":
        return 0.002
    if loss == "mse":
        return min(0.005 * batch_size, 0.02)
    return min(0.05 * batch_size / 64, 0.1)


def make_optimizer(settings):
    """`SGD` or `Adam` of complete settings."""
    if settings["optimizer"] == "adam":
        return Adam(lr=settings["lr"], weight_decay=settings["weight_decay"])
    return SGD(lr=settings["lr"], momentum=settings["momentum"],
               weight_decay=settings["weight_decay"])


def make_schedule(settings):
    """The schedule of its name."""
    return SCHEDULES[settings["schedule"]]()


def describe(settings):
    """Complete settings as one line."""
    momentum = f" momentum {settings['momentum']:g}" if settings["optimizer"] == "sgd" else ""
    return (f"{settings['epochs']} epochs, batch size {settings['batch_size']}, "
            f"{settings['loss']}, {settings['optimizer']} lr {settings['lr']:g}{momentum} "
            f"weight decay {settings['weight_decay']:g}, {settings['schedule']} schedule, "
            f"shift {settings['shift']}, seed {settings['seed']}")
