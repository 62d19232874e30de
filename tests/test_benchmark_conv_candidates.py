"""benchmarks.conv_candidates: every kernel of a convolution, timed beside its estimate."""

import re

import pytest

from benchmarks import conv_candidates
from benchmarks.conv_candidates import Timed, main, table, timed
from benchmarks.conv_cases import Case, Shape
from gpucnn import ConnectionTable
from gpucnn.backends.cuda import CudaBackend
from gpucnn.backends.cuda.conv2d_kernels.choice import FAMILIES
from tests.cuda_on_cpu.runtime import HostRuntime

CASE = Case(Shape(2, 3, 4, 6, 3), "uneven", ConnectionTable.random(3, 4, density=0.5, seed=1))


@pytest.fixture
def backend(monkeypatch):
    """A backend that measures with the call itself and nothing else."""
    made = CudaBackend(HostRuntime(max_blocks=3))
    monkeypatch.setattr(made.runtime, "seconds",
                        lambda work: work() or 1e-6 * len(made.runtime.launches))
    monkeypatch.setattr(conv_candidates, "get_backend", lambda device: made)
    return made


@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
def test_every_family_is_launched_and_the_quickest_comes_first(op, backend):
    found = timed(backend, CASE, op, kept=1)
    families = {each.name.partition(":")[0] for each in found}
    assert families == set(FAMILIES) - ({"ring"} if op == "grad_weight" else set())
    assert backend.runtime.launches
    assert [each.measured for each in found] == sorted(each.measured for each in found)
    assert all(each.estimated > 0 for each in found)


def test_families_can_be_named(backend):
    found = timed(backend, CASE, "forward", kept=1, families=["general"])
    assert [each.name.partition(":")[0] for each in found] == ["general"]
    assert timed(backend, CASE, "grad_weight", kept=1, families=["ring"]) == []


def test_a_table_marks_what_is_taken_by_its_estimate_and_not_a_ring():
    text = table(CASE, "forward", [Timed("ring:a", 1e-6, 2e-6), Timed("tiles:b", 4e-6, 4e-6),
                                   Timed("general:c", 8e-6, 9e-6)])
    assert text.splitlines() == [
        "| 2, 3, 4, 6, 3 | uneven, 50 % | forward | ring:a | 1.0 | 2.0 | 2.00 | 1.00 |",
        "| 2, 3, 4, 6, 3 | uneven, 50 % | forward | tiles:b * | 4.0 | 4.0 | 1.00 | 2.00 |",
        "| 2, 3, 4, 6, 3 | uneven, 50 % | forward | general:c | 8.0 | 9.0 | 1.12 | 4.50 |"]


def test_the_command_prints_a_row_for_each_candidate(backend, capsys):
    assert main(["--shape", "2,1,3,5,2", "--kept", "1", "--family", "tiles,general"]) == 0
    text = capsys.readouterr().out
    assert "candidates on" in text and re.search(r"cores.*Python", text)
    assert len(re.findall(r"^\| 2, 1, 3, 5, 2 \| full, 100 % \| (?:forward|grad_\w+) \|", text,
                          re.MULTILINE)) == 6


def test_a_device_that_is_not_there_is_one_line(capsys):
    assert main(["--device", "cuda:99"]) == 1
    assert capsys.readouterr().err.startswith("benchmarks.conv_candidates: device 'cuda:99': ")


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--family", "fast"],
                                       ["--kept", "0"], ["--shape", "1,2"]], ids=str)
def test_wrong_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "expected" in capsys.readouterr().err
