"""A network as a table of text."""


def summary(network):
    """See `Network.summary`."""
    rows = [("layer", "", "output", "parameters", "connections", "multiply-adds")]
    rows.append(("input", "", _times(network.input_shape), "", "", ""))
    totals = [0, 0]
    for layer, shape, output_shape in zip(network.layers, (network.input_shape, *network.shapes),
                                          network.shapes, strict=False):
        connections = getattr(layer, "connections", None)
        counts = layer.n_parameters, layer.multiply_adds(shape)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        rows.append((layer.name, _described(layer), _times(output_shape), f"{counts[0]:,}",
                     "" if connections is None else f"{connections.n_connections:,}",
                     f"{counts[1]:,}"))
    rows.append(("total", "", "", f"{totals[0]:,}", "", f"{totals[1]:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(
        text.ljust(width) if number < 3 else text.rjust(width)
        for number, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows)


def _times(shape):
    return " x ".join(map(str, shape))


def _described(layer):
    """A layer's class with its window and activation, for the summary."""
    options = layer.options()
    words = [type(layer).__name__]
    for key in ("kernel_size", "pool_size"):
        if key in options:
            words.append("x".join(map(str, options[key])))
    if "activation" in options:
        words.append(options["activation"])
    return " ".join(words)
