"""The best student as files that need no dfkd: weights, a program, a card, the figures.

The figures, metrics.json, are written last, after those of an earlier export were deleted, and list
the other files with size and SHA-256: where they lie, the rest is whole, and belongs to them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.methods.networks import Normalized, build_network, parameters
from dfkd.orchestrator.model_card import model_card
from dfkd.orchestrator.programs import program
from dfkd.orchestrator.robustness import as_json
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import STUDENT
from dfkd.search_spaces.task import Task

BEST = "best"
METRICS = "metrics.json"
PROGRAM = "student.pt2"


def export_best(
    run: Run, best: TrialRecord, teacher_accuracy: float | None, control: TrialRecord | None
) -> Folder:
    """Write `<run>/best/`: the student of the best epoch of `best`; returns the folder."""
    folder = run.folder.child(BEST)
    return export_student(run, best, folder, teacher_accuracy=teacher_accuracy, control=control)


def export_student(
    run: Run,
    record: TrialRecord,
    folder: Folder,
    *,
    teacher_accuracy: float | None = None,
    control: TrialRecord | None = None,
    formats: Sequence[str] = ("safetensors", "pt2"),
) -> Folder:
    """Write one trial's best student to `folder`, which loads with torch alone."""
    facts = run.facts()
    surroundings = run.surroundings()
    task = surroundings.task
    saved = run.trial_folder(record.spec.id).read(STUDENT)
    if saved is None or record.best is None:
        raise DfkdError(f"trial {record.spec.id} of {run.name} left no student to export")
    verdict = run.verdicts().get(record.spec.id)
    student = rebuild(task, record.spec.student, saved)
    metrics = {
        "sweep": run.name,
        "task": task.name,
        "trial": record.spec.id,
        "method": record.spec.method,
        "recipe": dict(record.spec.recipe),
        "student": record.spec.student,
        "student_parameters": parameters(student),
        "teacher": surroundings.teacher.network,
        "teacher_parameters": parameters(surroundings.teacher.build(task).network),
        "teacher_fingerprint": surroundings.teacher.fingerprint,
        "teacher_accuracy": teacher_accuracy,
        "selected_by": facts["definition"]["select"],
        "epoch": record.best["epoch"],
        "score": record.best["score"],
        "accuracy": record.best.get("accuracy"),
        "verdict": verdict.as_json() if verdict else None,
        "noise_control_accuracy": (control.best or {}).get("accuracy") if control else None,
        "epochs_run": record.rows[-1]["epoch"],
        "epochs_planned": record.spec.epochs,
        "robustness": as_json(record.robustness),
        "noise_control_robustness": as_json(control.robustness if control else None),
        "evaluation_images": len(surroundings.evaluation) if surroundings.evaluation else 0,
        "input": ["batch", task.shape.channels, task.shape.height, task.shape.width],
        "classes": list(task.classes),
        "versions": facts["versions"],
    }
    files = {name: write(student, task) for name, write in map(FORMATS.__getitem__, formats)}
    publish(folder, files | {"model_card.md": model_card(metrics).encode()}, metrics)
    return folder


def publish(folder: Folder, files: Mapping[str, bytes], metrics: Mapping[str, Any]) -> None:
    """Write files, and then metrics that list them; in between there are no metrics."""
    if folder.exists(METRICS):
        folder.delete(METRICS)
    for name, data in files.items():
        folder.write(name, data)
    listed = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()}
    folder.write_json(METRICS, {**metrics, "files": listed})


def exported(folder: Folder, name: str) -> bytes:
    """A file of an exported student.

    Raises ConfigError where there is none, or where another file than its metrics list: of an
    export that was cut off, or one that goes on. Without metrics any file will do.
    """
    data = folder.read(name)
    listed = (folder.read_json(METRICS) or {}).get("files", {}).get(name)
    if data is None:
        raise ConfigError(f"{folder.uri_of(name)} does not exist")
    if listed is not None and (len(data), sha256(data)) != (listed["bytes"], listed["sha256"]):
        raise ConfigError(
            f"{folder.uri_of(name)} is not what its {METRICS} lists; export it again: dfkd export"
        )
    return data


def sha256(data: bytes) -> str:
    """As sha256sum prints it."""
    return hashlib.sha256(data).hexdigest()


def rebuild(task: Task, name: str, weights: bytes) -> Normalized:
    """A student from its file, taking images in [0, 1], in evaluation mode."""
    network = build_network(name, task.shape.channels, len(task.classes))
    network.load_state_dict(safetensors.torch.load(weights))
    return Normalized(network, task.mean, task.std).eval()


def weights(student: Normalized, task: Task) -> bytes:
    """The bare network's weights as safetensors."""
    return safetensors.torch.save(student.network.state_dict())


def state_dict(student: Normalized, task: Task) -> bytes:
    """The bare network's weights as torch.save writes them."""
    buffer = io.BytesIO()
    torch.save(student.network.state_dict(), buffer)
    return buffer.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Normalized, Task], bytes]]] = {
    "safetensors": ("model.safetensors", weights),
    "pt2": (PROGRAM, program),
    "pt": ("model.pt", state_dict),
}
