"""Calls of the command line, and what its tests expect of them."""

import subprocess
import sys

from click.testing import CliRunner

from gpucnn.cli import commands

SMALL = ("--model", "two_stage", "--device", "cpu", "--batch-size", "20")
RESULTS = {"model.safetensors", "history.csv", "learning_curve.png", "mistakes.png",
           "checkpoint.safetensors", "settings.json"}


def run(*arguments):
    """The result of a command: exit_code, stdout, stderr."""
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def succeed(*arguments):
    """What a command prints, after checking that it succeeds and complains of nothing."""
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def fail(*arguments):
    """The one line on stderr of a command that ends with exit code 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def refuse(*arguments):
    """What click says of a wrong call, with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return result.stderr


def process(*arguments, **keywords):
    """A command as a process of its own; its output is text in pipes."""
    return subprocess.Popen([sys.executable, "-m", "gpucnn", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)
