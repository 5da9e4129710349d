from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import Trial, rng, tiny_network

from dfkd.methods.cgdd import Cgdd
from dfkd.methods.errors import ConfigError
from dfkd.methods.losses import attention_transfer, distillation, logit_distance
from dfkd.methods.memory import Batch

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
LABELS = torch.arange(9) % 3


class TestCgdd(GameContract):
    method = Cgdd
    adversarial: ClassVar = {"one_hot_weight": 0.0, "adversarial_weight": 1.0}
    disagreement = logit_distance


class TestCgddWithoutAdversary(GameContract):
    method = Cgdd
    quick = GAME | {"adversarial_weight": 0.0}


def trial(**values):
    return Trial(Cgdd, LEARNING | GAME | values)


def test_the_loss_is_the_wanted_classs_cross_entropy_minus_the_logits_distance():
    started = trial(one_hot_weight=2.0, adversarial_weight=3.0)
    theirs = started.bench.teacher.logits(IMAGES)
    with started.bench.student.frozen() as student:
        loss = started.method.loss(started.view(IMAGES, LABELS))
        distance = logit_distance(student(IMAGES), theirs)
    expected = 2 * F.cross_entropy(theirs, LABELS) - 3 * distance
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("label_weight", "at_weight"), [(0.0, 0.0), (5.0, 0.0), (5.0, 7.0)])
def test_the_lesson_is_kd_plus_attention_transfer_plus_the_wanted_class(label_weight, at_weight):
    started = trial(label_weight=label_weight, at_weight=at_weight, temperature=1.0)
    mine, theirs = started.bench.student.look(IMAGES), started.bench.teacher.look(IMAGES)
    expected = (
        distillation(mine.logits, theirs.logits)
        + at_weight * attention_transfer(mine.stages, theirs.stages)
        + label_weight * F.cross_entropy(mine.logits, LABELS)
    )
    found = started.method.lesson(Batch(IMAGES, LABELS), mine, theirs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_images_come_with_the_classes_they_were_made_for():
    batch = trial().method.source.sample(60, rng())
    assert set(batch.labels.tolist()) == {0, 1, 2}


def test_another_class_of_the_same_noise_is_another_image():
    generator = trial().method.generator
    noise = generator.draw(6, rng())
    zero, one = (generator(noise, torch.full((6,), label)) for label in (0, 1))
    assert (zero - one).abs().flatten(1).max(1).values.min() > 1e-4


def test_the_teacher_recognizes_the_classes_it_was_asked_for(digits_teacher):
    values = {"batch_size": 40, "generator_lr": 0.01, "latent": 16, "generator_width": 8}
    started = Trial(
        Cgdd,
        LEARNING | GAME | values | {"kd_steps": 80, "student_steps": 1, "warmup": 1},
        classes=10,
        teacher=digits_teacher,
    )
    started.run(range(1))
    batch = started.method.source.sample(100, rng(9))
    found = digits_teacher.logits(batch.images).argmax(1)
    assert (found == batch.labels).float().mean() > 0.5  # chance: 0.1


def test_a_student_with_other_stages_is_refused_with_what_to_do():
    deeper = tiny_network(name="convnet-4-4-4-4")
    with pytest.raises(ConfigError, match="at_weight=0"):
        Trial(Cgdd, LEARNING | GAME, network=deeper)


def test_nothing_is_called_published_as_nothing_was_read():
    assert "paper" not in Cgdd.presets
