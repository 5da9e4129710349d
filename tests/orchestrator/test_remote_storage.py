"""Storage that fails: what passes is borne with, what does not is told, and nothing is half there.

The S3 server is moto's, on loopback; failures are injected before it (tests/support/s3_server.py).
"""

import logging
import threading
import time
from dataclasses import replace

import pytest
from s3_server import CREDENTIALS, SLOW, first, free_port, now_and_then

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.orchestrator import filesystems, patience
from dfkd.orchestrator.patience import Patience, StorageFailed, StorageRefused
from dfkd.orchestrator.storage import Folder

pytest_plugins = ["s3_server"]

QUICK = Patience(seconds=20.0, first=0.01, most=0.05)
HASTY = Patience(seconds=0.02, first=0.01, most=0.01)


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch):
    """By pyarrow itself, whose pauses take seconds: what is tested here is what comes after."""
    monkeypatch.setattr(filesystems, "S3_ATTEMPTS", 1)
    filesystems._s3.cache_clear()
    yield
    filesystems._s3.cache_clear()


@pytest.fixture
def folder(s3, tmp_path):
    """An empty folder in the bucket."""
    return replace(Folder.of(s3.uri(f"failing/{tmp_path.name}")), patience=QUICK)


def hasty(folder):
    return replace(folder, patience=HASTY)


# What passes

passing = pytest.mark.parametrize("failure", ["busy", "broken", "reset"])
OPERATIONS = {
    "write": lambda folder: folder.write("file", b"new"),
    "read": lambda folder: folder.read("file"),
    "open": lambda folder: folder.open("file").close(),
    "exists": lambda folder: folder.exists("file"),
    "files": Folder.files,
    "folders": Folder.folders,
    "delete": lambda folder: folder.delete("file"),
    "remove": Folder.remove,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_fails_for_a_while_is_done_after_it(s3, folder, operation):
    folder.write("file", b"old")
    with s3.failing(first(3, "busy")), s3.counting() as asked:
        OPERATIONS[operation](folder)
    assert len(asked) > 3


@passing
def test_a_file_is_written_however_the_server_fails_for_a_while(s3, folder, failure):
    with s3.failing(first(3, failure, "PUT")):
        folder.write("file", b"there")
    assert folder.read("file") == b"there"


@pytest.mark.parametrize("failure", ["busy", "broken", "reset", "cut"])
def test_a_file_is_read_whole_however_the_server_fails_for_a_while(s3, folder, failure):
    folder.write("file", bytes(300_000))
    with s3.failing(first(3, failure, "GET")):
        assert folder.read("file") == bytes(300_000)


def test_a_file_whose_deletion_was_done_but_not_answered_is_deleted(s3, folder):
    folder.write("file", b"")
    with s3.failing(first(1, "lost reply", "DELETE")):
        folder.delete("file")
    assert not folder.exists("file")


def test_a_server_that_never_recovers_is_given_up_with_advice(s3, folder):
    with (
        s3.failing(lambda method, path: "busy"),
        pytest.raises(StorageFailed, match=r"0 s: .*SLOW_DOWN.*same command to resume"),
    ):
        hasty(folder).write("file", b"")


def test_nobody_at_the_address_is_borne_with_for_a_bounded_time(folder):
    uri = f"s3://bucket/runs?endpoint_override=127.0.0.1:{free_port()}&scheme=http&region=x"
    with pytest.raises(StorageFailed, match="ould not connect"):
        replace(Folder.of(uri), patience=HASTY).read("file")


@pytest.mark.parametrize("attempt", range(8))
def test_pauses_grow_up_to_a_bound(attempt):
    pauses = [Patience(first=1.0, most=8.0).pause(attempt) for _ in range(200)]
    longest = min(8.0, 2.0**attempt)
    assert 0.1 * longest <= min(pauses) < max(pauses) <= longest


def test_who_waits_for_long_says_for_what(s3, folder, monkeypatch, caplog):
    monkeypatch.setattr(patience, "LATER", 0.0)
    with s3.failing(first(4, "busy")), caplog.at_level(logging.WARNING, "dfkd"):
        folder.write("file", b"")
    (told,) = caplog.messages
    assert told.startswith(f"waiting for storage {folder.uri}: ") and "SLOW_DOWN" in told


@pytest.mark.parametrize("lengths", [(1, 100), (100, 1)])
def test_a_value_that_is_replaced_while_it_is_read_is_one_of_the_two(s3, folder, lengths):
    """pyarrow takes the old size for that of the new file."""
    old, new = ({"text": "x" * length} for length in lengths)
    folder.write_json("file.json", old)
    replaced = []

    def judge(method, path):
        if method == "GET" and not replaced:
            replaced.append(path)
            folder.write_json("file.json", new)

    with s3.failing(judge):
        assert folder.read_json("file.json") in (old, new)
    assert replaced


def test_a_value_that_is_damaged_is_named(folder):
    folder.write("file.json", b"{")
    with pytest.raises(ConfigError, match=r"file\.json.* is damaged: it is no JSON"):
        folder.read_json("file.json")


# What does not


def test_access_denied_is_told_at_once_with_what_to_set(s3, folder):
    with (
        s3.failing(lambda method, path: "denied"),
        s3.counting() as asked,
        pytest.raises(ConfigError, match=r"ACCESS_DENIED.*AWS_ACCESS_KEY_ID") as refusal,
    ):
        folder.require_writable()
    assert len(asked) == 1 and folder.uri in str(refusal.value)


def test_a_bucket_that_is_missing_is_told_at_once(s3):
    missing = Folder.of(s3.uri().replace("bucket", "no-such-bucket"))
    with s3.counting() as asked, pytest.raises(ConfigError, match="no such bucket: create it"):
        missing.require_writable()
    assert len(asked) == 1


def test_missing_credentials_are_told_with_what_to_set(s3, folder, monkeypatch, tmp_path):
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no credentials were found: set AWS_ACCESS_KEY_ID"):
        folder.require_writable()


def test_another_region_is_told_with_what_to_add(s3, folder):
    with (
        s3.failing(lambda method, path: "elsewhere"),
        pytest.raises(ConfigError, match=r"add \?region=REGION"),
    ):
        folder.require_writable()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_refused_is_refused_to_every_operation(s3, folder, operation):
    folder.write("file", b"")
    with s3.failing(lambda method, path: "denied"), pytest.raises(StorageRefused):
        OPERATIONS[operation](folder)


@pytest.mark.parametrize(
    "uri",
    ["s3://key:secret@bucket/runs", "s3://key@bucket/runs", "abfs://c@account/x?account_key=abc"],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(ConfigError, match="holds credentials") as refusal:
        Folder.of(uri)
    assert "secret@" not in str(refusal.value) and "abc" not in str(refusal.value)


# Nothing is half there


@pytest.mark.parametrize("failure", ["busy", "denied", "reset"])
def test_a_part_of_a_large_file_that_fails_leaves_the_old_file(s3, folder, failure):
    folder.write("file", b"old")
    large = bytes(11_000_000)
    second_part = lambda method, path: failure if "partNumber=2" in path else None  # noqa: E731
    with s3.failing(second_part), pytest.raises(DfkdError):
        hasty(folder).write("file", large)
    assert folder.read("file") == b"old"


def test_a_stream_that_is_broken_off_leaves_nothing(folder):
    with pytest.raises(ZeroDivisionError), folder.stream("file") as stream:
        stream.write(b"half")
        _ = 1 / 0
    assert not folder.exists("file")


class Never:
    """A guard that has seen enough."""

    def check(self):
        raise DfkdError("not yours")


@pytest.mark.parametrize("operation", ["write", "delete", "remove"])
def test_what_is_guarded_is_not_changed_without_the_guard(s3, folder, operation):
    folder.write("file", b"old")
    with pytest.raises(DfkdError, match="not yours"):
        OPERATIONS[operation](replace(folder, guard=Never()))
    assert folder.read("file") == b"old"


def test_a_change_that_waited_for_storage_asks_the_guard_again(s3, folder):
    class Once:
        asked = 0

        def check(self):
            self.asked += 1
            if self.asked > 1:
                raise DfkdError("not any more")

    with s3.failing(first(1, "busy", "PUT")), pytest.raises(DfkdError, match="not any more"):
        replace(folder, guard=Once()).write("file", b"")
    assert not folder.exists("file")


# Where it lies


def test_children_keep_how_storage_is_reached(s3):
    folder = Folder.of(s3.uri("a"))
    assert folder.child("b", "c").uri == s3.uri("a/b/c")
    assert folder.child("b", "c").parent.parent == folder
    assert folder.uri_of("file").startswith("s3://bucket/a/file?")


@pytest.mark.parametrize("name", ["plain", "two words", "50%", "what?", "é", "a+b", "a#b"])
def test_a_folder_is_called_as_it_was_called(s3, folder, name):
    child = folder.child(name)
    child.write("file", name.encode())
    assert child.name == name
    assert folder.folders() == [name]
    assert Folder.of(child.uri).read("file") == name.encode()


def test_the_environment_may_tell_where_the_server_is(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    Folder.of("s3://bucket/by-environment").write("file", b"there")
    assert Folder.of(s3.uri("by-environment")).read("file") == b"there"


def test_a_small_file_takes_one_request(s3, folder):
    with s3.counting() as asked:
        folder.write("file", bytes(100_000))
    assert [method for method, _ in asked] == ["PUT"]


def test_folders_of_a_bucket_share_their_connections(s3):
    one, two = (Folder.of(s3.uri(path))._place[0] for path in ("a", "b/c"))
    assert one is two


def test_many_threads_write_while_a_tenth_of_all_requests_fail(s3, folder):
    def work(number):
        for round in range(5):
            folder.child(str(number)).write(f"{round}", bytes([number, round]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    with s3.failing(now_and_then(0.1, "busy", "broken", "reset", "lost reply")):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(4):
        child = folder.child(str(number))
        found = [child.read(name) for name in child.files()]
        assert found == [bytes([number, round]) for round in range(5)]


def test_a_server_without_an_answer_is_asked_again_in_time(s3, folder, monkeypatch):
    monkeypatch.setattr(filesystems, "REQUEST_TIMEOUT", 1.0)
    filesystems._s3.cache_clear()
    folder.write("file", b"there")
    started = time.monotonic()
    with s3.failing(first(1, "slow", "GET")):
        assert folder.read("file") == b"there"
    assert time.monotonic() - started < SLOW
