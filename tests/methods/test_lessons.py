"""What a method may teach besides KD: lessons, and heads that learn along with the student."""

import copy

import pytest
import torch
from torch import nn
from workbenches import rng, same, snapshot, tiny_network, tiny_teacher

from dfkd.methods.memory import Batch
from dfkd.methods.random_streams import global_stream
from dfkd.methods.student import Student, StudentSettings
from dfkd.methods.team import Alone

IMAGES = torch.rand(16, 1, 8, 8, generator=rng(3))
PLAIN = {"warmup": 2, "kd_steps": 1, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
PLAIN |= {"shift": 0, "flip": False, "student_lr": 0.1}


class Always:
    """A source that has one batch."""

    def sample(self, count, rng):
        return Batch(IMAGES)


class Lesson:
    """The mean square of the head's answers; it remembers what it was shown."""

    def __init__(self, head):
        self.head = head

    def __call__(self, batch, mine, theirs):
        self.batch, self.mine, self.theirs = batch, mine, theirs
        return self.head(mine.features).square().mean()


def fresh_head(inputs):
    with global_stream("cpu", "head"):
        return nn.Linear(inputs, 2)


def taught(steps=1, *, network=None, team=None, **settings):
    """A student with an adopted head after some steps of its lesson, and the lesson."""
    network = network or tiny_network(seed="student")
    learner = Student(network, StudentSettings(**PLAIN | settings), 10, team or Alone())
    head = fresh_head(learner.head.in_features)
    learner.adopt(head)
    lesson = Lesson(head)
    for _ in range(steps):
        learner.distill(tiny_teacher(), Always(), 2, rng(), lesson)
    return learner, lesson


def difference(before, network):
    """The norm of what all parameters moved by."""
    moves = [(p.detach() - before[name]).flatten() for name, p in network.named_parameters()]
    return torch.cat(moves).norm().item()


def test_a_lesson_takes_the_place_of_the_kd_loss():
    learner, lesson = taught(steps=0)
    before = copy.deepcopy(learner)
    metrics = learner.distill(tiny_teacher(), Always(), 2, rng(), lesson)
    before.network.train()
    features = before.network.pool(before.network.features(IMAGES)).flatten(1)
    expected = fresh_head(features.shape[1])(features).square().mean().item()
    assert metrics["kd_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_lesson_sees_the_augmented_batch_through_both_networks():
    _, lesson = taught(shift=2, flip=True)
    assert not torch.equal(lesson.batch.images, IMAGES)
    assert torch.equal(lesson.theirs.logits, tiny_teacher().logits(lesson.batch.images))
    assert len(lesson.theirs.moments) == len(lesson.mine.moments) == 2


def test_a_lesson_keeps_what_the_batch_knew_of_its_images():
    batch = Batch(IMAGES, torch.arange(16), torch.ones(16), torch.arange(16) + 5)
    learner, lesson = taught(steps=0)
    learner.learn(tiny_teacher(), batch, rng(), lesson)
    assert lesson.batch.labels is batch.labels
    assert lesson.batch.weights is batch.weights and lesson.batch.index is batch.index


def test_an_adopted_head_learns_with_the_network():
    before, _ = taught(steps=0)
    after, lesson = taught(steps=1)
    assert difference(snapshot(before.network), after.network) > 0
    first = fresh_head(after.head.in_features)
    assert difference(snapshot(first), lesson.head) > 0


def test_neither_network_nor_head_moves_further_than_the_bound_allows():
    learner, lesson = taught(steps=0, clip_norm=1e-3)
    before = snapshot(learner.network), snapshot(lesson.head)
    learner.distill(tiny_teacher(), Always(), 2, rng(), lesson)
    moved = difference(before[0], learner.network), difference(before[1], lesson.head)
    assert 0 < min(moved) <= max(moved) <= 1.01 * 0.1 * 1e-3


def test_an_adopted_head_is_no_part_of_the_network():
    learner, _ = taught()
    assert learner.network.state_dict().keys() == tiny_network().state_dict().keys()


def test_an_adopted_head_is_frozen_with_the_network():
    learner, lesson = taught()
    with learner.frozen():
        assert not any(p.requires_grad for p in lesson.head.parameters())
    assert all(p.requires_grad for p in lesson.head.parameters())


def test_a_student_restored_with_its_head_goes_on_exactly():
    options = {"momentum": 0.9, "kd_steps": 3}
    whole, first = taught(**options)
    state = copy.deepcopy(whole.state())
    whole.distill(tiny_teacher(), Always(), 3, rng(), first)
    restored, second = taught(0, network=tiny_network(seed="another"), **options)
    restored.restore(state)
    restored.distill(tiny_teacher(), Always(), 3, rng(), second)
    assert same(snapshot(restored.network), snapshot(whole.network))
    assert same(snapshot(first.head), snapshot(second.head))


class Half(Alone):
    """One of two workers; the other begins with the same weights, and its gradients are zero."""

    size = 2

    def total(self, values):
        return values if values.requires_grad is False else 2 * values


def test_the_gradient_of_a_head_is_the_mean_over_the_workers():
    moved = []
    for team in (Alone(), Half()):
        (_, before), (_, after) = taught(0), taught(1, team=team)
        moved.append(difference(snapshot(before.head), after.head))
    assert moved[1] == pytest.approx(moved[0] / 2, rel=1e-4)
