"""Losses of data-free distillation, as pure functions.

Logits are [B, C]; every function returns a scalar, the mean over the batch unless it says
otherwise. Natural logarithms throughout (DAFL and PRE-DFKD use log10 for balance: a factor
of 2.303).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Moments = tuple[Tensor, Tensor]  # mean and biased variance per channel, [C] each


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softened classes, times temperature squared.

    Hinton et al. 2015, section 2.
    """
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2


def one_hot(teacher: Tensor, target: Tensor) -> Tensor:
    """L_oh: cross-entropy of the teacher's logits to the wanted classes [B] (NAYER, CMI, Fast)."""
    return F.cross_entropy(teacher, target)


def masked_adversarial(student: Tensor, teacher: Tensor) -> Tensor:
    """L_adv: minus KL(teacher || student) where both decide alike, zero elsewhere.

    The decision-adversarial term of CMI, Fast and NAYER. The mask keeps the generator from winning
    with images on which the two disagree anyway. Mean over the whole batch, masked images included;
    the gradient flows through both networks. Range (-inf, 0].
    """
    agree = (student.argmax(1) == teacher.argmax(1)).float()
    log_q, log_p = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return -(divergence * agree).mean()


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
    gaps = [
        torch.linalg.vector_norm(mean - kept_mean) + torch.linalg.vector_norm(var - kept_var)
        for (mean, var), (kept_mean, kept_var) in zip(batch, running, strict=True)
    ]
    total = torch.stack(gaps).sum()
    return total / len(gaps) if reduction == "mean" else total
