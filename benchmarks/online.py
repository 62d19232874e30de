"""Online training, one sample an update, against other libraries: updates per second of one
network, and of many that are trained at once.

    python -m benchmarks.online --device cuda --peer torch,jax --networks 1,15,132,1024

benchmarks/README.md says what is measured.
"""

import sys

from benchmarks import limit, online_limit, report
from benchmarks.online_task import OnlineTask
from benchmarks.options import parser, whole_numbers
from benchmarks.sides import OURS, BenchmarkError
from benchmarks.tables import OnlineTable
from gpucnn.errors import GpucnnError
from gpucnn.models import MODELS

PEERS = ("torch", "jax")
NETWORKS = {"cpu": [1, 8], "cuda": [1, 15, 132, 1024]}


def main(arguments=None):
    """Run the benchmark that the command line's arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _compare(options)
    except (BenchmarkError, GpucnnError, OSError) as error:
        print(f"benchmarks.online: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _compare(options):
    if options.model not in MODELS:
        raise BenchmarkError(f"--model: expected one of {', '.join(MODELS)}, got {options.model}")
    kind = options.device.partition(":")[0]
    comparisons = report.run(options, [OnlineTask(options.model, count, options.device)
                                       for count in options.networks or NETWORKS[kind]],
                             what="online training, updates per second of all networks",
                             table=_table(options))
    print("\n" + report.agreement_line(comparisons))


def _table(options):
    """The table for a device. On a GPU its limit is measured first."""
    task = OnlineTask(options.model, 1)
    work = limit.training_work(task.network(), task.dataset().image_shape, 1).multiply_adds
    speed = None if options.device == "cpu" else online_limit.measured_speed(options.device)
    if speed is not None:
        print(f"limit: {work:,} multiply-adds an update; {speed}: "
              f"{1e6 * speed.seconds(work, 1):.2f} us", flush=True)
    return OnlineTable(options.peer, None if speed is None else (
        lambda networks: speed.seconds(work, networks)))


def _parser():
    made = parser("benchmarks.online",
                  f"Online training against other libraries: updates per second of {OURS} and its "
                  f"peers, one network and many at once.", PEERS)
    made.add_argument("--networks", type=whole_numbers,
                      help="how many networks are trained at once, separated by commas (default: "
                           "1,15,132,1024, on a CPU 1,8)")
    return made


if __name__ == "__main__":
    sys.exit(main())
