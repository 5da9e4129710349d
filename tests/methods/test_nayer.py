import copy
import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_contract import LEARNING, MethodContract
from workbenches import IdleStudent, Trial, rng, tiny_network, tiny_teacher

from dfkd.methods.augment import Augmentation
from dfkd.methods.errors import TrialFailed
from dfkd.methods.losses import batch_norm_gap, masked_adversarial, one_hot
from dfkd.methods.memory import Shard
from dfkd.methods.nayer import ATTEMPTS, Nayer, NayerSettings, balanced_classes
from dfkd.methods.settings import build
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Alone

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "generator_steps": 2,
    "generator_width": 2,
    "noisy_width": 6,
    "warmup_rounds": 3,
    "rounds": 3,
    "generator_life": 3,
    "reinit_every": 2,
    "bn_weight": 1.0,
}
BOUNDED = {"pool_capacity": 20}


class TestNayer(MethodContract):
    method = Nayer
    quick = QUICK
    bounded = BOUNDED


class TestNayerWithABoundedPool(MethodContract):
    method = Nayer
    quick = QUICK | BOUNDED


def trial(method=Nayer, values=None, **bench):
    return Trial(method, LEARNING | QUICK | (values or {}), **bench)


def images(count=9, seed=0):
    return torch.rand(count, 1, 8, 8, generator=rng(seed))


def gradient(started, values, target, student=None, seed=0):
    """The gradient that the generator's loss sends to the images."""
    values = values.clone().requires_grad_()
    loss, _ = started.method.loss(values, target, student, rng(seed))
    loss.backward()
    return values.grad


# The pool and its rounds


def test_rounds_of_warm_up_and_after_are_as_many_as_the_settings_say():
    metrics = trial(values={"warmup_rounds": 3, "rounds": 2, "warmup": 2}).run(range(4))
    assert [m["pool_images"] for m in metrics] == [7 * rounds for rounds in (3, 6, 8, 10)]


def test_the_pool_keeps_the_newest_images_up_to_its_capacity():
    metrics = trial(values={"pool_capacity": 20}).run(range(3))
    assert metrics[-1]["pool_images"] == 20


def test_every_round_brings_all_classes():
    started = trial(values={"batch_size": 8})
    started.run(range(1))
    for labels in started.method.pool.labels.split(8):
        assert set(labels.tolist()) == {0, 1, 2}


def test_every_round_makes_other_images():
    started = trial(values={"reinit_every": 1})
    started.run(range(1))
    one, two, three = started.method.pool.images.float().split(7)
    assert (one - two).abs().max() > 1 and (two - three).abs().max() > 1


@given(st.integers(1, 60), st.integers(2, 30), st.integers(0, 99))
def test_classes_are_balanced_up_to_the_remainder(count, classes, seed):
    counts = balanced_classes(count, classes, rng(seed)).bincount(minlength=classes)
    assert len(counts) == classes and counts.sum() == count
    assert counts.min() >= count // classes
    assert (counts - count // classes).sum() == count % classes


def test_the_remaining_classes_are_drawn_from_all():
    rest = [balanced_classes(4, 3, rng(seed))[3].item() for seed in range(30)]
    assert set(rest) == {0, 1, 2}


class Worker(Alone):
    """One of two workers; the other one sends the same `mail` every epoch."""

    def __init__(self, rank, mail=()):
        self.rank, self.size = rank, 2
        self.mail = list(mail)
        self.sent = []

    def share(self, shards):
        self.sent.append(len(shards))
        return [*shards, *self.mail]


@pytest.mark.parametrize(("rank", "expected"), [(0, [2, 1, 2]), (1, [1, 2, 1])])
def test_a_worker_synthesizes_its_portion_of_the_rounds(rank, expected):
    team = Worker(rank)
    trial(team=team, student=IdleStudent).run(range(3))  # of three rounds each
    assert team.sent == expected


def test_a_resumed_worker_remembers_whose_turn_it_is():
    team = Worker(0)
    first, resumed = trial(team=Worker(0)), trial(team=team)
    first.run(range(1))
    resumed.load(first.save())
    resumed.run(range(1, 2))
    assert team.sent == [1]


def test_a_worker_takes_the_shards_of_the_others_into_its_pool():
    mail = Shard(torch.full((7, 1, 8, 8), 99, dtype=torch.uint8), torch.full((7,), 2))
    started = trial(team=Worker(0, [mail]))
    started.run(range(1))
    assert torch.equal(started.method.pool.images[-7:], mail.images)
    assert torch.equal(started.method.pool.labels[-7:], mail.labels)


def test_a_worker_without_a_round_of_its_own_reports_no_loss():
    metrics = trial(team=Worker(1), values={"warmup_rounds": 1}).run(range(1))
    assert "generator_loss" not in metrics[0]


# The loss


def test_the_loss_is_the_weighted_sum_of_its_three_terms():
    weights = {"bn_weight": 3.0, "one_hot_weight": 0.7, "adversarial_weight": 1.3}
    started = trial(values=weights | {"shift": 0, "flip": False})
    teacher, student = started.bench.teacher, started.bench.student.network.eval()
    target = torch.arange(9) % 3
    logits, moments = teacher.inspect(images())
    expected = (
        3.0 * batch_norm_gap(moments, teacher.running)
        + 0.7 * one_hot(logits, target)
        + 1.3 * masked_adversarial(student(images()), logits)
    )
    loss, _ = started.method.loss(images(), target, student, rng())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_batch_norm_term_is_summed_over_layers_if_asked():
    only = {"one_hot_weight": 0.0, "bn_weight": 1.0}
    losses = {}
    for reduction in ("mean", "sum"):
        started = trial(values=only | {"bn_reduction": reduction})
        losses[reduction] = started.method.loss(images(), torch.arange(9) % 3, None, rng())[0]
    assert losses["sum"].item() == pytest.approx(2 * losses["mean"].item(), rel=1e-5)


def test_the_students_weights_change_the_adversarial_loss():
    target, losses = torch.arange(9) % 3, []
    for seed in ("one", "another"):
        network = tiny_network(seed=seed).eval()
        teacher = tiny_teacher()
        network.classifier.bias.data += 10 * teacher.logits(images()).mean(0)  # agree somewhere
        started = trial(teacher=teacher)
        losses.append(started.method.loss(images(), target, network, rng())[0].item())
    assert losses[0] != losses[1]


ADVERSARIAL = {"bn_weight": 0.0, "one_hot_weight": 0.0, "adversarial_weight": 1.0}


def softer(teacher, factor):
    """A student that decides as the teacher does, `factor` times as surely."""
    student = copy.deepcopy(teacher.network)
    for p in student.network.classifier.parameters():
        p.data *= factor
    return student


def test_a_student_that_differs_from_its_teacher_gives_an_adversarial_gradient():
    started = trial(values=ADVERSARIAL)
    student = softer(started.bench.teacher, 0.5)
    assert gradient(started, images(), torch.arange(9) % 3, student).abs().max() > 1e-5


def test_a_student_that_equals_its_teacher_gives_no_adversarial_gradient():
    started = trial(values=ADVERSARIAL)
    student = softer(started.bench.teacher, 1.0)
    assert gradient(started, images(), torch.arange(9) % 3, student).abs().max() < 1e-8


def test_a_student_that_equals_its_teacher_gives_the_generator_no_gradient():
    started = trial(values=ADVERSARIAL)
    started.method.renew_generator(rng())
    target = torch.arange(9) % 3
    student = softer(started.bench.teacher, 1.0)
    loss, _ = started.method.loss(started.method.generator(target), target, student, rng())
    loss.backward()
    assert max(p.grad.abs().max() for p in started.method.generator.parameters()) < 1e-6


def pools_of_two_students(warmup):
    """What two trials synthesize that differ in nothing but their student's weights."""
    pools = []
    for seed in ("one", "another"):
        started = trial(
            values={"warmup": warmup, "generator_steps": 4},
            network=softer_network(seed),
            student=IdleStudent,
        )
        started.run(range(2))
        pools.append(started.method.pool.images)
    return pools


def softer_network(seed):
    """Decides as the tiny teacher does, but how surely depends on `seed`."""
    return softer(tiny_teacher(), {"one": 0.5, "another": 3.0}[seed])


def test_synthesis_in_warm_up_does_not_depend_on_the_student():
    assert torch.equal(*pools_of_two_students(warmup=2))


def test_synthesis_after_warm_up_does():
    assert not torch.equal(*pools_of_two_students(warmup=0))


def test_synthesis_without_adversarial_weight_never_runs_the_student():
    network, calls = tiny_network(), []
    network.register_forward_pre_hook(lambda *_: calls.append(1))
    values = {"warmup": 0, "adversarial_weight": 0.0}
    trial(values=values, network=network, student=IdleStudent).run(range(1))
    assert not calls


def test_teacher_and_student_judge_the_same_augmented_images():
    teacher, network, shown = tiny_teacher(), tiny_network(), []
    for one in (teacher.network, network):
        one.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    started = trial(teacher=teacher, network=network, values={"shift": 2})
    started.method.loss(images(), torch.arange(9) % 3, network, rng())
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], Augmentation(2, flip=True)(images(), rng()))


# L_bn and its moving average


def test_the_batch_norm_term_is_zero_for_a_batch_with_the_remembered_statistics():
    started = trial(values={"one_hot_weight": 0.0, "shift": 0, "flip": False})
    teacher = started.bench.teacher
    for i in range(teacher.batch_norms):  # a layer's input depends on the memories before it
        _, moments = teacher.inspect(images())
        for remembered, seen in zip(teacher.running[i], moments[i], strict=True):
            remembered.copy_(seen)
    loss, _ = started.method.loss(images(), torch.arange(9) % 3, None, rng())
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_in_the_first_round_the_batchs_own_statistics_count():
    started = trial(values={"one_hot_weight": 0.0, "bn_weight": 2.0})
    loss, moments = started.method.loss(images(), torch.arange(9) % 3, None, rng())
    expected = 2.0 * batch_norm_gap(moments, started.bench.teacher.running)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_after_the_first_round_the_gradient_is_scaled_by_the_batchs_share(momentum):
    started = trial(values={"one_hot_weight": 0.0, "bn_momentum": momentum})
    target = torch.arange(9) % 3
    first = gradient(started, images(), target)
    # if the average is where the teacher is, the gap keeps its direction and shrinks by the share
    started.method.remembered = [(m.clone(), v.clone()) for m, v in started.bench.teacher.running]
    assert torch.allclose(gradient(started, images(), target), (1 - momentum) * first, atol=1e-6)


class Recorder(Teacher):
    """A teacher that keeps the statistics of every batch that it was shown."""

    def inspect(self, images):
        logits, moments = super().inspect(images)
        self.seen = [*getattr(self, "seen", []), moments]
        return logits, moments


def recorder():
    network = tiny_teacher().network.network
    return Recorder(network, (0.5,), (0.25,))


def test_the_average_moves_once_per_round_by_the_last_batch():
    started = trial(
        values={"warmup_rounds": 3, "generator_steps": 2, "bn_momentum": 0.9},
        teacher=recorder(),
    )
    started.run(range(1))
    one, two, three = started.bench.teacher.seen[1::2]  # of each round the second step's
    for layer, pair in enumerate(started.method.remembered):
        for which, average in enumerate(pair):
            a, b, c = (batch[layer][which] for batch in (one, two, three))
            expected = 0.1 * c + 0.9 * (0.1 * b + 0.9 * a)
            assert torch.allclose(average, expected, atol=1e-6)


def test_a_round_that_goes_wrong_starts_a_new_average():
    started = trial(teacher=Moody((False,) * 2 + (True,) * 2 + (False,) * 2))
    started.method.renew_generator(rng())
    for _ in range(2):
        started.method.synthesize(adversarial=False, rng=rng())
    assert all(m.isfinite().all() and v.isfinite().all() for m, v in started.method.remembered)


# The generator: noisy layers, life, best step


class Diary(Nayer):
    """Writes down in which rounds the noisy layers were redrawn, and all its generators."""

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.redrawn = []
        self.generators = []
        self.made = []

    def renew_generator(self, rng):
        super().renew_generator(rng)
        self.generators.append(self.generator)
        self.weight = self.generator.noisy.weight.detach().clone()

    def train_generator(self, target, *, adversarial, rng):
        self.made = []
        result = super().train_generator(target, adversarial=adversarial, rng=rng)
        self.weight = self.generator.noisy.weight.detach().clone()
        return result

    def loss(self, images, target, student, rng):
        if not self.made:
            weight = self.generator.noisy.weight
            self.redrawn.append(not torch.equal(weight, self.weight))
        self.made.append(images.detach())
        return super().loss(images, target, student, rng)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (0, [False] * 6),
        (1, [True] * 6),
        (2, [True, False] * 3),
        (4, [True, False, False, False, True, False]),
    ],
)
def test_noisy_layers_are_redrawn_on_schedule(every, expected):
    started = trial(Diary, {"reinit_every": every, "generator_life": 0, "warmup_rounds": 6})
    started.run(range(1))
    assert started.method.redrawn == expected


def test_a_fresh_generator_starts_the_redraw_schedule_again():
    values = {"reinit_every": 2, "generator_life": 1, "warmup_rounds": 3, "warmup": 2}
    started = trial(Diary, values)
    started.run(range(2))
    assert started.method.redrawn == [True, False, True] * 2


def test_the_redraw_schedule_goes_on_over_epochs():
    started = trial(
        Diary, {"reinit_every": 2, "generator_life": 0, "warmup_rounds": 3, "warmup": 2}
    )
    started.run(range(2))
    assert started.method.redrawn == [True, False] * 3


def renewals(epochs, **values):
    """In which epochs the generator is another one than before."""
    started = trial(Diary, values, student=IdleStudent)
    found = []
    for epoch in range(epochs):
        before = len(started.method.generators)
        started.run([epoch])
        if len(started.method.generators) > before:
            found.append(epoch)
    return found


@pytest.mark.parametrize(
    ("life", "warmup", "expected"),
    [
        (0, 1, [0]),
        (1, 1, [0, 1, 2, 3, 4, 5, 6]),
        (3, 1, [0, 1, 3, 4, 6]),  # counted from the start and from the end of the warm-up
        (3, 3, [0, 3, 6]),
        (4, 2, [0, 2, 4, 6]),
        (10, 5, [0, 5]),
    ],
)
def test_the_generator_is_renewed_at_the_end_of_its_life(life, warmup, expected):
    assert renewals(7, generator_life=life, warmup=warmup, kd_steps=1) == expected


def test_a_renewed_generator_has_other_weights():
    started, draws = trial(Diary), rng()
    for _ in range(2):
        started.method.renew_generator(draws)
    one, two = started.method.generators
    assert not torch.equal(one.trunk.head.weight, two.trunk.head.weight)


def test_the_noisy_layers_of_a_fresh_generator_are_drawn_before_the_first_redraw():
    started = trial(values={"noisy_width": 1000, "noise_std": 0.3, "reinit_every": 0})
    started.method.renew_generator(rng())
    assert started.method.generator.noisy.weight.std().item() == pytest.approx(0.3, rel=0.03)


def adam(parameters, gradients, moments, step, *, lr, betas):
    """One step of Adam, from its definition (Kingma and Ba 2015, algorithm 1)."""
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        m, v = moments.get(i, (0, 0))
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g.square()
        moments[i] = m, v
        unbiased = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        p.data -= lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)


def test_a_round_is_some_steps_of_a_fresh_adam():
    started = trial(values={"generator_steps": 4, "generator_lr": 0.01, "reinit_every": 0})
    method, target, moments = started.method, torch.arange(9) % 3, {}
    method.renew_generator(rng())
    method.train_generator(target, adversarial=False, rng=rng())  # an Adam that must not go on
    slow, draws = copy.deepcopy(method.generator), rng(1)
    remembered = method.remembered
    method.train_generator(target, adversarial=False, rng=rng(1))
    method.remembered = remembered
    parameters = list(slow.parameters())
    for step in range(1, 5):
        loss, _ = method.loss(slow(target), target, None, draws)
        gradients = torch.autograd.grad(loss, parameters)
        adam(parameters, gradients, moments, step, lr=0.01, betas=(0.5, 0.999))
    for fast, expected in zip(method.generator.parameters(), parameters, strict=True):
        assert torch.allclose(fast, expected, atol=1e-4)


@pytest.mark.parametrize(("layers", "expected"), [(0, 3), (1, 1), (5, 5)])
def test_there_are_as_many_noisy_layers_as_asked_or_one_per_image_of_a_class(layers, expected):
    started = trial(values={"noisy_layers": layers})  # a batch of 7 has up to 3 of each class
    started.method.renew_generator(rng())
    assert len(started.method.generator.noisy.weight) == expected


class Scripted(Nayer):
    """Its losses are the numbers of a script; it keeps the images that it was shown."""

    script: tuple[float, ...] = ()

    def loss(self, images, target, student, rng):
        self.shown = [*getattr(self, "shown", []), images.detach()]
        value = self.script[len(self.shown) - 1]
        loss = (images - images.detach()).sum() + value  # the value of the script, with a gradient
        return loss, []


def scripted(*script):
    started = trial(Scripted, {"generator_steps": len(script)})
    started.method.script = script
    started.method.renew_generator(rng())
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
    ],
)
def test_a_round_gives_the_images_of_the_step_with_the_lowest_loss(script, best):
    method = scripted(*script)
    shard, loss = method.synthesize(adversarial=False, rng=rng())
    assert loss == script[best]
    assert torch.equal(shard.images, Shard.of(method.shown[best], shard.labels).images)


def test_the_steps_of_a_round_differ():
    method = scripted(3.0, 2.0, 1.0)
    method.synthesize(adversarial=False, rng=rng())
    assert not torch.equal(method.shown[0], method.shown[2])


def test_a_loss_of_minus_infinity_is_not_the_lowest():
    method = scripted(2.0, -math.inf, 3.0)
    assert method.synthesize(adversarial=False, rng=rng())[1] == 2.0


def test_the_loss_reported_is_the_mean_of_the_rounds():
    started = trial(Scripted, {"generator_steps": 1, "warmup_rounds": 3})
    started.method.script = (1.0, 2.0, 6.0)
    assert started.run(range(1))[0]["generator_loss"] == pytest.approx(3.0)


def test_the_pool_holds_images_as_they_were_before_augmentation():
    started = trial(Diary, {"generator_steps": 1, "shift": 4})
    started.method.renew_generator(rng())
    shard, _ = started.method.synthesize(adversarial=False, rng=rng())
    expected = Shard.of(started.method.made[0], shard.labels)
    assert torch.equal(shard.images, expected.images)


# What goes wrong


class Moody(Teacher):
    """A teacher whose answers are not numbers whenever its script says so."""

    def __init__(self, script):
        super().__init__(tiny_teacher().network.network, (0.5,), (0.25,))
        self.script = iter(script)

    def inspect(self, images):
        logits, moments = super().inspect(images)
        if next(self.script):
            logits = logits * math.nan
            moments = [(mean * math.nan, variance) for mean, variance in moments]
        return logits, moments


STEPS = QUICK["generator_steps"]


def started_diary(*bad_rounds, **values):
    """A trial whose teacher answers NaN throughout the rounds that are bad."""
    script = [bad for bad in bad_rounds for _ in range(STEPS)]
    started = trial(Diary, values, teacher=Moody(script))
    started.method.renew_generator(rng())
    return started.method


def test_a_round_without_a_finite_loss_is_tried_again_with_a_fresh_generator():
    method = started_diary(True, False)
    shard, loss = method.synthesize(adversarial=False, rng=rng())
    assert len(method.generators) == 2
    assert math.isfinite(loss) and shard.images.shape == (7, 1, 8, 8)


def test_a_round_that_ends_badly_leaves_a_fresh_generator_to_the_next():
    started = trial(Diary, teacher=Moody([False, True, False, False]))
    started.method.renew_generator(rng())
    _, loss = started.method.synthesize(adversarial=False, rng=rng())
    assert math.isfinite(loss) and len(started.method.generators) == 2


def test_a_good_round_keeps_the_generator():
    method = started_diary(False)
    method.synthesize(adversarial=False, rng=rng())
    assert len(method.generators) == 1


def test_a_teacher_that_never_gives_a_finite_loss_fails_the_trial_with_advice():
    method = started_diary(*[True] * ATTEMPTS)
    with pytest.raises(TrialFailed, match=r"not finite in 3 rounds.*generator_lr below 0\.004"):
        method.synthesize(adversarial=False, rng=rng())


def test_a_teacher_that_recovers_in_the_last_attempt_does_not_fail_the_trial():
    method = started_diary(*[True] * (ATTEMPTS - 1), False)
    assert math.isfinite(method.synthesize(adversarial=False, rng=rng())[1])


def test_a_generator_that_diverges_is_renewed_after_every_round():
    started = trial(Diary, {"generator_lr": 1e30, "warmup_rounds": 3})
    started.run(range(1))
    assert len(started.method.generators) == 1 + 3


def test_a_generator_that_diverges_in_every_round_fails_the_trial():
    started = trial(values={"generator_lr": 1e30, "warmup_rounds": 10})
    with pytest.raises(TrialFailed, match="generator_lr"):
        started.run(range(1))


def test_a_teacher_without_batch_norm_is_refused_with_what_to_do():
    teacher = tiny_teacher(name="convnet-4-nobn")
    (objection,) = Nayer.objections(NayerSettings(), teacher)
    assert "no BatchNorm" in objection and "bn_weight=0" in objection


def test_a_teacher_without_batch_norm_is_welcome_without_its_loss():
    teacher = tiny_teacher(name="convnet-4-nobn")
    assert Nayer.objections(NayerSettings(bn_weight=0), teacher) == []


def test_synthesis_works_without_batch_norm():
    teacher = tiny_teacher(name="convnet-4-nobn")
    metrics = trial(values={"bn_weight": 0.0}, teacher=teacher).run(range(3))
    assert all(math.isfinite(m["generator_loss"]) for m in metrics)


# The paper, and what synthesis is for


def test_the_paper_preset_is_what_the_reference_implementation_sets():
    paper = build(NayerSettings, Nayer.presets["paper"], "paper")
    reference = {  # scripts/nayer_100.sh, CIFAR-100, at tmtuan1307/nayer@c6bedcd
        **{"batch_size": 400, "generator_steps": 40, "warmup_rounds": 10, "rounds": 2},
        **{"generator_life": 10, "generator_lr": 4e-3, "noisy_layers": 0, "noisy_width": 1000},
        **{"bn_weight": 10, "one_hot_weight": 0.5, "adversarial_weight": 1.33},
        **{"bn_reduction": "sum", "bn_momentum": 0.9, "reinit_every": 1, "noise_std": 1},
        **{"warmup": 20, "kd_steps": 400, "kd_batch_size": 512, "temperature": 20},
        **{"student_lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4, "clip_norm": 0},
        **{"shift": 4, "flip": True, "generator_width": 64, "pool_capacity": 0},
    }
    assert dataclasses.asdict(paper) == reference


@pytest.fixture(scope="module")
def digits(digits_teacher):
    """One longer round for a teacher that knows digits: the diary, the shard."""
    values = {"batch_size": 40, "generator_steps": 30, "generator_width": 8, "noisy_width": 32}
    started = trial(
        Diary,
        values | {"generator_lr": 4e-3, "flip": False, "bn_weight": 1.0},
        classes=10,
        teacher=digits_teacher,
    )
    started.method.renew_generator(rng())
    shard, _ = started.method.synthesize(adversarial=False, rng=rng())
    return started.method, shard


def test_the_digits_teacher_is_one_worth_asking(digits_teacher):
    from sklearn.datasets import load_digits

    digits = load_digits()
    logits = digits_teacher.logits(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16)
    assert (logits.argmax(1) == torch.tensor(digits.target)).float().mean() > 0.95


def test_a_round_makes_images_that_its_teacher_takes_for_the_classes_asked(digits, digits_teacher):
    _, shard = digits
    found = digits_teacher.logits(shard.images / 255).argmax(1)
    assert (found == shard.labels).float().mean() > 0.5  # chance: 0.1


def test_a_round_lowers_the_one_hot_loss(digits, digits_teacher):
    method, shard = digits
    before = one_hot(digits_teacher.logits(method.made[0]), shard.labels)
    assert one_hot(digits_teacher.logits(shard.images / 255), shard.labels) < 0.7 * before


def test_a_round_lowers_the_distance_from_the_teachers_statistics(digits, digits_teacher):
    method, shard = digits
    gaps = [
        batch_norm_gap(digits_teacher.inspect(x)[1], digits_teacher.running)
        for x in (method.made[0], shard.images / 255)
    ]
    assert gaps[1] < 0.7 * gaps[0]
