"""Processes that work for this one: Python's interpreter runs one thread at a time, and the NumPy
calls of a small network are so short that threads wait for it.

A process is a fresh interpreter, not a fork, and runs nothing of the caller's program. It takes
messages by its standard input and ends when that is closed.
"""

import os
import pickle
import subprocess
import sys
import weakref
from contextlib import contextmanager, suppress

COMMAND = "from {module} import serve; serve()"


def can_start():
    """Whether this process can start others: an application frozen into one file cannot."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


class Process:
    """An interpreter that runs `serve` of a module; it has the given file descriptors too."""

    def __init__(self, module, descriptors=()):
        # It imports what this one can, and nothing from the working directory.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND.format(module=module)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=descriptors,
            start_new_session=True)  # Ctrl-C is for the caller alone
        self.end = weakref.finalize(self, _end, self._process, os.getpid())

    def send(self, message):
        """Raises OSError if it has ended."""
        write(self._process.stdin, message)

    def receive(self):
        """Its next message. Raises EOFError or `pickle.UnpicklingError` if it has ended."""
        return pickle.load(self._process.stdout)

    @property
    def exit_code(self):
        """The exit code, once it has ended."""
        return self._process.returncode


def _end(process, owner):
    """A copy of the owner that was forked since leaves the process alone."""
    if os.getpid() == owner:
        process.kill()
        process.wait()
    with suppress(OSError):  # of what was still to be sent
        process.stdin.close()
    process.stdout.close()


def write(pipe, message):
    """Send a message by a pipe."""
    pickle.dump(message, pipe, protocol=5)
    pipe.flush()


@contextmanager
def serving():
    """In a process: (pipe of messages that come, pipe of those that go). A context that ends
    quietly when the caller has ended. What is printed goes to standard error."""
    incoming, outgoing, sys.stdout = sys.stdin.buffer, sys.stdout.buffer, sys.stderr
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        yield incoming, outgoing
