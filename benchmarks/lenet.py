"""Training throughput of LeNet-5 against other libraries, in samples per second.

    python -m benchmarks.lenet --device cpu --peer torch --batch 1,16,64,256

benchmarks/README.md says what is measured, and how a peer is added.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.contest import CHECKED_STEPS, compare
from benchmarks.machine import machine
from benchmarks.sides import OURS, PEERS, BenchmarkError
from benchmarks.task import Task
from gpucnn.models import MODELS


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    here = machine()
    comparisons = []
    print(_heading(options, here), flush=True)
    try:
        for batch_size in options.batch:
            comparisons.append(compare(Task(options.model, batch_size, options.device),
                                       options.peer, seconds=options.seconds,
                                       rounds=options.rounds))
            if len(comparisons) == 1:
                print(_versions(comparisons[0]) + "\n\n" + _table_head(options.peer))
            print(_row(comparisons[-1], options.peer), flush=True)
        print("\n" + _agreement(comparisons))
        if options.out is not None:
            _save(options, here, comparisons)
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks.lenet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


# -- options -----------------------------------------------------------------------------------


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lenet",
        description="Training throughput against other libraries, in samples per second.")
    parser.add_argument("--device", type=_device, default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--peer", type=_peers, default=["torch"],
                        help=f"whom to compare with, separated by commas: {', '.join(PEERS)}")
    parser.add_argument("--batch", type=_batch_sizes, default=[1, 16, 64, 256],
                        help="batch sizes, separated by commas (default: 1,16,64,256)")
    parser.add_argument("--model", choices=MODELS, default="lenet5")
    parser.add_argument("--seconds", type=_seconds, default=1.0,
                        help="length of a window (default: 1)")
    parser.add_argument("--rounds", type=_rounds, default=7,
                        help="windows of each side; medians are taken over them (default: 7)")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="write every window, the machine and the versions there, as JSON")
    return parser


def _device(text):
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r}")
    return text


def _peers(text):
    names = text.split(",")
    if any(name not in PEERS for name in names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(PEERS)}, separated by "
                                         f"commas, got {text!r}")
    return names


def _batch_sizes(text):
    if not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"expected whole numbers of at least 1, separated by "
                                         f"commas, got {text!r}")
    return [int(word) for word in text.split(",")]


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return seconds


def _rounds(text):
    if not re.fullmatch(r"0*[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


# -- what is printed ---------------------------------------------------------------------------


def _heading(options, here):
    lines = [f"{options.model} on {options.device}: training throughput, samples per second; "
             f"medians of {options.rounds} alternating windows of {options.seconds:g} s",
             f"{here['CPU']}, {here['cores']} cores, {here['system']}, Python {here['Python']}"]
    if here["load"] is not None and here["load"] > 0.5:
        lines.append(f"load average {here['load']}: other programs were running")
    return "\n".join(lines)


def _versions(comparison):
    found = {}
    for measurement in comparison.measurements:
        found |= measurement.versions
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _table_head(peers):
    columns = ["batch", OURS]
    for peer in peers:
        columns += [peer, "best setting", f"{OURS} / {peer}", "range"]
    return f"{_line(columns)}\n{_line(['---'] * len(columns))}"


def _row(comparison, peers):
    cells = [str(comparison.batch_size), f"{comparison.best(OURS).median:,.0f}"]
    for peer in peers:
        best, ratios = comparison.best(peer), sorted(comparison.ratios(peer))
        cells += [f"{best.median:,.0f}", best.setting, f"{median(ratios):.2f}",
                  f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]
    return _line(cells)


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _agreement(comparisons):
    return (f"Before timing, {CHECKED_STEPS} steps from the same initial parameters: losses differ "
            f"by {max(one.loss_difference for one in comparisons):.1g} at most, parameters by "
            f"{max(one.parameter_difference for one in comparisons):.1g} (norms)")


def _save(options, here, comparisons):
    record = {"model": options.model, "device": options.device, "seconds": options.seconds,
              "rounds": options.rounds, "machine": here,
              "batches": [asdict(comparison) for comparison in comparisons]}
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
