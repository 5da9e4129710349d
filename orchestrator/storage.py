"""Run folders on any filesystem that pyarrow knows: a local path, s3://, gs://, hdfs://.

What a folder's URI has after `?` tells how to reach it and is the same for all folders below.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, unquote

import pyarrow.fs

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.filesystems import place_of, refuse_credentials
from dfkd.orchestrator.patience import AT_FIRST, PATIENCE, Patience
from dfkd.search_spaces.files import write_atomically

Found = TypeVar("Found")
READINGS, REREAD_AFTER = 5, 0.05  # seconds


class Guard(Protocol):
    """Says whether this process may change what lies in a folder."""

    def check(self) -> None:
        """Raise DfkdError if it may not."""
        ...


@dataclass(frozen=True)
class Folder:
    """One folder, by URI or absolute local path; cheap to make, to pickle and to send around.

    What remote storage fails to do is done again for a while (patience.py); every method raises
    StorageFailed and StorageRefused, which are OSErrors, and all that change something what the
    guard raises. Guard and patience stay behind when a folder is sent.
    """

    uri: str
    guard: Guard | None = field(default=None, compare=False, repr=False, kw_only=True)
    patience: Patience = field(default=PATIENCE, compare=False, repr=False, kw_only=True)

    @classmethod
    def of(cls, uri: str) -> Folder:
        """A folder from what a user typed; a local path is made absolute."""
        if "://" not in uri:
            return cls(str(Path(uri).expanduser().absolute()))
        refuse_credentials(uri)
        path, options = _parted(uri)
        return cls(path.rstrip("/") + options)

    def child(self, *names: str) -> Folder:
        """The folder `names` below this one."""
        return replace(self, uri=self.uri_of("/".join(names)))

    def uri_of(self, name: str) -> str:
        """Where the file or folder `name` below this one is."""
        path, options = _parted(self.uri)
        return f"{path}/{name if self.local is not None else quote(name)}{options}"

    @property
    def name(self) -> str:
        """What it is called in the folder above."""
        last = _parted(self.uri)[0].rsplit("/", 1)[-1]
        return last if self.local is not None else unquote(last)

    @property
    def parent(self) -> Folder:
        """The folder above."""
        path, options = _parted(self.uri)
        return replace(self, uri=(path.rsplit("/", 1)[0] or "/") + options)

    @property
    def local(self) -> Path | None:
        """The path where this is on a local disk, else None."""
        if "://" not in self.uri:
            return Path(self.uri)
        return Path(self.uri.removeprefix("file://")) if self.uri.startswith("file://") else None

    @cached_property
    def _place(self) -> tuple[Any, str]:
        if self.local is not None:
            return pyarrow.fs.LocalFileSystem(), str(self.local)
        return self.patiently(lambda: place_of(self.uri))

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "guard": None, "patience": PATIENCE}

    def patiently(self, action: Callable[[], Found]) -> Found:
        """What an action on this folder's files returns, done again where remote storage failed."""
        return action() if self.local is not None else self.patience.bear(self.uri, action)

    def _change(self, action: Callable[[], None]) -> None:
        """As `patiently`, for what may be done only as long as the guard agrees."""

        def guarded() -> None:
            if self.guard is not None:
                self.guard.check()
            action()

        self.patiently(guarded)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file so that readers see the old or the new one, never a part."""
        local = self.local
        if local is not None:
            self._change(lambda: write_atomically(local / name, data))
            return
        filesystem, path = self._place

        def write() -> None:  # object stores publish a file when its stream is closed
            stream = filesystem.open_output_stream(f"{path}/{name}")
            stream.write(data)  # in one piece: where this fails, nothing is published
            stream.close()

        self._change(write)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is no such file."""
        filesystem, path = self._place

        def read() -> bytes:
            with filesystem.open_input_file(f"{path}/{name}") as stream:
                data: bytes = stream.read()
                return data

        try:
            return self.patiently(read)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise self._no_folder() from None

    def open(self, name: str) -> Any:
        """A file to read anywhere in, mapped into memory where it is on a local disk.

        What is read from it later is not done again where storage fails: that is for `patiently`.
        """
        filesystem, path = self._place
        if self.local is not None:
            return pyarrow.memory_map(f"{path}/{name}")
        return self.patiently(lambda: filesystem.open_input_file(f"{path}/{name}"))

    @contextmanager
    def stream(self, name: str) -> Iterator[Any]:
        """A file to write piece by piece.

        Where the block raises, a local file stays as a part; on remote storage, which publishes
        whatever was written when the stream ends, it is deleted.
        """
        filesystem, path = self._place
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
        try:
            with filesystem.open_output_stream(f"{path}/{name}") as stream:
                yield stream
        except BaseException:
            if self.local is None:
                with suppress(OSError):
                    self.delete(name)
            raise

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON."""
        self.write(name, json.dumps(value, indent=1).encode())

    def read_json(self, name: str) -> Any:
        """A JSON file's value, or None where there is no such file.

        Raises ConfigError where it is damaged. pyarrow asks S3 for a file's size, and then for as
        many bytes: if it is replaced in between, what comes is cut off or followed by garbage.
        """
        for _ in range(READINGS):
            data = self.read(name)
            try:
                return None if data is None else json.loads(data)
            except ValueError:
                time.sleep(REREAD_AFTER)
        raise ConfigError(f"{self.uri_of(name)} is damaged: it is no JSON")

    def exists(self, name: str) -> bool:
        """Whether there is a file called `name`."""
        filesystem, path = self._place
        info = self.patiently(lambda: filesystem.get_file_info(f"{path}/{name}"))
        return bool(info.type == pyarrow.fs.FileType.File)

    def folders(self) -> list[str]:
        """Names of the folders directly below, sorted; empty if there is no such folder."""
        return self._names(pyarrow.fs.FileType.Directory)

    def files(self) -> list[str]:
        """Names of the files directly here, sorted."""
        return self._names(pyarrow.fs.FileType.File)

    def _names(self, kind: pyarrow.fs.FileType) -> list[str]:
        filesystem, path = self._place
        selected = pyarrow.fs.FileSelector(path, allow_not_found=True)
        try:
            infos = self.patiently(lambda: filesystem.get_file_info(selected))
        except NotADirectoryError:
            raise self._no_folder() from None
        return sorted(info.base_name for info in infos if info.type == kind)

    def _no_folder(self) -> ConfigError:
        return ConfigError(f"storage {self.uri} is not a directory; choose another with --storage")

    def delete(self, name: str) -> None:
        """Delete a file that is there."""
        filesystem, path = self._place
        attempts = 0

        def delete() -> None:
            nonlocal attempts
            attempts += 1
            try:
                filesystem.delete_file(f"{path}/{name}")
            except FileNotFoundError:
                if attempts == 1:  # else the answer to an earlier attempt was lost
                    raise

        self._change(delete)

    def copy_to(self, other: Folder, seal: str = "") -> None:
        """Copy the files directly here to another folder.

        The file called `seal` comes last, and one that was there is deleted first: who finds it
        finds all the others.
        """
        names = self.files()
        if seal and other.exists(seal):
            other.delete(seal)
        for name in sorted(names, key=lambda name: (name == seal, name)):
            other.write(name, self.read(name) or b"")

    def remove(self) -> None:
        """Delete the folder and all in it, if it is there."""
        filesystem, path = self._place

        def remove() -> None:
            if filesystem.get_file_info(path).type == pyarrow.fs.FileType.Directory:
                filesystem.delete_dir(path)

        self._change(remove)

    def require_writable(self, option: str = "--storage") -> None:
        """Raise ConfigError, naming the option to change, unless a file can be written here."""
        probe = f".writable-{os.getpid()}-{secrets.token_hex(4)}"

        def attempt() -> None:
            filesystem, path = self._place
            with filesystem.open_output_stream(f"{path}/{probe}") as stream:
                stream.write(b"")
            filesystem.delete_file(f"{path}/{probe}")

        try:
            if self.local is None:
                replace(self, patience=AT_FIRST).patiently(attempt)
            else:
                self.write(probe, b"")
                self.delete(probe)
        except ConfigError:
            raise
        except OSError as error:
            raise ConfigError(
                f"storage {self.uri} cannot be written: {error.strerror or error}; "
                f"choose another with {option}"
            ) from None


def _parted(uri: str) -> tuple[str, str]:
    """A URI without its options, and these with their `?`; a path has none.

    >>> _parted("s3://bucket/runs?region=eu-west-1")
    ('s3://bucket/runs', '?region=eu-west-1')
    """
    if "://" not in uri or uri.startswith("file://"):
        return uri, ""
    path, mark, options = uri.partition("?")
    return path, mark + options
