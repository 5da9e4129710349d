"""A task whose trials take a quarter of a second, as a user would declare it; ways to change it."""

from __future__ import annotations

import contextlib
import copy
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dfkd.orchestrator.requests import SweepRequest, resolve
from dfkd.orchestrator.specs import SweepSpec, TrialSpec

EPOCHS = 4
STRIPES: dict[str, Any] = {
    "task": "stripes",
    "summary": "a bright stripe on top, in the middle or below",
    "classes": ["top", "middle", "bottom"],
    "image": {"channels": 1, "height": 6, "width": 6},
    "normalize": {"mean": [0.4], "std": [0.3]},
    "data": "stripes.npz",
    "teacher": {"network": "convnet-4-4", "epochs": 6, "batch_size": 10},
    "student": "convnet-3-4",
    "embeddings": "onehot",
    "epochs": EPOCHS,
    "recipe": {
        "warmup": 1,
        "kd_steps": 20,
        "kd_batch_size": 16,
        "temperature": 2.0,
        "student_lr": 0.2,
        "shift": 1,
        "flip": False,
    },
    "search": {
        "student_lr": {"low": 0.05, "high": 0.5, "log": True},
        "temperature": [1.0, 2.0, 4.0],
    },
    "methods": {
        "nayer": {
            "recipe": {
                "batch_size": 10,
                "synthesis_steps": 6,
                "generator_width": 4,
                "generator_life": 2,
                "noisy_width": 8,
                "warmup_rounds": 2,
                "rounds": 1,
                "bn_weight": 1.0,
            },
            "search": {
                "bn_weight": {"low": 0.1, "high": 2.0},
                "reinit_every": {"low": 0, "high": 3, "whole": True},
            },
        }
    },
}


def tree(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The task's YAML as a tree, changed at dotted keys: `{"teacher.epochs": 3}`."""
    changed = copy.deepcopy(STRIPES)
    for dotted, value in (changes or {}).items():
        *above, last = dotted.split(".")
        place = changed
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return changed


def without(key: str) -> dict[str, Any]:
    """The tree without one of its keys."""
    return {name: value for name, value in tree().items() if name != key}


def stripes(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 6, 6] and their labels [N], the same every time."""
    labels = np.arange(count) % 3
    images = np.random.default_rng(0).integers(0, 60, (count, 6, 6))
    images[np.arange(count), 2 * labels] += 150
    return images.astype(np.uint8), labels


def write_task(folder: Path, changes: dict[str, Any] | None = None) -> str:
    """The path of the task's YAML file, changed as in `tree`, with its images beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = stripes()
    np.savez(folder / "stripes.npz", images=images, labels=labels)
    path = folder / "stripes.yaml"
    path.write_text(yaml.safe_dump(tree(changes)))
    return str(path)


def plan(task: str, **options: Any) -> SweepSpec:
    """The sweep that `dfkd sweep TASK` with these options means."""
    return resolve(SweepRequest(task=task, **options), lambda text: None)


def quick_trial(task: str, method: str = "nayer", **settings: Any) -> TrialSpec:
    """A trial of the small task by a method in few steps; else the task's own recipe, as set."""
    quick = {"kd_steps": 2} | ({"synthesis_steps": 2} if method == "nayer" else {})
    sweep = plan(task, methods=(method,), settings={**quick, **settings})
    return sweep.trial("t000", method, {})


class Scores:
    """A score that does as told, epoch after epoch."""

    uses_real_labels = False

    def __init__(self, *values: float) -> None:
        self.left = list(values)

    def __call__(self, rows: Any) -> float:
        return self.left.pop(0)


def untimed(rows: Any) -> list[dict[str, Any]]:
    """Rows without what the clock says."""
    clock = ("seconds", "began", "ended")
    return [{key: value for key, value in row.items() if not key.startswith(clock)} for row in rows]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Within the block the system refuses to write any file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeps_none = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # or a module imported here is cached in part, and for good
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = keeps_none
