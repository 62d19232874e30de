"""Training throughput of LeNet-5 and its kin against other libraries, in samples per second.

    python -m benchmarks.lenet --device cpu --peer torch --batch 1,16,64,256,1024

benchmarks/README.md says what is measured, and how a peer is added.
"""

import sys
from pathlib import Path

from benchmarks import plot, report
from benchmarks.agreement import CHECKED_STEPS
from benchmarks.options import parser, whole_numbers
from benchmarks.sides import PEERS, BenchmarkError
from benchmarks.task import Task
from gpucnn.errors import GpucnnError

BATCH_SIZES = "1,16,64,256,1024"


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.plot is not None:
            plot.require_matplotlib()
        comparisons = report.run(options, [Task(options.model, batch_size, options.device)
                                           for batch_size in options.batch],
                                 what="training throughput, samples per second", column="batch")
        print("\n" + _agreement(comparisons))
        if options.plot is not None:
            figure = plot.throughput(comparisons, options.peer,
                                     title=f"{options.model} on {options.device}: training")
            options.plot.write_bytes(plot.png(figure))
    except (BenchmarkError, GpucnnError, OSError) as error:
        print(f"benchmarks.lenet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser():
    made = parser("benchmarks.lenet",
                  "Training throughput against other libraries, in samples per second.",
                  tuple(PEERS))
    made.add_argument("--batch", type=whole_numbers, default=BATCH_SIZES,
                      help=f"batch sizes, separated by commas (default: {BATCH_SIZES})")
    made.add_argument("--plot", type=Path, metavar="FILE.png",
                      help="draw the throughputs by batch size there")
    return made


def _agreement(comparisons):
    losses, parameters = (max(one.agreement[name] for one in comparisons)
                          for name in ("loss_difference", "parameter_difference"))
    return (f"Before timing, {CHECKED_STEPS} steps from the same initial parameters: losses differ "
            f"by {losses:.1g} at most, parameters by {parameters:.1g} (norms)")


if __name__ == "__main__":
    sys.exit(main())
