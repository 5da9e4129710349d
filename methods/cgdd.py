"""CGDD: a generator that is told the class, and a student that is told it too and where to look.

Paper      Yu et al., "Conditional Generative Data-Free Knowledge Distillation", arXiv 2112.15358;
           its first version is subtitled "based on Attention Transfer".
Reference  None public. Read: the abstracts of the first and the last version, which name the preset
           labels for generator and student, attention transfer, and (the last) an adversary.
           Reconstructed: how the class enters the generator (a learned embedding beside the noise),
           the form of the adversary (L1, as in DFAD), all weights and the schedule.
Departs    Nothing known. Without the adversary (adversarial_weight=0) it is the first version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dfkd.methods.game import SMALL, Game, GameSettings
from dfkd.methods.losses import logit_distance, one_hot, weighted
from dfkd.methods.memory import Batch
from dfkd.methods.method import Workbench
from dfkd.methods.settings import Value, setting
from dfkd.methods.sight import Sight
from dfkd.methods.student import Lesson, StudentSettings
from dfkd.methods.view import View
from dfkd.methods.zskt import attentive, require_like_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class CgddSettings(GameSettings):
    """Weights and schedule are not the paper's: those were not to be had."""

    student_steps: int = setting(1, "student steps between the generator's", at_least=1)
    one_hot_weight: float = setting(1.0, "of L_oh: teacher and wanted class", at_least=0)
    adversarial_weight: float = setting(1.0, "of the logits' distance", at_least=0)
    label_weight: float = setting(0.1, "of the wanted class, in the student's loss", at_least=0)
    at_weight: float = setting(100.0, "of attention transfer in the student's loss", at_least=0)


class Cgdd(Game):
    """The classes of a batch are drawn first; both players are held to them."""

    settings_class: ClassVar[type[StudentSettings]] = CgddSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "small": {
            **SMALL,
            "batch_size": 128,
            "student_steps": 4,
            "at_weight": 10.0,
            "label_weight": 0.0,
            "one_hot_weight": 0.1,
            "adversarial_weight": 1.0,
        },
    }
    conditional: ClassVar[bool] = True

    def __init__(self, settings: CgddSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        if settings.at_weight:
            require_like_stages(bench)

    def loss(self, view: View) -> Tensor:
        """CE(T, y) - |S - T|_1, each with its weight."""
        settings, seen = self.settings, view.teacher
        return weighted(
            (settings.one_hot_weight, lambda: one_hot(seen.logits, view.labels)),
            (
                settings.adversarial_weight * view.adversarial,
                lambda: -logit_distance(view.student.logits, seen.logits),
            ),
        )

    @property
    def lesson(self) -> Lesson:
        """KD + at_weight L_AT + label_weight CE(S, y)."""
        settings, kd = self.settings, self.bench.student.kd
        taught = attentive(self.bench, settings.at_weight) or kd

        def lesson(batch: Batch, mine: Sight, theirs: Sight) -> Tensor:
            assert batch.labels is not None, "a conditional generator's images have classes"
            labels = batch.labels
            return taught(batch, mine, theirs) + weighted(
                (settings.label_weight, lambda: one_hot(mine.logits, labels))
            )

        return lesson
