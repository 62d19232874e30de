"""Training of LeNet-5 and its kin against other libraries: samples per second, or a race.

    python -m benchmarks.lenet --device cpu --peer torch --batch 1,16,64,256,1024
    python -m benchmarks.lenet --race --device cuda --peer torch,jax --data mnist

benchmarks/README.md says what is measured, and how a peer is added.
"""

import sys
from pathlib import Path

from benchmarks import limit, plot, race, report
from benchmarks.options import parser, positive, share, whole_number, whole_numbers
from benchmarks.precisions import FLOAT32
from benchmarks.sides import PEERS, BenchmarkError
from benchmarks.tables import PrecisionTable, Table
from benchmarks.task import Task
from gpucnn.errors import GpucnnError

BATCH_SIZES = "1,16,64,256,1024"


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.race:
            race.run(options)
        else:
            _compare(options)
    except (BenchmarkError, GpucnnError, OSError) as error:
        print(f"benchmarks.lenet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _compare(options):
    """Compare throughputs, and draw them if that is asked for."""
    if options.plot is not None:
        plot.require_matplotlib()
    comparisons = report.run(options, [Task(options.model, batch_size, options.device,
                                            momentum=options.momentum)
                                       for batch_size in options.batch],
                             what=f"training throughput, SGD with momentum {options.momentum:g}, "
                                  f"samples per second",
                             table=_table(options))
    print("\n" + report.agreement_line(comparisons))
    if options.plot is not None:
        precision = "" if options.device == "cpu" else f", {FLOAT32}"
        figure = plot.throughput(comparisons, options.peer,
                                 title=f"{options.model} on {options.device}: training{precision}")
        options.plot.write_bytes(plot.png(figure))


def _parser():
    made = parser("benchmarks.lenet",
                  "Training throughput against other libraries, in samples per second, or the "
                  "seconds that each needs to reach a test error.",
                  tuple(PEERS))
    made.add_argument("--batch", type=whole_numbers, default=BATCH_SIZES,
                      help=f"batch sizes, separated by commas (default: {BATCH_SIZES})")
    made.add_argument("--plot", type=Path, metavar="FILE.png",
                      help="draw the throughputs by batch size there")
    made.add_argument("--momentum", type=share, default=0.9,
                      help="of SGD; 0 is the plain SGD of the original (default: 0.9)")
    raced = made.add_argument_group("race", "--seconds, --rounds, --batch, --momentum and --plot "
                                            "do not matter to it")
    raced.add_argument("--race", action="store_true",
                       help="measure the seconds from random weights to a test error")
    raced.add_argument("--data", default="mnist", metavar="DIR|digits|mnist|fashion-mnist",
                       help="as gpucnn train takes it (default: mnist, downloaded)")
    raced.add_argument("--seeds", type=whole_number, default=5,
                       help="how many seeds; medians are taken over them (default: 5)")
    raced.add_argument("--target", type=positive, default=1.0,
                       help="the test error to reach, in per cent (default: 1)")
    return made


def _table(options):
    """The table for a device. On a GPU its limits are measured first, which takes PyTorch."""
    if options.device == "cpu":
        return Table("batch", options.peer)
    speed = None
    try:
        speed = limit.measured_speed(options.device)
        print(f"limits: {speed}", flush=True)
    except BenchmarkError as error:
        print(f"limits: not measured: {error}", flush=True)
    model = Task(options.model, 1)
    network, image_shape = model.network(), model.dataset().image_shape
    return PrecisionTable(
        options.peer, options.device,
        lambda batch_size: limit.training_work(network, image_shape, batch_size), speed)


if __name__ == "__main__":
    sys.exit(main())
