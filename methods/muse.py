"""MUSE: NAYER at several resolutions, with class activation maps and embedding diversity.

Paper      Tran et al., "Large-Scale Data-Free Knowledge Distillation for ImageNet via
           Multi-Resolution Data Generation", 2024, arXiv 2411.17046.
Reference  none was public. The abstract and the figure captions were read: generation below the
           teacher's resolution and at several resolutions, class activation maps, embedding
           diversity (L_ed teaches the student to embed the data it has seen near their label text,
           L_aed makes the generator seek data that it does not), on NAYER's algorithm.
Reconstructed, as the paper's body could not be read:
           the resolutions, their schedules and the layers that they share; both forms of the CAM
           term; the distance in L_ed and L_aed, the side head and standardized embeddings that it
           is taken in, radius, bound and gate; every weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfkd.methods.buckets import Buckets, resized
from dfkd.methods.cam import activation_map, check_maps, coverage, place_logits
from dfkd.methods.errors import ConfigError
from dfkd.methods.generators import Size
from dfkd.methods.losses import one_hot, weighted
from dfkd.methods.memory import Batch
from dfkd.methods.method import Workbench
from dfkd.methods.moving_statistics import MovingStatistics
from dfkd.methods.nayer import Nayer, NayerSettings
from dfkd.methods.settings import Value, setting
from dfkd.methods.sight import Sight
from dfkd.methods.student import Lesson, StudentSettings
from dfkd.methods.teacher import Teacher
from dfkd.methods.text_space import TextSpace
from dfkd.methods.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class MuseSettings(NayerSettings):
    """NAYER's, and a switch or weight for each ingredient."""

    resolutions: str = setting("0.5 0.75 1", "shares of the task's height and width, low to high")
    resolution_schedule: str = setting(
        "round_robin",
        "round_robin: in turn; coarse_to_fine: over the epochs",
        choices=("round_robin", "coarse_to_fine"),
    )
    upsample: bool = setting(False, "enlarge to the task's size before the networks see an image")
    cam: str = setting("coverage", "form of L_cam", choices=("coverage", "mask"))
    cam_weight: float = setting(0.3, "of L_cam; 0: none", at_least=0)
    student_diversity_weight: float = setting(1.0, "of L_ed; 0: none", at_least=0)
    generator_diversity_weight: float = setting(0.3, "of L_aed; 0: none", at_least=0)
    diversity_radius: float = setting(0.1, "distance that L_ed is content with", at_least=0)
    diversity_bound: float = setting(1.0, "distance beyond which L_aed pays no more", above=0)

    def __post_init__(self) -> None:
        super(MuseSettings, self).__post_init__()  # slots: a plain super() is lost
        shares(self.resolutions)


class Muse(Nayer):
    """NAYER whose rounds take turns in resolution, and whose loss has two terms more."""

    settings_class: ClassVar[type[StudentSettings]] = MuseSettings
    presets: ClassVar[Mapping[str, Mapping[str, Value]]] = {
        # NAYER's published settings, and half the teacher's size, as the paper does on ImageNet
        "paper": {**Nayer.presets["paper"], "resolutions": "0.5"},
        "small": {**Nayer.presets["small"], "resolutions": "0.75 1"},
    }

    taught: ClassVar = Nayer.taught | {"student_diversity_weight", "diversity_radius"}
    played: ClassVar = Nayer.played | {"generator_diversity_weight", "diversity_bound"}

    def __init__(self, settings: MuseSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.turn = bench.team.rank  # counts rounds, so that workers begin at different sizes
        self.averages = [MovingStatistics(settings.bn_momentum) for _ in self.sizes]
        if settings.cam_weight:
            check_maps(bench)
        self.texts: TextSpace | None = None
        if settings.student_diversity_weight or settings.generator_diversity_weight:
            self.texts = TextSpace.beside(bench.student, bench.embeddings, bench.seed)

    @staticmethod
    def objections(settings: MuseSettings, teacher: Teacher) -> list[str]:
        found = Nayer.objections(settings, teacher)
        if settings.cam_weight and (teacher.head is None or teacher.pooled is None):
            found.append(
                "the teacher does not end in adaptive pooling and a linear layer, so it has no "
                "class activation maps; set cam_weight=0 to synthesize without"
            )
        return found

    # Several resolutions

    @classmethod
    def sizes_of(cls, settings: MuseSettings) -> int:
        return len(set(shares(settings.resolutions)))

    @classmethod
    def shortened(cls, settings: MuseSettings, length: int) -> Mapping[str, Value]:
        """Every size once, also where they would come one after another over the epochs."""
        return {**super().shortened(settings, length), "resolution_schedule": "round_robin"}

    @property
    def sizes(self) -> Sequence[Size]:
        shape = self.bench.shape
        wanted = sorted(shares(self.settings.resolutions))
        sides = [(round(shape.height * share), round(shape.width * share)) for share in wanted]
        return tuple(dict.fromkeys((max(1, height), max(1, width)) for height, width in sides))

    def new_pool(self) -> Buckets:
        settings, bench = self.settings, self.bench
        pools = Buckets(bench.shape, self.sizes, settings.pool_capacity, bench.device)
        pools.enlarged = settings.upsample
        return pools

    def resolution(self) -> int:
        """Which size comes next: each in turn, or the larger the further the trial is.

        Feature statistics depend on the size, so each has its own moving average.
        """
        count = len(self.sizes)
        which = self.turn % count
        self.turn += 1
        if self.settings.resolution_schedule == "coarse_to_fine":
            which = min(count - 1, count * self.present // max(1, self.bench.student.epochs))
        self.statistics = self.averages[which]
        return which

    def shown(self, images: Tensor, rng: torch.Generator) -> Tensor:
        if self.settings.upsample:
            images = resized(images, (self.bench.shape.height, self.bench.shape.width))
        return super().shown(images, rng)

    # The losses

    def loss(self, view: View) -> Tensor:
        """NAYER's, + cam_weight L_cam + generator_diversity_weight L_aed."""
        settings = self.settings
        diversity = settings.generator_diversity_weight * view.adversarial
        return super().loss(view) + weighted(
            (settings.cam_weight, lambda: self.cam_loss(view)),
            (diversity, lambda: self.novelty_loss(view.student.features, view.labels)),
        )

    def cam_loss(self, view: View) -> Tensor:
        """L_cam. `coverage`: every place shows the class; `mask`: where it is seen suffices."""
        teacher = self.bench.teacher
        assert teacher.head is not None and teacher.pooled is not None, "see objections"
        logits = place_logits(view.teacher.maps, teacher.head, teacher.pooled)
        if self.settings.cam == "coverage":
            return coverage(logits, view.labels)
        evidence = resized(activation_map(logits.detach(), view.labels), view.images.shape[2:])
        return one_hot(teacher.logits(view.images * evidence), view.labels)

    def novelty_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """L_aed: minus the distance, which counts up to the bound only."""
        assert self.texts is not None, "its weight is not 0"
        distance: Tensor = self.texts(features, labels)
        return -distance.clamp_max(self.settings.diversity_bound).mean()

    @property
    def lesson(self) -> Lesson | None:
        return None if self.texts is None else self.kd_and_diversity

    def kd_and_diversity(self, batch: Batch, mine: Sight, theirs: Sight) -> Tensor:
        """KD + student_diversity_weight L_ed: what was seen is embedded near its text.

        L_ed reaches the network through the side head alone. Without L_ed the head still learns,
        or L_aed would measure nothing; the network then does not feel it.
        """
        assert self.texts is not None and batch.labels is not None, "pools keep classes"
        weight = self.settings.student_diversity_weight
        features = mine.features if weight else mine.features.detach()
        distance = self.texts(features, batch.labels)
        hinge = (distance - self.settings.diversity_radius).relu().mean()
        loss: Tensor = self.bench.student.kd(batch, mine, theirs) + (weight or 1.0) * hinge
        return loss

    def synthesis_state(self) -> dict[str, Any]:
        past = [average.past for average in self.averages]
        return super().synthesis_state() | {"turn": self.turn, "averages": past}

    def restore_synthesis(self, state: dict[str, Any]) -> None:
        super().restore_synthesis(state)
        self.turn = state["turn"]
        for average, past in zip(self.averages, state["averages"], strict=True):
            average.past = past


def shares(text: str) -> list[float]:
    """The numbers in "0.5 0.75 1"; raises ConfigError unless all are in (0, 1]."""
    try:
        found = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found or not all(0 < share <= 1 for share in found):
        raise ConfigError(f"resolutions must be numbers above 0 and up to 1, got '{text}'")
    return found
