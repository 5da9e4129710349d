import math

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import Trial, rng, tiny_network, tiny_teacher

from dfkd.methods.dafl import Dafl, DaflSettings
from dfkd.methods.losses import activation, balance, confidence
from dfkd.methods.settings import build

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())


class TestDafl(GameContract):
    method = Dafl


def trial(**values):
    return Trial(Dafl, LEARNING | GAME | values)


def test_the_loss_is_confidence_plus_balance_minus_activation():
    started = trial(one_hot_weight=2.0, balance_weight=3.0, activation_weight=5.0)
    seen = started.bench.teacher.look(IMAGES)
    answers = seen.logits.softmax(1)
    sure = -answers.max(1).values.log().mean()
    mean = answers.mean(0)
    balanced = sum(p * math.log(p) for p in mean.tolist())
    expected = 2 * sure + 3 * balanced - 5 * seen.features.abs().sum() / seen.features.numel()
    assert started.method.loss(started.view(IMAGES)).item() == pytest.approx(expected.item())


NOTHING = {"one_hot_weight": 0.0, "balance_weight": 0.0, "activation_weight": 0.0}


@pytest.mark.parametrize(
    ("weight", "measure"),
    [
        ("one_hot_weight", lambda seen: confidence(seen.logits)),
        ("balance_weight", lambda seen: balance(seen.logits)),
        ("activation_weight", lambda seen: -activation(seen.features)),
    ],
)
def test_each_term_alone_moves_the_generator_its_way(weight, measure):
    started = trial(**{**NOTHING, weight: 1.0, "generator_lr": 0.01, "batch_size": 32})
    found = []
    for _ in range(2):
        images = started.method.fresh.sample(64, rng(9)).images
        found.append(measure(started.bench.teacher.look(images)).item())
        for _ in range(30):
            started.method.train_generator(adversarial=False, rng=rng(5))
    before, after = found
    assert after < before - 1e-3


def test_the_student_is_never_asked_in_the_generators_turn():
    network, calls = tiny_network(), []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    started = Trial(Dafl, LEARNING | GAME, network=network)
    started.method.train_generator(adversarial=True, rng=rng())
    assert not calls


def test_a_teacher_without_a_linear_head_is_refused_unless_its_features_are_left_out():
    teacher = tiny_teacher()
    teacher._observer.layers.head = None
    (objection,) = Dafl.objections(DaflSettings(), teacher)
    assert "activation_weight=0" in objection
    assert Dafl.objections(DaflSettings(activation_weight=0.0), teacher) == []


PUBLISHED = {"paper": (0.5, 20, 0.1), "cifar10": (0.05, 5, 0.01)}  # oh, ie in log10, a


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_are_the_references_weights_with_log10_made_natural(preset):
    one_hot, in_log10, active = PUBLISHED[preset]
    settings = build(DaflSettings, Dafl.presets[preset], "test")
    mean = torch.tensor([0.2, 0.5, 0.3])
    logits = mean.log().expand(4, 3)
    expected = in_log10 * (mean * mean.log10()).sum()
    assert settings.balance_weight * balance(logits) == pytest.approx(expected.item())
    assert (settings.one_hot_weight, settings.activation_weight) == (one_hot, active)
    assert (settings.generator_lr, settings.latent, settings.student_steps) == (0.02, 1000, 1)
    assert (settings.student_lr, settings.weight_decay, settings.temperature) == (0.1, 5e-4, 1)
    assert (settings.shift, settings.flip, settings.clip_norm) == (0, False, 0)
