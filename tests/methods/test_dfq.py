from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from torch.distributions import Categorical, Normal, kl_divergence
from workbenches import Trial, rng

from dfkd.methods.dfq import Dfq, DfqSettings
from dfkd.methods.losses import distillation
from dfkd.methods.settings import build

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
NO_CONSTRAINT = {"bn_weight": 0.0, "entropy_weight": 0.0, "balance_weight": 0.0}


class TestDfq(GameContract):
    method = Dfq
    adversarial = NO_CONSTRAINT
    without_batch_norm: ClassVar = {"bn_weight": 0.0}
    disagreement = distillation


def loss(adversarial=True, **values):
    started = Trial(Dfq, LEARNING | GAME | values)
    with started.bench.student.frozen():
        return started, started.method.loss(started.view(IMAGES, adversarial=adversarial)).item()


def gaussians(moments):
    return [Normal(mean, variance.sqrt()) for mean, variance in moments]


@pytest.mark.parametrize(("reduction", "layers"), [("sum", 1), ("mean", 2)])
def test_the_loss_is_minus_the_divergence_plus_the_constraints(reduction, layers):
    weights = {"adversarial_weight": 2.0, "bn_weight": 0.3, "entropy_weight": 0.5}
    started, found = loss(**weights, balance_weight=0.7, bn_reduction=reduction)
    with started.bench.student.frozen() as student:
        mine = Categorical(logits=student(IMAGES))
    seen = started.bench.teacher.look(IMAGES)
    theirs = Categorical(logits=seen.logits)
    pairs = zip(gaussians(seen.moments), gaussians(seen.running), strict=True)
    gap = sum(kl_divergence(batch, kept).sum() for batch, kept in pairs) / layers
    expected = (
        -2.0 * kl_divergence(theirs, mine).mean()
        + 0.3 * gap
        + 0.5 * theirs.entropy().mean()
        - 0.7 * Categorical(theirs.probs.mean(0)).entropy()
    )
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_the_divergence_counts_where_both_decide_differently_too():
    started, found = loss(**NO_CONSTRAINT)
    with started.bench.student.frozen() as student:
        mine, theirs = student(IMAGES), started.bench.teacher.logits(IMAGES)
    assert (mine.argmax(1) != theirs.argmax(1)).any()
    assert -found == pytest.approx(distillation(mine, theirs).item(), rel=1e-5)


def test_in_warm_up_the_constraints_are_the_whole_loss():
    _, constrained = loss(adversarial=False)
    _, without_adversary = loss(adversarial_weight=0.0)
    assert constrained == without_adversary


def test_warm_up_moves_the_generator_to_the_teachers_statistics():
    values = {"batch_size": 32, "generator_lr": 0.01, "bn_weight": 1.0}
    started = Trial(Dfq, LEARNING | GAME | values | {"kd_steps": 60, "warmup": 1})
    gaps = []
    for _ in range(2):
        seen = started.bench.teacher.look(started.method.fresh.sample(64, rng(9)).images)
        pairs = zip(gaussians(seen.moments), gaussians(seen.running), strict=True)
        gaps.append(sum(kl_divergence(batch, kept).sum().item() for batch, kept in pairs))
        started.run(range(1))
    assert gaps[1] < 0.7 * gaps[0]


def test_the_paper_preset_is_what_the_reimplementation_sets():
    paper = build(DfqSettings, Dfq.presets["paper"], "test")
    assert paper.bn_reduction == "sum"
    assert {paper.bn_weight, paper.entropy_weight, paper.balance_weight} == {0.01}  # alpha
    assert (paper.adversarial_weight, paper.temperature, paper.student_lr) == (1, 1, 0.1)
    assert (paper.student_steps, paper.generator_steps, paper.generator_lr) == (10, 1, 1e-3)
    assert (paper.latent, paper.batch_size, paper.warmup) == (512, 256, 50)
    assert (paper.shift, paper.flip, paper.clip_norm) == (0, False, 0)
