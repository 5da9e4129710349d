"""torch.export programs of others: read without running foreign code, used as black boxes."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import torch
from torch import Tensor, nn

from dfkd.methods.errors import ConfigError

PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/[^/]+|models/model\.json"
    r"|data/(weights/weight_\d+|constants/tensor_\d+|(weights|constants)/\w+_config\.json)"
    r"|data/sample_inputs/model\.pt)"
)
"""Members of an archive that holds tensors and a graph only."""

PROGRAM = "program"
"""What stands for a network's name where the teacher is a program."""


class Program(nn.Module):
    """A program as a network. It has no layers to look into and knows no training mode."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.program(images)
        return logits

    def train(self, mode: bool = True) -> Program:
        """What was exported is in evaluation mode for good."""
        self.training = mode
        return self


def load_program(path: str, what: str = "student") -> nn.Module:
    """An exported program by its `.pt2` file; raises ConfigError if it cannot or must not be read.

    torch.export.load unpickles what an archive declares as pickled, which runs its code: such
    archives are refused first. `what` is what it should be, for the message.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    return program_from_bytes(data, f"{what} {path}")


def program_from_bytes(data: bytes, title: str) -> nn.Module:
    """The same from a file's bytes; `title` names it in messages."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            foreign = _foreign(archive)
        if foreign is None:
            return torch.export.load(io.BytesIO(data)).module()
    except Exception as error:  # neither torch.export nor zipfile names all of theirs
        raise ConfigError(f"{title} cannot be read as a torch.export program: {error}") from None
    raise ConfigError(
        f"{title} holds more than weights and a graph ({foreign}) and was refused, its code not run"
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


def packed(path: str) -> dict[str, Tensor]:
    """A program's file as the one weight of a network: it travels with a sweep like any other."""
    with open(path, "rb") as file:
        return {PROGRAM: torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)}


def unpacked(state: Any, title: str) -> Program:
    """The network that `packed` put away."""
    return Program(program_from_bytes(state[PROGRAM].numpy().tobytes(), title))
