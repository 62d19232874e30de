"""Convolution through connection tables against other libraries' dense one with a mask.

    python -m benchmarks.conv --device cpu --peer torch
    python -m benchmarks.conv --device cuda --peer torch --shape 128,64,64,32,3 --density 25,12.5

benchmarks/README.md says what is measured.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import conv_plot, limit, report
from benchmarks.conv_cases import DENSITIES, GROUPS, SHAPES, Shape, cases, densities
from benchmarks.conv_contest import Contest
from benchmarks.conv_table import ConvTable
from benchmarks.machine import machine
from benchmarks.options import parser, whole_numbers
from benchmarks.precisions import FLOAT32
from benchmarks.processes import Process
from benchmarks.sides import BenchmarkError
from gpucnn.errors import GpucnnError

PEERS = ("torch",)
SECONDS, ROUNDS = 0.05, 5
CPU_MATRIX_SIZE, CPU_COPIED_BYTES = 1024, 1 << 26  # for the rates of a CPU


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _compare(options)
    except (BenchmarkError, GpucnnError, OSError) as error:
        print(f"benchmarks.conv: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _compare(options):
    if options.plot is not None:
        conv_plot.require_matplotlib()
    usual = SHAPES["cpu" if options.device == "cpu" else "cuda"]
    shapes = options.shape or [Shape.parse(text) for text in usual]
    rows = [case for shape in shapes for case in cases(shape, options.density, options.groups)]
    here, measured = machine(), []
    print(report.heading(options, here, f"microseconds; medians of {options.rounds} alternating "
                                        f"windows of {options.seconds:g} s"), flush=True)
    speed = _speed(options.device)
    table = ConvTable(options.device, options.peer, speed)
    with Contest(options.device, options.peer) as contest:
        print(report.versions_line(contest.versions()) + "\n\n" + table.head(), flush=True)
        for case in rows:
            measured.append((case, contest.row(case, seconds=options.seconds,
                                               rounds=options.rounds)))
            print(table.rows(*measured[-1]), flush=True)
    print("\n" + _agreement([row for _, row in measured]) + "\n\nWhat computed ours:")
    print("\n".join(table.ways(*pair) for pair in measured))
    if options.out is not None:
        report.save(options.out, {
            "device": options.device, "seconds": options.seconds, "rounds": options.rounds,
            "machine": here, "rows": [_record(*pair) for pair in measured]})
    if options.plot is not None:
        figure = conv_plot.times(measured, options.peer,
                                 title=f"Convolution through tables on {options.device}")
        options.plot.write_bytes(conv_plot.png(figure))


def _parser():
    made = parser("benchmarks.conv",
                  "The time of convolutions through connection tables, and of other libraries' "
                  "dense ones with a mask.", PEERS, model=False)
    made.set_defaults(model="convolution", seconds=SECONDS, rounds=ROUNDS)
    made.add_argument("--shape", type=Shape.parse, action="append", metavar="N,I,O,SIZE,KERNEL",
                      help="batch, input maps, output maps, pixels along a side of the maps and of "
                           "the kernel; several times for several (default: seven, on a CPU six "
                           "with smaller batches)")
    made.add_argument("--density", type=densities, default=DENSITIES,
                      help=f"of random tables, per cent, separated by commas (default: "
                           f"{','.join(f'{one:g}' for one in DENSITIES)})")
    made.add_argument("--groups", type=whole_numbers, default=GROUPS,
                      help=f"of grouped tables, next to one to one (default: "
                           f"{','.join(map(str, GROUPS))})")
    made.add_argument("--plot", type=Path, metavar="FILE.png",
                      help="draw the times over the density there")
    return made


def _speed(device):
    """What the device computes and copies in a second, or None where that cannot be measured."""
    try:
        if device != "cpu":
            speed = limit.measured_speed(device)
        else:
            task = limit.SpeedTask(device, CPU_MATRIX_SIZE, CPU_COPIED_BYTES)
            with Process("torch", "speed of the CPU", {}, task) as process:
                speed = process.ask("speed")
        print(f"limits: {speed}", flush=True)
    except BenchmarkError as error:
        print(f"limits: not measured: {error}", flush=True)
        return None
    return speed


def _agreement(rows):
    """How far apart results were before, for each precision."""
    found = {}
    for row in rows:
        for precision, value in row.differences.items():
            found[precision] = max(value, found.get(precision, 0.0))
    return "Before timing, outputs and gradients differed by " + ", by ".join(
        f"{value:.1g} at most" + (f" with {precision}" if precision != FLOAT32 else "")
        for precision, value in found.items())


def _record(case, row):
    return {"shape": asdict(case.shape), "table": case.name, "density": case.table.density,
            **asdict(row)}


if __name__ == "__main__":
    sys.exit(main())
