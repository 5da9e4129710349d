"""What a sweep's words name on this machine: its task's file travels along, other files cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dfkd.orchestrator.cluster_options import ClusterOptions
from dfkd.search_spaces.sources import is_named

MOUNT = "/etc/dfkd"  # in the head pod
TASK = "task.yaml"
LARGEST = 900_000  # bytes of a task's file; a ConfigMap holds 1 MiB
PATHS = ("--data", "--teacher", "--from-pool", "--export-dir")
SUFFIXES = (".yaml", ".yml")
WEIGHTS = (".safetensors", ".pt", ".pth", ".pt2", ".bin")
LITTLE = "put it into the image, or on a claim (--claim NAME:/PATH), and give its path there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """The words of a sweep as its pods understand them."""

    arguments: tuple[str, ...]
    task: str | None
    """The text of the task's file, to be mounted at MOUNT; None: the task ships with dfkd."""
    problems: tuple[str, ...]


def carry(arguments: tuple[str, ...], options: ClusterOptions) -> Carried:
    """Take along what can be, and say what cannot."""
    found = list(_left_behind(arguments, options))
    task, *rest = arguments or ("",)
    if not task.endswith(SUFFIXES) or "://" in task or options.is_mounted(task):
        return Carried(arguments=arguments, task=None, problems=tuple(found))
    text = None
    try:
        text = Path(task).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found.append(f"task file {task}: {error}")
    else:
        found += _about_task(task, text, options)
    words = (f"{MOUNT}/{TASK}", *rest)
    return Carried(arguments=words, task=text, problems=tuple(found))


def _about_task(path: str, text: str, options: ClusterOptions) -> Iterator[str]:
    if len(text.encode()) > LARGEST:
        yield f"task file {path} has {len(text.encode()):,} bytes, and at most {LARGEST:,} travel"
    for name in _files_in(text):
        if not name.startswith("/"):
            yield f"task file {path} names {name} beside it, which stays here: {LITTLE}"
        elif Path(name).exists() and not options.is_mounted(name):
            yield f"task file {path} names {name}, which lies on this machine: {LITTLE}"


def _files_in(text: str) -> Iterator[str]:
    """The files and folders that a task's YAML names, as search_spaces.task finds them."""
    import yaml

    try:
        trees = [tree for tree in yaml.safe_load_all(text) if isinstance(tree, dict)]
    except (yaml.YAMLError, ValueError):
        return  # the sweep itself will say what is wrong
    for tree in trees:
        data, embeddings = str(tree.get("data") or ""), str(tree.get("embeddings") or "")
        if data and not is_named(data) and "://" not in data:
            yield data
        if embeddings.endswith(".safetensors") or re.match(r"[^:@]*/", embeddings):
            yield embeddings
        teachers = tree.get("teachers")
        named = list(teachers.values()) if isinstance(teachers, Mapping) else []
        for spec in (tree.get("teacher"), *named):
            weights = _weights(spec)
            if "." in weights and "://" not in weights:  # a tag has no dot
                yield weights


def _weights(spec: Any) -> str:
    return str(spec.get("weights") or "") if isinstance(spec, Mapping) else ""


def _left_behind(arguments: tuple[str, ...], options: ClusterOptions) -> Iterator[str]:
    """Problems with the paths among the options."""
    for flag, value in _options(arguments):
        if flag not in PATHS or "://" in value:
            continue
        path = value.rpartition(":")[2] if flag == "--teacher" else value
        if options.is_mounted(path):
            continue
        if flag == "--export-dir":
            yield (
                f"--export-dir {value} would go with its pod: give an s3:// or gs:// URI or a "
                "path below a claim's; best/ lies in --storage anyway"
            )
        elif _is_here(flag, path):
            stored = "; or on storage, and give its URI" if flag == "--teacher" else ""
            yield f"{flag} {value} lies on this machine, where pods cannot see it: {LITTLE}{stored}"


def _is_here(flag: str, path: str) -> bool:
    """Whether a word is a path of this machine rather than a name, or a path of the pods."""
    if path.startswith("/"):
        return Path(path).exists()
    if flag == "--teacher":
        return Path(path).exists() or Path(path).suffix in WEIGHTS
    return not is_named(path) if flag == "--data" else "/" in path


def _options(arguments: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for word, after in pairwise((*arguments[1:], "")):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            yield flag, value if equals else after
