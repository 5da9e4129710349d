"""The jury: how well a student matches its teacher on images that others made.

A student that is judged on the images it was taught from looks good whatever they are worth. The
images of other methods and recipes, made from the same teacher, are another matter: each pool is a
proxy of the real distribution with a bias of its own, and no student was fitted to them all. Own
work of this project; no published method is reproduced here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dfkd.methods.consensus import Consensus, consensus
from dfkd.methods.losses import divergence
from dfkd.methods.shape import ImageShape
from dfkd.methods.teacher import Teacher

Network = Callable[[Tensor], Tensor]

PROBES = 300  # images of a pool that students are judged on
AT_ONCE = 500  # images per forward pass,
VALUES = 1 << 24  # and their numbers: 111 images of 3x224x224, of which networks make gigabytes
LEAST_ENTROPY = 0.5  # of a pool's mean answer, share of that of all classes alike
LEAST_CONFIDENCE = 0.3  # mean of the teacher's highest probability


@dataclass(frozen=True, slots=True)
class ProbePool:
    """Images uint8 [M, channels, H, W] that one source put aside, for others to be judged on."""

    name: str
    images: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a jury found, pool by pool."""

    divergences: Mapping[str, float]
    """Mean KL(teacher || student) on each pool, in nats."""
    agreements: Mapping[str, float]
    """Share of each pool's images that both put into the same class."""
    fidelity: float
    """Minus the divergence, in nats: 0 is perfect, larger is better. Of a student alone the mean,
    each pool one vote; of students side by side what the pools agree on (see `together`)."""

    @property
    def agreement(self) -> float:
        """The mean agreement, in [0, 1]."""
        return statistics.fmean(self.agreements.values())

    @property
    def spread(self) -> float:
        """Standard deviation of the divergence between pools; 0 of a single one."""
        return statistics.pstdev(self.divergences.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        figures = {"fidelity": self.fidelity, "agreement": self.agreement, "spread": self.spread}
        pools = {"divergences": dict(self.divergences), "agreements": dict(self.agreements)}
        return figures | pools


class Jury:
    """Pools of probes with the teacher's answers to them, which are computed once.

    Pools that say nothing are left out (see `degenerate`); their names are in `left_out`.
    """

    def __init__(self, teacher: Teacher, pools: Sequence[ProbePool]) -> None:
        device = next(teacher.network.parameters()).device
        self._probes: dict[str, Tensor] = {}
        self._answers: dict[str, Tensor] = {}
        self.left_out: list[str] = []
        for pool in pools:
            probes = pool.images.to(device)
            answers = logits_of(teacher.network, probes)
            if degenerate(answers):
                self.left_out.append(pool.name)
            else:
                self._probes[pool.name], self._answers[pool.name] = probes, answers

    @property
    def pools(self) -> list[str]:
        """Who has a vote."""
        return list(self._probes)

    def judge(self, student: Network, without: Collection[str] = ()) -> Verdict | None:
        """The student's verdict by all pools but those `without`; None if that leaves none.

        `student` takes images in [0, 1]; it is in evaluation mode.
        """
        divergences, agreements = {}, {}
        for name, probes in self._probes.items():
            if name not in without:
                mine, theirs = logits_of(student, probes), self._answers[name]
                divergences[name] = float(divergence(mine, theirs).mean())
                agreements[name] = float((mine.argmax(1) == theirs.argmax(1)).float().mean())
        if not divergences:
            return None
        fidelity = -statistics.fmean(divergences.values())
        return Verdict(divergences=divergences, agreements=agreements, fidelity=fidelity)


def together(verdicts: Mapping[str, Verdict], makers: Mapping[str, str]) -> dict[str, Verdict]:
    """The same verdicts, each student's fidelity by the consensus of the pools on all of them.

    `makers` names who made each pool.
    """
    if not verdicts:
        return {}
    found = _consensus(verdicts, makers)
    return {
        name: replace(verdict, fidelity=-float(divergence))
        for (name, verdict), divergence in zip(verdicts.items(), found.divergences, strict=True)
    }


def sureness(
    verdicts: Mapping[str, Verdict], makers: Mapping[str, str], among: Collection[str]
) -> float:
    """How often the best `among` them is also chosen by juries drawn from the pools, a share.

    1,000 juries, each of as many pools, drawn with replacement.
    """
    found = _consensus(verdicts, makers)
    candidates = [number for number, name in enumerate(verdicts) if name in among]
    chosen = found.divergences[candidates].argmin()
    return float((found.resampled()[:, candidates].argmin(1) == chosen).mean())


def _consensus(verdicts: Mapping[str, Verdict], makers: Mapping[str, str]) -> Consensus:
    return consensus({name: found.divergences for name, found in verdicts.items()}, makers)


def degenerate(logits: Tensor) -> bool:
    """Whether the teacher's answers [M, C] show a pool of one class, or of no class at all.

    Less than half of the entropy that M images of evenly spread classes would have, or a mean
    highest probability below 0.3.
    """
    answers = logits.softmax(1)
    mean = answers.mean(0)
    entropy = float(torch.special.entr(mean).sum())
    most = math.log(min(answers.shape))
    confidence = float(answers.max(1).values.mean())
    return entropy < LEAST_ENTROPY * most or confidence < LEAST_CONFIDENCE


@torch.no_grad()
def logits_of(network: Network, images: Tensor) -> Tensor:
    """Logits [M, C] of uint8 images [M, channels, H, W], in batches."""
    parts = images.split(at_once(ImageShape(*images.shape[1:])))
    return torch.cat([network(part.float() / 255) for part in parts])


def at_once(shape: ImageShape) -> int:
    """How many images of this shape are judged in one forward pass, at most."""
    return max(1, min(AT_ONCE, VALUES // (shape.channels * shape.height * shape.width)))
