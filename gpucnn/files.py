"""Writing a file so that a crash leaves either the old content or the new, never a part."""

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path, data):
    """Write the bytes `data` to the file `path`, replacing what is there in one step.

    The bytes go to a temporary file in the same directory, are synced to the disk and renamed;
    then the directory is synced too. On failure the temporary file is removed and `path` is as
    it was. A symbolic link is followed; an existing file's permissions are kept.

    Raises `OSError` (`FileNotFoundError` for a missing directory, `IsADirectoryError`, ...).
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"expected the name of a file to write, got a directory: {path}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no directory {target.parent}")
    temporary = target.parent / f".gpucnn-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(temporary, target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _sync_directory(directory):
    """Make the rename itself durable. Windows cannot open a directory and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
