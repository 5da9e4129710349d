"""Students as torch.export programs, for others to run; reading them is search_spaces' part."""

from __future__ import annotations

import io
import warnings

import torch

from dfkd.methods.networks import Normalized
from dfkd.search_spaces.programs import load_program
from dfkd.search_spaces.task import Task

__all__ = ["load_program", "program"]


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
