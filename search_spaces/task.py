"""Tasks: what is distilled, and what a sweep of it searches. One YAML file each.

The files beside this module are the tasks that ship; a user's own file works the same. Reading one
imports neither torch nor Ray, and finds every problem in it at once.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dfkd.methods import METHODS
from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.dimensions import Dimension, parse_dimension


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """The teacher's network, and how it is trained where the task has training data."""

    network: str
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    shift: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Space:
    """Settings that a task fixes and dimensions that it searches."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Dimension] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One classification problem whose teacher is to be distilled."""

    name: str
    summary: str
    classes: tuple[str, ...]
    shape: ImageShape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    teacher: TeacherSpec
    student: str
    embeddings: str
    data: str | None
    """`digits`, the path of an .npz file, or None: no labeled data at all."""
    epochs: int
    shared: Space
    """What holds for every method."""
    methods: Mapping[str, Space]
    text: str
    """The YAML as it was read."""

    def space(self, method: str) -> Space:
        """The settings and dimensions of one method: its own over the shared ones."""
        own = self.methods.get(method, Space())
        return Space({**self.shared.recipe, **own.recipe}, {**self.shared.search, **own.search})


def shipped_tasks() -> dict[str, str]:
    """Names and YAML texts of the tasks that come with dfkd."""
    folder = importlib.resources.files("dfkd.search_spaces")
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {file.name.removesuffix(".yaml"): file.read_text() for file in sorted(files, key=str)}


def load_task(reference: str) -> Task:
    """A shipped task by name, or a user's by the path of its YAML file.

    Raises ConfigError with every problem found.
    """
    if reference.endswith((".yaml", ".yml")):
        path = Path(reference)
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigError(f"task file {reference}: {error.strerror or error}") from None
        task = parse_task(text, str(path))
        if task.data and task.data.endswith(".npz"):
            return parse_task(text, str(path), data=str(path.parent / task.data))
        return task
    shipped = shipped_tasks()
    if reference not in shipped:
        raise ConfigError(
            unknown("task", reference, shipped) + "; or give the path of a task's .yaml file"
        )
    return parse_task(shipped[reference], f"task {reference}")


def parse_task(text: str, where: str, data: str | None = None) -> Task:
    """Read a task's YAML; `data` overrides where its evaluation data is."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping of keys, got {type(tree).__name__}")
    reader = _Reader(where)
    task = reader.task(tree, text, data)
    if reader.problems or task is None:
        raise ConfigError(*reader.problems)
    return task


class _Reader:
    """Turns a YAML tree into a Task and notes every problem on the way."""

    KEYS: Mapping[str, type] = {
        "task": str,
        "summary": str,
        "classes": list,
        "image": dict,
        "normalize": dict,
        "teacher": dict,
        "student": str,
        "embeddings": str,
        "epochs": int,
    }
    OPTIONAL: Mapping[str, type] = {
        "data": str,
        "recipe": dict,
        "search": dict,
        "methods": dict,
    }

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def object(self, problem: str) -> None:
        self.problems.append(f"{self.where}: {problem}")

    def task(self, tree: dict[str, Any], text: str, data: str | None) -> Task | None:
        self.check_keys(tree)
        if self.problems:
            return None
        shape = self.shape(tree["image"])
        mean, std = (self.channel_numbers(tree["normalize"], key, shape) for key in ("mean", "std"))
        teacher = self.teacher(tree["teacher"])
        classes = tuple(str(name) for name in tree["classes"])
        if len(classes) < 2:
            self.object("classes must be at least two names")
        if tree["epochs"] < 1:
            self.object(f"epochs must be at least 1, got {tree['epochs']}")
        shared = self.space(tree, "")
        methods = {
            name: self.space(space, f"methods.{name}.")
            for name, space in tree.get("methods", {}).items()
            if self.is_method_space(name, space)
        }
        if self.problems:
            return None
        return Task(
            name=tree["task"],
            summary=tree["summary"],
            classes=classes,
            shape=shape,
            mean=mean,
            std=std,
            teacher=teacher,
            student=tree["student"],
            embeddings=tree["embeddings"],
            data=data or tree.get("data"),
            epochs=tree["epochs"],
            shared=shared,
            methods=methods,
            text=text,
        )

    def check_keys(self, tree: dict[str, Any]) -> None:
        known = {**self.KEYS, **self.OPTIONAL}
        for key in tree:
            if key not in known:
                self.object(unknown("key", str(key), known))
        for key, kind in known.items():
            if key not in tree:
                if key in self.KEYS:
                    self.object(f"{key} is missing")
            elif not isinstance(tree[key], kind):
                self.object(f"{key} must be a {kind.__name__}, got {tree[key]!r}")

    def shape(self, tree: dict[str, Any]) -> ImageShape:
        sizes = {key: tree.get(key) for key in ("channels", "height", "width")}
        for key, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                self.object(f"image.{key} must be a whole number above 0, got {size!r}")
        for key in set(tree) - set(sizes):
            self.object("image: " + unknown("key", str(key), sizes))
        return ImageShape(*(size if isinstance(size, int) else 1 for size in sizes.values()))

    def channel_numbers(
        self, tree: dict[str, Any], key: str, shape: ImageShape
    ) -> tuple[float, ...]:
        numbers = tree.get(key)
        if (
            not isinstance(numbers, list)
            or len(numbers) != shape.channels
            or not all(isinstance(n, int | float) for n in numbers)
            or (key == "std" and min(numbers) <= 0)
        ):
            self.object(f"normalize.{key} must list one number per channel, got {numbers!r}")
            return ()
        return tuple(float(number) for number in numbers)

    def teacher(self, tree: dict[str, Any]) -> TeacherSpec:
        known = {
            name: type(getattr(TeacherSpec(network=""), name)) for name in TeacherSpec.__slots__
        }
        values: dict[str, Any] = {}
        for key, value in tree.items():
            if key not in known:
                self.object("teacher: " + unknown("key", str(key), known))
            elif known[key] is float and isinstance(value, int):
                values[key] = float(value)
            elif not isinstance(value, known[key]):
                self.object(f"teacher.{key} must be a {known[key].__name__}, got {value!r}")
            else:
                values[key] = value
        if "network" not in tree:
            self.object("teacher.network is missing")
        return TeacherSpec(**{"network": "", **values})

    def is_method_space(self, name: str, space: Any) -> bool:
        if name not in METHODS:
            self.object(unknown("method", str(name), METHODS))
            return False
        if not isinstance(space, dict) or set(space) - {"recipe", "search"}:
            self.object(f"methods.{name} holds recipe and search, got {space!r}")
            return False
        return True

    def space(self, tree: dict[str, Any], prefix: str) -> Space:
        search = {}
        for name, declared in (tree.get("search") or {}).items():
            try:
                search[name] = parse_dimension(declared)
            except ValueError as error:
                self.object(f"{prefix}search.{name} {error}")
        return Space(tree.get("recipe") or {}, search)
