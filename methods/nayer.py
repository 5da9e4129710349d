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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dfkd.methods.augment import Augmentation
from dfkd.methods.errors import TrialFailed
from dfkd.methods.generators import NoisyLabelGenerator, NoisyLayers, Trunk
from dfkd.methods.losses import Moments, batch_norm_gap, masked_adversarial, one_hot
from dfkd.methods.memory import Pool, Shard
from dfkd.methods.method import Metrics, Workbench
from dfkd.methods.random_streams import global_stream
from dfkd.methods.settings import Value, setting
from dfkd.methods.student import StudentSettings
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import portion

ATTEMPTS = 3  # fresh generators for one round before the trial is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class NayerSettings(StudentSettings):
    """Defaults are the reference's for CIFAR-100, but for L_bn: a mean over layers, of weight 1."""

    batch_size: int = setting(400, "B: images per round of synthesis", at_least=2)
    generator_steps: int = setting(40, "steps per round", at_least=1)
    warmup_rounds: int = setting(10, "rounds per epoch before the student starts", at_least=1)
    rounds: int = setting(2, "rounds per epoch once the student learns", at_least=1)
    generator_life: int = setting(10, "epochs between fresh generators; 0: never", at_least=0)
    generator_lr: float = setting(4e-3, "of Adam, made anew every round", above=0)
    generator_width: int = setting(64, "channels of the generator's last stage", at_least=1)
    noisy_layers: int = setting(0, "K: noisy layers side by side; 0: ceil(B / C)", at_least=0)
    noisy_width: int = setting(1000, "outputs of a noisy layer", at_least=1)
    noise_std: float = setting(1.0, "standard deviation of a redrawn weight", above=0)
    reinit_every: int = setting(1, "rounds between redraws; 0: never", at_least=0)
    bn_weight: float = setting(1.0, "of L_bn", at_least=0)
    bn_reduction: str = setting("mean", "L_bn over the layers", choices=("mean", "sum"))
    bn_momentum: float = setting(0.9, "past's share in L_bn", at_least=0, at_most=1)
    one_hot_weight: float = setting(0.5, "of L_oh", at_least=0)
    adversarial_weight: float = setting(1.33, "of L_adv", at_least=0)
    pool_capacity: int = setting(0, "images kept, the newest; 0: all", at_least=0)


class Nayer:
    """Per epoch: rounds of synthesis into the pool, then `kd_steps` of distillation from it."""

    settings_class: ClassVar[type[StudentSettings]] = NayerSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        "paper": {
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
        }
    }

    def __init__(self, settings: NayerSettings, bench: Workbench) -> None:
        self.settings = settings
        self.bench = bench
        self.pool = Pool(bench.shape, settings.pool_capacity, bench.device)
        self.augment = Augmentation(settings.shift, settings.flip)
        self.generator: NoisyLabelGenerator | None = None
        self.remembered: list[Moments] | None = None  # L_bn's moving average
        self.rounds_dealt = 0  # to all workers, since the start
        self.rounds_made = 0  # by this worker's generator
        self.rounds_lost = 0  # running, that ended with a loss that is not finite

    @staticmethod
    def objections(settings: NayerSettings, teacher: Teacher) -> list[str]:
        if settings.bn_weight and not teacher.batch_norms:
            return [
                "the teacher has no BatchNorm layer, so L_bn is impossible; set bn_weight=0 to "
                "synthesize by L_oh and L_adv alone"
            ]
        return []

    @property
    def source(self) -> Pool:
        return self.pool

    def epoch(self, epoch: int, rng: torch.Generator) -> Metrics:
        """The body of the algorithm's outer loop."""
        settings, bench = self.settings, self.bench
        learning = epoch >= settings.warmup
        if self.generator is None or self.life_is_over(epoch):
            self.renew_generator(rng)
        rounds = settings.rounds if learning else settings.warmup_rounds
        with bench.clock("synthesis"):
            made = [
                self.synthesize(adversarial=learning, rng=rng)
                for _ in range(portion(rounds, self.rounds_dealt, bench.team))
            ]
        self.rounds_dealt += rounds
        with bench.clock("waiting"):
            shards = bench.team.share([shard for shard, _ in made])
        for shard in shards:
            self.pool.add(shard)
        metrics: Metrics = {"pool_images": len(self.pool)}
        if made:
            metrics["generator_loss"] = sum(loss for _, loss in made) / len(made)
        if learning:
            with bench.clock("distillation"):
                metrics |= bench.student.distill(bench.teacher, self.pool, epoch, rng)
        return metrics

    def life_is_over(self, epoch: int) -> bool:
        """Whether a fresh generator is due: counted from the start and from the warm-up's end."""
        life = self.settings.generator_life
        return life > 0 and (epoch % life == 0 or (epoch - self.settings.warmup) % life == 0)

    def synthesize(self, *, adversarial: bool, rng: torch.Generator) -> tuple[Shard, float]:
        """One round: a batch of images, and its loss.

        A round whose every loss is not finite is tried again with a fresh generator; after
        ATTEMPTS of them the trial fails.
        """
        while self.rounds_lost < ATTEMPTS:
            target = balanced_classes(self.settings.batch_size, self.bench.classes, rng)
            images, loss, sane = self.train_generator(target, adversarial=adversarial, rng=rng)
            self.rounds_lost = 0 if sane else self.rounds_lost + 1
            if not sane:
                self.renew_generator(rng)
                self.remembered = None
            if loss < float("inf"):
                return Shard.of(images, target), loss
        raise TrialFailed(
            f"the generator's loss was not finite in {ATTEMPTS} rounds running; "
            f"try a generator_lr below {self.settings.generator_lr:g}"
        )

    def train_generator(
        self, target: Tensor, *, adversarial: bool, rng: torch.Generator
    ) -> tuple[Tensor, float, bool]:
        """The inner loop: redraw the noise, then `generator_steps` steps for this one batch.

        Returns the images [B, channels, H, W] of the step with the lowest loss, that loss (infinite
        if none was finite), and whether the last step's loss was finite.
        """
        settings = self.settings
        generator = cast(NoisyLabelGenerator, self.generator)
        if settings.reinit_every and self.rounds_made % settings.reinit_every == 0:
            generator.noisy.redraw(rng)
        self.rounds_made += 1
        adam = torch.optim.Adam(
            generator.parameters(), lr=settings.generator_lr, betas=(0.5, 0.999)
        )
        lowest = torch.full((), float("inf"), device=rng.device)
        best = torch.zeros((), device=rng.device)
        with self.bench.student.frozen() as student:
            for _ in range(settings.generator_steps):
                images = generator(target)
                loss, moments = self.loss(images, target, student if adversarial else None, rng)
                better = loss.isfinite() & (loss.detach() < lowest)  # decided on the device
                best = torch.where(better, images.detach(), best)
                lowest = torch.where(better, loss.detach(), lowest)
                adam.zero_grad()
                loss.backward()
                adam.step()
        self.remember(moments)
        return best, float(lowest), bool(loss.detach().isfinite())

    def loss(
        self, images: Tensor, target: Tensor, student: nn.Module | None, rng: torch.Generator
    ) -> tuple[Tensor, list[Moments]]:
        """bn_weight L_bn + one_hot_weight L_oh + adversarial_weight L_adv, and the statistics."""
        settings, teacher = self.settings, self.bench.teacher
        seen = self.augment(images, rng)
        moments: list[Moments] = []
        if settings.bn_weight:
            logits, moments = teacher.inspect(seen)
            gap = batch_norm_gap(self.blended(moments), teacher.running, settings.bn_reduction)  # type: ignore[arg-type]
            loss = settings.bn_weight * gap
        else:
            logits = teacher.logits(seen)
            loss = logits.new_zeros(())
        loss = loss + settings.one_hot_weight * one_hot(logits, target)
        if student is not None and settings.adversarial_weight:
            loss = loss + settings.adversarial_weight * masked_adversarial(student(seen), logits)
        return loss, moments

    def blended(self, batch: list[Moments]) -> list[Moments]:
        """The batch's statistics mixed into the moving average that L_bn compares."""
        if self.remembered is None:
            return batch
        keep = self.settings.bn_momentum
        return [
            ((1 - keep) * mean + keep * old_mean, (1 - keep) * var + keep * old_var)
            for (mean, var), (old_mean, old_var) in zip(batch, self.remembered, strict=True)
        ]

    def remember(self, batch: list[Moments]) -> None:
        """Once per round: move the average on by the round's last batch."""
        if batch:
            self.remembered = [(m.detach(), v.detach()) for m, v in self.blended(batch)]

    def renew_generator(self, rng: torch.Generator) -> None:
        """A generator with new weights, seeded from `rng`."""
        settings, bench = self.settings, self.bench
        layers = settings.noisy_layers or -(-settings.batch_size // bench.classes)
        draw = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        with global_stream(bench.device, "generator", draw):
            noisy = NoisyLayers(
                layers, bench.embeddings.shape[1], settings.noisy_width, settings.noise_std
            )
            trunk = Trunk(settings.noisy_width, bench.shape, settings.generator_width)
            self.generator = NoisyLabelGenerator(bench.embeddings, noisy, trunk).to(bench.device)
        self.generator.noisy.redraw(rng)
        self.rounds_made = 0

    def state(self) -> dict[str, Any]:
        return {
            "generator": None if self.generator is None else self.generator.state_dict(),
            "remembered": self.remembered,
            "rounds": [self.rounds_dealt, self.rounds_made, self.rounds_lost],
            "pool": self.pool.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state["generator"] is not None:
            self.renew_generator(torch.Generator(self.bench.device))
            cast(NoisyLabelGenerator, self.generator).load_state_dict(state["generator"])
        self.remembered = state["remembered"]
        self.rounds_dealt, self.rounds_made, self.rounds_lost = state["rounds"]
        self.pool.restore(state["pool"])


def balanced_classes(count: int, classes: int, rng: torch.Generator) -> Tensor:
    """Classes 0..C-1 over and over; what is left of `count` is drawn at random. Shape [count]."""
    whole = torch.arange(classes, device=rng.device).repeat(count // classes)
    rest = torch.randint(classes, (count % classes,), generator=rng, device=rng.device)
    return torch.cat([whole, rest])
