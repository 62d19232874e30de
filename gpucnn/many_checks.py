"""What `fit_many` asks of its networks and of what each has of its own."""

from dataclasses import replace

from gpucnn.errors import ArgumentError, DeviceError
from gpucnn.network import Network
from gpucnn.optimizers import SGD, Adam
from gpucnn.training_checks import checked_seed


def checked_networks(networks):
    """The networks as a list: at least one, each once, all on one device."""
    if isinstance(networks, Network):
        raise ArgumentError("fit_many: expected a list of networks, got one: fit trains that")
    networks = list(networks)
    if not networks:
        raise ArgumentError("fit_many: expected at least one network, got none")
    places = {}
    for number, network in enumerate(networks):
        if not isinstance(network, Network):
            raise ArgumentError(f"fit_many: expected networks, got {network!r} at place {number}")
        if id(network) in places:
            raise ArgumentError(f"fit_many: expected different networks, got the same one at "
                                f"places {places[id(network)]} and {number}")
        places[id(network)] = number
        if network.backend is not networks[0].backend:
            raise DeviceError(f"fit_many: expected networks on one device, got network 0 on "
                              f"{networks[0].device} and network {number} on {network.device}")
    return networks


def checked_optimizers(optimizers, default, count):
    """An optimiser for each of `count` networks: of one kind, with one lr each."""
    optimizers = _one_each(default if optimizers is None else optimizers, count, "optimizer",
                           "an optimiser")
    first = optimizers[0]
    for number, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, (SGD, Adam)):
            raise ArgumentError(f"fit_many: optimizer: expected SGD(...) or Adam(...), got "
                                f"{optimizer!r} for network {number}")
        if type(optimizer) is not type(first) or replace(optimizer, lr=first.lr) != first:
            raise ArgumentError(f"fit_many: optimizer: expected optimisers that differ in lr alone,"
                                f" got {first} for network 0 and {optimizer} for network {number}")
    return optimizers


def checked_seeds(seeds, count):
    """A seed of orders and shifts for each of `count` networks."""
    return [checked_seed(seed, "fit_many") for seed in _one_each(seeds, count, "seed", "a seed")]


def check_same_programs(programs):
    """Raise `ArgumentError`, with the first difference, unless all programs are the same but for
    the names of layers and for learning rates."""
    for number, program in enumerate(programs[1:], start=1):
        difference = _difference(programs[0], program)
        if difference is not None:
            what, first, other = difference
            raise ArgumentError(f"fit_many: expected networks that differ in values alone, got "
                                f"{what} {first} in network 0 and {other} in network {number}")


def _one_each(values, count, name, what):
    """`values` as a list, if it is one of `count`; a single value, `count` times."""
    if not hasattr(values, "__iter__"):
        return [values] * count
    values = list(values)
    if len(values) != count:
        raise ArgumentError(f"fit_many: {name}: expected {what} for each of {count} networks, got "
                            f"{len(values)}")
    return values


def _difference(one, other):
    """(what, one's, other's) of the first difference between two programs, or None."""
    for name in ("dtype", "input_shape", "input_range"):
        if getattr(one, name) != getattr(other, name):
            return name, getattr(one, name), getattr(other, name)
    for a, b in zip(one.layers, other.layers, strict=False):
        if a.op != b.op:
            return f"layer {a.name!r} as", a.op, b.op
        for option in a.options:
            if a.options[option] != b.options.get(option):
                return f"layer {a.name!r} with {option}", a.options[option], b.options.get(option)
        if a.connections != b.connections:
            return (f"layer {a.name!r} with", repr(a.connections),
                    _another(a.connections, b.connections))
    if len(one.layers) != len(other.layers):
        return "layers:", len(one.layers), len(other.layers)
    return None


def _another(first, other):
    """How a connection table that differs from the first is called: they may look the same."""
    return f"another of {other.n_connections} connections" if (
        first.n_connections == other.n_connections) else repr(other)
