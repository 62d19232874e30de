"""The command line: one file per command, under the command's name."""

import click

import gpucnn
from gpucnn.cli.evaluate import evaluate
from gpucnn.cli.gradcheck import gradcheck
from gpucnn.cli.group import CommandGroup
from gpucnn.cli.info import info
from gpucnn.cli.predict import predict
from gpucnn.cli.sweep import sweep
from gpucnn.cli.train import train

__all__ = ["commands"]


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gpucnn.__version__, prog_name="gpucnn", message="%(prog)s %(version)s")
def commands():
    """Train small convolutional networks of the LeNet family, on the CPU or a CUDA device.

    `gpucnn train` alone trains LeNet-5 on 5,000 handwritten digits that come with the package.
    """


for command in (train, sweep, evaluate, predict, info, gradcheck):
    commands.add_command(command)
