"""A group of layers as C++: the generated headers constants.h and network.h.

`group.cuh` says what the kernels ask of them. A newcomer's layer needs a case in `_kind_members`.
"""

import numpy as np

from gpucnn.backends.cuda.plan import tensor_description

_OPS = {"conv2d": "Conv2dLayer", "subsample2d": "Subsample2dLayer", "max_pool2d": "MaxPool2dLayer",
        "matrix": "MatrixLayer"}
_LOSSES = {"mse": "MseLoss", "cross_entropy": "CrossEntropyLoss"}
PHASES = ("forward", "grad_input", "grad_parameters")
REAL_TYPES = {"float32": "float", "float64": "double"}


def constants(group, blocks=1):
    """The text of constants.h: sizes that the kernels' common code is made for, among them the
    `blocks` of a cluster."""
    values = {"THREADS": group.threads, "BLOCKS": blocks, "SAMPLES": group.samples,
              "BATCH": group.batch_size, "MEMORY": group.memory}
    flags = {"FIRST": group.chain.first, "LAST": group.chain.last}
    return "\n".join([
        f"using real = {REAL_TYPES[group.dtype]};",
        *(f"constexpr int {name} = {value};" for name, value in values.items()),
        *(f"constexpr bool {name} = {str(value).lower()};" for name, value in flags.items()), ""])


def network(group):
    """The text of network.h: the group's maps and layers."""
    names = ", ".join(f"Layer{number}" for number in range(len(group.layers)))
    return layers(group, f"Chain<{names}>")


def layers(group, row, members=None):
    """The text of network.h with the layers in `row`, a C++ type.

    members: a function of a `PlannedLayer` that gives more of its struct's members, by name.
    """
    chain = group.chain
    lines = []
    for number, maps in enumerate(group.maps):
        lines.append(f"using Maps{number} = {_maps(maps)};")
        gradient = group.gradient_maps[number]
        lines.append(f"using Gradient{number} = "
                     + (f"Maps{number};" if gradient is maps else f"{_maps(gradient)};"))
    for number, planned in enumerate(group.layers):
        lines += ["", *_layer(number, planned, members(planned) if members else {})]
    last = len(group.maps) - 1
    lines += ["", f"using Layers = {row};", "using InputMaps = Maps0;",
              "using InputGradientMaps = Gradient0;", f"using OutputMaps = Maps{last};",
              f"using OutputSquash = {_struct(chain.last_activation)};",
              f"using LossKind = {_LOSSES[group.loss.op]};  // only a last group has one",
              f"constexpr int CLASSES = {group.maps[-1].size};"]
    return "\n".join([*lines, ""])


def _maps(maps):
    return (f"Maps<{maps.offset}, {maps.maps}, {maps.height}, {maps.width}, {maps.pitch}, "
            f"{maps.map_stride}, {maps.sample_stride}>")


def _layer(number, planned, more):
    link = planned.link
    tables = _tables(number, link) if link.kind == "conv2d" else ([], [])
    products = tensor_description.structs(number, planned)
    source, target = f"Maps{number}", f"Maps{number + 1}"
    members = {
        "NEEDS_GRAD_INPUT": link.needs_grad_input,
        "WEIGHT": link.weight.offset if link.weight else -1,
        "WEIGHT_SIZE": link.weight.size if link.weight else 0,
        "BIAS": link.bias.offset if link.bias else -1,
        "SHARED_WEIGHT": planned.shared_weight, "SHARED_BIAS": planned.shared_bias,
        **{f"SPREAD_{phase.upper()}": phase in planned.spread for phase in PHASES},
        "PARTIALS": planned.partials, "PARTIAL_SIZE": planned.partial_size,
        **_kind_members(planned), **tensor_description.members(planned), **more}
    return [
        *tables[0], *products[0],
        f"// {_words(link)}", f"struct Layer{number} {{",
        f"    using Op = {'Tensor' if planned.tensor else ''}{_OPS[link.kind]};",
        f"    using Input = {_view(planned.input, source)};",
        f"    using Output = {target};",
        f"    using InputGradient = {_view(planned.input_gradient, f'Gradient{number}')};",
        f"    using OutputGradient = Gradient{number + 1};",
        f"    using Squash = {_struct(link.activation)};",
        f"    using Before = {_struct(link.before)};",
        *(f"    static constexpr {_type(value)} {name} = {str(value).lower()};"
          for name, value in members.items()),
        *tables[1], *products[1], "};"]


def _type(value):
    """The C++ type of a member's value."""
    if isinstance(value, bool):
        return "bool"
    return "int" if value < 2**31 else "long long"


def _view(maps, name):
    """A layer's own view of a boundary, where a Flatten stands before it."""
    return _maps(maps) if maps is not None else name


def _kind_members(planned):
    """What a kind of layer asks for, beside what all do."""
    link = planned.link
    if link.kind == "conv2d":
        return {**_pairs("KERNEL_{}", link.kernel_size, ("HEIGHT", "WIDTH")),
                **_pairs("STRIDE_{}", link.stride, "YX"),
                **_pairs("PADDING_{}", link.padding, "YX"),
                "CONNECTIONS": link.connections.n_connections,
                **_tile("FORWARD", planned.forward_tile), **_tile("INPUT", planned.input_tile),
                **_tile("WEIGHT", planned.weight_tile), "TAP_ROWS": planned.weight_tile.tap_rows,
                "TAP_COLUMNS": planned.weight_tile.tap_columns,
                "SLICES": planned.weight_tile.slices, "PARTS": planned.parts}
    if link.kind == "matrix":
        return {"OUTPUTS": planned.outputs_at_once, "VECTOR": planned.vector,
                "SAVED_INPUT": planned.saved_input, "SAVED_GRADIENT": planned.saved_gradient}
    return {**_pairs("POOL_{}", link.pool_size, ("HEIGHT", "WIDTH")),
            **_pairs("STRIDE_{}", link.stride, "YX")}


def _pairs(name, pair, axes):
    return {name.format(axis): int(value) for axis, value in zip(axes, pair, strict=True)}


def _tile(name, tile):
    return {f"{name}_ROWS": tile.rows, f"{name}_COLUMNS": tile.columns}


def _tables(number, link):
    """(arrays before the struct, functions in it) of a connection table; a full one needs none."""
    table = link.connections
    inputs, outputs = table.in_maps, table.out_maps
    if table.n_connections == inputs * outputs and np.array_equal(
            table.pairs[1] * inputs + table.pairs[0], np.arange(table.n_connections)):
        formulas = {"first_of_output(int o)": f"o * {inputs}", "connection_of_output(int e)": "e",
                    "input_of(int e)": f"e % {inputs}", "first_of_input(int i)": f"i * {outputs}",
                    "connection_of_input(int e)": f"e % {outputs} * {inputs} + e / {outputs}",
                    "output_of(int e)": f"e % {outputs}", "input_map(int c)": f"c % {inputs}",
                    "output_map(int c)": f"c / {inputs}"}
        arrays = {}
    else:
        by_output, by_input = table.by_output, table.by_input
        arrays = {
            "first_of_output": by_output.starts, "connection_of_output": by_output.connections,
            "input_of": by_output.others, "first_of_input": by_input.starts,
            "connection_of_input": by_input.connections, "output_of": by_input.others,
            "input_map": table.pairs[0], "output_map": table.pairs[1]}
        formulas = {f"{name}(int i)": f"layer{number}_{name}[i]" for name in arrays}
    formulas["is_first_of_output(int c)"] = (
        "connection_of_output(first_of_output(output_map(c))) == c")
    kind = "short" if table.n_connections < 2**15 else "int"
    return ([f"static __device__ const {kind} layer{number}_{name}[] = "
             f"{{{', '.join(map(str, values.tolist()))}}};" for name, values in arrays.items()],
            [f"    static __device__ __forceinline__ int {name} {{ return {body}; }}"
             for name, body in formulas.items()])


def _struct(activation):
    """The name of an activation's struct (activation.cuh)."""
    return "".join(word.capitalize() for word in activation.split("_"))


def _words(link):
    name = link.spec.name
    shapes = " to ".join("x".join(map(str, shape))
                         for shape in (link.input_shape, link.output_shape))
    return f"{name + ': ' if name.isidentifier() else ''}{link.spec.op}, {shapes}"
