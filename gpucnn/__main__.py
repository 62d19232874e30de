"""`gpucnn` and `python -m gpucnn`: the command line, or one line that says what it needs."""

import sys
from importlib.util import find_spec

NEEDED = ("click", "rich")


def main():
    """Run the command line; exit code 1 with one line if its packages are missing."""
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        sys.exit(f"gpucnn: the command line needs {' and '.join(missing)}, not installed here: "
                 f"pip install gpucnn[cli]")
    from gpucnn.cli import commands

    commands(prog_name="gpucnn")


if __name__ == "__main__":
    main()
