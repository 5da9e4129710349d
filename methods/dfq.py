"""DFQ: an adversary held to the teacher's statistics, sure answers and balanced classes.

Paper      Choi et al., "Data-Free Network Quantization With Adversarial Knowledge Distillation",
           CVPR workshops 2020, arXiv 2005.04136.
Reference  da2so/Data-Free_Network_Quantization_With_Adversarial_Knowledge_Distillation@9c40587, a
           re-implementation by others, read there: the authors' own code is not public.
Departs    The student is distilled, not quantized; one generator instead of several; the divergence
           of the statistics is the mean over layers (preset `paper` sums).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dfkd.methods.game import PLAIN, SMALL, Game, GameSettings
from dfkd.methods.losses import balance, batch_norm_divergence, distillation, entropy, weighted
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class DfqSettings(GameSettings):
    """Defaults are the reference's for CIFAR, but for L_bn: a mean over layers, of about 36 x 0.01.

    The reference's epoch is 400 turns of one generator step and ten student steps.
    """

    warmup: int = setting(50, "epochs of the generator alone, without adversary", at_least=0)
    kd_steps: int = setting(4000, "student steps per epoch", at_least=1)
    student_steps: int = setting(10, "student steps between the generator's", at_least=1)
    latent: int = setting(512, "numbers of noise per image", at_least=1)
    adversarial_weight: float = setting(1.0, "of KL(teacher || student)", at_least=0)
    bn_weight: float = setting(0.3, "of L_bn, the KL of the feature statistics", at_least=0)
    bn_reduction: str = setting("mean", "L_bn over the layers", choices=("mean", "sum"))
    entropy_weight: float = setting(0.01, "of the entropy of each answer", at_least=0)
    balance_weight: float = setting(0.01, "of minus the entropy of the mean answer", at_least=0)


class Dfq(Game):
    """Warm-up trains the generator on its constraints alone; then the adversary joins."""

    settings_class: ClassVar[type[StudentSettings]] = DfqSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            **PLAIN,
            "adversarial_weight": 1.0,
            "bn_reduction": "sum",
            "bn_weight": 0.01,
            "entropy_weight": 0.01,
            "balance_weight": 0.01,
            "student_steps": 10,
            "generator_lr": 1e-3,
            "latent": 512,
            "kd_loss": "kl",
            "temperature": 1.0,
            "student_lr": 0.1,
        },
        "small": {
            **SMALL,
            "batch_size": 128,
            "student_steps": 4,
            "bn_weight": 0.1,
            "entropy_weight": 0.1,
            "balance_weight": 1.0,
        },
    }

    def loss(self, view: View) -> Tensor:
        """-KL_1(T || S) + alpha (L_bn + mean H(p) - H(mean p)), each term with its own weight."""
        settings, seen = self.settings, view.teacher
        return weighted(
            (
                settings.adversarial_weight * view.adversarial,
                lambda: -distillation(view.student.logits, seen.logits),
            ),
            (
                settings.bn_weight,
                lambda: batch_norm_divergence(seen.moments, seen.running, settings.bn_reduction),
            ),
            (settings.entropy_weight, lambda: entropy(seen.logits)),
            (settings.balance_weight, lambda: balance(seen.logits)),
        )
