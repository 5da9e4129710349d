"""What the comparisons run on: a task with one of its teachers, and one task of their own."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.trials import Surroundings
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import Task, load_task
from dfkd.search_spaces.teachers import find_teacher

_SURROUNDINGS: dict[tuple[str, str | None], Surroundings] = {}


def surroundings(name: str, teacher: str | None) -> Surroundings:
    """Task, teacher and test images of a cell, once per process."""
    if (name, teacher) not in _SURROUNDINGS:
        task = framed_fashion() if name == "framed_fashion" else load_task(name)
        weights = find_teacher(task, teacher, lambda text: print(text, file=sys.stderr))
        _SURROUNDINGS[name, teacher] = Surroundings(
            task=task, teacher=weights, score=SCORES["accuracy"], evaluation=load_data(task, "test")
        )
    return _SURROUNDINGS[name, teacher]


def framed_fashion() -> Task:
    """Fashion-MNIST whose pictures fill a quarter of the frame, anywhere in it."""
    folder = Path(os.environ.get("DFKD_CACHE", Path.home() / ".cache/dfkd")) / "benchmarks"
    file = folder / "framed_fashion.npz"
    task = load_task("fashion_mnist")
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_framed(task, file)
    return replace(task, name="framed_fashion", data=str(file))


def save_framed(task: Task, file: Path) -> None:
    """Both splits at half size, each picture at a place of its own (seed 0), as an .npz file."""
    rng = torch.Generator().manual_seed(0)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        data = load_data(task, split)
        assert data is not None, "Fashion-MNIST has both"
        small = F.avg_pool2d(data.images.float(), 2).round().to(torch.uint8)
        framed = torch.zeros_like(data.images)
        corners = torch.randint(0, 15, (2, len(data)), generator=rng)
        inside = torch.arange(14)
        rows = (corners[0][:, None] + inside)[:, :, None]
        columns = (corners[1][:, None] + inside)[:, None, :]
        framed[torch.arange(len(data))[:, None, None], 0, rows, columns] = small[:, 0]
        arrays[f"{split}_images"] = framed.numpy()
        arrays[f"{split}_labels"] = data.labels.numpy()
    np.savez_compressed(file, **arrays)
