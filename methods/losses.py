"""Losses of data-free distillation, as pure functions.

Logits are [B, C]; every function returns a scalar, the mean over the batch unless it says
otherwise. Natural logarithms throughout (DAFL and PRE-DFKD use log10 for balance: a factor
of 2.303). What a generator maximizes is written as its negative at the place of use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LN10 = math.log(10)  # DAFL and PRE-DFKD take entropies in log10: their weights are divided by it
Moments = tuple[Tensor, Tensor]  # mean and biased variance per channel, [C] each


def weighted(*terms: tuple[float, Callable[[], Tensor]]) -> Tensor:
    """The sum of weight x term. Terms of weight 0 are not computed; of nothing it is a plain 0."""
    return sum((weight * term() for weight, term in terms if weight), torch.zeros(()))


# What the student learns by


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softened classes, per image [B]."""
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softened classes, times temperature squared.

    Hinton et al. 2015, section 2.
    """
    return divergence(student, teacher, temperature).mean() * temperature**2


def logit_distance(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """L1 distance of the logits, mean over images and classes (DFAD, PRE-DFKD).

    `weights` [B] count images more or less.
    """
    if weights is None:
        return F.l1_loss(student, teacher)
    return (F.l1_loss(student, teacher, reduction="none").mean(1) * weights).mean()


def attention_transfer(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared distance of the attention maps, summed over stages (ZSKT, CGDD).

    Stages are feature maps [B, K, h, w]; K may differ. An attention map is the mean over channels
    of the squared features, scaled to unit norm per image (Zagoruyko and Komodakis 2017). Mean
    over batch and places, as in their public code.
    """
    gaps = [
        (attention(mine) - attention(theirs)).square().mean()
        for mine, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(gaps).sum()


def attention(maps: Tensor) -> Tensor:
    """Where a feature map [B, K, h, w] is active: [B, h * w], of unit norm."""
    return F.normalize(maps.square().mean(1).flatten(1), dim=1)


# What makes an image a likely one to the teacher


def one_hot(teacher: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_oh: cross-entropy of the teacher's logits to the wanted classes [B] (NAYER, CMI, Fast).

    `weights` [B] count images more or less.
    """
    if weights is None:
        return F.cross_entropy(teacher, target)
    return (F.cross_entropy(teacher, target, reduction="none") * weights).mean()


def confidence(teacher: Tensor) -> Tensor:
    """Cross-entropy of the teacher's logits to its own decisions: low where it is sure (DAFL)."""
    return F.cross_entropy(teacher, teacher.argmax(1))


def entropy(teacher: Tensor) -> Tensor:
    """Mean entropy of the teacher's answers, in nats: low where it is sure (DFQ)."""
    log_p = F.log_softmax(teacher, dim=1)
    return -(log_p.exp() * log_p).sum(1).mean()


def balance(teacher: Tensor) -> Tensor:
    """Minus the entropy of the mean answer over the batch, in nats: low where classes are balanced.

    The information-entropy term of DAFL. Range [-ln C, 0].
    """
    mean = F.softmax(teacher, dim=1).mean(0)
    return (mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def activation(features: Tensor) -> Tensor:
    """Mean absolute feature [B, F] of the teacher: high on images like those it knows (DAFL)."""
    return features.abs().mean()


def batch_norm_gap(
    batch: Sequence[Moments],
    running: Sequence[Moments],
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """L_bn: distance of a batch's feature statistics from those a BatchNorm teacher remembers.

    Per layer ||mean - running mean||_2 + ||variance - running variance||_2: norms, not squared,
    with biased variances of the layers' inputs (DeepInversion, Yin et al. 2020, as the public code
    of Fast and NAYER computes it). `mean` over layers makes a weight carry over between teachers
    of different depth; the papers take the `sum`.
    """
    gaps = layer_gaps(batch, running)
    return gaps.mean() if reduction == "mean" else gaps.sum()


def layer_gaps(batch: Sequence[Moments], running: Sequence[Moments]) -> Tensor:
    """The same, layer by layer, [L]; as many operations for any number of layers."""
    seen, kept, sizes = in_a_row(batch, running)
    squares = (seen - kept).square()
    sums = torch.segment_reduce(squares, "sum", lengths=_lengths(sizes, squares.device))
    apart = sums > 0  # the slope of a root is infinite at 0, where a norm's is taken to be 0
    return (torch.where(apart, sums, 1.0).sqrt() * apart).view(-1, 2).sum(1)


def in_a_row(
    one: Sequence[Moments], other: Sequence[Moments]
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Each one's statistics as one vector, (mean, variance) after (mean, variance); their lengths.

    Raises ValueError where they are not of the same network.
    """
    mine, theirs = ([values for layer in layers for values in layer] for layers in (one, other))
    sizes = tuple(map(len, mine))
    if sizes != tuple(map(len, theirs)):
        raise ValueError(f"statistics of {len(one)} and of {len(other)} other layers do not match")
    return torch.cat(mine), torch.cat(theirs), sizes


@functools.cache
def _lengths(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sizes, device=device)


def batch_norm_divergence(
    batch: Sequence[Moments],
    running: Sequence[Moments],
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """KL of the batch's Gaussian from the remembered one, summed over channels.

    DFQ's form (Choi et al. 2020); over layers the mean, or the paper's `sum`. Per channel
    ((m - mean)^2 + v) / (2 var) - ln(v / var) / 2 - 1 / 2; zero where they agree.
    """
    gaps = []
    for (mean, var), (kept_mean, kept_var) in zip(batch, running, strict=True):
        ratio = (var + 1e-8) / (kept_var + 1e-8)
        shift = (mean - kept_mean).square() / (kept_var + 1e-8)
        gaps.append(((shift + ratio - ratio.log() - 1) / 2).sum())
    total = torch.stack(gaps).sum()
    return total / len(gaps) if reduction == "mean" else total


def total_variation(images: Tensor) -> Tensor:
    """Root of the summed squared differences to the neighbors in four directions.

    The TV_l2 prior of DeepInversion: right, down, and both diagonals; over the whole batch.
    """
    right = images[..., :, 1:] - images[..., :, :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    norms = [torch.linalg.vector_norm(step) for step in (right, down, falling, rising)]
    return torch.stack(norms).sum()


# Where teacher and student differ


def masked_adversarial(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_adv: minus KL(teacher || student) where both decide alike, zero elsewhere.

    The decision-adversarial term of CMI, Fast and NAYER. The mask keeps the generator from winning
    with images on which the two disagree anyway. Mean over the whole batch, masked images included;
    the gradient flows through both networks. `weights` [B] count images more or less.
    Range (-inf, 0].
    """
    agree = (student.argmax(1) == teacher.argmax(1)).float()
    if weights is not None:
        agree = agree * weights
    return -(divergence(student, teacher) * agree).mean()


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 3.0) -> Tensor:
    """Jensen-Shannon divergence of the softened answers, in nats, exact. Range [0, ln 2]."""
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    left = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    right = F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
    return (left + right) / 2


def clamped_jensen_shannon(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 3.0,
    reduction: Literal["mean", "batchmean"] = "mean",
) -> Tensor:
    """The published form of ADI and PRE-DFKD, kept to reproduce them; itself clamped to [0, 1].

    Not the divergence from their mean m but, the other way round, KL(m || p) and KL(m || q), of
    probabilities clamped to [0.01, 0.99]: with many classes the clamp silences most gradients. ADI
    sums over the classes (`batchmean`), PRE-DFKD takes the mean over them too.
    """
    q, p = (F.softmax(logits / temperature, dim=1) for logits in (student, teacher))
    p, q, m = (x.clamp(0.01, 0.99) for x in (p, q, (p + q) / 2))
    both = F.kl_div(p.log(), m, reduction="batchmean") + F.kl_div(q.log(), m, reduction="batchmean")
    divisor = 2 if reduction == "batchmean" else 2 * m.shape[1]
    return (both / divisor).clamp(0, 1)


# Whether images differ from each other


def contrast(local: Tensor, whole: Tensor, new: int, temperature: float) -> Tensor:
    """L_cr: which of the global views [N, D] belongs to each local one [N, D]? Rows of unit norm.

    InfoNCE, as the public code of CMI computes it: the global side gets no gradient. The first
    `new` rows are a batch, the others past images: each of the two counts with its mean, so that
    many past images do not drown the batch.
    """
    logits = local @ whole.detach().T / temperature
    own = torch.arange(len(logits), device=logits.device)
    losses = F.cross_entropy(logits, own, reduction="none")
    if new == len(losses):
        return losses.mean()
    return losses[:new].mean() + losses[new:].mean()
