"""Students as torch.export programs: written for others, read back without running foreign code."""

from __future__ import annotations

import io
import re
import warnings
import zipfile

import torch

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import Normalized
from dfkd.search_spaces.task import Task

PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/[^/]+|models/model\.json"
    r"|data/(weights/weight_\d+|constants/tensor_\d+|(weights|constants)/\w+_config\.json)"
    r"|data/sample_inputs/model\.pt)"
)
"""Members of an archive that holds tensors and a graph only."""


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


def load_program(path: str) -> torch.nn.Module:
    """An exported student by its `.pt2` file; raises ConfigError if it cannot or must not be read.

    torch.export.load unpickles what an archive declares as pickled, which runs its code: such
    archives are refused first.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            foreign = _foreign(archive)
        if foreign is None:
            return torch.export.load(path).module()
    except Exception as error:  # neither torch.export nor zipfile names all of theirs
        raise ConfigError(
            f"student {path} cannot be read as a torch.export program: {error}"
        ) from None
    raise ConfigError(
        f"student {path} holds more than weights and a graph ({foreign}) and was refused, its code "
        "not run"
    )


def _foreign(archive: zipfile.ZipFile) -> str | None:
    """The first member that could run code when it is loaded, or None."""
    for name in archive.namelist():
        if PLAIN.fullmatch(name) is None:
            return name
        if name.endswith("_config.json") and b'"use_pickle": true' in archive.read(name):
            return name
        if name.endswith(".pt"):
            try:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            except Exception:  # whatever it is, torch does not take it for weights
                return name
    return None
