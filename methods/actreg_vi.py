"""ActReg + VI: DFAD near the activation boundaries, and on virtual images between the others.

Paper      Qu et al., "Enhancing Data-Free Adversarial Distillation with Activation Regularization
           and Virtual Interpolation", ICASSP 2021, arXiv 2102.11638.
Reference  None public. Read: the abstract, which says what the two additions are for: to match the
           teacher close to activation boundaries, and to have virtual samples and labels between
           decision boundaries. Reconstructed: their forms. The regularizer is the mean absolute
           feature of the teacher, lowered where DAFL raises it; virtual images are mixed from pairs
           with a weight from Beta(alpha, alpha), and labeled by the teacher itself; all weights.
Departs    Nothing known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfkd.methods.dfad import Dfad, DfadSettings
from dfkd.methods.game import SMALL
from dfkd.methods.losses import activation, weighted
from dfkd.methods.memory import Batch, ImageSource, Mixture
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class ActregViSettings(DfadSettings):
    """DFAD's settings, and weights that are not the paper's: those were not to be had."""

    activation_weight: float = setting(0.1, "of the teacher's activation, lowered", at_least=0)
    virtual_share: float = setting(0.5, "of a student batch, mixed", at_least=0, at_most=0.9)
    virtual_alpha: float = setting(1.0, "of the mixing weights' Beta distribution", at_least=0.05)


@dataclass(frozen=True, slots=True)
class Interpolations:
    """Virtual images, lambda x_i + (1 - lambda) x_j with lambda ~ Beta(alpha, alpha)."""

    source: ImageSource
    alpha: float

    def sample(self, count: int, rng: torch.Generator) -> Batch:
        """Each image has a pair and a lambda of its own; nobody asked for classes."""
        one, two = (self.source.sample(count, rng).images for _ in range(2))
        keep = beta(self.alpha, count, rng).view(-1, 1, 1, 1)
        return Batch(keep * one + (1 - keep) * two)


class ActregVi(Dfad):
    """DFAD with a regularized generator; a share of what the student sees is interpolated."""

    settings_class: ClassVar[type[StudentSettings]] = ActregViSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "small": {
            **SMALL,
            "batch_size": 64,
            "student_steps": 4,
            "activation_weight": 0.1,
        },
    }

    def loss(self, view: View) -> Tensor:
        """-|S - T|_1 + activation_weight mean |f_T|."""
        weight = self.settings.activation_weight
        return super().loss(view) + weighted((weight, lambda: activation(view.teacher.features)))

    @property
    def source(self) -> ImageSource:
        """The generator's images, and mixtures of such."""
        settings = self.settings
        virtual = Interpolations(self.fresh, settings.virtual_alpha)
        return Mixture(self.fresh, virtual, settings.virtual_share)


def beta(alpha: float, count: int, rng: torch.Generator) -> Tensor:
    """Numbers [count] from Beta(alpha, alpha), by way of two from Gamma(alpha).

    torch.distributions takes no generator; what it calls does.
    """
    shape = torch.full((2, count), alpha, device=rng.device)
    gamma: Tensor = torch._standard_gamma(shape, generator=rng)
    return gamma[0] / gamma.sum(0)
