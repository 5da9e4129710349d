"""Folders in memory that count what is changed in them, and where a change can be made to fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dfkd.orchestrator.storage import Folder


class Crash(BaseException):
    """The machine stops here: nobody cleans up."""


@dataclass
class Changes:
    """What happened so far, and after how many more changes one fails."""

    made: list[str] = field(default_factory=list)
    left: int = 1_000_000
    error: BaseException = field(default_factory=Crash)

    def make(self, what: str) -> None:
        if self.left == 0:
            self.left = -1  # only this one
            raise self.error
        self.left -= 1
        self.made.append(what)


@dataclass(frozen=True)
class InMemory(Folder):
    """A folder, by the contents of its files; its children share them."""

    contents: dict[str, bytes] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)

    def child(self, *names: str) -> Folder:
        return InMemory("/".join([self.uri, *names]), self.contents, self.changes)

    def write(self, name: str, data: bytes | memoryview) -> None:
        self.changes.make(f"write {name}")
        self.contents[f"{self.uri}/{name}"] = bytes(data)

    def delete(self, name: str) -> None:
        self.changes.make(f"delete {name}")
        del self.contents[f"{self.uri}/{name}"]

    def read(self, name: str) -> bytes | None:
        return self.contents.get(f"{self.uri}/{name}")

    def exists(self, name: str) -> bool:
        return f"{self.uri}/{name}" in self.contents

    def files(self) -> list[str]:
        start = f"{self.uri}/"
        names = (path.removeprefix(start) for path in self.contents if path.startswith(start))
        return sorted(name for name in names if "/" not in name)

    @contextmanager
    def failing(self, after: int, error: BaseException) -> Iterator[None]:
        """Within the block, the change after so many fails; all others are made."""
        self.changes.left, self.changes.error = after, error
        yield
        self.changes.left = 1_000_000
