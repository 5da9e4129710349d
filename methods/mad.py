"""MAD: a slow copy of the generator replays what the fast one has left behind.

Paper      Do et al., "Momentum Adversarial Distillation: Handling Large Distribution Shifts in
           Data-Free Knowledge Distillation", NeurIPS 2022, arXiv 2209.10359.
Reference  None public. Read: the abstract, which describes the moving average and the mixture of
           both generators' images. Reconstructed: the terms of the generator's loss, all weights,
           the decay, the share, and the schedule.
Departs    The generator is not told a class (the paper's is, on large data sets).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.ddad import SMALL_JUDGED, judged
from dfkd.methods.game import Fresh, Game, GameSettings
from dfkd.methods.generators import LatentGenerator
from dfkd.methods.losses import distillation, logit_distance
from dfkd.methods.memory import ImageSource, Mixture
from dfkd.methods.method import Workbench
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View

DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": logit_distance,
    "kl": distillation,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MadSettings(GameSettings):
    """Weights and schedule are not the paper's: those were not to be had."""

    ema_decay: float = setting(0.95, "of the slow copy, per generator turn", at_least=0, at_most=1)
    replay_share: float = setting(0.5, "of a student batch, from it", at_least=0, at_most=0.9)
    adversarial: str = setting("kl", "how teacher and student are compared", choices=("kl", "l1"))
    adversarial_weight: float = setting(1.0, "of their distance", at_least=0)
    bn_weight: float = setting(1.0, "of L_bn", at_least=0)
    one_hot_weight: float = setting(1.0, "of the teacher's confidence", at_least=0)
    balance_weight: float = setting(1.0, "of class balance", at_least=0)


class Mad(Game):
    """The student learns from the generator and from the moving average of its weights."""

    settings_class: ClassVar[type[StudentSettings]] = MadSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {"small": SMALL_JUDGED}

    def __init__(self, settings: MadSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.slow = copy.deepcopy(self.generator).requires_grad_(False)
        self.memory = Fresh(self.slow, bench.classes)

    def loss(self, view: View) -> Tensor:
        """-D(S, T) + L_bn + L_oh + balance, each with its weight (as in DDAD)."""
        return judged(self.settings, view, DISTANCES[self.settings.adversarial])

    @property
    def source(self) -> ImageSource:
        return Mixture(self.fresh, self.memory, self.settings.replay_share)

    @property
    def generators(self) -> list[LatentGenerator]:
        return [self.generator, self.slow]

    @torch.no_grad()
    def after_generator(self, view: View, rng: torch.Generator) -> None:
        """slow <- decay slow + (1 - decay) fast."""
        for slow, fast in zip(self.slow.parameters(), self.generator.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.settings.ema_decay)

    def state(self) -> dict[str, Any]:
        return super().state() | {"slow": self.slow.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.slow.load_state_dict(state["slow"])
