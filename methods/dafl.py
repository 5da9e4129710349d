"""DAFL: the teacher as a fixed discriminator that wants confident, active and balanced images.

Paper      Chen et al., "Data-Free Learning of Student Networks", ICCV 2019, arXiv 1904.01186.
Reference  huawei-noah/Data-Efficient-Model-Compression, where losses and weights were read.
Departs    Natural logarithm in the balance term, where the reference takes log10 (its weights are
           divided by ln 10 = 2.303 here); the student's batch is drawn after the generator's step,
           not shared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dfkd.methods.game import PLAIN, SMALL, Game, GameSettings
from dfkd.methods.losses import LN10, activation, balance, confidence, weighted
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class DaflSettings(GameSettings):
    """Defaults are the reference's for CIFAR-100."""

    kd_steps: int = setting(120, "student steps per epoch", at_least=1)
    kd_batch_size: int = setting(1024, "images per student step, over all workers", at_least=1)
    batch_size: int = setting(1024, "images per generator step", at_least=2)
    student_steps: int = setting(1, "student steps between the generator's", at_least=1)
    generator_lr: float = setting(0.02, "of Adam", above=0)
    latent: int = setting(1000, "numbers of noise per image", at_least=1)
    one_hot_weight: float = setting(0.5, "of the teacher's confidence", at_least=0)
    balance_weight: float = setting(20 / LN10, "of class balance, natural log", at_least=0)
    activation_weight: float = setting(0.1, "of the teacher's activation", at_least=0)


PAPER: Mapping[str, Value] = {
    **PLAIN,
    "one_hot_weight": 0.5,
    "balance_weight": 20 / LN10,
    "activation_weight": 0.1,
    "generator_lr": 0.02,
    "latent": 1000,
    "student_steps": 1,
    "kd_loss": "kl",
    "temperature": 1.0,
    "student_lr": 0.1,
    "weight_decay": 5e-4,
}


class Dafl(Game):
    """No adversary and no memory: the generator never asks what the student knows."""

    settings_class: ClassVar[type[StudentSettings]] = DaflSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": PAPER,
        "cifar10": {
            **PAPER,
            "one_hot_weight": 0.05,
            "balance_weight": 5 / LN10,
            "activation_weight": 0.01,
        },
        "small": {
            **SMALL,
            "batch_size": 128,
            "student_steps": 4,
            "balance_weight": 10.0,
            "one_hot_weight": 0.1,
            "activation_weight": 0.01,
            "generator_lr": 0.001,
        },
    }

    def loss(self, view: View) -> Tensor:
        """L_oh + L_ie + L_a, each with its weight."""
        settings, seen = self.settings, view.teacher
        return weighted(
            (settings.one_hot_weight, lambda: confidence(seen.logits)),
            (settings.balance_weight, lambda: balance(seen.logits)),
            (settings.activation_weight, lambda: -activation(seen.features)),
        )
