import os
import threading
from pathlib import Path

import pytest
from small_tasks import files_end_at

from dfkd.search_spaces.files import cache_folder, write_atomically


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_the_cache_is_in_the_users_cache_folder_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("DFKD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dfkd"


def test_the_cache_is_in_the_home_folder_in_the_end(monkeypatch, tmp_path):
    monkeypatch.delenv("DFKD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "dfkd"


def test_a_file_is_written_with_the_folders_above_it(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", b"new")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


def test_a_file_replaces_the_one_before(tmp_path):
    write_atomically(tmp_path / "file", b"a longer one")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def fail_to_write(path: Path) -> None:
    with files_end_at(100), pytest.raises(OSError, match="File too large"):
        write_atomically(path, bytes(1000))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    fail_to_write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_write_that_fails_leaves_nothing_else(tmp_path):
    fail_to_write(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_reader_sees_half_a_file(tmp_path):
    path, size = tmp_path / "file", 1 << 16
    write_atomically(path, b"a" * size)

    def write() -> None:
        for letter in b"bcdef" * 4:
            write_atomically(path, bytes([letter]) * size)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(path.read_bytes())
    writer.join()
    assert {len(data) for data in seen} == {size}
    assert all(len(set(data)) == 1 for data in seen)


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
