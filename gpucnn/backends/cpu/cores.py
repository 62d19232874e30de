"""How many cores this process may use: those that it may run on, or fewer by a container's quota.

A container that is given "2 CPUs" mostly sees all cores of its machine, and may run on any of them;
the kernel stops its processes once they have used up two cores' time of each tenth of a second.
"""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def cores():
    """The number of cores, at least 1."""
    available = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                 else os.cpu_count() or 1)
    return max(1, min([available, *_quotas()]))


def _quotas():
    """The whole cores that the quotas of Linux's control groups leave, of this process's own and
    of all above it."""
    for line in _lines(OWN_CGROUPS):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0":  # version 2: "0::/path"
            files, root = ("cpu.max",), CGROUPS
        elif "cpu" in controllers.split(","):
            files, root = ("cpu.cfs_quota_us", "cpu.cfs_period_us"), CGROUPS / "cpu"
        else:
            continue
        here = root / path.lstrip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(root):
                break
            quota = _whole_cores(" ".join(" ".join(_lines(folder / name)) for name in files))
            if quota is not None:
                yield quota


def _whole_cores(text):
    """Of a quota and a period in microseconds, or None for no quota."""
    quota, _, period = text.partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return -(-int(quota) // int(period))


def _lines(path):
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
