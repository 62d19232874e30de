"""How many cores are used: those of the process, or fewer by the quota of a container."""

import os

import pytest

from gpucnn.backends.cpu import cores as module
from gpucnn.backends.cpu.cores import cores
from gpucnn.backends.cpu.workers import usable_threads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(own, **files): one of 8 cores, whose process is in the control groups `own`; the
    files' names begin where groups are mounted, and have "__" for "/" and "_of_" for "."."""
    def made(own, **files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
        monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(module, "OWN_CGROUPS", tmp_path / "own")
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("_of_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return made


V1 = "3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n1:memory:/docker/abc\n"


@pytest.mark.parametrize(("own", "files", "expected"), [
    ("", {}, 8),
    ("0::/\n", {"cpu_of_max": "max 100000\n"}, 8),
    ("0::/\n", {"cpu_of_max": "200000 100000\n"}, 2),
    ("0::/\n", {"cpu_of_max": "150000 100000\n"}, 2),
    ("0::/\n", {"cpu_of_max": "10000 100000\n"}, 1),
    ("0::/\n", {"cpu_of_max": "9900000 100000\n"}, 8),
    ("0::/a/b\n", {"a__cpu_of_max": "300000 100000\n", "a__b__cpu_of_max": "max 100000\n"}, 3),
    ("0::/a/b\n", {"a__cpu_of_max": "300000 100000\n", "a__b__cpu_of_max": "1 1\n"}, 1),
    ("0::/not/seen/from/here\n", {"cpu_of_max": "400000 100000\n"}, 4),
    ("0::/\n", {"cpu_of_max": "nonsense\n"}, 8),
    (V1, {"cpu__cpu_of_cfs_quota_us": "200000\n", "cpu__cpu_of_cfs_period_us": "100000\n"}, 2),
    (V1, {"cpu__docker__abc__cpu_of_cfs_quota_us": "50000\n",
          "cpu__docker__abc__cpu_of_cfs_period_us": "50000\n"}, 1),
    (V1, {"cpu__cpu_of_cfs_quota_us": "-1\n", "cpu__cpu_of_cfs_period_us": "100000\n"}, 8),
    ("not a line of such a file\n", {}, 8),
], ids=range(14))
def test_a_container_s_quota_counts(own, files, expected, machine):
    machine(own, **files)
    assert cores() == expected


def test_cores_that_a_process_may_not_run_on_do_not_count(machine, monkeypatch):
    machine("0::/\n", cpu_of_max="600000 100000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert cores() == 2


def test_a_system_without_such_files_has_the_cores_that_it_tells(machine, monkeypatch):
    machine("")
    module.OWN_CGROUPS.unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert cores() == expected


def test_a_plan_has_as_many_workers_as_the_quota_has_cores(machine):
    machine("0::/\n", cpu_of_max="300000 100000\n")
    assert usable_threads(None) == 3
    assert usable_threads(5) == 5
