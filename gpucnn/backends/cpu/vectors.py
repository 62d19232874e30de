"""The vectors that this machine's cores compute with, and what they decide."""

from functools import cache

import numpy as np


@cache
def has_avx512():
    """Whether cores have vectors of 64 bytes; always the same on one machine, so that what is
    computed here can be computed again to the last bit."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", ())
    return any(name == "X86_V4" or name.startswith("AVX512") for name in found)
