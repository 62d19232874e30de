"""What the README says is true: its code runs, its table is the table, its commands exist."""

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

import gpucnn
from gpucnn.cli import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NETWORK, BACKWARD, MANY, TORCH, CUPY, EXPLAIN = re.findall(r"```python\n(.*?)```", README,
                                                           re.DOTALL)
COMMAND_LINES = re.findall(r"^    (gpucnn .*?)(?:  +#.*)?$", README, re.MULTILINE)


def test_the_first_network_learns(capsys):
    quick = NETWORK.replace("epochs=10", "epochs=2")
    assert quick != NETWORK and NETWORK.count("\n") <= 16
    exec(quick, {})
    wrong = float(re.search(r"([\d.]+) % wrong", capsys.readouterr().out).group(1))
    assert wrong < 10


def test_the_backward_pass_is_called_as_shown():
    generator = np.random.default_rng(0)
    table = gpucnn.ConnectionTable.lenet5_c3()
    names = {"gpucnn": gpucnn, "table": table, "x": generator.standard_normal((2, 6, 9, 9)),
             "weight": generator.standard_normal((60, 3, 3)), "bias": np.zeros(16),
             "grad_y": generator.standard_normal((2, 16, 7, 7))}
    exec(BACKWARD, names)
    assert names["gradients"].grad_weight.shape == (60, 3, 3)


def test_many_networks_are_trained_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = MANY.replace("epochs=3", "epochs=1")
    assert quick != MANY
    exec(quick, {"gpucnn": gpucnn})
    assert (tmp_path / "ensemble.safetensors").is_file()
    assert "% wrong together" in capsys.readouterr().out


def test_modules_of_torch_are_used_as_shown(capsys):
    pytest.importorskip("torch")
    exec(TORCH, {})
    assert capsys.readouterr().out.count("Conv2d(64, 64, kernel_size=(3, 3)") == 2


def test_arrays_of_other_libraries_are_used_as_shown():
    names = {}
    exec(CUPY, names)
    assert np.isfinite(names["y"]).all()


def test_a_plan_is_explained_as_shown(capsys):
    exec(EXPLAIN, {"gpucnn": gpucnn})
    assert re.search(r"^c3 +conv2d .* us  one dense product", capsys.readouterr().out, re.MULTILINE)


def test_the_table_is_printed_as_shown():
    shown = re.search(r"lenet5_c3\(\)\)\n(.*?)```", README, re.DOTALL).group(1)
    assert shown.rstrip("\n") == str(gpucnn.ConnectionTable.lenet5_c3())


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_command_line_parses(line):
    _, name, *arguments = shlex.split(line)
    command = commands.commands[name]
    assert isinstance(command, click.Command)
    command.make_context(name, arguments)


def test_the_readme_shows_command_lines():
    assert len(COMMAND_LINES) >= 6


def test_the_gate_runs_the_readmes_test_command():
    install, run = re.search(r"^    pip install (-e \S+test\S+) && (\w+)$", README,
                             re.MULTILINE).groups()
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert f"pip install --quiet {install}" in gate and run in gate


@pytest.mark.parametrize("path", re.findall(r"`([\w./]+(?:/|\.py|\.md))`", README))
def test_every_path_it_names_exists(path):
    assert (ROOT / path).exists()


def test_every_public_name_is_documented():
    for name in gpucnn.__all__:
        assert (getattr(gpucnn, name).__doc__ or "").strip(), name
