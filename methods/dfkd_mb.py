"""DFKD-MB: a bank of earlier images is rehearsed, and the adversary keeps to DAFL's prior.

Paper      Binici et al., "Preventing Catastrophic Forgetting and Distribution Mismatch in Knowledge
           Distillation via Synthetic Data", WACV 2022, arXiv 2108.05698.
Reference  None public; kuluhan/PRE-DFKD@604010d is by the same authors. Read: the abstract, which
           describes the collection of samples and the constraint on their distribution.
           Reconstructed, after PRE-DFKD: the generator's loss and its weights; and freely: the size
           of the bank, when and by how much it is renewed, who gives way, its share of a batch.
Departs    The Jensen-Shannon divergence is exact (PRE-DFKD's is clamped); natural logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.dafl import Dafl, DaflSettings
from dfkd.methods.game import SMALL
from dfkd.methods.losses import LN10, jensen_shannon, weighted
from dfkd.methods.memory import POLICIES, ImageSource, Mixture, Pool, Shard
from dfkd.methods.method import Metrics, Workbench
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class DfkdMbSettings(DaflSettings):
    """The generator's are PRE-DFKD's for CIFAR-100; the bank's are not the paper's."""

    kd_loss: str = setting("l1", "kl: softened classes; l1: logits", choices=("kl", "l1"))
    kd_steps: int = setting(360, "student steps per epoch", at_least=1)
    student_steps: int = setting(10, "student steps between the generator's", at_least=1)
    one_hot_weight: float = setting(1.0, "of the teacher's confidence", at_least=0)
    balance_weight: float = setting(5 / LN10, "of class balance, natural log", at_least=0)
    adversarial_weight: float = setting(1.0, "of the Jensen-Shannon divergence", at_least=0)
    bank_capacity: int = setting(20_000, "images that the bank holds at most", at_least=1)
    bank_policy: str = setting("random", "who gives way when it is full", choices=POLICIES)
    bank_every: int = setting(5, "generator turns between its renewals", at_least=1)
    bank_insert: int = setting(256, "images that enter at a renewal", at_least=1)
    replay_share: float = setting(0.25, "of a student batch, from it", at_least=0, at_most=0.9)


class DfkdMb(Dafl):
    """The bank fills once the student learns; until then there is nothing to forget."""

    settings_class: ClassVar[type[StudentSettings]] = DfkdMbSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "small": {
            **SMALL,
            "batch_size": 64,
            "student_steps": 4,
            "balance_weight": 0.5,
            "one_hot_weight": 0.05,
            "activation_weight": 0.0,
            "adversarial_weight": 20.0,
            "bank_capacity": 4000,
            "bank_every": 1,
            "bank_insert": 64,
            "generator_lr": 0.001,
        },
    }

    def __init__(self, settings: DfkdMbSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        capacity, policy = settings.bank_capacity, settings.bank_policy
        self.pool = Pool(bench.shape, capacity, bench.device, policy)  # the memory bank
        self.turns = 0  # of the generator, since the student learns

    @staticmethod
    def kept(settings: DfkdMbSettings, epochs: int) -> Mapping[str, int]:
        turns = max(0, epochs - settings.warmup) * -(-settings.kd_steps // settings.student_steps)
        renewals = -(-turns // settings.bank_every) if settings.replay_share else 0
        return {"pool": min(renewals * settings.bank_insert, settings.bank_capacity)}

    def loss(self, view: View) -> Tensor:
        """DAFL's prior - JS_3(S, T)."""
        weight = self.settings.adversarial_weight * view.adversarial
        return super().loss(view) + weighted(
            (weight, lambda: -jensen_shannon(view.student.logits, view.teacher.logits))
        )

    @property
    def source(self) -> ImageSource:
        """Novel images and, as soon as there are any, a share of old ones."""
        if not len(self.pool):
            return self.fresh
        return Mixture(self.fresh, self.pool, self.settings.replay_share)

    def after_generator(self, view: View, rng: torch.Generator) -> None:
        """Every few turns new images enter the bank, with the classes the teacher sees in them."""
        if not view.adversarial or not self.settings.replay_share:
            return
        if self.turns % self.settings.bank_every == 0:
            images = self.fresh.sample(self.settings.bank_insert, rng).images
            with torch.no_grad():
                seen = self.bench.teacher.logits(images).argmax(1)
            self.pool.add(Shard.of(images, seen), rng)
        self.turns += 1

    def epoch(self, epoch: int, rng: torch.Generator) -> Metrics:
        return super().epoch(epoch, rng) | {"pool_images": len(self.pool)}

    def state(self) -> dict[str, Any]:
        return super().state() | {"pool": self.pool.state(), "turns": self.turns}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.pool.restore(state["pool"])
        self.turns = state["turns"]
