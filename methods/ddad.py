"""DDAD: DFAD whose generator answers to two judges, the student and the teacher's statistics.

Paper      Zhao et al., "Dual Discriminator Adversarial Distillation for Data-free Model
           Compression", International Journal of Machine Learning and Cybernetics 2021,
           arXiv 2104.05382.
Reference  None public. Read: the abstract, which names the two judges (BatchNorm statistics and
           the largest discrepancy from the student). Reconstructed: the L1 distances, the one-hot
           and balance terms, all weights, and DFAD's schedule.
Departs    Nothing known; L_bn is the mean over layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from dfkd.methods.dfad import Dfad, DfadSettings
from dfkd.methods.game import SMALL
from dfkd.methods.losses import balance, batch_norm_gap, confidence, logit_distance, weighted
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View

SMALL_JUDGED: Mapping[str, Value] = {
    **SMALL,
    "batch_size": 128,
    "student_steps": 4,
    "bn_weight": 1.0,
    "one_hot_weight": 0.3,
    "balance_weight": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DdadSettings(DfadSettings):
    """DFAD's settings, and weights that are not the paper's: those were not to be had."""

    adversarial_weight: float = setting(1.0, "of the logits' distance", at_least=0)
    bn_weight: float = setting(1.0, "of L_bn", at_least=0)
    one_hot_weight: float = setting(1.0, "of the teacher's confidence", at_least=0)
    balance_weight: float = setting(0.0, "of class balance", at_least=0)


class Ddad(Dfad):
    """The first judge is the student, the second what the teacher's BatchNorm layers remember."""

    settings_class: ClassVar[type[StudentSettings]] = DdadSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {"small": SMALL_JUDGED}

    def loss(self, view: View) -> Tensor:
        """-|S - T|_1 + L_bn + L_oh + balance, each with its weight."""
        return judged(self.settings, view, logit_distance)


def judged(settings: Any, view: View, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What the two judges say: the student, by `distance` of the logits, and the teacher."""
    seen = view.teacher
    adversarial_weight = settings.adversarial_weight * view.adversarial
    return weighted(
        (adversarial_weight, lambda: -distance(view.student.logits, seen.logits)),
        (settings.bn_weight, lambda: batch_norm_gap(seen.moments, seen.running)),
        (settings.one_hot_weight, lambda: confidence(seen.logits)),
        (settings.balance_weight, lambda: balance(seen.logits)),
    )
