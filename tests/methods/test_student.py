import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from workbenches import rng, same, snapshot, tiny_network, tiny_teacher

from dfkd.methods.errors import TrialFailed
from dfkd.methods.losses import distillation
from dfkd.methods.memory import Batch
from dfkd.methods.random_streams import global_stream
from dfkd.methods.student import Student, StudentSettings
from dfkd.methods.team import Alone

IMAGES = torch.rand(16, 1, 8, 8, generator=rng(3))


@dataclass
class Always:
    """A source that has one batch, and remembers how many images were asked for."""

    images: Tensor
    weights: Tensor | None = None
    asked: int = 0

    def sample(self, count, rng):
        self.asked = count
        return Batch(self.images, weights=self.weights)


def student(*, network=None, epochs=10, team=None, **settings):
    plain = {"warmup": 2, "kd_steps": 1, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
    plain |= {"shift": 0, "flip": False, "student_lr": 0.1} | settings
    network = network or tiny_network(seed="student")
    return Student(network, StudentSettings(**plain), epochs, team or Alone())


def distill(learner, epoch=2, *, source=None, seed=0):
    return learner.distill(tiny_teacher(), source or Always(IMAGES), epoch, rng(seed))


def difference(before, network):
    """The norm of what all parameters moved by."""
    moves = [(p.detach() - before[name]).flatten() for name, p in network.named_parameters()]
    return torch.cat(moves).norm().item()


def test_the_learning_rate_starts_where_the_settings_say():
    assert student().learning_rate(2) == pytest.approx(0.1)


def test_the_learning_rate_ends_at_a_thousandth():
    assert student().learning_rate(10) == pytest.approx(0.1 / 1000)


def test_the_learning_rate_halfway_is_the_mean_of_both_ends():
    assert student().learning_rate(6) == pytest.approx((0.1 + 0.1 / 1000) / 2)


@pytest.mark.parametrize("epoch", range(2, 11))
def test_the_learning_rate_is_torchs_cosine(epoch):
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=8, eta_min=1e-4)
    for _ in range(2, epoch):
        sgd.step()
        schedule.step()
    assert student().learning_rate(epoch) == pytest.approx(schedule.get_last_lr()[0])


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 60))
def test_the_learning_rate_stays_between_its_ends_for_any_schedule(warmup, epochs, epoch):
    rate = student(warmup=warmup, epochs=epochs).learning_rate(epoch)
    assert 0.1 / 1000 * 0.999 <= rate <= 0.1 * 1.001


def test_distillation_steps_with_the_learning_rate_of_the_epoch():
    moved = []
    for epoch in (2, 6):
        learner = student()
        before = snapshot(learner.network)
        distill(learner, epoch)
        moved.append(difference(before, learner.network) / learner.learning_rate(epoch))
    assert moved[0] == pytest.approx(moved[1], rel=1e-3)


def test_the_loss_reported_is_the_divergence_from_the_teacher():
    learner = student(temperature=4.0)
    answers = copy.deepcopy(learner.network).train()(IMAGES)
    expected = distillation(answers, tiny_teacher().logits(IMAGES), 4.0)
    assert distill(learner)["kd_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_reported_is_the_mean_over_the_steps():
    one, two = student(kd_steps=1), student(kd_steps=2)
    losses = [distill(one)["kd_loss"] for _ in range(2)]
    assert distill(two)["kd_loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_the_loss_of_the_logits_is_their_mean_distance():
    learner = student(kd_loss="l1", temperature=4.0)
    answers = copy.deepcopy(learner.network).train()(IMAGES)
    expected = (answers - tiny_teacher().logits(IMAGES)).abs().sum() / (16 * 3)
    assert distill(learner)["kd_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["kl", "l1"])
def test_images_count_in_the_loss_as_much_as_their_weights(loss):
    whole, half, none = (
        distill(student(kd_loss=loss), source=Always(IMAGES, torch.full((16,), weight)))["kd_loss"]
        for weight in (1.0, 0.5, 0.0)
    )
    assert half == pytest.approx(whole / 2, rel=1e-5) and none == 0
    assert whole == pytest.approx(distill(student(kd_loss=loss))["kd_loss"], rel=1e-6)


def test_an_image_of_weight_zero_does_not_teach():
    batches = [IMAGES, torch.cat([IMAGES[:8], 1 - IMAGES[8:]])]
    weights = torch.tensor([2.0] * 8 + [0.0] * 8)
    learners = []
    for images in batches:
        learners.append(student(network=nn.Sequential(nn.Flatten(), nn.Linear(64, 3))))
        learners[-1].network[1].weight.data.fill_(0.1)
        learners[-1].network[1].bias.data.fill_(0.1)
        distill(learners[-1], source=Always(images, weights))
    assert same(*(snapshot(learner.network) for learner in learners))


def test_the_student_comes_closer_to_its_teacher():
    learner = student(kd_steps=50)
    first = distill(learner)["kd_loss"]
    assert distill(learner)["kd_loss"] < 0.5 * first


def test_the_student_learns_in_training_mode():
    learner = student()
    before = learner.network.features[1].running_mean.clone()
    with learner.frozen():
        pass
    distill(learner)
    assert not torch.equal(learner.network.features[1].running_mean, before)


def test_the_student_is_shown_augmented_images():
    shown = []
    network = tiny_network()
    network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    distill(student(network=network, flip=True))
    assert not torch.equal(shown[0], IMAGES)
    kept = (shown[0] == IMAGES).flatten(1).all(1)
    assert torch.equal(shown[0][~kept], IMAGES[~kept].flip(3))


def test_teacher_and_student_are_shown_the_same_images():
    shown = []
    network, teacher = tiny_network(), tiny_teacher()
    for one in (network, teacher.network):
        one.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    student(network=network, flip=True, shift=2).distill(teacher, Always(IMAGES), 2, rng())
    assert torch.equal(*shown)


def test_a_steep_gradient_is_cut_to_the_norm_that_is_set():
    learner = student(clip_norm=1e-3)
    before = snapshot(learner.network)
    distill(learner)
    assert difference(before, learner.network) == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_without_a_bound_a_steep_gradient_is_not_cut():
    cut, free = student(clip_norm=1e-3), student(clip_norm=0.0)
    moved = []
    for learner in (cut, free):
        before = snapshot(learner.network)
        distill(learner)
        moved.append(difference(before, learner.network))
    assert moved[1] > 10 * moved[0]


def test_weight_decay_pulls_the_weights_to_zero():
    with torch.no_grad():
        free, decayed = student(), student(weight_decay=0.5)
        before = snapshot(free.network)
    distill(free)
    distill(decayed)
    for name, p in decayed.network.named_parameters():
        expected = dict(free.network.named_parameters())[name] - 0.1 * 0.5 * before[name]
        assert torch.allclose(p, expected, atol=1e-5)


def test_momentum_carries_the_last_step_on():
    moved = {}
    for momentum in (0.0, 0.9):
        learner = student(momentum=momentum, kd_steps=20, student_lr=1e-4)
        before = snapshot(learner.network)
        distill(learner)
        moved[momentum] = difference(before, learner.network)
    assert moved[0.9] > 3 * moved[0.0]


def test_a_loss_that_is_not_finite_fails_the_trial_with_advice():
    with pytest.raises(TrialFailed, match=r"loss is nan in epoch 2; try a student_lr below 0.1"):
        distill(student(), source=Always(torch.full_like(IMAGES, math.nan)))


class Worker(Alone):
    """One of three, whose colleagues always have the same values as itself."""

    rank, size = 1, 3

    def total(self, values):
        return values * 3


def test_a_team_divides_the_batch():
    source = Always(IMAGES)
    distill(student(team=Worker(), kd_batch_size=10), source=source)
    assert source.asked == math.ceil(10 / 3)


def test_the_loss_of_a_team_is_its_mean():
    alone, team = student(), student(team=Worker())
    assert distill(team)["kd_loss"] == pytest.approx(distill(alone)["kd_loss"], rel=1e-6)


def test_a_frozen_student_is_in_evaluation_mode():
    learner = student()
    learner.network.train()
    with learner.frozen() as network:
        assert not any(module.training for module in network.modules())


def test_gradients_pass_through_a_frozen_student_and_leave_it_none():
    learner, images = student(), IMAGES.clone().requires_grad_()
    with learner.frozen() as network:
        network(images).square().sum().backward()
    assert images.grad.abs().max() > 0
    assert all(p.grad is None for p in learner.network.parameters())


def test_a_student_thaws_after_an_error():
    learner = student()
    with pytest.raises(ZeroDivisionError), learner.frozen():
        1 / 0  # noqa: B018
    assert all(p.requires_grad for p in learner.network.parameters())


def test_a_layer_that_its_owner_froze_stays_frozen():
    network = tiny_network()
    network.features[0].requires_grad_(False)
    learner = student(network=network)
    with learner.frozen():
        pass
    assert not network.features[0].weight.requires_grad


def test_a_student_with_dropout_learns_the_same_in_the_same_global_stream():
    learners = []
    for _ in range(2):
        with global_stream("cpu", "weights"):
            network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
        learners.append(student(network=network))
        with global_stream("cpu", "epoch", 2):
            distill(learners[-1])
    assert same(*(snapshot(learner.network) for learner in learners))


def test_a_restored_student_goes_on_exactly():
    whole = student(momentum=0.9, kd_steps=3)
    distill(whole)
    state = copy.deepcopy(whole.state())
    distill(whole, 3)
    restored = student(momentum=0.9, kd_steps=3, network=tiny_network(seed="another"))
    restored.restore(state)
    distill(restored, 3)
    assert same(snapshot(restored.network), snapshot(whole.network))


def test_the_head_of_a_student_is_its_last_linear_layer():
    learner = student()
    assert learner.head is learner.network.classifier


def test_a_student_without_a_linear_layer_has_no_head():
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    assert student(network=network).head is None


def test_a_frozen_student_is_seen_as_it_is_and_a_learning_one_through_its_team():
    class Wrapped(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.calls = network, 0

        def forward(self, images):
            self.calls += 1
            return self.network(images)

    class Wrapper(Alone):
        def parallel(self, network):
            self.wrapped = Wrapped(network)
            return self.wrapped

    team = Wrapper()
    learner = student(team=team)
    distill(learner)
    assert team.wrapped.calls == 1
    with learner.frozen():
        seen = learner.look(IMAGES)
    assert team.wrapped.calls == 1 and len(seen.moments) == 2


# Accumulation


def without_batch_norm():
    with global_stream("cpu", "plain"):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("accumulation", [2, 3, 5, 16, 40])
@pytest.mark.parametrize("weights", [None, torch.rand(16, generator=rng(4))])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(accumulation, weights):
    whole = student(network=without_batch_norm(), shift=1)
    parts = student(network=without_batch_norm(), shift=1, accumulation=accumulation)
    losses = [distill(one, source=Always(IMAGES, weights))["kd_loss"] for one in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    pairs = zip(whole.network.parameters(), parts.network.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert difference(snapshot(without_batch_norm()), parts.network) > 1e-3


@pytest.mark.parametrize(("accumulation", "sizes"), [(1, [16]), (3, [6, 6, 4]), (4, [4] * 4)])
def test_a_step_in_parts_passes_as_many_images_at_a_time(accumulation, sizes):
    network, seen = without_batch_norm(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    distill(student(network=network, accumulation=accumulation))
    assert seen == sizes


def test_workers_average_gradients_once_a_step_however_many_parts_it_has():
    class Watched(Alone):
        held = 0

        @contextmanager
        def apart(self, network):
            self.held += 1
            yield

    team = Watched()
    distill(student(network=without_batch_norm(), accumulation=4, kd_steps=2, team=team))
    assert team.held == 2 * 3
