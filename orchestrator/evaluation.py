"""How good an exported student is, on labeled images that a user has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.methods.losses import distillation
from dfkd.orchestrator.export import BEST
from dfkd.orchestrator.programs import load_program
from dfkd.orchestrator.runs import SWEEP, TEACHER, Run
from dfkd.orchestrator.specs import task_from_definition
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import Task, load_task
from dfkd.search_spaces.teachers import teacher_from_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A student measured on `images` labeled images."""

    task: str
    images: int
    accuracy: float
    standard_error: float
    """Of the accuracy, from the number of images."""
    teacher_accuracy: float | None
    """This and what follows is None where the teacher is not at hand."""
    agreement: float | None
    """Share of the images that student and teacher put into the same class."""
    divergence: float | None
    """Mean KL(teacher || student), in nats."""


def evaluate(
    student: str, storage: str, task: str | None = None, data: str | None = None
) -> Evaluation:
    """Measure a student: a sweep's name, its best/ folder, or a .pt2 file.

    The task is `task`, or that of the sweep the student lies in. Raises ConfigError where student,
    task or labeled images cannot be found.
    """
    program, run = _locate(student, storage)
    facts: dict[str, Any] | None = run.folder.read_json(SWEEP) if run is not None else None
    problem = _task(task, facts, student)
    given = facts["definition"]["data"] if facts is not None and task is None else None
    images = load_data(problem, "test", data or given)
    if images is None:
        raise ConfigError(f"task {problem.name} has no labeled images; give --data PATH")
    inputs = images.images.float() / 255
    network = load_program(str(program))
    weights = run.folder.read(TEACHER) if run is not None else None
    with torch.no_grad():
        answers = _answers(network, inputs, problem, student)
        right = float((answers.argmax(1) == images.labels).float().mean())
        teacher = None
        if weights and task is None:
            teacher = teacher_from_bytes(weights).build(problem).logits(inputs)
    return Evaluation(
        task=problem.name,
        images=len(images),
        accuracy=right,
        standard_error=math.sqrt(right * (1 - right) / len(images)),
        teacher_accuracy=None
        if teacher is None
        else float((teacher.argmax(1) == images.labels).float().mean()),
        agreement=None
        if teacher is None
        else float((teacher.argmax(1) == answers.argmax(1)).float().mean()),
        divergence=None if teacher is None else float(distillation(answers, teacher)),
    )


def _locate(student: str, storage: str) -> tuple[Path, Run | None]:
    run = Run(Folder.of(storage).child(student))
    if run.folder.local is not None and (run.folder.local / BEST / "student.pt2").is_file():
        return run.folder.local / BEST / "student.pt2", run
    path = Path(student).expanduser().absolute()
    program = path / "student.pt2" if path.is_dir() else path
    if not program.is_file():
        raise ConfigError(
            f"no student '{student}': neither a finished sweep in {Folder.of(storage).uri}, nor a "
            "folder with student.pt2, nor a .pt2 file"
        )
    above = Run(Folder(str(program.parent.parent)))
    return program, above if above.folder.exists(SWEEP) else None


def _answers(network: torch.nn.Module, inputs: Tensor, task: Task, student: str) -> Tensor:
    """Logits of `inputs`, if the student was made for such a task."""
    try:
        logits: Tensor = network(inputs)
    except (AssertionError, RuntimeError):
        logits = inputs.new_zeros(0, 0)
    if logits.shape != (len(inputs), len(task.classes)):
        raise ConfigError(
            f"student {student} was not made for task {task.name}: images of "
            f"{tuple(inputs.shape[1:])}, {len(task.classes)} classes"
        )
    return logits


def _task(task: str | None, facts: dict[str, Any] | None, student: str) -> Task:
    if task is not None:
        return load_task(task)
    if facts is None:
        raise ConfigError(f"which task is {student} for? name it with --task")
    return task_from_definition(facts["definition"])
