"""CMI: every image must be told from all others that were synthesized, so none is made twice.

Paper      Fang et al., "Contrastive Model Inversion for Data-Free Knowledge Distillation", IJCAI
           2021, arXiv 2105.08584.
Reference  zju-vipa/CMI@3f791f9, datafree/synthesis/contrastive.py and
           scripts/cmi/scratch_cmi_cifar10_wrn402_wrn161.sh.
Departs    L_bn is the mean over layers (preset `paper` sums); the adversary waits for the end of
           the warm-up (the reference has it from the first step on, against an untrained student);
           features are those of all BatchNorm inputs for every teacher (the reference takes four
           stages of a ResNet-34), in the bank those of fresh views of a round's best images; the
           bank takes batches of any size, lies on the device and is smaller by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfkd.methods.augment import flipped, resized_crop
from dfkd.methods.effort import made
from dfkd.methods.feature_bank import FeatureBank
from dfkd.methods.generators import LatentGenerator, reinitialize
from dfkd.methods.inversion import Canvas, Inversion, InversionSettings
from dfkd.methods.losses import contrast, weighted
from dfkd.methods.method import Workbench
from dfkd.methods.optimizers import TORCHS_BETAS, adam
from dfkd.methods.random_streams import global_stream
from dfkd.methods.settings import Value, setting
from dfkd.methods.sight import Sight
from dfkd.methods.student import StudentSettings
from dfkd.methods.teacher import Teacher
from dfkd.methods.view import View

SMALLEST = 0.25  # area of a local view, of the image's


@dataclass(frozen=True, slots=True, kw_only=True)
class CmiSettings(InversionSettings):
    """Defaults are the reference's on CIFAR-10 from scratch, but for L_bn and the bank's size."""

    synthesis_steps: int = setting(200, "steps per round", at_least=1)
    bn_momentum: float = setting(0.0, "past's share in L_bn", at_least=0, at_most=1)
    one_hot_weight: float = setting(1.0, "of L_oh", at_least=0)
    adversarial_weight: float = setting(0.5, "of L_adv", at_least=0)
    cr_weight: float = setting(0.8, "of L_cr, the contrastive term", at_least=0)
    cr_temperature: float = setting(0.1, "of L_cr", above=0)
    projection: int = setting(256, "numbers by which L_cr compares images", at_least=1)
    bank_size: int = setting(8192, "past images that the bank remembers", at_least=1)
    negatives: int = setting(4096, "of them in a step's L_cr", at_least=0)
    latent: int = setting(256, "numbers of noise per image", at_least=1)
    generator_lr: float = setting(1e-3, "of generator, noise and projection", above=0)
    generator_width: int = setting(64, "channels of the generator's last stage", at_least=1)
    student_lr: float = setting(0.1, "first learning rate; a cosine takes it to 0.1 %", above=0)


class Cmi(Inversion):
    """Every round re-initializes the generator; projection head and bank live on."""

    settings_class: ClassVar[type[StudentSettings]] = CmiSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
            "held_out": 0.0,
            "bn_reduction": "sum",
            "bn_weight": 1.0,
            "cr_weight": 0.8,
            "cr_temperature": 0.1,
            "synthesis_steps": 200,
            "generator_lr": 1e-3,
            "bank_size": 40960,
            "negatives": 4096,
            "temperature": 20.0,
            "student_lr": 0.1,
            "clip_norm": 0.0,
        },
        "small": {
            "batch_size": 100,
            "synthesis_steps": 40,
            "warmup_rounds": 4,
            "rounds": 1,
            "generator_width": 8,
            "generator_lr": 0.01,
            "latent": 64,
            "cr_weight": 0.2,
            "projection": 64,
            "bank_size": 2000,
            "negatives": 500,
        },
    }

    def __init__(self, settings: CmiSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        with global_stream(bench.device, "generator", bench.seed):
            generator = LatentGenerator(
                settings.latent,
                bench.shape,
                settings.generator_width,
                precision=settings.precision,
            )
        self.generator = generator.to(bench.device)
        self.images = torch.zeros(())  # as last rendered, before any view of them
        if settings.cr_weight:
            shape = bench.shape
            size = (1, shape.channels, shape.height, shape.width)
            blank = torch.zeros(size, device=bench.device)
            self.features = spatial_means(bench.teacher.look(blank)).shape[1]  # F
            self.bank = FeatureBank(settings.bank_size, 2 * self.features, bench.device)
            self.renew_head(bench.seed)

    def renew_head(self, seed: int) -> None:
        """The projection F -> F -> 256 with first weights, and its optimizer."""
        features = self.features
        with global_stream(self.bench.device, "projection", seed):
            self.head = nn.Sequential(
                nn.Linear(features, features),
                nn.ReLU(inplace=True),
                nn.Linear(features, self.settings.projection),
            ).to(self.bench.device)
        self.head_adam = adam(self.head.parameters(), self.settings.generator_lr, TORCHS_BETAS)

    @staticmethod
    def objections(settings: Any, teacher: Teacher) -> list[str]:
        found = Inversion.objections(settings, teacher)
        if settings.cr_weight and not teacher.batch_norms:
            found.append("without a BatchNorm layer L_cr is impossible too; set cr_weight=0")
        return found

    @staticmethod
    def kept(settings: CmiSettings, epochs: int) -> Mapping[str, int]:
        remembered = min(made(settings, epochs), settings.bank_size) if settings.cr_weight else 0
        return {**Inversion.kept(settings, epochs), "bank": remembered}

    def start_over(self, rng: torch.Generator) -> None:
        if self.settings.cr_weight:  # its head has taken a step down a loss that was not finite
            self.renew_head(int(torch.randint(2**62, (), generator=rng, device=rng.device)))

    def targets(self, rng: torch.Generator) -> Tensor:
        """Classes drawn at random, in order."""
        size = (self.settings.batch_size,)
        classes = torch.randint(self.bench.classes, size, generator=rng, device=rng.device)
        return classes.sort().values

    def begin(self, target: Tensor, rng: torch.Generator) -> Canvas:
        """A new generator, new noise; both are optimized for this batch, the head goes on."""
        reinitialize(self.generator, rng)
        noise = self.generator.draw(len(target), rng).requires_grad_()
        learned = [*self.generator.parameters(), noise]
        learner = adam(learned, self.settings.generator_lr)

        def render() -> Tensor:
            self.images = self.generator(noise)
            return self.images

        heads = [self.head_adam] if self.settings.cr_weight else []
        return Canvas(render=render, optimizers=[learner, *heads])

    def loss(self, view: View) -> Tensor:
        """The inversion's loss on the global view, and L_cr between global and local."""
        return super().loss(view) + weighted(
            (self.settings.cr_weight, lambda: self.contrastive(view))
        )

    def contrastive(self, view: View) -> Tensor:
        """L_cr of this batch among itself and a draw from the bank."""
        part = self.local_view(self.images, view.rng)
        local, whole = map(spatial_means, (self.bench.teacher.look(part), view.teacher))
        past_local, past_whole = self.bank.draw(self.settings.negatives, view.rng).chunk(2, dim=1)
        features = torch.cat([local, past_local, whole, past_whole])
        parts, wholes = F.normalize(self.head(features), dim=1).chunk(2)
        return contrast(parts, wholes, len(local), self.settings.cr_temperature)

    def local_view(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """A part of each image, enlarged; mirrored where that is allowed."""
        images = resized_crop(images, SMALLEST, rng)
        return flipped(images, rng) if self.settings.flip else images

    def invert(
        self, target: Tensor, *, adversarial: bool, rng: torch.Generator
    ) -> tuple[Tensor, float, bool]:
        best, loss, sane = super().invert(target, adversarial=adversarial, rng=rng)
        if self.settings.cr_weight and loss < float("inf"):
            with torch.no_grad():
                views = self.local_view(best, rng), self.augment(best, rng)
                pairs = [spatial_means(self.bench.teacher.look(images)) for images in views]
            self.bank.add(torch.cat(pairs, dim=1))
        return best, loss, sane

    def synthesis_state(self) -> dict[str, Any]:
        if not self.settings.cr_weight:
            return super().synthesis_state()
        head = {"head": self.head.state_dict(), "head_adam": self.head_adam.state_dict()}
        return super().synthesis_state() | head | {"bank": self.bank.state()}

    def restore_synthesis(self, state: dict[str, Any]) -> None:
        super().restore_synthesis(state)
        if self.settings.cr_weight:
            self.head.load_state_dict(state["head"])
            self.head_adam.load_state_dict(state["head_adam"])
            self.bank.restore(state["bank"])


def spatial_means(sight: Sight) -> Tensor:
    """The mean over places of what each BatchNorm layer was given, side by side: [B, F]."""
    return torch.cat([inputs.mean((2, 3)) for inputs in sight.norm_inputs], dim=1)
