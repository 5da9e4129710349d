"""How good an exported student is: on labeled images that a user has, and by the jury."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.methods.jury import together
from dfkd.methods.losses import distillation
from dfkd.methods.teacher import Teacher
from dfkd.orchestrator.export import BEST, PROGRAM, exported
from dfkd.orchestrator.runs import SWEEP, TEACHER, Run
from dfkd.orchestrator.specs import task_from_definition
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.verdicts import jury_of, makers_of
from dfkd.search_spaces.data import Labeled, load_data
from dfkd.search_spaces.programs import program_from_bytes
from dfkd.search_spaces.task import Task, load_task
from dfkd.search_spaces.teachers import teacher_from_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A student measured on labeled images, as far as there are any, and by its sweep's jury."""

    task: str
    images: int = 0
    """Labeled ones. None: the three figures that follow are None."""
    accuracy: float | None = None
    standard_error: float | None = None
    """Of the accuracy, from the number of images."""
    teacher_accuracy: float | None = None
    """None where the teacher is not at hand, as are the next two."""
    agreement: float | None = None
    """Share of the images that student and teacher put into the same class."""
    divergence: float | None = None
    """Mean KL(teacher || student), in nats."""
    pools: int = 0
    """In the jury. None: the two figures that follow are None."""
    fidelity: float | None = None
    """Minus KL(teacher || student) on the pools' synthetic images, their consensus, in nats."""
    jury_agreement: float | None = None
    """Share of these that student and teacher put into the same class."""


def evaluate(
    student: str, storage: str, task: str | None = None, data: str | None = None
) -> Evaluation:
    """Measure a student: a sweep's name, its best/ folder, or a .pt2 file.

    The task is `task`, or that of the sweep the student lies in. Raises ConfigError where student
    or task cannot be found, or neither labeled images nor a jury.
    """
    folder, name, run = _locate(student, storage)
    facts: dict[str, Any] | None = run.folder.read_json(SWEEP) if run is not None else None
    problem = _task(task, facts, student)
    given = facts["definition"]["data"] if facts is not None and task is None else None
    images = load_data(problem, "test", data or given)
    network = program_from_bytes(exported(folder, name), f"student {folder.uri_of(name)}")
    weights = run.folder.read(TEACHER) if run is not None and task is None else None
    teacher = None if weights is None else teacher_from_bytes(weights).build(problem)
    figures: dict[str, Any] = {}
    if run is not None and teacher is not None:
        figures |= _by_jury(network, run, teacher)
    if images is None and not figures:
        raise ConfigError(f"task {problem.name} has no labeled images; give --data PATH")
    if images is not None:
        figures |= _on_labels(network, images, problem, student, teacher)
    return Evaluation(task=problem.name, **figures)


@torch.no_grad()
def _on_labels(
    network: torch.nn.Module, data: Labeled, task: Task, student: str, teacher: Teacher | None
) -> dict[str, Any]:
    """The student on labeled images, and beside its teacher where that is at hand."""
    right, known, alike, apart = 0, 0, 0, 0.0
    for pixels, labels in data.batches():
        images = pixels.float() / 255
        mine = _answers(network, images, task, student)
        right += int((mine.argmax(1) == labels).sum())
        if teacher is not None:
            theirs = teacher.logits(images)
            known += int((theirs.argmax(1) == labels).sum())
            alike += int((theirs.argmax(1) == mine.argmax(1)).sum())
            apart += float(distillation(mine, theirs)) * len(labels)
    share = right / len(data)
    error = math.sqrt(share * (1 - share) / len(data))
    found = {"images": len(data), "accuracy": share, "standard_error": error}
    if teacher is None:
        return found
    means = (known / len(data), alike / len(data), apart / len(data))
    return found | dict(zip(("teacher_accuracy", "agreement", "divergence"), means, strict=True))


def _by_jury(network: torch.nn.Module, run: Run, teacher: Teacher) -> dict[str, Any]:
    """The verdict of its sweep, without the pool that the student was taught from.

    Its fidelity is by the consensus on it and on the sweep's other students.
    """
    own = (run.facts().get("best") or {}).get("trial", "")
    verdict = jury_of(run, teacher).judge(network, without={own}) if run.controls() else None
    if verdict is None:
        return {}
    return {
        "pools": len(verdict.divergences),
        "fidelity": together(run.verdicts() | {own: verdict}, makers_of(run))[own].fidelity,
        "jury_agreement": verdict.agreement,
    }


def _locate(student: str, storage: str) -> tuple[Folder, str, Run | None]:
    """The folder and the name of a program, and the sweep that it lies in."""
    run = Run(Folder.of(storage).child(student))
    if "://" not in student and run.folder.child(BEST).exists(PROGRAM):
        return run.folder.child(BEST), PROGRAM, run
    given = Folder.of(student)
    folder, name = (given, PROGRAM) if given.exists(PROGRAM) else (given.parent, given.name)
    if not folder.exists(name):
        raise ConfigError(
            f"no student '{student}': neither a finished sweep in {Folder.of(storage).uri}, nor a "
            "folder with student.pt2, nor a .pt2 file"
        )
    above = Run(folder.parent)
    return folder, name, above if above.folder.exists(SWEEP) else None


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
