"""PRE-DFKD: an autoencoder replays what the generator made before, so the student does not forget.

Paper      Binici et al., "Robust and Resource-Efficient Data-Free Knowledge Distillation by
           Generative Pseudo Replay", AAAI 2022, arXiv 2201.03019.
Reference  kuluhan/PRE-DFKD@604010d, main.py and distillation.py.
Departs    All networks use the trunk that the methods share (sigmoid, BatchNorm eps 1e-5, no
           spectral norm); natural logarithms in the balance term; the codes' variance is biased; JS
           is exact unless `js=clamped`, as published, where the clamp silences most of its gradient
           from 100 classes on; the decoder is not trained to please the teacher, unless
           `decoder_prior_weight=1` (in the released code, by gradients left over from the tuning).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dfkd.methods.autoencoder import Autoencoder, Replay, moment_distance
from dfkd.methods.game import PLAIN, SMALL, Game, GameSettings
from dfkd.methods.generators import LatentGenerator
from dfkd.methods.losses import (
    LN10,
    activation,
    balance,
    clamped_jensen_shannon,
    confidence,
    jensen_shannon,
    logit_distance,
    weighted,
)
from dfkd.methods.memory import Batch, Mixture
from dfkd.methods.method import Workbench
from dfkd.methods.optimizers import TORCHS_BETAS, adam
from dfkd.methods.random_streams import global_stream
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class PreDfkdSettings(GameSettings):
    """Defaults are the reference's for CIFAR-100, but for the JS form and the decoder's prior."""

    batch_size: int = setting(1024, "images per generator step", at_least=2)
    kd_batch_size: int = setting(1152, "images per student step, over all workers", at_least=1)
    kd_loss: str = setting("l1", "kl: softened classes; l1: logits", choices=("kl", "l1"))
    latent: int = setting(1000, "numbers of noise per image", at_least=1)
    generator_lr: float = setting(0.02, "of Adam", above=0)
    student_steps: int = setting(10, "student steps between the generator's", at_least=1)
    one_hot_weight: float = setting(1.0, "of the teacher's confidence", at_least=0)
    balance_weight: float = setting(5 / LN10, "of class balance, natural log", at_least=0)
    activation_weight: float = setting(0.1, "of the teacher's activation", at_least=0)
    adversarial_weight: float = setting(1.0, "of the Jensen-Shannon divergence", at_least=0)
    js: str = setting("exact", "form of that divergence", choices=("exact", "clamped"))
    replay_share: float = setting(1 / 9, "of a student batch, from memory", at_least=0, at_most=0.9)
    rehearse_every: int = setting(1, "epochs between those with replay", at_least=1)
    memory_every: int = setting(1, "epochs between those that train the memory", at_least=1)
    memory_steps: int = setting(4, "memory steps per generator turn", at_least=0)
    memory_lr: float = setting(5e-4, "of the autoencoder's Adam", above=0)
    memory_width: int = setting(64, "channels of its first and last stage", at_least=1)
    pixel_weight: float = setting(1.0, "of L1 between image and memory", at_least=0)
    response_weight: float = setting(1.0, "of L1 between their logits", at_least=0)
    code_weight: float = setting(1e-5, "of KL(q(z | x) || N(0, I))", at_least=0)
    tune_steps: int = setting(1, "steps that tune codes before replay", at_least=0)
    tune_lr: float = setting(0.02, "of the Adam that tunes them", above=0)
    decoder_prior_weight: float = setting(0.0, "of the codes' loss, in the decoder", at_least=0)


class PreDfkd(Game):
    """A game whose student also sees what the autoencoder remembers of earlier batches."""

    settings_class: ClassVar[type[StudentSettings]] = PreDfkdSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            **PLAIN,
            "js": "clamped",
            "decoder_prior_weight": 1.0,
            "weight_decay": 5e-4,
        },
        "small": {
            **SMALL,
            "batch_size": 128,
            "student_steps": 4,
            "memory_width": 16,
            "memory_steps": 1,
            "balance_weight": 0.5,
            "one_hot_weight": 0.05,
            "activation_weight": 0.0,
            "adversarial_weight": 20.0,
            "generator_lr": 0.003,
        },
    }

    def __init__(self, settings: PreDfkdSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        with global_stream(bench.device, "memory", bench.seed):
            memory = Autoencoder(bench.shape, settings.memory_width, settings.latent)
        self.memory = memory.to(bench.device)
        self.memory_adam = adam(self.memory.parameters(), settings.memory_lr)
        self.remembers = False  # whether the memory was ever trained

    def loss(self, view: View) -> Tensor:
        """L_G: confident, balanced and active images on which teacher and student differ."""
        settings, seen = self.settings, view.teacher
        differ = jensen_shannon if settings.js == "exact" else clamped_jensen_shannon
        adversarial_weight = settings.adversarial_weight * view.adversarial
        return weighted(
            (settings.one_hot_weight, lambda: confidence(seen.logits)),
            (settings.balance_weight, lambda: balance(seen.logits)),
            (settings.activation_weight, lambda: -activation(seen.features)),
            (adversarial_weight, lambda: -differ(view.student.logits, seen.logits)),
        )

    @property
    def source(self) -> Mixture:
        """Novel images, and in epochs of rehearsal a share of remembered ones."""
        settings = self.settings
        due = self.remembers and self.present % settings.rehearse_every == 0
        replay = Replay(self.memory, self.tuned_codes)
        return Mixture(self.fresh, replay, settings.replay_share if due else 0.0)

    @property
    def generators(self) -> list[LatentGenerator]:
        return [self.generator, self.memory.decoder]

    def after_student(self, batch: Batch, step: int, rng: torch.Generator) -> None:
        """Train the memory in the first `memory_steps` student steps of a turn."""
        settings = self.settings
        due = settings.replay_share > 0 and self.present % settings.memory_every == 0
        if due and step < settings.memory_steps:
            novel = self.source.novel_of(len(batch.images))
            self.train_memory(batch.images[: max(2, novel // 2)], rng)

    def train_memory(self, novel: Tensor, rng: torch.Generator) -> None:
        """L_VAE on novel images and, once there are any, a quarter as many of its own."""
        settings = self.settings
        prior = novel.new_zeros(())
        if self.remembers:
            codes = self.tuned_codes(max(2, len(novel) // 4), rng)
            with torch.set_grad_enabled(settings.decoder_prior_weight > 0):
                own = self.memory.decoder(codes)
                prior = settings.decoder_prior_weight * self.code_loss(codes, own)
            novel = torch.cat([novel, own.detach()])
        loss = self.memory_loss(novel, rng) + prior
        if loss.requires_grad:  # some weight is not 0
            self.memory_adam.zero_grad()
            loss.backward()
            self.memory_adam.step()
            self.remembers = True

    def memory_loss(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """L_VAE: pixels and teacher's responses are kept, and the codes stay near N(0, I)."""
        settings, teacher = self.settings, self.bench.teacher
        remembered, codes = self.memory(images, rng)
        return weighted(
            (settings.pixel_weight, lambda: F.l1_loss(remembered, images)),
            (
                settings.response_weight,
                lambda: logit_distance(teacher.logits(remembered), teacher.logits(images)),
            ),
            (settings.code_weight, lambda: codes),
        )

    def tuned_codes(self, count: int, rng: torch.Generator) -> Tensor:
        """Codes [count, latent] from N(0, I), tuned so that the teacher knows what they show."""
        settings = self.settings
        codes = self.memory.decoder.draw(count, rng).requires_grad_(settings.tune_steps > 0)
        tuner = adam([codes], settings.tune_lr, TORCHS_BETAS)
        for _ in range(settings.tune_steps):
            with torch.enable_grad():
                loss = self.code_loss(codes, self.memory.recalled(codes))
            codes.grad = torch.autograd.grad(loss, codes)[0]  # none to the decoder
            tuner.step()
        return codes.detach()

    def code_loss(self, codes: Tensor, decoded: Tensor) -> Tensor:
        """L_Z: balanced and confident images, from codes with the moments of N(0, I)."""
        logits = self.bench.teacher.logits(decoded)
        return weighted(
            (self.settings.balance_weight, lambda: balance(logits)),
            (self.settings.one_hot_weight, lambda: confidence(logits)),
            (1.0, lambda: moment_distance(codes)),
        )

    def state(self) -> dict[str, Any]:
        memory = {"memory": self.memory.state_dict(), "memory_adam": self.memory_adam.state_dict()}
        return super().state() | memory | {"remembers": self.remembers}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.memory.load_state_dict(state["memory"])
        self.memory_adam.load_state_dict(state["memory_adam"])
        self.remembers = state["remembers"]
