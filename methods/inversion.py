"""The skeleton of the methods that invert a teacher batch by batch, into a pool.

Per epoch: rounds of synthesis, each optimizing one batch of images for a number of steps; then
distillation from the pool. DeepInversion, CMI, Fast, SSD-KD, NAYER and MUSE differ in what they
optimize (`begin` gives a Canvas) and in the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.augment import Augmentation
from dfkd.methods.buckets import resized
from dfkd.methods.commons import Ration
from dfkd.methods.effort import Rounds
from dfkd.methods.errors import TrialFailed
from dfkd.methods.jury import PROBES
from dfkd.methods.lineage import descend, origin
from dfkd.methods.losses import batch_norm_gap, masked_adversarial, one_hot, weighted
from dfkd.methods.memory import ImageSource, Pool, Shard, quantized
from dfkd.methods.method import Metrics, Workbench
from dfkd.methods.moving_statistics import MovingStatistics
from dfkd.methods.settings import Value, setting
from dfkd.methods.shelf import Bundle, contents, digest
from dfkd.methods.student import LEARNING, Lesson, StudentSettings
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import portion
from dfkd.methods.view import View

ATTEMPTS = 3  # rounds that end with a loss that is not finite, running, before the trial fails


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionSettings(StudentSettings):
    """What all inversions have in common; defaults are those of most papers."""

    batch_size: int = setting(256, "B: images per round of synthesis", at_least=2)
    synthesis_steps: int = setting(40, "steps per round", at_least=1)
    warmup_rounds: int = setting(1, "rounds per epoch before the student starts", at_least=1)
    rounds: int = setting(1, "rounds per epoch once the student learns", at_least=0)
    bn_weight: float = setting(10.0, "of L_bn", at_least=0)
    bn_reduction: str = setting("mean", "L_bn over the layers", choices=("mean", "sum"))
    bn_momentum: float = setting(0.9, "past's share in L_bn", at_least=0, at_most=1)
    one_hot_weight: float = setting(0.5, "of L_oh", at_least=0)
    adversarial_weight: float = setting(1.33, "of L_adv", at_least=0)
    pool_capacity: int = setting(0, "images kept, the newest; 0: all", at_least=0)
    held_out: float = setting(
        0.06, "share of each round's images that only the jury sees", at_least=0, at_most=0.5
    )
    drawn_share: float = setting(
        0.75, "of the rounds, at most, that others' shards replace", at_least=0, at_most=1
    )


@dataclass(kw_only=True)
class Canvas:
    """What one round of synthesis optimizes, and how."""

    render: Callable[[], Tensor]
    """The images as they stand, [B, channels, H, W] in [0, 1], differentiable."""
    optimizers: Sequence[torch.optim.Optimizer]

    def step(self, loss: Tensor) -> None:
        """One step down the loss."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    @property
    def ready(self) -> bool:
        """Whether the images as they stand may become the round's."""
        return True

    def finish(self, best: Tensor) -> None:
        """The round is over; `best` are its images, a scalar if no loss was finite."""


class Inversion(Rounds, ABC):
    """A method whose student learns from a pool of inverted images."""

    settings_class: ClassVar[type[StudentSettings]]
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {}
    rate: ClassVar[str] = "generator_lr"
    """The setting to lower when the loss is not finite."""
    taught: ClassVar[frozenset[str]] = LEARNING | {"held_out"}
    """Settings that synthesis never reads: trials that differ in them may share it."""
    played: ClassVar[frozenset[str]] = frozenset(("adversarial_weight", "rounds"))
    """Settings that synthesis reads no sooner than the student learns."""

    def __init__(self, settings: Any, bench: Workbench) -> None:
        self.settings = settings
        self.bench = bench
        self.pool = self.new_pool()
        self.augment = Augmentation(settings.shift, settings.flip)
        self.statistics = MovingStatistics(settings.bn_momentum)
        self.aside = Pool(bench.shape, PROBES, bench.device, "reservoir")  # held out, for the jury
        self.rounds_dealt = 0  # to all workers, since the start
        self.rounds_lost = 0  # running, that ended with a loss that is not finite
        self.present = 0  # the epoch that is running
        self.ration = Ration(settings.drawn_share, settings.batch_size)
        self.lineage = "" if bench.commons.others_add else origin(type(self), bench)
        """Of all synthesis so far; empty once it depends on the student, or on other trials."""
        self.promised = ""  # the key of what is being made, while others may wait for it
        self.looks = 0  # of the student, before that began

    # What a method decides

    @abstractmethod
    def begin(self, target: Tensor, rng: torch.Generator) -> Canvas:
        """A canvas for images of the classes `target` [B]."""

    def loss(self, view: View) -> Tensor:
        """bn_weight L_bn + one_hot_weight L_oh + adversarial_weight L_adv."""
        settings = self.settings
        return weighted(
            (settings.bn_weight, lambda: self.batch_norm_gap(view)),
            (settings.one_hot_weight, lambda: one_hot(view.teacher.logits, view.labels)),
            (settings.adversarial_weight * view.adversarial, lambda: self.adversarial(view)),
        )

    def shown(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """What teacher and student see of the images while they are made."""
        return self.augment(images, rng)

    def targets(self, rng: torch.Generator) -> Tensor:
        """The classes [B] of a round's images."""
        return balanced_classes(self.settings.batch_size, self.bench.classes, rng)

    def before_rounds(self, epoch: int, rng: torch.Generator) -> None:
        """At the start of an epoch."""

    def start_over(self, rng: torch.Generator) -> None:
        """After a round whose loss was not finite."""

    def new_pool(self) -> Any:
        """Where the images go."""
        return Pool(self.bench.shape, self.settings.pool_capacity, self.bench.device)

    @property
    def lesson(self) -> Lesson | None:
        """What the student is taught; None: KD."""
        return None

    # The algorithm

    @staticmethod
    def objections(settings: Any, teacher: Teacher) -> list[str]:
        found = []
        if settings.bn_weight and not teacher.batch_norms:
            found.append(
                "the teacher has no BatchNorm layer, so L_bn is impossible; set bn_weight=0 to "
                "synthesize by the other terms alone"
            )
        if not settings.rounds and not settings.warmup:
            found.append("rounds=0 leaves the pool empty without a warm-up; set warmup=1 or more")
        return found

    @property
    def source(self) -> ImageSource:
        pool: ImageSource = self.pool
        return pool

    def probes(self, count: int, rng: torch.Generator) -> Tensor:
        """Images that were held out. If none were, of those that this student alone was taught."""
        shared = self.bench.commons.others_add or self.ration.drawn
        if len(self.aside) or shared:
            return self.aside.images[:count]
        return quantized(self.source.sample(count, rng).images)

    def epoch(self, epoch: int, rng: torch.Generator) -> Metrics:
        """Rounds of synthesis, then, after the warm-up, `kd_steps` of distillation."""
        bench = self.bench
        learning = epoch >= self.settings.warmup
        self.present = epoch
        rounds = self.deal(learning=learning)
        with bench.clock("waiting"):
            drawn = self.draw(rounds)
        rounds = self.ration.replace(drawn, rounds)
        made = self.take_or_make(rounds, learning=learning, rng=rng)
        losses = [loss for _, loss in made]
        own = [self.hold_out(shard, rng) for shard, _ in made]
        with bench.clock("waiting"):
            bench.commons.add(own, losses, epoch)
            shards = bench.team.share([*drawn, *own])
            if bench.team.size > 1 and self.lineage:  # the others' images have the student's look
                self.lineage = digest(self.lineage, *contents(shards))
        with bench.clock("synthesis"):
            for shard in shards:
                self.pool.add(shard, rng)
        counted = [
            sum(len(shard.images) for shard in part) for part in ((s for s, _ in made), drawn)
        ]
        images = bench.team.total(torch.tensor(counted, dtype=torch.float64))
        metrics: Metrics = {
            "pool_images": len(self.pool),
            "images_made": float(images[0]),
            "images_drawn": float(images[1]),
        }
        if losses:
            metrics["generator_loss"] = sum(losses) / len(losses)
        if learning:
            with bench.clock("distillation"):
                metrics |= bench.student.distill(
                    bench.teacher, self.source, epoch, rng, self.lesson
                )
        return metrics

    def deal(self, *, learning: bool) -> int:
        """How many of the epoch's rounds are this worker's."""
        rounds: int = self.settings.rounds if learning else self.settings.warmup_rounds
        mine = portion(rounds, self.rounds_dealt, self.bench.team)
        self.rounds_dealt += rounds
        return mine

    def draw(self, rounds: int) -> list[Shard]:
        """Shards from the commons, in the place of a part of the worker's rounds."""
        wanted = self.ration.allow(rounds)
        if not wanted:
            return []
        drawn = self.bench.commons.draw(wanted, self.pool.sizes, self.ration.drawn)
        if drawn and self.lineage:
            self.lineage = digest(self.lineage, *contents(drawn))
        return drawn

    def take_or_make(
        self, rounds: int, *, learning: bool, rng: torch.Generator
    ) -> list[tuple[Shard, float]]:
        """The rounds of this epoch: another trial's, if that made the very same ones.

        The lineage says what they depend on but the student's weights. What never looked at the
        student does not depend on these: if that is put on the shelf alone, whoever comes with the
        same lineage would have made the same, the state of method and generator included.
        """
        bench, shelf = self.bench, self.bench.shelf
        unread = self.taught if learning else self.taught | self.played
        key = self.lineage and descend(self.lineage, self.present, self.settings, unread, rng)
        with bench.clock("waiting"):
            bundle = shelf.take(key) if key and shelf.open else None
            made = None if bundle is None else self.unpack(bundle, rng)
        if made is None:
            self.promised, self.looks = key, bench.student.looks
            try:
                with bench.clock("synthesis"):
                    made = self.make(rounds, learning=learning, rng=rng)
            except TrialFailed:
                shelf.waive(key)
                raise
            self.proceed()
            key, self.promised = self.promised, ""
            if key and shelf.open:
                with bench.clock("waiting"):
                    shelf.give(key, self.packed(made, rng))
        self.lineage = key
        return made

    def proceed(self) -> None:
        """Tell trials that wait for this epoch's rounds that they are being made.

        Or that they can be nobody else's: the student was asked.
        """
        if self.promised and self.bench.student.looks > self.looks:
            self.bench.shelf.waive(self.promised)
            self.promised = ""
        elif self.promised:
            self.bench.shelf.proceed(self.promised)

    def make(
        self, rounds: int, *, learning: bool, rng: torch.Generator
    ) -> list[tuple[Shard, float]]:
        """Rounds of this epoch, with their losses."""
        self.before_rounds(self.present, rng)
        return [self.synthesize(adversarial=learning, rng=rng) for _ in range(rounds)]

    def hold_out(self, shard: Shard, rng: torch.Generator) -> Shard:
        """Put a random part of a shard aside, where nobody is taught from it; returns the rest."""
        share = self.settings.held_out
        if not share:
            return shard
        device, count = rng.device, len(shard.images)
        aside = int(share * count + float(torch.rand((), generator=rng, device=device)))
        order = torch.randperm(count, generator=rng, device=device)
        probes = shard[order[:aside]]
        if aside:
            whole = resized(probes.images.float() / 255, self.aside.sizes[0])
            self.aside.add(Shard.of(whole, probes.labels), rng)
        return shard[order[aside:].sort().values]

    def packed(self, made: Sequence[tuple[Shard, float]], rng: torch.Generator) -> Bundle:
        """The epoch's synthesis, for other trials."""
        rest = {"losses": [loss for _, loss in made], "rng": rng.get_state()}
        return Bundle.of([shard for shard, _ in made], rest | {"state": self.synthesis_state()})

    def unpack(self, bundle: Bundle, rng: torch.Generator) -> list[tuple[Shard, float]] | None:
        """As if the epoch's synthesis had been made here; None if the bundle is damaged."""
        rest = bundle.open(self.bench.device)
        if rest is None:
            return None
        self.restore_synthesis(rest["state"])
        rng.set_state(rest["rng"].cpu())
        return list(zip(bundle.shards, rest["losses"], strict=True))

    def synthesize(self, *, adversarial: bool, rng: torch.Generator) -> tuple[Shard, float]:
        """One round: a batch of images, and its loss.

        A round whose every loss is not finite is tried again from a fresh start; after ATTEMPTS of
        them the trial fails.
        """
        while self.rounds_lost < ATTEMPTS:
            target = self.targets(rng)
            images, loss, sane = self.invert(target, adversarial=adversarial, rng=rng)
            self.rounds_lost = 0 if sane else self.rounds_lost + 1
            if not sane:
                self.start_over(rng)
                self.statistics.forget()
            if loss < float("inf"):
                return Shard.of(images, target), loss
        raise TrialFailed(
            f"the loss of synthesis was not finite in {ATTEMPTS} rounds running; "
            f"try a {self.rate} below {getattr(self.settings, self.rate):g}"
        )

    def invert(
        self, target: Tensor, *, adversarial: bool, rng: torch.Generator
    ) -> tuple[Tensor, float, bool]:
        """The inner loop: `synthesis_steps` steps for this one batch.

        Returns the images [B, channels, H, W] of the step with the lowest loss, that loss (infinite
        if none was finite), and whether the last step's loss was finite.
        """
        canvas = self.begin(target, rng)
        lowest = torch.full((), float("inf"), device=rng.device)
        best = torch.zeros((), device=rng.device)
        with self.bench.student.frozen():
            for _ in range(self.settings.synthesis_steps):
                images = canvas.render()
                view = View(self.bench, self.shown(images, rng), target, adversarial, rng)
                loss = self.loss(view)
                if canvas.ready:
                    better = loss.isfinite() & (loss.detach() < lowest)  # decided on the device
                    best = torch.where(better, images.detach(), best)
                    lowest = torch.where(better, loss.detach(), lowest)
                if loss.requires_grad:
                    canvas.step(loss)
                self.proceed()
        if self.settings.bn_weight:
            self.statistics.remember(view.teacher.moments)
        canvas.finish(best)
        return best, float(lowest), bool(loss.detach().isfinite())

    def batch_norm_gap(self, view: View) -> Tensor:
        """L_bn with the past of earlier rounds mixed in."""
        seen = view.teacher
        blended = self.statistics.blended(seen.moments)
        return batch_norm_gap(blended, seen.running, self.settings.bn_reduction)

    def adversarial(self, view: View) -> Tensor:
        """L_adv, masked to where both decide alike."""
        return masked_adversarial(view.student.logits, view.teacher.logits)

    def state(self) -> dict[str, Any]:
        kept = {"pool": self.pool.state(), "aside": self.aside.state(), "lineage": self.lineage}
        return self.synthesis_state() | kept | {"ration": self.ration.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.restore_synthesis(state)
        self.pool.restore(state["pool"])
        self.aside.restore(state["aside"])
        self.ration.restore(state["ration"])
        self.lineage = state["lineage"]

    def synthesis_state(self) -> dict[str, Any]:
        """All that the next round depends on beside the pool; tensors, numbers, lists, dicts."""
        return {
            "past": self.statistics.past,
            "rounds": [self.rounds_dealt, self.rounds_lost],
        }

    def restore_synthesis(self, state: dict[str, Any]) -> None:
        """Become the method whose `synthesis_state()` this is."""
        self.statistics.past = state["past"]
        self.rounds_dealt, self.rounds_lost = state["rounds"]


def balanced_classes(count: int, classes: int, rng: torch.Generator) -> Tensor:
    """Classes 0..C-1 over and over; what is left of `count` is drawn at random. Shape [count]."""
    whole = torch.arange(classes, device=rng.device).repeat(count // classes)
    rest = torch.randint(classes, (count % classes,), generator=rng, device=rng.device)
    return torch.cat([whole, rest])
