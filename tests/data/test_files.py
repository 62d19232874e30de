"""Files that appear whole or not at all."""

import os
import stat

import pytest

from gpucnn.files import write_atomically


def test_write_atomically_writes_and_replaces_a_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"first, the longer")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("broken_call", ["replace", "fsync"])
def test_write_atomically_keeps_the_old_content_when_the_disk_fails(
    tmp_path, monkeypatch, broken_call
):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, broken_call, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomically_leaves_nothing_behind_when_the_data_are_not_bytes(tmp_path):
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "text")
    assert os.listdir(tmp_path) == []


def test_write_atomically_names_a_missing_directory_and_refuses_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no directory .*nowhere"):
        write_atomically(tmp_path / "nowhere" / "file", b"")
    with pytest.raises(IsADirectoryError, match="got a directory"):
        write_atomically(tmp_path, b"")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")
def test_write_atomically_keeps_permissions_and_follows_links(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_atomically(link, b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
