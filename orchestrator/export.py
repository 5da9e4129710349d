"""The best student as files that need no dfkd: weights, a program, a card, the figures."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import safetensors.torch
import torch

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.methods.networks import Normalized, build_network, parameters
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import STUDENT
from dfkd.search_spaces.task import Task

BEST = "best"


def export_best(
    run: Run, best: TrialRecord, teacher_accuracy: float | None, control: TrialRecord | None
) -> Folder:
    """Write `<run>/best/`: the student of the best epoch of `best`; returns the folder."""
    return export_student(run, best, run.folder.child(BEST), teacher_accuracy, control)


def export_student(
    run: Run,
    record: TrialRecord,
    folder: Folder,
    teacher_accuracy: float | None,
    control: TrialRecord | None,
) -> Folder:
    """Write one trial's best student to `folder`, which loads with torch alone."""
    facts = run.facts()
    surroundings = run.surroundings()
    task = surroundings.task
    weights = run.trial_folder(record.spec.id).read(STUDENT)
    if weights is None or record.best is None:
        raise DfkdError(f"trial {record.spec.id} of {run.name} left no student to export")
    student = rebuild(task, record.spec.student, weights)
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
        "noise_control_accuracy": (control.best or {}).get("accuracy") if control else None,
        "evaluation_images": len(surroundings.evaluation) if surroundings.evaluation else 0,
        "input": ["batch", task.shape.channels, task.shape.height, task.shape.width],
        "classes": list(task.classes),
        "versions": facts["versions"],
    }
    folder.write("model.safetensors", safetensors.torch.save(student.network.state_dict()))
    folder.write("student.pt2", program(student, task))
    folder.write("model_card.md", model_card(metrics).encode())
    folder.write("metrics.json", json.dumps(metrics, indent=1).encode())
    return folder


def rebuild(task: Task, name: str, weights: bytes) -> Normalized:
    """A student from its file, taking images in [0, 1], in evaluation mode."""
    network = build_network(name, task.shape.channels, len(task.classes))
    network.load_state_dict(safetensors.torch.load(weights))
    return Normalized(network, task.mean, task.std).eval()


def program(student: Normalized, task: Task) -> bytes:
    """The student as a torch.export program for any batch size, normalization included."""
    shape = task.shape
    example = torch.zeros(2, shape.channels, shape.height, shape.width)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(student, (example,), dynamic_shapes=({0: batch},))
        buffer = io.BytesIO()
        torch.export.save(exported, buffer)
    return buffer.getvalue()


def model_card(metrics: dict[str, Any]) -> str:
    """What the student is, how it was made and chosen, and how to load it."""

    def percent(value: float | None) -> str:
        return "not measured" if value is None else f"{100 * value:.2f} %"

    share = metrics["student_parameters"] / metrics["teacher_parameters"]
    settings = "\n".join(f"| {key} | {value} |" for key, value in metrics["recipe"].items())
    labels = ", ".join(metrics["classes"][:20]) + (" ..." if len(metrics["classes"]) > 20 else "")
    chosen = (
        "by accuracy on real labeled images, so its accuracy below is the best of many looks at the "
        "same test images and slightly optimistic"
        if metrics["selected_by"] == "accuracy"
        else f"by {metrics['selected_by']}, without any real data"
    )
    return f"""# {metrics["task"]}: {metrics["student"]}, distilled without data

A student of {metrics["student_parameters"]:,} parameters ({100 * share:.0f} % of its teacher's),
distilled by dfkd {metrics["versions"]["dfkd"]} with the method {metrics["method"]}: it has seen synthetic
images only. It was chosen {chosen}.

| | accuracy, n = {metrics["evaluation_images"]} |
|---|---|
| teacher ({metrics["teacher"]}) | {percent(metrics["teacher_accuracy"])} |
| **this student** | {percent(metrics["accuracy"])} |
| noise control (same budget, uniform noise instead of synthesis) | {percent(metrics["noise_control_accuracy"])} |

## How to load it

```python
import torch

student = torch.export.load("student.pt2").module()
logits = student(images)  # float32 {metrics["input"]} in [0, 1]; normalization is inside
```

`model.safetensors` holds the bare network's weights. Classes, in order: {labels}.

## How it was made

Sweep {metrics["sweep"]}, trial {metrics["trial"]}, epoch {metrics["epoch"]}, CPU or GPU as the sweep ran;
torch {metrics["versions"]["torch"]}, ray {metrics["versions"]["ray"]}.

| setting | value |
|---|---|
{settings}
"""


def load_program(path: str) -> torch.nn.Module:
    """An exported student by its `.pt2` file; raises ConfigError if it cannot be read."""
    try:
        return torch.export.load(path).module()
    except Exception as error:  # torch.export names no exception of its own
        raise ConfigError(
            f"student {path} cannot be read as a torch.export program: {error}"
        ) from None
