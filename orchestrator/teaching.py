"""`dfkd teacher`: train a teacher from labeled images, for users who have these but no teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from dfkd.methods.errors import ConfigError, unknown
from dfkd.methods.networks import build_network, parameters
from dfkd.methods.settings import Value, build
from dfkd.orchestrator.specs import gathering
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import correct
from dfkd.search_spaces.data import Labeled, LabeledImages, load_data, same_images
from dfkd.search_spaces.files import write_atomically
from dfkd.search_spaces.task import Task, TeacherSpec, load_task
from dfkd.search_spaces.teachers import (
    Progress,
    TeacherFailed,
    TeacherWeights,
    train_teacher,
    with_teacher,
)

SUFFIX = ".safetensors"
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRequest:
    """Everything that `dfkd teacher` can be asked; the fields are its options."""

    task: str
    """A task's name, or the path of a task's YAML file."""
    data: str | None = None
    """Labeled images to train on and to measure with; None: the task's own."""
    variant: str | None = None
    """One of the task's `teachers`, to start from; None: its `teacher`."""
    settings: Mapping[str, str | Value | None] = field(default_factory=dict)
    """Fields of TeacherSpec; what is not set stays as in the task."""
    network: str | None = None
    seed: int | None = None
    to: str | None = None
    """The file to write; None: TASK-teacher.safetensors, or TASK-VARIANT-teacher.safetensors."""
    force: bool = False
    """Overwrite the file if it is there."""
    device: str = "cpu"

    def chosen(self) -> dict[str, str | Value | None]:
        """The fields of TeacherSpec that were set, in one way or another."""
        options = {"network": self.network, "seed": self.seed}
        return {**self.settings, **{key: v for key, v in options.items() if v is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTeacher:
    """A teacher that was trained and written to `file`."""

    task: str
    """As it was asked for: a name or a YAML file."""
    data: str | None
    file: str
    network: str
    parameters: int
    fingerprint: str
    training_images: int
    seconds: float
    """Of the training alone."""
    test_images: int
    """0, and no accuracy, where there is nothing to measure with."""
    accuracy: float | None
    standard_error: float | None
    """Of the accuracy, from the number of images."""
    tested_on_training_images: bool
    """The data have no test split, so the accuracy says nothing about new images."""


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A request that can be carried out."""

    task: Task
    """Its `teacher` is the one to train."""
    train: LabeledImages
    test: Labeled | None
    file: str


def teach(
    request: TeacherRequest, on_progress: Progress = lambda done, total: None
) -> TrainedTeacher:
    """Train a task's teacher and write it to a file that `--teacher` takes.

    Raises ConfigError with every problem, found before the training; TeacherFailed when that or
    the writing fails; KeyboardInterrupt, saying so, when nothing was written.
    """
    lesson = _prepare(request)
    task = lesson.task
    start = time.perf_counter()
    try:
        network = train_teacher(task, lesson.train, request.device, on_progress)
        seconds = time.perf_counter() - start
        weights = TeacherWeights(task.teacher.network, network.state_dict(), _origin(request, task))
        accuracy = _accuracy(weights, task, lesson.test, request.device)
        _write(Path(lesson.file), weights)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; nothing was written") from None
    images = 0 if lesson.test is None else len(lesson.test)
    error = None if accuracy is None else math.sqrt(accuracy * (1 - accuracy) / images)
    return TrainedTeacher(
        task=request.task,
        data=request.data,
        file=lesson.file,
        network=weights.network,
        parameters=parameters(network),
        fingerprint=weights.fingerprint,
        training_images=len(lesson.train),
        seconds=seconds,
        test_images=images,
        accuracy=accuracy,
        standard_error=error,
        tested_on_training_images=lesson.test is not None
        and same_images(lesson.train, lesson.test),
    )


def _prepare(request: TeacherRequest) -> _Lesson:
    """Find every mistake before anything is trained."""
    found: list[str] = []
    train = test = None
    task = load_task(request.task)
    file = request.to or _default_name(request, task)
    with gathering(found):
        task = with_teacher(task, request.variant)
    if "weights" in request.settings:
        found.append("weights cannot be set: they are what is trained; give them with --teacher")
    chosen = {**asdict(task.teacher), **request.chosen()}
    with gathering(found):
        task = replace(task, teacher=build(TeacherSpec, chosen, "teacher"))
    with gathering(found):
        build_network(str(chosen["network"]), task.shape.channels, len(task.classes))
    with gathering(found):
        train = load_data(task, "train", request.data)
        test = load_data(task, "test", request.data)
        if train is None:
            raise ConfigError(
                f"task {task.name} has no labeled images to train a teacher on; give some with "
                "--data PATH"
            )
    with gathering(found):
        _require_device(request.device)
    with gathering(found):
        _require_free(file, request.force)
    if found or train is None:
        raise ConfigError(*found)
    return _Lesson(task, train, test, file)


def _default_name(request: TeacherRequest, task: Task) -> str:
    names = [task.name] if request.variant is None else [task.name, request.variant]
    return "-".join([*names, "teacher"]) + SUFFIX


def _require_device(device: str) -> None:
    if device not in DEVICES:
        raise ConfigError(unknown("device", device, DEVICES))
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here (see `dfkd doctor`); use --device cpu")


def _require_free(file: str, force: bool) -> None:
    """Raise ConfigError unless weights can be written to `file`."""
    path = Path(file)
    if not file.endswith(SUFFIX) or "://" in file:
        raise ConfigError(f"--to must be a local file that ends in {SUFFIX}, got '{file}'")
    if path.is_dir():
        raise ConfigError(f"{file} is a folder; choose another --to")
    if path.exists() and not force:
        raise ConfigError(f"{file} is there already; choose another --to, or overwrite it: --force")
    Folder.of(str(path.parent)).require_writable("--to")


def _origin(request: TeacherRequest, task: Task) -> str:
    words = [task.name] + ([] if request.variant is None else [request.variant])
    return "trained on " + ", ".join(words + [f"{k}={v}" for k, v in request.chosen().items()])


def _accuracy(
    weights: TeacherWeights, task: Task, data: Labeled | None, device: str
) -> float | None:
    if data is None:
        return None
    teacher = weights.build(task).to(torch.device(device))
    return float(correct(teacher.network, data)) / len(data)


def _write(file: Path, weights: TeacherWeights) -> None:
    try:
        write_atomically(file, weights.to_bytes())
    except OSError as error:
        raise TeacherFailed(
            f"{file} cannot be written: {error.strerror or error}; the teacher is lost, make room "
            "and train it again"
        ) from None
