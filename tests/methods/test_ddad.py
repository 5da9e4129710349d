from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import Trial, rng

from dfkd.methods.ddad import Ddad
from dfkd.methods.losses import balance, batch_norm_gap, confidence, logit_distance

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())


class TestDdad(GameContract):
    method = Ddad
    adversarial: ClassVar = {"bn_weight": 0.0, "one_hot_weight": 0.0}
    without_batch_norm: ClassVar = {"bn_weight": 0.0}
    disagreement = logit_distance


def test_the_loss_is_what_both_judges_say():
    weights = {"adversarial_weight": 2.0, "bn_weight": 3.0, "one_hot_weight": 0.5}
    started = Trial(Ddad, LEARNING | GAME | weights | {"balance_weight": 0.7})
    seen = started.bench.teacher.look(IMAGES)
    with started.bench.student.frozen() as student:
        expected = (
            -2.0 * logit_distance(student(IMAGES), seen.logits)
            + 3.0 * batch_norm_gap(seen.moments, seen.running)
            + 0.5 * confidence(seen.logits)
            + 0.7 * balance(seen.logits)
        )
        loss = started.method.loss(started.view(IMAGES))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_second_judge_moves_the_generator_to_the_teachers_statistics(digits_teacher):
    values = {"batch_size": 32, "generator_lr": 0.01, "one_hot_weight": 0.0, "warmup": 1}
    started = Trial(
        Ddad, LEARNING | GAME | values | {"kd_steps": 80}, classes=10, teacher=digits_teacher
    )
    gaps = []
    for _ in range(2):
        seen = digits_teacher.look(started.method.fresh.sample(64, rng(9)).images)
        gaps.append(batch_norm_gap(seen.moments, seen.running).item())
        started.run(range(1))
    assert gaps[1] < 0.7 * gaps[0]


def test_nothing_is_called_published_as_nothing_was_read():
    assert "paper" not in Ddad.presets
