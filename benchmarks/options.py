"""The options that the benchmarks' commands share, and their checks."""

import argparse
import re
from pathlib import Path

from benchmarks.models import MODELS


def parser(prog, description, peers, *, model=True):
    """A parser of the shared options; `peers` are the names that `--peer` knows. model: whether
    there is a choice of one."""
    made = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    made.add_argument("--device", type=_device, default="cpu", help="cpu, cuda or cuda:N")
    made.add_argument("--peer", type=some_of(peers), default=["torch"],
                      help=f"whom to compare with, separated by commas: {', '.join(peers)} "
                           f"(default: torch)")
    if model:
        made.add_argument("--model", choices=MODELS, default="lenet5")
    made.add_argument("--seconds", type=positive, default=1.0,
                      help="length of a window (default: %(default)g)")
    made.add_argument("--rounds", type=whole_number, default=7,
                      help="windows of each side; medians are taken over them "
                           "(default: %(default)d)")
    made.add_argument("--out", type=Path, metavar="FILE",
                      help="write every window, the machine and the versions there, as JSON")
    return made


def whole_number(text):
    """An option's whole number of at least 1."""
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def whole_numbers(text):
    """An option's whole numbers of at least 1, separated by commas."""
    if not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 1, separated by "
                                         f"commas, got {text!r}")
    return [int(word) for word in text.split(",")]


def positive(text):
    """An option's finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def share(text):
    """An option's number of at least 0 and below 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0 and below 1, "
                                         f"got {text!r}")
    return number


def some_of(known):
    """The type of an option that takes some of the names `known`, separated by commas."""
    def names(text):
        found = text.split(",")
        if any(name not in known for name in found) or len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"expected some of {', '.join(known)}, separated by "
                                             f"commas, got {text!r}")
        return found
    return names


def gpu(text):
    """An option's CUDA device."""
    if not re.fullmatch(r"cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected cuda or cuda:N, got {text!r}")
    return text


def _device(text):
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r}")
    return text
