"""A small MNIST that comes with the package: 5,000 training and 1,000 test digits.

The first 500 training digits and the first 100 test digits of every class, in MNIST's order.
Made by LeCun, Cortes and Burges, under CC BY-SA 3.0; NOTICE tells more.
"""

import functools
from pathlib import Path

from gpucnn.data.mnist import load_mnist

DIRECTORY = Path(__file__).parent / "digits"


@functools.cache
def digits():
    """The embedded digits as a pair of `Dataset`, training and test; read once, then kept.

    Images are uint8 (5000, 1, 28, 28) and (1000, 1, 28, 28), light ink (255) on a dark ground
    (0); labels 0 to 9, each 500 and 100 times.
    """
    return load_mnist(DIRECTORY)
