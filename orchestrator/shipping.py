"""The files of this machine that a sweep's arguments name, and how a job elsewhere finds them.

They travel in the job's working folder. Paths below it are written from /proc/self/cwd, the folder
that a process runs in: the same words in every process on every node, in every run of the job, so
that a sweep's definition, which holds the paths of its data, stays what it was when it is resumed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.sources import is_named
from dfkd.search_spaces.task import Task, load_task, parse_task

HERE = "/proc/self/cwd"
LIMIT = 100_000_000  # bytes; Ray's dashboard takes uploads of 100 MiB, and more belongs on storage
FILES = {"--teacher": "teacher", "--data": "data", "--from-pool": "pool"}  # and where they travel
EXPORT = "--export-dir"
THERE = "file://"  # before a path: it is the cluster's


@dataclass(frozen=True, slots=True)
class Parcel:
    """A sweep's arguments as a job needs them, and what travels with it."""

    arguments: tuple[str, ...]
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files here, by where they lie in the job's working folder."""

    def unpack(self, folder: Path) -> None:
        """Copy the files to where they belong below `folder`; raises ConfigError if one cannot be.

        They are looked at when they are packed, so that is rare.
        """
        for place, file in self.files.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(file, folder / place)
            except OSError as error:
                raise ConfigError(unreadable(file, error)) from None


def pack(arguments: tuple[str, ...]) -> Parcel:
    """What of these arguments of `dfkd sweep` are files here, and the arguments without them.

    A task's .yaml file, with what it names beside it; --teacher, --data and --from-pool. A path
    that is not here, or begins with file://, is taken for one of the cluster's and must be
    absolute. Raises ConfigError with every problem, also where all together is above LIMIT.
    """
    files: dict[str, Path] = {}
    problems: list[str] = []
    task, *rest = arguments
    words = [_task(task, files, problems)]
    option = ""
    for word in _apart(rest):
        if option in FILES:
            words.append(_shipped(option, word, files, problems))
        elif option == EXPORT:
            problems += unreachable(option, word)
            words.append(word)
        else:
            words.append(word)
        option = "" if option in (*FILES, EXPORT) else word
    sizes = dict(_sizes(files.values(), problems))
    if sum(sizes.values()) > LIMIT:
        problems.append(
            f"{len(files)} files of {sum(sizes.values()) / 1e6:.0f} MB would have to travel with "
            f"the job, at most {LIMIT / 1e6:.0f} MB can; the largest is "
            f"{max(sizes, key=sizes.__getitem__)}. Put them where the cluster reads them, and give "
            f"their paths there as {THERE}/PATH"
        )
    if problems:
        raise ConfigError(*problems)
    return Parcel(tuple(words), files)


def _sizes(files: Iterable[Path], problems: list[str]) -> Iterator[tuple[Path, int]]:
    """Bytes of each file; those that are not to be had are problems."""
    for file in files:
        try:
            yield file, file.stat().st_size
        except OSError as error:
            problems.append(unreadable(file, error))


def unreadable(file: Path, error: OSError) -> str:
    """What is wrong with a file that should travel."""
    return f"{file} should travel with the job and cannot be read: {error.strerror}"


def _apart(words: Iterable[str]) -> Iterator[str]:
    """Words with --teacher=FILE and the like as two."""
    for word in words:
        name, equals, value = word.partition("=")
        yield from (name, value) if equals and name in (*FILES, EXPORT) else (word,)


def unreachable(option: str, where: str) -> list[str]:
    """What is wrong with a folder that a job should write; nothing if the cluster can reach it."""
    if "://" in where or where.startswith("/"):
        return []
    return [
        f"{option} {where} is a folder of this machine; a job on a cluster needs a URI, as "
        "s3://BUCKET/runs, or the absolute path of a folder that all its nodes share"
    ]


def _task(task: str, files: dict[str, Path], problems: list[str]) -> str:
    """A task's argument; its file and what lies beside it are added to `files`."""
    if not task.endswith((".yaml", ".yml")):
        return task
    path = Path(task).absolute()
    named = list(_beside(load_task(task), parse_task(path.read_text(encoding="utf-8"), task)))
    for file in named:
        if not file.exists():
            problems.append(f"task {task} names {file}, which is not there")
    above = Path(os.path.commonpath([path.parent, *(os.path.normpath(file) for file in named)]))
    for file in (path, *named):
        place = PurePosixPath("task", Path(os.path.normpath(file)).relative_to(above))
        _add(file, place, files)
    return f"{HERE}/task/{path.relative_to(above)}"


def _beside(found: Task, written: Task) -> Iterator[Path]:
    """The files that a task names by paths relative to its own: those that reading it changed."""
    pairs = [(found.data, written.data), (found.embeddings, written.embeddings)]
    pairs.append((found.teacher.weights, written.teacher.weights))
    names = found.teachers
    pairs += [(names[name].weights, written.teachers[name].weights) for name in names]
    yield from (Path(here) for here, said in pairs if here is not None and here != said)


def _shipped(option: str, value: str, files: dict[str, Path], problems: list[str]) -> str:
    """An option's value as the job needs it; what it names here is added to `files`."""
    network, colon, path = "", "", value
    if option == "--teacher" and not value.startswith(THERE) and not os.path.isfile(value):
        before, mark, rest = value.partition(":")
        if rest.startswith(THERE) or os.path.isfile(rest):
            network, colon, path = before, mark, rest
    if path.startswith(THERE):
        return network + colon + path.removeprefix(THERE)
    file = Path(path).expanduser()
    is_word = "/" not in path if option == "--from-pool" else is_named(path)  # a sweep's name
    if "://" in path or is_word or not file.exists():
        if option == "--data" and not is_word and "://" not in path and not file.is_absolute():
            problems.append(f"{option} {value}: there is no such file or folder here")
        return value
    place = PurePosixPath(FILES[option], file.absolute().name)
    _add(file, place, files)
    return f"{network}{colon}{HERE}/{place}"


def _add(file: Path, place: PurePosixPath, files: dict[str, Path]) -> None:
    """Take a file along, or every file of a folder."""
    if not file.is_dir():
        if file.exists():
            files[str(place)] = file
        return
    for folder, _, names in os.walk(file, followlinks=True):
        for name in sorted(names):
            inside = Path(folder) / name
            files[str(place / inside.relative_to(file).as_posix())] = inside
