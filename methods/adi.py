"""Adaptive DeepInversion (ADI): DeepInversion on which, moreover, student and teacher differ.

Paper      Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR
           2020, arXiv 1912.08795.
Reference  NVlabs/DeepInversion@2413af1, as for DeepInversion. It has the term's weight for ImageNet
           only, 0.2; by default, its code leaves the term off.
Departs    As DeepInversion does. The Jensen-Shannon divergence is exact unless `js=clamped`, as
           published, where the clamping silences most gradients once there are many classes; the
           weight of the exact one is this project's. The term waits for the end of the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dfkd.methods.deepinversion import Deepinversion, DeepinversionSettings
from dfkd.methods.losses import clamped_jensen_shannon, jensen_shannon
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class AdiSettings(DeepinversionSettings):
    """DeepInversion's, and how much the student's disagreement counts."""

    adversarial_weight: float = setting(1.0, "of L_adv = 1 - JS", at_least=0)
    js: str = setting("exact", "form of that divergence", choices=("exact", "clamped"))


class Adi(Deepinversion):
    """New batches follow the student: what it has learned is not drawn again."""

    settings_class: ClassVar[type[StudentSettings]] = AdiSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        **{
            name: {**preset, "adversarial_weight": 0.2, "js": "clamped", "rounds": 1}
            for name, preset in Deepinversion.presets.items()
        },
        "small": {**Deepinversion.presets["small"], "adversarial_weight": 5.0},
    }

    played: ClassVar[frozenset[str]] = Deepinversion.played | {"js"}

    def adversarial(self, view: View) -> Tensor:
        """1 - JS(teacher, student) at temperature 3: 1 where they agree."""
        student, teacher = view.student.logits, view.teacher.logits
        if self.settings.js == "clamped":
            return 1 - clamped_jensen_shannon(student, teacher, reduction="batchmean")
        return 1 - jensen_shannon(student, teacher)
