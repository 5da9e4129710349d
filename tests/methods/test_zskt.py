import itertools
from typing import ClassVar

import pytest
import torch
from game_contract import GAME, GameContract
from method_contract import LEARNING
from workbenches import Trial, rng, tiny_network, tiny_teacher

from dfkd.methods.errors import ConfigError
from dfkd.methods.losses import attention_transfer, distillation
from dfkd.methods.memory import Batch
from dfkd.methods.settings import build
from dfkd.methods.student import Student
from dfkd.methods.zskt import Zskt, ZsktSettings

IMAGES = torch.rand(9, 1, 8, 8, generator=rng())
BARE = {"shift": 0, "flip": False, "warmup": 0}


class TestZskt(GameContract):
    method = Zskt
    adversarial: ClassVar = {}  # it has no other term
    disagreement = distillation


class TestZsktWithFreshBatches(GameContract):
    method = Zskt
    quick = GAME | {"fresh_batches": True}
    adversarial: ClassVar = {}
    disagreement = distillation


class Diary(Student):
    """Keeps the images of all its steps."""

    def learn(self, teacher, batch, rng, lesson=None):
        self.shown = [*getattr(self, "shown", []), batch.images]
        return super().learn(teacher, batch, rng, lesson)


def shown(**values):
    """What the student is shown in two turns of three steps; the trial."""
    values = LEARNING | GAME | BARE | {"kd_steps": 6, "student_steps": 3} | values
    started = Trial(Zskt, values, student=Diary)
    started.run(range(1))
    return started, started.bench.student.shown


def test_the_student_sees_the_same_images_until_the_generators_next_turn():
    _, (a, b, c, d, e, f) = shown()
    assert torch.equal(a, b) and torch.equal(b, c)
    assert torch.equal(d, e) and torch.equal(e, f)
    assert not torch.equal(c, d)


def test_the_images_are_those_of_the_generators_own_noise_after_its_step():
    started, images = shown()
    noise, _ = started.method.drawn
    assert torch.equal(images[-1], started.method.generator(noise).detach())


def test_fresh_batches_differ_in_every_step():
    _, images = shown(fresh_batches=True)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(images))


@pytest.mark.parametrize("count", [3, 8, 20])
def test_the_student_may_take_more_images_or_fewer_than_the_generator(count):
    _, images = shown(kd_batch_size=count)
    assert {len(batch) for batch in images} == {count}
    assert len(images[-1].flatten(1).unique(dim=0)) == count
    assert torch.equal(images[-1], images[-2])


def test_the_loss_is_minus_the_divergence_and_nothing_else():
    started = Trial(Zskt, LEARNING | GAME)
    with started.bench.student.frozen() as student:
        mine, theirs = student(IMAGES), started.bench.teacher.logits(IMAGES)
        loss = started.method.loss(started.view(IMAGES))
    assert loss.item() == pytest.approx(-distillation(mine, theirs).item(), rel=1e-6)


def test_the_lesson_is_kd_plus_weighted_attention_transfer():
    started = Trial(Zskt, LEARNING | GAME | {"at_weight": 7.0, "temperature": 1.0})
    mine, theirs = started.bench.student.look(IMAGES), started.bench.teacher.look(IMAGES)
    expected = distillation(mine.logits, theirs.logits) + 7 * attention_transfer(
        mine.stages, theirs.stages
    )
    found = started.method.lesson(Batch(IMAGES), mine, theirs)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def attention_gap(at_weight):
    """How far the student's attention is from the teacher's after learning."""
    values = BARE | {"at_weight": at_weight, "kd_steps": 60, "batch_size": 16}
    started = Trial(Zskt, LEARNING | GAME | values | {"kd_batch_size": 16})
    started.run(range(1))
    with started.bench.student.frozen():
        mine, theirs = started.bench.student.look(IMAGES), started.bench.teacher.look(IMAGES)
    return attention_transfer(mine.stages, theirs.stages).item()


def test_attention_transfer_brings_the_students_attention_to_the_teachers():
    assert attention_gap(2500.0) < 0.7 * attention_gap(0.0)


def test_without_attention_transfer_the_lesson_is_kd():
    assert Trial(Zskt, LEARNING | GAME | {"at_weight": 0.0}).method.lesson is None


def test_a_student_with_other_stages_is_refused_with_what_to_do():
    deeper = tiny_network(name="convnet-4-4-4-4")
    with pytest.raises(ConfigError, match=r"\(2, 2\).*at_weight=0"):
        Trial(Zskt, LEARNING | GAME, network=deeper)


def test_a_student_with_other_stages_may_play_without_attention_transfer():
    deeper = tiny_network(name="convnet-4-4-4-4")
    started = Trial(Zskt, LEARNING | GAME | {"at_weight": 0.0}, network=deeper)
    assert "kd_loss" in started.run(range(2))[1]


def test_a_student_of_other_widths_and_the_same_stages_is_welcome():
    wider = tiny_network(name="convnet-9-5")
    Trial(Zskt, LEARNING | GAME, network=wider, teacher=tiny_teacher())


def test_looking_at_the_stages_leaves_the_student_as_it_was():
    network = tiny_network().train()
    before = network.features[1].running_mean.clone()
    Trial(Zskt, LEARNING | GAME, network=network)
    assert torch.equal(network.features[1].running_mean, before)
    assert all(p.requires_grad for p in network.parameters())


def test_the_paper_preset_is_what_the_reference_sets():
    paper = build(ZsktSettings, Zskt.presets["paper"], "test")
    assert paper.at_weight == 250 * 10  # beta, and the classes over which KL is a mean there
    assert (paper.generator_steps, paper.student_steps, paper.fresh_batches) == (1, 10, False)
    assert (paper.batch_size, paper.kd_batch_size, paper.latent) == (128, 128, 100)
    assert (paper.generator_lr, paper.generator_clip, paper.clip_norm) == (1e-3, 5, 5)
    assert (paper.temperature, paper.shift, paper.flip) == (1, 0, False)
