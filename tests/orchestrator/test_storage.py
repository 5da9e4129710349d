import pickle
from pathlib import Path

import pyarrow.fs
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from small_tasks import files_end_at

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.storage import Folder

pytest_plugins = ["s3_server"]


class ObjectStore(MemoryFileSystem):
    """An object store in memory: no folders but in the names of files."""

    store: dict = {}  # noqa: RUF012 (fsspec keeps it on the class)
    pseudo_dirs: list = [""]  # noqa: RUF012


class Filesystems:
    """In the place of pyarrow's FileSystem: knows store:// as well."""

    @staticmethod
    def from_uri(uri):
        scheme, _, path = uri.partition("://")
        assert scheme == "store"
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(ObjectStore())), f"/{path}"


@pytest.fixture(params=["a path", "file://", "store://", "s3://"])
def folder(request, tmp_path, monkeypatch):
    """An empty folder, on each kind of storage."""
    if request.param == "store://":
        monkeypatch.setattr(ObjectStore, "store", {})
        monkeypatch.setattr(ObjectStore, "pseudo_dirs", [""])
        monkeypatch.setattr(pyarrow.fs, "FileSystem", Filesystems)
        return Folder.of("store://bucket/runs")
    if request.param == "s3://":
        return Folder.of(request.getfixturevalue("s3").uri(tmp_path.name))
    return Folder.of(f"file://{tmp_path}" if request.param == "file://" else str(tmp_path))


def test_what_is_written_is_read_back(folder):
    folder.write("file", b"\x00 bytes")
    assert folder.read("file") == b"\x00 bytes"


def test_what_lies_in_memory_is_written_as_it_lies_there(folder):
    folder.write("file", memoryview(bytearray(b"\x00 bytes")))
    assert folder.read("file") == b"\x00 bytes"


def test_a_file_that_is_deleted_is_gone_and_no_other(folder):
    folder.write("one", b"")
    folder.write("two", b"")
    folder.delete("one")
    assert folder.files() == ["two"]


def test_a_file_may_be_empty(folder):
    folder.write("file", b"")
    assert folder.read("file") == b""


def test_a_file_replaces_the_one_before(folder):
    folder.write("file", b"a longer one")
    folder.write("file", b"new")
    assert folder.read("file") == b"new"


def test_a_file_that_is_missing_reads_as_nothing(folder):
    assert folder.read("file") is None


def test_a_file_exists_once_it_is_written(folder):
    before = folder.exists("file")
    folder.write("file", b"")
    assert (before, folder.exists("file")) == (False, True)


def test_a_folder_is_no_file(folder):
    folder.child("inside").write("file", b"")
    assert not folder.exists("inside")


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "é"]}, [], "text", 0])
def test_a_value_survives_being_json(folder, value):
    folder.write_json("file.json", value)
    assert folder.read_json("file.json") == value


def test_a_file_can_be_read_anywhere_in(folder):
    folder.write("file", b"0123456789")
    with folder.open("file") as file:
        file.seek(4)
        assert (file.read(3), file.size()) == (b"456", 10)


def test_opening_a_file_that_is_missing_says_so(folder):
    with pytest.raises(FileNotFoundError):
        folder.open("file")


def test_a_local_file_that_is_open_is_mapped_into_memory(tmp_path):
    folder = Folder.of(str(tmp_path))
    folder.write("file", b"0123456789")
    assert isinstance(folder.open("file"), pyarrow.MemoryMappedFile)


def test_a_file_can_be_written_piece_by_piece(folder):
    with folder.child("new").stream("file") as file:
        for piece in (b"one ", b"", b"two"):
            file.write(piece)
    assert folder.child("new").read("file") == b"one two"


def test_json_that_is_missing_reads_as_nothing(folder):
    assert folder.read_json("file.json") is None


def test_a_child_lies_below(folder):
    folder.child("a", "b").write("file", b"deep")
    assert folder.child("a").child("b").read("file") == b"deep"


def test_folders_are_listed_by_name(folder):
    for name in ("t2", "t1"):
        folder.child(name).write("file", b"")
    folder.write("not-a-folder", b"")
    assert folder.folders() == ["t1", "t2"]


def test_files_are_listed_by_name(folder):
    for name in ("b", "a"):
        folder.write(name, b"")
    folder.child("not-a-file").write("file", b"")
    assert folder.files() == ["a", "b"]


def test_a_folder_that_is_missing_holds_nothing(folder):
    missing = folder.child("missing")
    assert (missing.folders(), missing.files()) == ([], [])


def test_a_copy_holds_the_same_files(folder, tmp_path):
    folder.child("from").write("a", b"1")
    folder.child("from").write("b", b"")
    copy = Folder.of(str(tmp_path / "copy"))
    folder.child("from").copy_to(copy)
    assert {name: copy.read(name) for name in copy.files()} == {"a": b"1", "b": b""}


def test_what_is_removed_is_gone(folder):
    folder.child("a", "b").write("file", b"")
    folder.child("a").remove()
    assert folder.child("a", "b").read("file") is None


def test_removing_what_is_missing_does_nothing(folder):
    folder.write("file", b"kept")
    folder.child("missing").remove()
    assert folder.read("file") == b"kept"


def test_trying_to_write_leaves_nothing(folder):
    folder.write("file", b"")
    folder.require_writable()
    assert folder.files() == ["file"]


def test_a_folder_can_be_sent_to_another_process(folder):
    folder.write("file", b"here")
    assert pickle.loads(pickle.dumps(folder)).read("file") == b"here"


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder.of("runs") == Folder.of(str(tmp_path / "runs"))


def test_a_path_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Folder.of("~/runs").local == tmp_path / "runs"


def test_a_slash_at_the_end_means_nothing():
    assert Folder.of("s3://bucket/runs/") == Folder.of("s3://bucket/runs")
    assert Folder.of("/somewhere/runs/") == Folder.of("/somewhere/runs")


def test_a_file_uri_is_the_same_place_as_its_path(tmp_path):
    Folder.of(f"file://{tmp_path}").write("file", b"one place")
    assert Folder.of(str(tmp_path)).read("file") == b"one place"


@pytest.mark.parametrize(
    ("uri", "local"),
    [("/a/b", Path("/a/b")), ("file:///a/b", Path("/a/b")), ("s3://a/b", None)],
)
def test_only_local_folders_have_a_path(uri, local):
    assert Folder.of(uri).local == local


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    folder = Folder.of(str(tmp_path))
    folder.write("file", b"old")
    with files_end_at(100), pytest.raises(OSError, match="File too large"):
        folder.write("file", bytes(1000))
    assert folder.read("file") == b"old"


@pytest.fixture
def blocked(tmp_path):
    """A folder that cannot be, below a regular file: refused to root as well."""
    (tmp_path / "file").touch()
    return Folder.of(str(tmp_path / "file" / "runs"))


def test_a_folder_that_cannot_be_written_is_named_with_advice(blocked):
    with pytest.raises(ConfigError, match="--storage") as refusal:
        blocked.require_writable()
    assert blocked.uri in str(refusal.value)


def test_a_filesystem_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="nowhere://bucket"):
        Folder.of("nowhere://bucket").require_writable()


def test_reading_below_a_file_is_the_users_mistake(blocked):
    with pytest.raises(ConfigError, match="not a directory"):
        blocked.read("sweep.json")


@pytest.mark.parametrize("look", [Folder.folders, Folder.files], ids=["folders", "files"])
def test_listing_a_file_is_the_users_mistake(tmp_path, look):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        look(Folder.of(str(tmp_path / "file")))
