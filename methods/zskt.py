"""ZSKT: a pure duel, in which the generator seeks where the student differs from its teacher.

Paper      Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching",
           NeurIPS 2019, arXiv 1905.09768.
Reference  polo5/ZeroShotKnowledgeTransfer@492cbff, solver.py, main.py and utils/loaders.py.
Departs    The student learns by SGD, not Adam. KL is summed over classes, where the reference takes
           the mean, so its weight of attention transfer, 250, is multiplied by the 10 classes of
           SVHN and CIFAR-10. Beyond the published pairs: `fresh_batches`, and no transfer at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.methods.game import SMALL, Game, GameSettings
from dfkd.methods.losses import attention_transfer, distillation, weighted
from dfkd.methods.memory import Batch
from dfkd.methods.method import Workbench
from dfkd.methods.settings import Value, setting
from dfkd.methods.sight import Sight
from dfkd.methods.student import Lesson, StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class ZsktSettings(GameSettings):
    """Defaults are the paper's for CIFAR-10, but for the student's optimizer."""

    kd_batch_size: int = setting(128, "images per student step, over all workers", at_least=1)
    batch_size: int = setting(128, "images per generator step", at_least=2)
    student_steps: int = setting(10, "student steps between the generator's", at_least=1)
    generator_clip: float = setting(5.0, "bound on its gradient's norm; 0: none", at_least=0)
    latent: int = setting(100, "numbers of noise per image", at_least=1)
    at_weight: float = setting(2500.0, "of attention transfer in the student's loss", at_least=0)
    fresh_batches: bool = setting(False, "new noise for every student step, not the generator's")


class Zskt(Game):
    """All steps of a turn, the generator's and the student's, use the same noise."""

    settings_class: ClassVar[type[StudentSettings]] = ZsktSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            "at_weight": 2500.0,
            "fresh_batches": False,
            "generator_steps": 1,
            "student_steps": 10,
            "generator_lr": 1e-3,
            "generator_clip": 5.0,
            "latent": 100,
            "kd_loss": "kl",
            "temperature": 1.0,
            "clip_norm": 5.0,
            "shift": 0,
            "flip": False,
        },
        "small": {
            **SMALL,
            "batch_size": 64,
            "student_steps": 5,
            "at_weight": 10.0,
        },
    }

    def __init__(self, settings: ZsktSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        if settings.at_weight:
            require_like_stages(bench)
        self.repeated: Batch | None = None  # what the student is shown in this turn

    def loss(self, view: View) -> Tensor:
        """L_G = -KL_1(T || S)."""
        return weighted(
            (-view.adversarial, lambda: distillation(view.student.logits, view.teacher.logits))
        )

    @property
    def lesson(self) -> Lesson | None:
        """L_S = KD + at_weight L_AT."""
        return attentive(self.bench, self.settings.at_weight)

    def after_generator(self, view: View, rng: torch.Generator) -> None:
        self.repeated = None

    def batch(self, count: int, rng: torch.Generator) -> Batch:
        """The generator's noise again, as its images are after its step."""
        if self.settings.fresh_batches:
            return super().batch(count, rng)
        if self.repeated is None:
            noise, _ = self.drawn
            more = self.generator.draw(max(0, count - len(noise)), rng)
            with torch.no_grad():
                self.repeated = Batch(self.generator(torch.cat([noise, more]))[:count])
        return self.repeated


def attentive(bench: Workbench, weight: float) -> Lesson | None:
    """KD plus `weight` times attention transfer over the stages of both networks."""
    if not weight:
        return None

    def lesson(batch: Batch, mine: Sight, theirs: Sight) -> Tensor:
        transfer = attention_transfer(mine.stages, theirs.stages)
        return bench.student.kd(batch, mine, theirs) + weight * transfer

    return lesson


def require_like_stages(bench: Workbench) -> None:
    """Raise ConfigError unless student and teacher have stages of the same number and sizes."""
    shape = bench.shape
    blank = torch.zeros(2, shape.channels, shape.height, shape.width, device=bench.device)
    with torch.no_grad(), bench.student.frozen():
        sights = [bench.student.look(blank), bench.teacher.look(blank)]
    mine, theirs = ([tuple(maps.shape[2:]) for maps in sight.stages] for sight in sights)
    if mine != theirs or not mine:
        raise ConfigError(
            f"attention transfer needs feature maps of the same sizes: the student's are {mine}, "
            f"the teacher's {theirs}; choose a student of the teacher's family or set at_weight=0"
        )
