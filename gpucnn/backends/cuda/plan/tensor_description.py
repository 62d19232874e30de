"""What a layer's description in network.h has beside if tensor cores compute any of it; see
group_tensor_conv2d.cuh and group_tensor_matrix.cuh."""

import numpy as np

_PHASES = {"forward": "TensorForward", "grad_input": "TensorInput", "grad_weight": "TensorWeight"}


def members(planned):
    """Numbers of a matrix layer's description."""
    tensor = planned.tensor
    if planned.link.kind != "matrix" or tensor is None:
        return {}
    return {"FORWARD_PASSES": tensor.forward.passes if tensor.forward else 0,
            "INPUT_PASSES": tensor.grad_input.passes if tensor.grad_input else 0}


def structs(number, planned):
    """(arrays before the description, lines in it) of a convolution."""
    if planned.link.kind != "conv2d" or planned.tensor is None:
        return [], []
    arrays, lines = _connections(number, planned.link.connections)
    for name, struct in _PHASES.items():
        more, body = _phase(f"layer{number}_{name}", getattr(planned.tensor, name))
        arrays += more
        lines += [f"    struct {struct} {{", *(f"        {line}" for line in body), "    };"]
    return arrays, lines


def _connections(number, table):
    """The function `connection_between`."""
    found = np.full((table.in_maps, table.out_maps), -1)
    found[tuple(table.pairs)] = np.arange(table.n_connections)
    if np.array_equal(found, np.arange(found.size).reshape(found.shape[::-1]).T):
        arrays, formula = [], f"o * {table.in_maps} + i"
    else:
        arrays = [_array(f"layer{number}_connection", found.ravel().tolist())]
        formula = f"layer{number}_connection[i * {table.out_maps} + o]"
    return arrays, ["    " + _function("connection_between(int i, int o)", formula)]


def _phase(name, phase):
    """(arrays, lines of the struct) of a `TensorPhase`, or of None."""
    if phase is None:
        return [], ["static constexpr int PASSES = 0;"]
    joined = phase.columns.joined
    numbers = {"PASSES": phase.passes, "PIXELS": phase.pixels, "ROWS": phase.rows,
               "TILES": phase.tiles, "SPLITS": phase.splits, "SETS": len(joined),
               "MOST": max(map(len, joined))}
    starts = np.cumsum([0, *map(len, joined)]).tolist()
    others = [other for of_set in joined for other in of_set]
    most = starts[1]
    arrays, functions = [], []
    for function, argument, values, formulas in (
            ("map", "place", list(phase.columns.order), {"place": lambda e: e}),
            ("first", "set", starts, {f"set * {most}": lambda e: e * most}),
            ("other", "e", others, {"e": lambda e: e, f"e % {most}": lambda e: e % most})):
        places = np.arange(len(values))
        formula = next((text for text, of in formulas.items()
                        if np.array_equal(of(places), values)), None)
        if formula is None:
            arrays.append(_array(f"{name}_{function}", values))
            formula = f"{name}_{function}[{argument}]"
        functions.append(_function(f"{function}(int {argument})", formula))
    return arrays, [*(f"static constexpr int {key} = {value};" for key, value in numbers.items()),
                    *functions]


def _array(name, values):
    kind = "short" if max(map(abs, values)) < 2**15 else "int"
    return f"static __device__ const {kind} {name}[] = {{{', '.join(map(str, values))}}};"


def _function(head, body):
    return f"static __device__ __forceinline__ int {head} {{ return {body}; }}"
