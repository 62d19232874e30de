"""Networks, ensembles and training runs as files: safetensors, written in one step.

A file holds named arrays, and a description as JSON in its metadata. Of a network: each parameter
under its name, such as "c3.weight", and each connection table as "c3.connections", int32 of shape
(2, n_connections). Of an ensemble: the same of each network, under "0/", "1/", ... Of a training
run: the same as of a network, and the optimiser's arrays under "optimizer/", and the best
parameters so far under "best/".
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gpucnn import layers
from gpucnn.connections import ConnectionTable
from gpucnn.devices import get_backend
from gpucnn.errors import ArgumentError, FileFormatError, GpucnnError
from gpucnn.files import write_atomically
from gpucnn.network import Network

NETWORK_FORMAT, TRAINING_FORMAT = "gpucnn network", "gpucnn training"
ENSEMBLE_FORMAT = "gpucnn ensemble"
VERSION = 1
_LAYER_TYPES = {name: getattr(layers, name)
                for name in ("Conv2d", "Dense", "Flatten", "MaxPool2d", "Subsample2d")}
OPTIMIZER, BEST = "optimizer/", "best/"


@dataclass
class TrainingState:
    """Where a training run stands after an epoch, in host arrays by name."""

    settings: dict
    steps: int
    records: list
    parameters: dict
    optimizer: dict
    best: dict | None


def save_network(network, path):
    """Write a network, with its tables, its input range and its parameters, to the file `path`, in
    one step. Raises `OSError` if it cannot be written."""
    if not isinstance(network, Network):
        raise ArgumentError(f"save_network: expected a Network and a path, got {network!r}")
    _write(path, NETWORK_FORMAT, _network_arrays(network), {"network": _description(network)})


def load_network(path, *, device="auto"):
    """The network in the file `path`, on `device`.

    Raises `FileNotFoundError`, or `FileFormatError` if the file is not a network of this library.
    """
    backend = get_backend(device)
    arrays, header = _read(path, NETWORK_FORMAT)
    return _build(arrays, header, path, backend)


def save_networks(networks, path):
    """Write the networks of an ensemble, in order, to the file `path`, in one step."""
    _write(path, ENSEMBLE_FORMAT,
           {f"{number}/{name}": array for number, network in enumerate(networks)
            for name, array in _network_arrays(network).items()},
           {"networks": [_description(network) for network in networks]})


def load_networks(path, *, device="auto"):
    """The networks of the ensemble in the file `path`, on `device`; raises as `load_network`."""
    backend = get_backend(device)
    arrays, header = _read(path, ENSEMBLE_FORMAT)
    descriptions = header.get("networks") if isinstance(header, dict) else None
    if not isinstance(descriptions, list) or not descriptions:
        raise FileFormatError(f"{path}: expected the descriptions of an ensemble's networks, got "
                              f"none")
    networks = []
    for number, description in enumerate(descriptions):
        prefix = f"{number}/"
        own = {name.removeprefix(prefix): array for name, array in arrays.items()
               if name.startswith(prefix)}
        networks.append(_build(own, {"network": description}, path, backend))
    return networks


def holds_ensemble(path):
    """Whether the file `path` is an ensemble; what cannot be read is not."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format") == ENSEMBLE_FORMAT
    except (OSError, SafetensorError):
        return False


def save_training(path, network, state):
    """Write a training run's `TrainingState` to `path`."""
    arrays = _network_arrays(network, state.parameters)
    arrays |= {OPTIMIZER + name: array for name, array in state.optimizer.items()}
    arrays |= {BEST + name: array for name, array in (state.best or {}).items()}
    _write(path, TRAINING_FORMAT, arrays, {
        "network": _description(network), "settings": state.settings, "steps": state.steps,
        "records": state.records, "has_best": state.best is not None})


def load_training(path, network):
    """The `TrainingState` in the file `path`, which must be of a network like `network`."""
    arrays, header = _read(path, TRAINING_FORMAT)
    same = isinstance(header, dict) and header.get("network") == _plain(_description(network))
    if not same or any(
            not np.array_equal(arrays.get(f"{layer.name}.connections"), layer.connections.pairs)
            for layer in network.layers if hasattr(layer, "connections")):
        raise FileFormatError(f"{path}: expected a training run of this network, got another's")
    try:
        best = {name.removeprefix(BEST): array for name, array in arrays.items()
                if name.startswith(BEST)}
        return TrainingState(
            settings=header["settings"], steps=int(header["steps"]), records=header["records"],
            parameters={name: arrays[name] for name in network.parameters},
            optimizer={name.removeprefix(OPTIMIZER): array for name, array in arrays.items()
                       if name.startswith(OPTIMIZER)},
            best=best if header["has_best"] else None)
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a complete training run, got one without "
                              f"{error}") from error


def _network_arrays(network, parameters=None):
    arrays = dict(network.parameter_values() if parameters is None else parameters)
    for layer in network.layers:
        if hasattr(layer, "connections"):
            arrays[f"{layer.name}.connections"] = layer.connections.pairs
    return arrays


def _description(network):
    """What rebuilds the network but for its arrays."""
    return {
        "input_shape": network.input_shape, "dtype": network.dtype.name, "seed": network.seed,
        "input_range": network.input_range,
        "layers": [{"type": type(layer).__name__, "name": layer.name, "options": layer.options()}
                   for layer in network.layers]}


def _plain(description):
    """A description as it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(description))


def _build(arrays, header, path, backend):
    try:
        description = header["network"]
        network = Network([_layer(entry, arrays) for entry in description["layers"]],
                          description["input_shape"], seed=description["seed"],
                          dtype=description["dtype"], device=backend,
                          input_range=description["input_range"])
        network.set_parameters({name: arrays[name] for name in network.parameters})
    except GpucnnError as error:
        raise FileFormatError(f"{path}: expected a network that fits together: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise FileFormatError(f"{path}: expected a complete description of a network, got one with "
                              f"a fault at {error}") from error
    return network


def _layer(entry, arrays):
    options = dict(entry["options"])
    kind = _LAYER_TYPES[entry["type"]]
    if kind is layers.Conv2d:
        options["connections"] = ConnectionTable.from_pairs(
            arrays[f"{entry['name']}.connections"], options["in_maps"], options["out_maps"])
    return kind(**options, name=entry["name"])


def _write(path, file_format, arrays, header):
    metadata = {"format": file_format, "version": str(VERSION), "description": json.dumps(header)}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_atomically(path, _ordered(save(contiguous, metadata)))


def _ordered(data):
    """A safetensors file's bytes with its metadata sorted: the library writes them in an order that
    differs from call to call. The header is JSON behind 8 bytes of its length, a multiple of 8."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _read(path, file_format):
    """(arrays by name, header) of a file, checked to be of this library, format and version."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"expected a {file_format} file, got no file at {path}")
    if path.is_dir():
        raise FileFormatError(f"{path}: expected a {file_format} file, got a directory")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()  # noqa: SIM118
                      if metadata.get("format") == file_format}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: expected a safetensors file, got one that does not read "
                              f"({error})") from error
    if (file_format, metadata.get("format")) == (NETWORK_FORMAT, TRAINING_FORMAT):
        raise FileFormatError(f"{path}: expected a {file_format} file, got a run's checkpoint: "
                              f"finish that with resume=True (or gpucnn train --resume) first")
    if (file_format, metadata.get("format")) == (NETWORK_FORMAT, ENSEMBLE_FORMAT):
        raise FileFormatError(f"{path}: expected a {file_format} file, got an ensemble: "
                              f"gpucnn.Ensemble.load reads that")
    if metadata.get("format") != file_format:
        raise FileFormatError(f"{path}: expected a {file_format} file, got "
                              f"{metadata.get('format', 'a safetensors file of something else')!r}")
    if metadata.get("version") != str(VERSION):
        raise FileFormatError(f"{path}: expected version {VERSION} of the {file_format} format, "
                              f"got {metadata.get('version')!r}; a newer gpucnn wrote it")
    try:
        header = json.loads(metadata["description"])
    except (KeyError, ValueError) as error:
        raise FileFormatError(f"{path}: expected a description as JSON, got none") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FileFormatError(f"{path}: expected finite numbers, got NaN or infinity in {name}")
    return arrays, header
