"""Tasks: what is distilled, and what a sweep of it searches. One YAML file each.

The files beside this module are the tasks that ship; a user's own file works the same. Reading one
imports neither torch nor Ray, and finds every problem in it at once.
"""

from __future__ import annotations

import importlib.resources
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from dfkd.methods import METHODS
from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.settings import Bounds, build, coerce, problems, setting
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.dimensions import Dimension, parse_dimension
from dfkd.search_spaces.sources import is_named

TEACHER_NAME = r"\w[\w-]*"  # never the name of a file of weights, which has a dot, a slash, a colon


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """The teacher's network, and its weights or how it is trained where the task has images."""

    network: str = field(metadata={"bounds": Bounds(help="a network's name")})
    weights: str = setting("", "a published tag, as IMAGENET1K_V1, or a file; empty: it is trained")
    epochs: int = setting(30, "passes over the training images", at_least=1)
    batch_size: int = setting(64, "images per step", at_least=1)
    learning_rate: float = setting(0.1, "the highest of its one-cycle schedule", above=0)
    weight_decay: float = setting(5e-4, "of the SGD", at_least=0)
    shift: int = setting(1, "augmentation: random shift, pixels", at_least=0)
    flip: bool = setting(False, "augmentation: mirror images left to right at random")
    seed: int = setting(0, "of its first weights, batches and augmentations")


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
    teachers: Mapping[str, TeacherSpec]
    """Further ones by name, trained otherwise, for comparison; the one above is not among them."""
    student: str
    embeddings: str
    data: str | None
    """A name of `sources`, the path of an .npz file or of a folder, or None: no labeled data."""
    epochs: int
    preset: str | None
    """Which of the methods' bundles of settings the task starts from, where a method has it."""
    shared: Space
    """What holds for every method."""
    methods: Mapping[str, Space]
    text: str
    """The YAML as it was read."""

    def space(self, method: str, preset: Mapping[str, Any] | None = None) -> Space:
        """The settings and dimensions of one method: its preset's, shared ones, and its own."""
        own = self.methods.get(method, Space())
        recipe = {**(preset or {}), **self.shared.recipe, **own.recipe}
        return Space(recipe, {**self.shared.search, **own.search})


def shipped_tasks() -> dict[str, str]:
    """Names and YAML texts of the tasks that come with dfkd."""
    folder = importlib.resources.files("dfkd.search_spaces")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=str)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}


def load_task(reference: str) -> Task:
    """A shipped task by name, or a user's by the path of its YAML file.

    Files that a user's task names lie beside it, unless their paths are absolute. Raises
    ConfigError with every problem found.
    """
    if reference.endswith((".yaml", ".yml")):
        path = Path(reference)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"task file {reference}: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"task file {reference}: not text in UTF-8: {error}") from None
        return _beside(path.absolute().parent, parse_task(text, str(path)))
    shipped = shipped_tasks()
    if reference not in shipped:
        raise ConfigError(
            unknown("task", reference, shipped) + "; or give the path of a task's .yaml file"
        )
    return parse_task(shipped[reference], f"task {reference}")


def _beside(folder: Path, task: Task) -> Task:
    """The task with the files that it names made absolute, from `folder`."""
    data, embeddings = task.data, task.embeddings
    if data is not None and not is_named(data):
        data = str(folder / data)
    if embeddings.endswith(".safetensors"):
        embeddings = str(folder / embeddings)
    teachers = {name: _weights_beside(folder, spec) for name, spec in task.teachers.items()}
    teacher = _weights_beside(folder, task.teacher)
    return replace(task, data=data, embeddings=embeddings, teacher=teacher, teachers=teachers)


def _weights_beside(folder: Path, spec: TeacherSpec) -> TeacherSpec:
    is_file = "." in spec.weights  # a tag has no dot
    return replace(spec, weights=str(folder / spec.weights)) if is_file else spec


def parse_task(text: str, where: str) -> Task:
    """Read a task's YAML; raises ConfigError, naming `where`, with every problem found."""
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45
        raise ConfigError(f"{where}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping of keys, got {type(tree).__name__}")
    reader = _Reader(where)
    task = reader.task(tree, text)
    if reader.problems or task is None:
        raise ConfigError(*reader.problems)
    return task


class _Reader:
    """Turns a YAML tree into a Task and notes every problem on the way.

    Where something is missing or wrong, a method notes it and returns something harmless.
    """

    REQUIRED: Mapping[str, type] = {
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
        "teachers": dict,
        "data": str,
        "preset": str,
        "recipe": dict,
        "search": dict,
        "methods": dict,
    }
    KINDS: Mapping[type, str] = {
        str: "text (in quotes if need be)",
        list: "a list",
        dict: "a mapping of keys",
    }

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def object(self, problem: str) -> None:
        self.problems.append(f"{self.where}: {problem}")

    def task(self, tree: dict[Any, Any], text: str) -> Task | None:
        given = self.top(tree)
        shape = self.shape(given["image"]) if "image" in given else None
        mean, std = self.normalize(given["normalize"], shape) if "normalize" in given else ((), ())
        teacher = self.teacher(given["teacher"]) if "teacher" in given else None
        teachers = self.teachers(given.get("teachers", {}), teacher)
        classes = self.classes(given["classes"]) if "classes" in given else ()
        shared = self.space(given, "")
        methods = {
            name: self.space(space, f"methods.{name}.")
            for name, space in given.get("methods", {}).items()
            if self.is_method_space(name, space)
        }
        if self.problems or shape is None or teacher is None:
            return None
        return Task(
            name=given["task"],
            summary=given["summary"],
            classes=classes,
            shape=shape,
            mean=mean,
            std=std,
            teacher=teacher,
            teachers=teachers,
            student=given["student"],
            embeddings=given["embeddings"],
            data=given.get("data"),
            epochs=given["epochs"],
            preset=given.get("preset"),
            shared=shared,
            methods=methods,
            text=text,
        )

    def top(self, tree: dict[Any, Any]) -> dict[str, Any]:
        """What of the file's keys can be read further."""
        kinds = {**self.REQUIRED, **self.OPTIONAL}
        given = self.known(tree, kinds, "")
        for key in self.REQUIRED:
            if key not in tree:
                self.object(f"{key} is missing")
        for key, value in list(given.items()):
            if kinds[key] is int:
                given[key] = self.whole(value, key)
            elif not isinstance(value, kinds[key]):
                self.object(f"{key} must be {self.KINDS[kinds[key]]}, got {value!r}")
                del given[key]
        if "task" in given and not re.fullmatch(r"\w[\w.-]*", given["task"]):
            self.object(f"task must be a plain word, got {given['task']!r}")
        return given

    def known(self, tree: Mapping[Any, Any], keys: Iterable[str], prefix: str) -> dict[str, Any]:
        """The part of a mapping whose keys are known."""
        for key in tree:
            if key not in keys:
                self.object(prefix + unknown("key", str(key), keys))
        return {key: value for key, value in tree.items() if key in keys}

    def whole(self, value: Any, key: str) -> int:
        try:
            number = int(coerce(value, int))
        except ValueError as error:
            self.object(f"{key} {error}, got {value!r}")
            return 1
        if number < 1:
            self.object(f"{key} must be at least 1, got {value!r}")
        return number

    def shape(self, tree: dict[Any, Any]) -> ImageShape:
        keys = ("channels", "height", "width")
        given = self.known(tree, keys, "image: ")
        for key in keys:
            if key not in given:
                self.object(f"image.{key} is missing")
        return ImageShape(*(self.whole(given.get(key, 1), f"image.{key}") for key in keys))

    def normalize(
        self, tree: dict[Any, Any], shape: ImageShape | None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given = self.known(tree, ("mean", "std"), "normalize: ")
        mean, std = (self.channel_numbers(given.get(key), key, shape) for key in ("mean", "std"))
        if min(std, default=1.0) <= 0:
            self.object(f"normalize.std must be above 0, got {given['std']!r}")
        return mean, std

    def channel_numbers(self, listed: Any, key: str, shape: ImageShape | None) -> tuple[float, ...]:
        try:
            numbers = tuple(float(coerce(number, float)) for number in listed or ())
        except (TypeError, ValueError):
            numbers = ()
        if (
            not isinstance(listed, list)
            or not numbers
            or not all(map(math.isfinite, numbers))
            or (shape is not None and len(numbers) != shape.channels)
        ):
            self.object(f"normalize.{key} must list one number per channel, got {listed!r}")
            return ()
        return numbers

    def teacher(self, tree: dict[Any, Any]) -> TeacherSpec | None:
        found = problems(TeacherSpec, tree, "teacher")
        if "network" not in tree:
            found.append("teacher.network is missing")
        for problem in found:
            self.object(problem)
        return None if found else build(TeacherSpec, tree, "teacher")

    def teachers(self, tree: dict[Any, Any], default: TeacherSpec | None) -> dict[str, TeacherSpec]:
        """Each teacher's own settings over those of `default`, but for its weights."""
        found = {}
        for name, own in tree.items():
            where = f"teachers.{name}"
            if not isinstance(name, str) or not re.fullmatch(TEACHER_NAME, name):
                self.object(f"a teacher's name must be a plain word without dots, got {name!r}")
            elif not isinstance(own, dict):
                self.object(f"{where} must be a mapping of keys, got {own!r}")
            elif wrong := problems(TeacherSpec, own, where):
                for problem in wrong:
                    self.object(problem)
            elif default is not None:
                found[name] = build(TeacherSpec, {**asdict(default), "weights": "", **own}, where)
        return found

    def classes(self, names: list[Any]) -> tuple[str, ...]:
        if len(names) < 2:
            self.object("classes must be at least two names")
        others = [repr(name) for name in names if not isinstance(name, str)]
        if others:
            self.object(
                f"classes must be text, got {', '.join(others[:3])}; quote them, as in "
                "['yes', '7']: YAML takes a bare yes for true, 7 for a number"
            )
        return tuple(map(str, names))

    def is_method_space(self, name: Any, space: Any) -> bool:
        if name not in METHODS:
            self.object(unknown("method", str(name), METHODS))
            return False
        if not isinstance(space, dict):
            self.object(f"methods.{name} holds recipe and search, got {space!r}")
            return False
        self.known(space, ("recipe", "search"), f"methods.{name}: ")
        return True

    def space(self, tree: dict[Any, Any], prefix: str) -> Space:
        recipe = self.named(tree.get("recipe"), f"{prefix}recipe")
        search = {}
        for name, declared in self.named(tree.get("search"), f"{prefix}search").items():
            try:
                search[name] = parse_dimension(declared)
            except ValueError as error:
                self.object(f"{prefix}search.{name} {error}")
        return Space(recipe, search)

    def named(self, tree: Any, key: str) -> dict[str, Any]:
        """A mapping whose keys are text; nothing at all counts as an empty one."""
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            self.object(f"{key} must be a mapping of keys, got {tree!r}")
            return {}
        for name in tree:
            if not isinstance(name, str):
                self.object(f"{key}: a setting's name must be text, got {name!r}")
        return tree
