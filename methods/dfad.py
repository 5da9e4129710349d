"""DFAD: the generator raises the distance of the logits, the student lowers it.

Paper      Fang et al., "Data-Free Adversarial Distillation", arXiv 1912.11006.
Reference  VainF/Data-Free-Adversarial-Distillation@053861f, DFAD_cifar.py.
Departs    The student's five steps follow the generator's one instead of preceding it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dfkd.methods.game import PLAIN, SMALL, Game, GameSettings
from dfkd.methods.losses import logit_distance, weighted
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View

PAPER: Mapping[str, Value] = {
    **PLAIN,
    "kd_loss": "l1",
    "student_steps": 5,
    "generator_steps": 1,
    "generator_lr": 1e-3,
    "latent": 256,
    "student_lr": 0.1,
    "weight_decay": 5e-4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DfadSettings(GameSettings):
    """Defaults are the reference's for CIFAR."""

    kd_steps: int = setting(250, "student steps per epoch", at_least=1)
    kd_loss: str = setting("l1", "kl: softened classes; l1: logits", choices=("kl", "l1"))
    student_steps: int = setting(5, "student steps between the generator's", at_least=1)


class Dfad(Game):
    """Minimax over the L1 distance of the logits, and nothing else."""

    settings_class: ClassVar[type[StudentSettings]] = DfadSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": PAPER,
        "small": {
            **SMALL,
            "batch_size": 64,
            "student_steps": 5,
        },
    }

    def loss(self, view: View) -> Tensor:
        """L_G = -|S - T|_1."""
        return weighted(
            (-view.adversarial, lambda: logit_distance(view.student.logits, view.teacher.logits))
        )
