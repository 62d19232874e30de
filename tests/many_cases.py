"""What the tests of many networks share: settings, networks and data, and each network alone."""

import numpy as np
import pytest

import gpucnn
from gpucnn import (
    SGD,
    Adam,
    Conv2d,
    Cosine,
    Dense,
    Network,
    StepDecay,
    Subsample2d,
    fit,
    fit_many,
)
from gpucnn.progress import NoProgress

SETTINGS = {
    "online": {"batch_size": 1, "optimizer": [SGD(0.01), SGD(0.02), SGD(0.04)]},
    "batches that leave a rest": {
        "batch_size": 7, "optimizer": [Adam(0.01), Adam(0.02), Adam(0.04)],
        "schedule": StepDecay(0.5, 1), "shift": 2},
    "one batch": {"batch_size": 100, "optimizer": SGD(0.1, momentum=0.9, nesterov=True),
                  "schedule": Cosine(), "shift": 1},
    "in order": {"batch_size": 5, "optimizer": SGD(0.05, weight_decay=0.1), "shuffle": False},
    "squashed": {"batch_size": 10, "optimizer": SGD(0.05), "loss": "mse"},
}
SEEDS = [4, 9, 4]
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def network(seed=0, output="identity", **keywords):
    return Network([Conv2d(1, 3, 5, name="c1"), Subsample2d(3, 4, name="s2"),
                    Dense(3, 4, activation=output, name="output")],
                   (1, 8, 8), **({"seed": seed, "device": "cpu"} | keywords))


def networks_for(settings, count=3, **keywords):
    output = "scaled_tanh" if settings.get("loss") == "mse" else "identity"
    return [network(seed, output, **keywords) for seed in range(count)]


def data(count=40, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.integers(0, 256, (count, 8, 8), np.uint8),
            np.arange(count) % 4)


def bits(networks):
    return [one.backend.to_host(one.parameters.flat).tobytes() for one in networks]


def without_seconds(histories):
    return [[(record.epoch, record.train_loss, record.train_error, record.test_error)
             for record in history] for history in histories]


def trained_alone(settings, count=3, **keywords):
    """(networks, histories) of `fit` for each network by itself."""
    networks = networks_for(settings, count, **keywords)
    histories = []
    for number, one in enumerate(networks):
        own = dict(settings)
        if isinstance(own["optimizer"], list):
            own["optimizer"] = own["optimizer"][number]
        histories.append(fit(one, data(), data(10, seed=1), epochs=3, seed=SEEDS[number],
                             progress=False, **own))
    return networks, histories


def assert_all_end_as_alone(networks, settings, **keywords):
    histories = fit_many(networks, data(), data(10, seed=1), epochs=3, seed=SEEDS, progress=False,
                         **settings, **keywords)
    alone, alone_histories = trained_alone(settings)
    assert bits(networks) == bits(alone)
    assert without_seconds(histories) == without_seconds(alone_histories)
    assert all(isinstance(history, gpucnn.History) for history in histories)


class Noted(NoProgress):
    """Notes what a progress bar is told."""

    def __init__(self):
        self.epochs, self.samples, self.records = [], 0, []

    def begin(self, epoch):
        self.epochs.append(epoch)

    def advance(self, samples):
        self.samples += samples

    def end(self, record):
        self.records.append(record)
