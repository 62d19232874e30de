"""The example that prunes a PyTorch network runs, and says what it gained."""

import importlib.util
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PATH = Path(__file__).parents[2] / "examples" / "prune_torch.py"


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("prune_torch", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.thorough
def test_the_example_prunes_and_tunes(example, capsys):
    example.main(["--epochs", "2", "--samples", "1000"])
    dense, pruned, tuned = capsys.readouterr().out.splitlines()
    errors = [float(re.search(r"([\d.]+) % wrong", line).group(1))
              for line in (dense, pruned, tuned)]
    assert errors[0] < 30 and errors[2] < 20 and errors[2] < errors[1]
    assert "256 of 2048 connections" in pruned
    for line in (dense, tuned):
        assert re.search(r"[\d.]+ ms a training step$", line)


def test_a_block_s_output_maps_share_their_inputs(example):
    model = example.network()
    example.prune(model, keep=0.25, block=16)
    table = model[3].connections
    assert table.n_connections == 512 and set(table.fan_in) == {8}
    for first in range(0, 64, 16):
        assert (table.matrix[:, first:first + 16] == table.matrix[:, [first]]).all()
