"""Images per second of `Network.predict` against other libraries, from host pixels to host labels.

    python -m benchmarks.inference --device cpu --peer torch --model lenet5 --images 10000

benchmarks/README.md says what is measured.
"""

import sys

from benchmarks import report
from benchmarks.options import parser, whole_number
from benchmarks.sides import INFERENCE_PEERS, BenchmarkError
from benchmarks.tables import Table
from benchmarks.task import PredictionTask, trained_parameters
from gpucnn.errors import GpucnnError


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        task = PredictionTask(options.model, options.images, trained_parameters(options.model),
                              options.device)
        comparison, = report.run(options, [task], what="inference, images per second",
                                 table=Table("images", options.peer))
        equal = comparison.agreement["equal_labels"]
        print(f"\nBefore timing, the labels were the same for at least {100 * equal:.4g} % of the "
              f"images")
    except (BenchmarkError, GpucnnError, OSError) as error:
        print(f"benchmarks.inference: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser():
    made = parser("benchmarks.inference",
                  "Inference throughput against other libraries, in images per second.",
                  INFERENCE_PEERS)
    made.add_argument("--images", type=whole_number, default=10000,
                      help="how many images are labelled at once (default: 10000)")
    return made


if __name__ == "__main__":
    sys.exit(main())
