"""What the tests of the library's own processes share."""

import os
import subprocess


def living():
    """The processes of the library that this one has started and that live: their numbers."""
    listing = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,stat=,args="],
                             capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return [int(number) for number, state, command in rows
            if "gpucnn" in command and not state.startswith("Z")]
