from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import Trial, rng

from dfkd.methods.dfad import Dfad, DfadSettings
from dfkd.methods.losses import logit_distance
from dfkd.methods.settings import build

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())


class TestDfad(GameContract):
    method = Dfad
    adversarial: ClassVar = {}  # it has no other term
    disagreement = logit_distance


def trial(**values):
    return Trial(Dfad, LEARNING | GAME | values)


def test_the_loss_is_minus_the_mean_distance_of_the_logits():
    started = trial()
    with started.bench.student.frozen() as student:
        mine, theirs = student(IMAGES).flatten(), started.bench.teacher.logits(IMAGES).flatten()
        loss = started.method.loss(started.view(IMAGES))
    gaps = [abs(a - b) for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)]
    assert loss.item() == pytest.approx(-sum(gaps) / len(gaps), rel=1e-5)


def test_the_student_lowers_what_the_generator_raises():
    started = trial(warmup=0, kd_steps=80, shift=0, kd_batch_size=32)
    images = started.method.fresh.sample(64, rng(9)).images
    gaps = []
    for _ in range(2):
        with torch.no_grad(), started.bench.student.frozen() as student:
            theirs = started.bench.teacher.logits(images)
            gaps.append(logit_distance(student(images), theirs).item())
        started.run(range(1))
    assert gaps[1] < 0.5 * gaps[0]


def test_the_generator_waits_for_the_student():
    started = trial(warmup=2)
    before = started.method.generator.trunk.seeds[0].weight.clone()
    metrics = started.run(range(2))
    assert torch.equal(started.method.generator.trunk.seeds[0].weight, before)
    assert [m["generator_loss"] for m in metrics] == [0, 0]


def test_the_paper_preset_is_what_the_reference_sets():
    paper = build(DfadSettings, Dfad.presets["paper"], "test")
    assert (paper.kd_loss, paper.student_steps, paper.generator_steps) == ("l1", 5, 1)
    assert (paper.kd_steps, paper.batch_size, paper.kd_batch_size) == (50 * 5, 256, 256)
    assert (paper.student_lr, paper.momentum, paper.weight_decay) == (0.1, 0.9, 5e-4)
    assert (paper.generator_lr, paper.latent, paper.warmup) == (1e-3, 256, 0)
    assert (paper.shift, paper.flip, paper.clip_norm) == (0, False, 0)
