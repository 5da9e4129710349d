"""NAYER: label-text embeddings through a noisy layer that is redrawn for every batch.

Paper      Tran et al., "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free
           Knowledge Distillation", CVPR 2024, arXiv 2310.00258.
Reference  tmtuan1307/nayer@c6bedcd: the algorithm, weights and schedules below were read there.
Departs    L_bn is the mean over the teacher's layers, not their sum (preset `paper` sums); the best
           images of a round are kept on the device; teacher and student are frozen while the
           generator learns; the noisy layers' redraw is a schedule (`reinit_every`, paper: 1); of
           a batch that is no multiple of C, a noisy layer serves ceil(B / K) rows instead of C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.generators import NoisyLabelGenerator, NoisyLayers, Size, Trunk
from dfkd.methods.inversion import Canvas, Inversion, InversionSettings
from dfkd.methods.method import Workbench
from dfkd.methods.optimizers import adam
from dfkd.methods.random_streams import global_stream
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NayerSettings(InversionSettings):
    """Defaults are the reference's for CIFAR-100, but for L_bn: a mean over layers, not a sum."""

    batch_size: int = setting(400, "B: images per round of synthesis", at_least=2)
    warmup_rounds: int = setting(10, "rounds per epoch before the student starts", at_least=1)
    rounds: int = setting(2, "rounds per epoch once the student learns", at_least=0)
    generator_life: int = setting(10, "epochs between fresh generators; 0: never", at_least=0)
    generator_lr: float = setting(4e-3, "of Adam, made anew every round", above=0)
    generator_width: int = setting(64, "channels of the generator's last stage", at_least=1)
    noisy_layers: int = setting(0, "K: noisy layers side by side; 0: ceil(B / C)", at_least=0)
    noisy_width: int = setting(1000, "outputs of a noisy layer", at_least=1)
    noise_std: float = setting(1.0, "standard deviation of a redrawn weight", above=0)
    reinit_every: int = setting(1, "rounds between redraws; 0: never", at_least=0)


class Nayer(Inversion):
    """One generator for `generator_life` epochs; its noisy layers are drawn anew every round."""

    settings_class: ClassVar[type[StudentSettings]] = NayerSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            "held_out": 0.0,
            "bn_reduction": "sum",
            "bn_weight": 10.0,
            "one_hot_weight": 0.5,
            "adversarial_weight": 1.33,
            "bn_momentum": 0.9,
            "generator_lr": 4e-3,
            "generator_life": 10,
            "reinit_every": 1,
            "noise_std": 1.0,
            "temperature": 20.0,
            "student_lr": 0.2,
            "clip_norm": 0.0,
        },
        "small": {
            "batch_size": 100,
            "synthesis_steps": 15,
            "warmup_rounds": 4,
            "rounds": 2,
            "generator_width": 8,
            "noisy_width": 128,
        },
    }

    def __init__(self, settings: NayerSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.generator: NoisyLabelGenerator | None = None
        self.rounds_made = 0  # by this generator

    @property
    def sizes(self) -> Sequence[Size]:
        """What the generator can render; none: the task's own size."""
        return ()

    def before_rounds(self, epoch: int, rng: torch.Generator) -> None:
        if self.generator is None or self.life_is_over(epoch):
            self.start_over(rng)

    def life_is_over(self, epoch: int) -> bool:
        """Whether a fresh generator is due: counted from the start and from the warm-up's end."""
        life: int = self.settings.generator_life
        return life > 0 and (epoch % life == 0 or (epoch - self.settings.warmup) % life == 0)

    def begin(self, target: Tensor, rng: torch.Generator) -> Canvas:
        """Redraw the noise, and train the generator for these classes."""
        settings = self.settings
        generator = self.generator
        assert generator is not None, "an epoch begins with a generator"
        if settings.reinit_every and self.rounds_made % settings.reinit_every == 0:
            generator.noisy.redraw(rng)
        self.rounds_made += 1
        which = self.resolution()
        learner = adam(generator.parameters(), settings.generator_lr)
        return Canvas(render=lambda: generator(target, which), optimizers=[learner])

    def resolution(self) -> int:
        """Which of `sizes` the next images have."""
        return 0

    def start_over(self, rng: torch.Generator) -> None:
        """A generator with new weights, seeded from `rng`."""
        settings, bench = self.settings, self.bench
        layers = settings.noisy_layers or -(-settings.batch_size // bench.classes)
        draw = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        with global_stream(bench.device, "generator", draw):
            noisy = NoisyLayers(
                layers, bench.embeddings.shape[1], settings.noisy_width, settings.noise_std
            )
            width = settings.generator_width
            trunk = Trunk(settings.noisy_width, bench.shape, width, self.sizes, settings.precision)
            self.generator = NoisyLabelGenerator(bench.embeddings, noisy, trunk).to(bench.device)
        self.generator.noisy.redraw(rng)
        self.rounds_made = 0

    def synthesis_state(self) -> dict[str, Any]:
        generator = None if self.generator is None else self.generator.state_dict()
        return super().synthesis_state() | {"generator": generator, "rounds_made": self.rounds_made}

    def restore_synthesis(self, state: dict[str, Any]) -> None:
        super().restore_synthesis(state)
        if state["generator"] is not None:
            self.start_over(torch.Generator(self.bench.device))
            assert self.generator is not None
            self.generator.load_state_dict(state["generator"])
        self.rounds_made = state["rounds_made"]
