"""Several networks as one: their answers are averaged."""

import numpy as np

from gpucnn.checkpoint import load_networks, save_networks
from gpucnn.errors import ArgumentError, FileFormatError, GpucnnError, ShapeError
from gpucnn.network import Network


class Ensemble:
    """Networks whose answers to the same images are averaged.

    The last activation decides what is averaged: of networks that end linear (trained by
    cross_entropy) the probabilities, softmax over classes; of others, squashed ones, the outputs
    themselves. So all must end linear or none. They may be of any layers, as long as they take
    images of the same maps, height and width and give one answer of the same classes; uint8 values
    are scaled to each network's own `input_range`.

    `evaluate` takes an ensemble as it takes a network.

    Raises `ArgumentError` or `ShapeError` with what does not agree.
    """

    def __init__(self, networks):
        self.networks = _checked(networks)
        self.averages = "probabilities" if _ends_linear(self.networks[0]) else "outputs"

    @property
    def input_shape(self):
        """(maps, height, width) of one sample."""
        return self.networks[0].input_shape

    @property
    def output_shape(self):
        """The shape of one sample's answer: that of the first network's output."""
        return self.networks[0].output_shape

    @property
    def backend(self):
        """The first network's."""
        return self.networks[0].backend

    @property
    def device(self):
        """Where the first network computes, as `to` leaves all of them."""
        return self.networks[0].device

    def __len__(self):
        return len(self.networks)

    def __repr__(self):
        return (f"<Ensemble: {len(self)} networks, input {self.input_shape}, "
                f"{self.output_shape[0]} classes, averages {self.averages}>")

    def outputs(self, images, *, batch_size=256, threads=None):
        """The mean answer to each of any number of images, a NumPy array of the first network's
        output shape (samples, classes, ...), in the largest of the networks' types.

        Arguments as in `Network.outputs`. Larger images than `input_shape` give more positions
        where all networks give as many. Raises `ShapeError` if they do not.
        """
        self.checked_images(images)
        total = None
        for network in self.networks:
            answers = network.outputs(images, batch_size=batch_size, threads=threads)
            if self.averages == "probabilities":
                answers = _softmax(answers)
            if total is None:
                total = np.zeros(answers.shape)
            total += answers.reshape(total.shape)
        dtype = np.result_type(*(network.dtype for network in self.networks))
        return (total / len(self)).astype(dtype)

    def predict(self, images, *, batch_size=256, threads=None):
        """The label of the largest mean answer for each image, as `Network.predict`."""
        labels = self.outputs(images, batch_size=batch_size, threads=threads).argmax(axis=1)
        if labels.ndim == 3 and labels.shape[1:] == (1, 1):
            return labels[:, 0, 0]
        return labels

    def positions(self, size):
        """How many positions of answers images of `size` = (height, width) give, as
        `Network.positions`; raises `ShapeError` unless all networks agree."""
        all_positions = [network.positions(size) for network in self.networks]
        for number, positions in enumerate(all_positions):
            if (positions or (1, 1)) != (all_positions[0] or (1, 1)):
                raise ShapeError(f"Ensemble: expected as many positions of each network for images "
                                 f"of {size[0]}x{size[1]}, got {all_positions[0]} of network 0 and "
                                 f"{positions} of network {number}")
        return all_positions[0]

    def checked_images(self, images):
        """`images`, if every network can take them: see `Network.checked_images`."""
        for network in self.networks:
            checked = network.checked_images(images)
        self.positions(checked.shape[2:])
        return checked

    def checked_threads(self, threads):
        """`threads`, if every network can be computed so: see `Network.checked_threads`."""
        for network in self.networks:
            threads = network.checked_threads(threads)
        return threads

    def to(self, device):
        """Move all networks to another device, in place; returns the ensemble itself."""
        for network in self.networks:
            network.to(device)
        return self

    def save(self, path):
        """Write all networks to the file `path`, in one step. Raises `OSError` if it cannot be
        written."""
        save_networks(self.networks, path)

    @classmethod
    def load(cls, path, *, device="auto"):
        """The ensemble in the file `path`, on `device`.

        Raises `FileNotFoundError`, or `FileFormatError` if the file is not an ensemble of this
        library.
        """
        networks = load_networks(path, device=device)
        try:
            return cls(networks)
        except GpucnnError as error:
            raise FileFormatError(f"{path}: expected an ensemble that fits together: "
                                  f"{error}") from error


def _checked(networks):
    if isinstance(networks, Network) or not hasattr(networks, "__iter__"):
        raise ArgumentError(f"Ensemble: expected a list of networks, got {networks!r}")
    networks = list(networks)
    if not networks or not all(isinstance(network, Network) for network in networks):
        raise ArgumentError(f"Ensemble: expected networks, at least one, got {networks!r}")
    first = networks[0]
    for number, network in enumerate(networks):
        for what, ours, theirs in (
                ("images of shape", first.input_shape, network.input_shape),
                ("as many classes", first.output_shape[0], network.output_shape[0])):
            if ours != theirs:
                raise ShapeError(f"Ensemble: expected networks of {what}, got {ours} for network 0 "
                                 f"and {theirs} for network {number}")
        if _ends_linear(network) != _ends_linear(first):
            raise ArgumentError(
                f"Ensemble: expected networks that all end linear or all squashed, got activation "
                f"{_last_activation(first)!r} for network 0 and {_last_activation(network)!r} for "
                f"network {number}")
        if network.output_shape[1:] not in ((), (1, 1)):
            raise ShapeError(f"Ensemble: expected networks of one answer an image, got an output "
                             f"of {network.output_shape} of network {number}")
    return networks


def _ends_linear(network):
    return _last_activation(network) == "identity"


def _last_activation(network):
    """The activation of the last layer that has one."""
    for layer in reversed(network.layers):
        if "activation" in layer.options():
            return layer.options()["activation"]
    return "identity"


def _softmax(outputs):
    """Probabilities over the classes, axis 1."""
    outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return outputs / outputs.sum(axis=1, keepdims=True)
