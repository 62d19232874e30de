"""The precisions in which products of matrices and convolutions are computed.

Memory, sums and everything else are float32 throughout. With TF32 the tensor cores of a GPU read
the factors of products with 10 bits of mantissa in place of 23.
"""

FLOAT32, TF32 = "float32", "tf32"

# By how much sides may differ after 20 steps, norm of the difference over norm of ours. float32:
# sums in other orders. TF32: a factor keeps 10 bits behind its leading one, so that it is off by up
# to 2^-10 where it is cut off, and a product of two by 2^-9 = 0.002. Errors of many products and
# steps cancel more than they add up (LeNet-5 with factors rounded on the host differs by 0.0008),
# so that 0.005 leaves room for either way of rounding and would still show a wrong gradient.
TOLERANCES = {FLOAT32: 1e-4, TF32: 5e-3}


def precisions(device):
    """The precisions that are compared on a device, the finest first: a CPU has no TF32."""
    return (FLOAT32,) if device == "cpu" else (FLOAT32, TF32)


def in_each_precision(settings, device):
    """A side's settings, label -> keywords, once in each precision of a GPU."""
    return {f"{label}, {precision}": keywords | {"precision": precision}
            for precision in precisions(device) for label, keywords in settings.items()}


def precision_of(keywords):
    """The precision of a setting, from its keywords."""
    return keywords.get("precision", FLOAT32)
