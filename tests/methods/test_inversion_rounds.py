"""One round of an inversion: its steps, which images it keeps, and what goes wrong."""

import copy
import math

import pytest
import torch
from pixels import Pixels, trial
from shelves import DictShelf
from workbenches import rng, tiny_teacher

from dfkd.methods.errors import TrialFailed
from dfkd.methods.inversion import ATTEMPTS, Canvas
from dfkd.methods.memory import Shard
from dfkd.methods.teacher import Teacher

ONLY = {"bn_weight": 0.0, "one_hot_weight": 0.0, "adversarial_weight": 0.0}


class Scripted(Pixels):
    """Its losses are the numbers of a script."""

    script: tuple[float, ...] = ()

    def loss(self, view):
        value = self.script[len(self.made) - 1]
        # the value of the script, with a gradient
        return (view.images - view.images.detach()).sum() + value


def scripted(*script, **values):
    started = trial({"synthesis_steps": len(script), "bn_weight": 0.0, **values}, Scripted)
    started.method.script = script
    return started.method


@pytest.mark.parametrize(
    ("script", "best"),
    [
        ((3.0, 1.0, 2.0), 1),
        ((1.0, 2.0, 3.0), 0),
        ((3.0, 2.0, -1.0), 2),
        ((math.nan, 2.0, 1.0), 2),
        ((2.0, math.nan, 3.0), 0),
        ((math.inf, 4.0, 5.0), 1),
        ((2.0, -math.inf, 3.0), 0),  # minus infinity is not the lowest
    ],
)
def test_a_round_gives_the_images_of_the_step_with_the_lowest_loss(script, best):
    method = scripted(*script)
    shard, loss = method.synthesize(adversarial=False, rng=rng())
    assert loss == script[best]
    assert torch.equal(shard.images, Shard.of(method.made[best], shard.labels).images)
    assert torch.equal(method.finished[0], method.made[best])


class LateCanvas(Canvas):
    """Its images are ready from a step on."""

    def __init__(self, canvas, first):
        super().__init__(render=canvas.render, optimizers=canvas.optimizers)
        self.left = first

    @property
    def ready(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(("first", "best"), [(0, 0), (1, 2), (2, 2)])
def test_images_that_are_not_ready_cannot_become_the_rounds(first, best):
    method = scripted(1.0, 3.0, 2.0)
    begin = method.begin
    method.begin = lambda target, rng: LateCanvas(begin(target, rng), first)
    shard, _ = method.synthesize(adversarial=False, rng=rng())
    assert torch.equal(shard.images, Shard.of(method.made[best], shard.labels).images)


def test_a_round_takes_as_many_steps_as_the_settings_say():
    method = scripted(3.0, 2.0, 1.0)
    method.synthesize(adversarial=False, rng=rng())
    assert len(method.made) == 3 and len(method.begun) == len(method.finished) == 1
    assert not torch.equal(method.made[0], method.made[2])


def test_images_keep_the_classes_that_were_asked_for():
    method = scripted(3.0)
    shard, _ = method.synthesize(adversarial=False, rng=rng())
    assert torch.equal(shard.labels, method.begun[0])


def test_the_pool_holds_images_as_they_were_before_augmentation():
    method = scripted(3.0, shift=4)
    shard, _ = method.synthesize(adversarial=False, rng=rng())
    assert torch.equal(shard.images, Shard.of(method.made[0], shard.labels).images)


def test_the_loss_reported_is_the_mean_of_the_rounds():
    started = trial({"synthesis_steps": 1, "bn_weight": 0.0}, Scripted)
    started.method.script = (1.0, 2.0, 6.0)
    assert started.run(range(1))[0]["generator_loss"] == pytest.approx(3.0)


def test_a_loss_of_no_terms_leaves_the_images_as_they_begin():
    started = trial(ONLY)
    shard, loss = started.method.synthesize(adversarial=True, rng=rng())
    assert loss == 0
    assert torch.equal(shard.images, Shard.of(started.method.made[0], shard.labels).images)
    assert torch.equal(started.method.made[0], started.method.made[1])


# What goes wrong


class Moody(Teacher):
    """A teacher whose answers are not numbers whenever its script says so."""

    def __init__(self, script):
        super().__init__(tiny_teacher().network.network, (0.5,), (0.25,))
        self.script = iter(script)

    def look(self, images, *, deep=True):
        return super().look(images * math.nan if next(self.script) else images, deep=deep)


def moody(*script):
    return trial(teacher=Moody(script)).method


GOOD, BAD = [False] * 2, [True] * 2  # rounds of two steps


def test_a_round_without_a_finite_loss_is_tried_again_from_a_fresh_start():
    method = moody(*BAD, *GOOD)
    shard, loss = method.synthesize(adversarial=False, rng=rng())
    assert method.fresh_starts == 1
    assert math.isfinite(loss) and shard.images.shape == (7, 1, 8, 8)


def test_a_round_that_ends_badly_is_kept_and_leaves_a_fresh_start_to_the_next():
    method = moody(False, True)
    shard, loss = method.synthesize(adversarial=False, rng=rng())
    assert math.isfinite(loss) and method.fresh_starts == 1
    assert torch.equal(shard.images, Shard.of(method.made[0], shard.labels).images)


def test_a_good_round_needs_no_fresh_start():
    method = moody(*GOOD)
    method.synthesize(adversarial=False, rng=rng())
    assert method.fresh_starts == 0


def test_a_round_that_goes_wrong_starts_a_new_average():
    method = moody(*GOOD, *BAD, *GOOD)
    for _ in range(2):
        method.synthesize(adversarial=False, rng=rng())
    assert all(m.isfinite().all() and v.isfinite().all() for m, v in method.statistics.past)


def test_a_teacher_that_never_gives_a_finite_loss_fails_the_trial_with_advice():
    with pytest.raises(TrialFailed, match=r"not finite in 3 rounds.*try a bn_weight below 1"):
        moody(*BAD * ATTEMPTS).synthesize(adversarial=False, rng=rng())


def test_a_trial_that_fails_lets_nobody_wait_for_it():
    shelf = DictShelf()
    with pytest.raises(TrialFailed):
        trial(teacher=Moody(BAD * ATTEMPTS), shelf=shelf).run(range(1))
    assert shelf.waived == shelf.asked and len(shelf.asked) == 1


def test_a_teacher_that_recovers_in_the_last_attempt_does_not_fail_the_trial():
    method = moody(*BAD * (ATTEMPTS - 1), *GOOD)
    assert math.isfinite(method.synthesize(adversarial=False, rng=rng())[1])
    assert method.rounds_lost == 0


def test_a_resumed_trial_remembers_the_rounds_that_were_lost():
    method = moody(False, True)
    method.synthesize(adversarial=False, rng=rng())
    resumed = moody(*GOOD)
    resumed.restore(copy.deepcopy(method.state()))
    assert resumed.rounds_lost == 1
