"""Tasks: what is distilled, and what a sweep of it searches. One YAML file each.

The files beside this module are the tasks that ship; a user's own file works the same. Reading one
imports neither torch nor Ray, and finds every problem in it at once.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from dfkd.methods import METHODS
from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.settings import Bounds, build, problems, setting
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.bases import read_task
from dfkd.search_spaces.checks import Checks
from dfkd.search_spaces.classes import Classes, find_classes
from dfkd.search_spaces.dimensions import Dimension, parse_dimension
from dfkd.search_spaces.fit import INTERPOLATIONS, Fit
from dfkd.search_spaces.published import Published, parse_published
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
    class_ids: tuple[str, ...]
    """What folders of images may be called instead, such as n01440764; empty where nothing."""
    shape: ImageShape
    fit: Fit
    """How files of images become that shape."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    teacher: TeacherSpec
    teachers: Mapping[str, TeacherSpec]
    """Further ones by name, trained otherwise, for comparison; the one above is not among them."""
    student: str
    students: tuple[str, ...]
    """Further ones that were published; any other network works as well."""
    embeddings: str
    data: str | None
    """A name of `sources`, the path of an .npz file or of a folder, or None: no labeled data."""
    epochs: int
    preset: str | None
    """Which of the methods' bundles of settings the task starts from, where a method has it."""
    shared: Space
    """What holds for every method."""
    methods: Mapping[str, Space]
    published: tuple[Published, ...]
    text: str
    """The YAML as it was read, its base behind it."""

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
    if embeddings.endswith(".safetensors") or re.match(r"[^:@]*/", embeddings):  # a folder
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
        tree, text = read_task(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    except ValueError as error:  # of YAML's own: 2024-13-45
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping of keys, got {type(tree).__name__}")
    reader = _Reader(where)
    task = reader.task(tree, text)
    if reader.problems or task is None:
        raise ConfigError(*reader.problems)
    return task


class _Reader(Checks):
    """Turns a YAML tree into a Task and notes every problem on the way."""

    REQUIRED: Mapping[str, type] = {
        "task": str,
        "summary": str,
        "classes": object,
        "image": dict,
        "normalize": dict,
        "teacher": dict,
        "student": str,
        "embeddings": str,
        "epochs": int,
    }
    OPTIONAL: Mapping[str, type] = {
        "teachers": dict,
        "students": list,
        "published": list,
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

    def task(self, tree: dict[Any, Any], text: str) -> Task | None:
        given = self.top(tree)
        shape, fit = self.image(given["image"]) if "image" in given else (None, Fit())
        mean, std = self.normalize(given["normalize"], shape) if "normalize" in given else ((), ())
        teacher = self.teacher(given["teacher"]) if "teacher" in given else None
        teachers = self.teachers(given.get("teachers", {}), teacher)
        classes = self.classes(given["classes"]) if "classes" in given else Classes(())
        students = self.students(given.get("students", []))
        published = self.published(given.get("published", []))
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
            classes=classes.names,
            class_ids=classes.ids,
            shape=shape,
            fit=fit,
            mean=mean,
            std=std,
            teacher=teacher,
            teachers=teachers,
            student=given["student"],
            students=students,
            embeddings=given["embeddings"],
            data=given.get("data"),
            epochs=given["epochs"],
            preset=given.get("preset"),
            shared=shared,
            methods=methods,
            published=published,
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

    def image(self, tree: dict[Any, Any]) -> tuple[ImageShape, Fit]:
        keys = ("channels", "height", "width")
        given = self.known(tree, (*keys, "resize", "interpolation"), "image: ")
        for key in keys:
            if key not in given:
                self.object(f"image.{key} is missing")
        shape = ImageShape(*(self.whole(given.get(key, 1), f"image.{key}") for key in keys))
        resize = self.whole(given["resize"], "image.resize") if "resize" in given else None
        if resize is not None and resize < max(shape.height, shape.width):
            self.object(
                f"image.resize must be at least {max(shape.height, shape.width)}, the longer side "
                f"of what is cropped from it, got {resize}"
            )
        interpolation = given.get("interpolation", INTERPOLATIONS[0])
        if interpolation not in INTERPOLATIONS:
            self.object(f"image: {unknown('interpolation', str(interpolation), INTERPOLATIONS)}")
        return shape, Fit(resize, interpolation)

    def normalize(
        self, tree: dict[Any, Any], shape: ImageShape | None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        given = self.known(tree, ("mean", "std"), "normalize: ")
        channels = None if shape is None else shape.channels
        mean, std = (self.channel_numbers(given.get(key), key, channels) for key in ("mean", "std"))
        if min(std, default=1.0) <= 0:
            self.object(f"normalize.std must be above 0, got {given['std']!r}")
        return mean, std

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

    def classes(self, declared: Any) -> Classes:
        listed = declared if isinstance(declared, list) else []
        others = [repr(name) for name in listed if not isinstance(name, str)]
        if others:
            self.object(
                f"classes must be text, got {', '.join(others[:3])}; quote them, as in "
                "['yes', '7']: YAML takes a bare yes for true, 7 for a number"
            )
        elif not isinstance(declared, list | str):
            self.object(f"classes must be a list, or the name of one, got {declared!r}")
        elif isinstance(declared, list) and len(declared) < 2:
            self.object("classes must be at least two names")
        else:
            try:
                return find_classes(declared)
            except ValueError as error:
                self.object(f"classes {error}")
        return Classes(())

    def students(self, listed: list[Any]) -> tuple[str, ...]:
        for name in listed:
            if not isinstance(name, str):
                self.object(f"students must be names of networks, got {name!r}")
        return tuple(map(str, listed))

    def published(self, listed: list[Any]) -> tuple[Published, ...]:
        found = []
        for number, declared in enumerate(listed, start=1):
            try:
                found.append(parse_published(declared))
            except ValueError as error:
                self.object(f"published, entry {number}: {error}")
        return tuple(found)

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
