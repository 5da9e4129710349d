"""SSD-KD: few images, but of rare classes and hard ones; the student is shown what it lacks most.

Paper      Liu et al., "Small Scale Data-Free Knowledge Distillation", CVPR 2024, arXiv 2406.07876.
Reference  none: the code was never released. Synthesis is Fast's, as the paper's overview says.
Departs    Unknown. Read were the abstract, the overview figure and a public summary: synthesis is
           weighted by diversity and difficulty; the pool is small and renewed in part; batches are
           drawn by the discrepancy of teacher and student, and importance weights undo the bias.
           The formulas of phi (`modulation`), of the priorities and of their weights, which images
           of a round are kept (a random part), and all defaults of this file are reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.effort import made
from dfkd.methods.fast import Fast, FastSettings
from dfkd.methods.losses import divergence, masked_adversarial, one_hot, weighted
from dfkd.methods.memory import Batch, Pool, Shard
from dfkd.methods.settings import Value, setting
from dfkd.methods.shape import ImageShape
from dfkd.methods.sight import Sight
from dfkd.methods.student import Lesson, StudentSettings
from dfkd.methods.view import View

FLOOR = 1e-3  # of a priority: what is never drawn would never be looked at again


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdKdSettings(FastSettings):
    """Fast's; the pool holds a tenth of CIFAR's training images, as in the paper."""

    pool_capacity: int = setting(5000, "images kept, the newest", at_least=1)
    insert_share: float = setting(0.5, "of a round's images, goes to the pool", above=0, at_most=1)
    difficulty: float = setting(1.0, "gamma: how much unsure images count", at_least=0)
    diversity: float = setting(1.0, "how much images of rare classes count", at_least=0)
    priority: float = setting(0.5, "beta: 0 draws all images alike, 1 in proportion", at_least=0)


class SsdKd(Fast):
    """Fast's inversion under weights phi, into a pool that is sampled by priority."""

    settings_class: ClassVar[type[StudentSettings]] = SsdKdSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {**Fast.presets["paper"], "pool_capacity": 5000},
        "small": {**Fast.presets["small"], "pool_capacity": 500},
    }

    # Of the pool, phi asks for the classes alone: for how many, not for how they are drawn.
    taught: ClassVar[frozenset[str]] = (Fast.taught | {"priority"}) - {"held_out"}

    pool: PriorityPool

    @staticmethod
    def kept(settings: SsdKdSettings, epochs: int) -> Mapping[str, int]:
        taught = made(settings, epochs, settings.insert_share * (1 - settings.held_out))
        return {**Fast.kept(settings, epochs), "pool": min(taught, settings.pool_capacity)}

    def new_pool(self) -> PriorityPool:
        return PriorityPool(self.settings, self.bench.shape, self.bench.device, self.decisions)

    def decisions(self, images: Tensor) -> Tensor:
        """The teacher's class for each of uint8 images [B, channels, H, W]."""
        with torch.no_grad():
            return self.bench.teacher.logits(images.float() / 255).argmax(1)

    def modulation(self, teacher: Tensor) -> Tensor:
        """phi [B] of images with these logits, as the pool stands; no gradient."""
        counts = self.pool.decided.bincount(minlength=self.bench.classes)
        settings = self.settings
        return modulation(teacher.detach(), counts, settings.diversity, settings.difficulty)

    def loss(self, view: View) -> Tensor:
        """Fast's, in which L_oh and L_adv count each image with its phi."""
        settings = self.settings
        phi = self.modulation(view.teacher.logits)
        return weighted(
            (settings.bn_weight, lambda: self.batch_norm_gap(view)),
            (settings.one_hot_weight, lambda: one_hot(view.teacher.logits, view.labels, phi)),
            (
                settings.adversarial_weight * view.adversarial,
                lambda: masked_adversarial(view.student.logits, view.teacher.logits, phi),
            ),
        )

    @property
    def lesson(self) -> Lesson:
        return self.learn_and_prioritize

    def learn_and_prioritize(self, batch: Batch, mine: Sight, theirs: Sight) -> Tensor:
        """KD under importance weights; delta = KL(T || S) phi are the images' new priorities."""
        assert batch.index is not None, "a batch of the pool says where its images lie"
        with torch.no_grad():
            gaps = divergence(mine.logits, theirs.logits)
            self.pool.refresh(batch.index, gaps * self.modulation(theirs.logits))
        return self.bench.student.kd(batch, mine, theirs)


def modulation(teacher: Tensor, counts: Tensor, diversity: float, difficulty: float) -> Tensor:
    """phi = diversity x difficulty of images with logits [B, C], given the pool's classes [C].

    For an image that the teacher takes for class y with probability p, where n_y images of the pool
    are taken for y, and n on average over classes:
    max(0, 1 + ln((1 + n) / (1 + n_y)))^diversity (1 - p)^difficulty. Reconstructed.
    """
    p, decided = teacher.softmax(1).max(1)
    average = counts.sum() / len(counts)
    rarity = 1 + torch.log((1 + average) / (1 + counts[decided]))
    return rarity.clamp(min=0) ** diversity * (1 - p).clamp(min=0) ** difficulty


class PriorityPool(Pool):
    """A ring that is sampled by priority, and takes a random part of every shard.

    Image i is drawn with P(i) = delta_i^beta / sum_j delta_j^beta, and weighs w_i = 1 / (N P(i)),
    over the largest of its batch (prioritized replay, Schaul et al. 2016). New images get the
    highest priority of those in the pool.
    """

    def __init__(
        self,
        settings: SsdKdSettings,
        shape: ImageShape,
        device: torch.device,
        decide: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(shape, settings.pool_capacity, device)
        self.share, self.beta = settings.insert_share, settings.priority
        self.decide = decide
        self._priorities = torch.ones(settings.pool_capacity, device=device)  # delta
        self._decided = torch.zeros(settings.pool_capacity, dtype=torch.int64, device=device)

    @property
    def priorities(self) -> Tensor:
        """delta of each image."""
        return self._priorities[: len(self)]

    @property
    def decided(self) -> Tensor:
        """The class that the teacher takes each image for."""
        return self._decided[: len(self)]

    def add(self, shard: Shard, rng: torch.Generator | None = None) -> Tensor:
        """Copy a random part of the shard in."""
        assert rng is not None, "a random part needs a generator"
        count = math.ceil(self.share * len(shard.images))
        order = torch.randperm(len(shard.images), generator=rng, device=rng.device)
        rows = order[:count].to(shard.images.device)
        highest = self.priorities.max() if len(self) else 1.0
        where = super().add(Shard(shard.images[rows], shard.labels[rows]), rng)
        self._priorities[where] = highest
        self._decided[where] = self.decide(self._images[where])
        return where

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Draw `count` images by priority, with replacement."""
        if not len(self):
            return super().sample(count, rng)  # refuses
        powers = self.priorities**self.beta
        chance = powers / powers.sum()
        index = torch.multinomial(chance, count, replacement=True, generator=rng)
        weights = 1 / (len(self) * chance[index])
        return self.at(index, weights / weights.max())

    def refresh(self, index: Tensor, priorities: Tensor) -> None:
        """New priorities [B] of the images at `index`; of several for one, the highest."""
        floored = priorities.to(self._priorities.dtype).clamp(min=FLOOR)
        self._priorities.scatter_reduce_(0, index, floored, "amax", include_self=False)

    def state(self) -> dict[str, Any]:
        kept = {"priorities": self.priorities, "decided": self.decided}
        return super().state() | kept

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._priorities[: len(self)] = state["priorities"]
        self._decided[: len(self)] = state["decided"]
