"""Run folders on any filesystem that pyarrow knows: a local path, s3://, gs://, hdfs://."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.files import write_atomically


@dataclass(frozen=True)
class Folder:
    """One folder, by URI or absolute local path; cheap to make, to pickle and to send around."""

    uri: str

    @classmethod
    def of(cls, uri: str) -> Folder:
        """A folder from what a user typed; a local path is made absolute."""
        if "://" in uri:
            return cls(uri.rstrip("/"))
        return cls(str(Path(uri).expanduser().absolute()))

    def child(self, *names: str) -> Folder:
        """The folder `names` below this one."""
        return Folder("/".join([self.uri, *names]))

    @property
    def local(self) -> Path | None:
        """The path where this is on a local disk, else None."""
        if "://" not in self.uri:
            return Path(self.uri)
        return Path(self.uri.removeprefix("file://")) if self.uri.startswith("file://") else None

    @cached_property
    def _place(self) -> tuple[pyarrow.fs.FileSystem, str]:
        if self.local is not None:
            return pyarrow.fs.LocalFileSystem(), str(self.local)
        try:
            filesystem, path = pyarrow.fs.FileSystem.from_uri(self.uri)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ConfigError(f"storage {self.uri} cannot be used: {error}") from None
        return filesystem, path

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file so that readers see the old or the new one, never a part."""
        if self.local is not None:
            write_atomically(self.local / name, data)
            return
        filesystem, path = self._place  # object stores publish a file when its stream is closed
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(data)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is no such file."""
        filesystem, path = self._place
        try:
            with filesystem.open_input_file(f"{path}/{name}") as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise self._no_folder() from None

    def open(self, name: str) -> Any:
        """A file to read anywhere in, mapped into memory where it is on a local disk."""
        filesystem, path = self._place
        if self.local is not None:
            return pyarrow.memory_map(f"{path}/{name}")
        return filesystem.open_input_file(f"{path}/{name}")

    def stream(self, name: str) -> Any:
        """A file to write piece by piece; unlike `write` it may leave a part when interrupted."""
        filesystem, path = self._place
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)
        return filesystem.open_output_stream(f"{path}/{name}")

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON."""
        self.write(name, json.dumps(value, indent=1).encode())

    def read_json(self, name: str) -> Any:
        """A JSON file's value, or None where there is no such file."""
        data = self.read(name)
        return None if data is None else json.loads(data)

    def exists(self, name: str) -> bool:
        """Whether there is a file called `name`."""
        filesystem, path = self._place
        info = filesystem.get_file_info(f"{path}/{name}")
        return bool(info.type == pyarrow.fs.FileType.File)

    def folders(self) -> list[str]:
        """Names of the folders directly below, sorted; empty if there is no such folder."""
        return self._names(pyarrow.fs.FileType.Directory)

    def files(self) -> list[str]:
        """Names of the files directly here, sorted."""
        return self._names(pyarrow.fs.FileType.File)

    def _names(self, kind: pyarrow.fs.FileType) -> list[str]:
        filesystem, path = self._place
        try:
            infos = filesystem.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        except NotADirectoryError:
            raise self._no_folder() from None
        return sorted(info.base_name for info in infos if info.type == kind)

    def _no_folder(self) -> ConfigError:
        return ConfigError(f"storage {self.uri} is not a directory; choose another with --storage")

    def delete(self, name: str) -> None:
        """Delete a file that is there."""
        filesystem, path = self._place
        filesystem.delete_file(f"{path}/{name}")

    def copy_to(self, other: Folder) -> None:
        """Copy the files directly here to another folder."""
        for name in self.files():
            other.write(name, self.read(name) or b"")

    def remove(self) -> None:
        """Delete the folder and all in it, if it is there."""
        filesystem, path = self._place
        if filesystem.get_file_info(path).type == pyarrow.fs.FileType.Directory:
            filesystem.delete_dir(path)

    def require_writable(self, option: str = "--storage") -> None:
        """Raise ConfigError, naming the option to change, unless a file can be written here."""
        probe = f".writable-{os.getpid()}"
        try:
            self.write(probe, b"")
            self.delete(probe)
        except OSError as error:
            raise ConfigError(
                f"storage {self.uri} cannot be written: {error.strerror or error}; "
                f"choose another with {option}"
            ) from None
