from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from hypothesis import given
from hypothesis import strategies as st
from method_contract import LEARNING
from workbenches import Trial, rng

from dfkd.methods.actreg_vi import ActregVi, Interpolations, beta
from dfkd.methods.losses import activation, logit_distance
from dfkd.methods.memory import Batch

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())


class TestActregVi(GameContract):
    method = ActregVi
    adversarial: ClassVar = {"activation_weight": 0.0}
    disagreement = logit_distance


def trial(**values):
    return Trial(ActregVi, LEARNING | GAME | values)


def test_the_loss_is_minus_the_distance_plus_the_activation():
    started = trial(activation_weight=3.0)
    seen = started.bench.teacher.look(IMAGES)
    with started.bench.student.frozen() as student:
        expected = -logit_distance(student(IMAGES), seen.logits) + 3 * seen.features.abs().mean()
        loss = started.method.loss(started.view(IMAGES))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_regularizer_lowers_the_teachers_activation():
    started = trial(generator_lr=0.01, batch_size=32)
    found = []
    for _ in range(2):
        images = started.method.fresh.sample(64, rng(9)).images
        found.append(activation(started.bench.teacher.look(images).features).item())
        for _ in range(30):
            started.method.train_generator(adversarial=False, rng=rng(5))
    assert found[1] < found[0] - 1e-3


class Alternating:
    """Black images, then white ones, then black ones again."""

    def __init__(self):
        self.color = 1.0

    def sample(self, count, rng):
        self.color = 1 - self.color
        return Batch(torch.full((count, 1, 2, 2), self.color))


def test_a_virtual_image_lies_between_two_others_each_with_a_weight_of_its_own():
    images = Interpolations(Alternating(), 1.0).sample(500, rng()).images
    grays = images[:, 0, 0, 0]
    assert torch.equal(images, grays.view(-1, 1, 1, 1).expand_as(images))
    assert 0 <= grays.min() < 0.02 and 0.98 < grays.max() <= 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_weights_have_the_mean_and_variance_of_the_beta_distribution(alpha):
    drawn = beta(alpha, 20_000, rng())
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@given(st.floats(0.05, 100), st.integers(0, 2**32))
def test_weights_are_between_zero_and_one_for_any_alpha(alpha, seed):
    drawn = beta(alpha, 50, rng(seed))
    assert drawn.isfinite().all() and drawn.min() >= 0 and drawn.max() <= 1


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4)])
def test_the_share_of_virtual_images_is_as_set(share, expected):
    started = trial(virtual_share=share)
    noise = []
    started.method.generator.register_forward_pre_hook(lambda _, inputs: noise.append(inputs[0]))
    assert len(started.method.source.sample(8, rng()).images) == 8
    assert [len(rows) for rows in noise] == [8 - expected, *[expected] * (2 if expected else 0)]


def test_nothing_is_called_published_as_nothing_was_read():
    assert "paper" not in ActregVi.presets
