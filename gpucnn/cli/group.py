"""How errors and warnings reach the user: as one line on stderr."""

import warnings

import click

from gpucnn.errors import GpucnnError


class CommandGroup(click.Group):
    """Commands whose expected errors end as `Error: ...` with exit code 1, without a traceback."""

    def invoke(self, context):
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(context)
            except BrokenPipeError:
                raise  # click ends in silence when the reader of a pipe has gone
            except (GpucnnError, OSError, MemoryError) as error:
                raise click.ClickException(one_line(error)) from error


def one_line(error):
    """An exception's message as one line; an operating system's error with its file's name."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, GpucnnError):
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _show_warning(message, category, filename, lineno, file=None, line=None):
    click.echo(f"Warning: {one_line(message)}", err=True)
