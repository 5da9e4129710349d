import copy
import dataclasses

import pytest
import torch
from method_contract import LEARNING, MethodContract
from workbenches import IdleStudent, Trial, rng, softer, tiny_teacher

from dfkd.methods.errors import TrialFailed
from dfkd.methods.losses import batch_norm_gap, one_hot
from dfkd.methods.nayer import Nayer, NayerSettings
from dfkd.methods.settings import build

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 2,
    "generator_width": 2,
    "noisy_width": 6,
    "warmup_rounds": 3,
    "rounds": 3,
    "generator_life": 3,
    "reinit_every": 2,
    "bn_weight": 1.0,
}
BOUNDED = {"pool_capacity": 20}
ADVERSARIAL = {"bn_weight": 0.0, "one_hot_weight": 0.0, "adversarial_weight": 1.0}


class TestNayer(MethodContract):
    method = Nayer
    quick = QUICK
    bounded = BOUNDED
    adversarial = ADVERSARIAL
    without_batch_norm = {"bn_weight": 0.0}  # noqa: RUF012


def trial(method=Nayer, values=None, **bench):
    return Trial(method, LEARNING | QUICK | (values or {}), **bench)


def started(method=Nayer, values=None, **bench):
    """A trial whose first generator is there."""
    begun = trial(method, values, **bench)
    begun.method.start_over(rng())
    return begun


def test_every_round_makes_other_images():
    begun = trial(values={"reinit_every": 1, "held_out": 0.0})
    begun.run(range(1))
    one, two, three = begun.method.pool.images.float().split(7)
    assert (one - two).abs().max() > 1 and (two - three).abs().max() > 1


@pytest.mark.parametrize(("factor", "least", "most"), [(1.0, 0, 1e-6), (0.5, 1e-4, 1e9)])
def test_the_generator_gets_an_adversarial_gradient_unless_student_equals_teacher(
    factor, least, most
):
    teacher = tiny_teacher()
    begun = started(values=ADVERSARIAL, teacher=teacher, network=softer(teacher, factor))
    target, generator = torch.arange(9) % 3, begun.method.generator
    with begun.bench.student.frozen():
        begun.method.loss(begun.view(generator(target), target)).backward()
    assert least <= max(p.grad.abs().max() for p in generator.parameters()) <= most


# The generator: noisy layers and life


class Diary(Nayer):
    """Writes down in which rounds the noisy layers were redrawn, and all its generators."""

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.redrawn = []
        self.generators = []
        self.made = []  # in the last round

    def start_over(self, rng):
        super().start_over(rng)
        self.generators.append(self.generator)

    def begin(self, target, rng):
        before = self.generator.noisy.weight.detach().clone()
        canvas = super().begin(target, rng)
        self.redrawn.append(not torch.equal(self.generator.noisy.weight, before))
        self.made = []
        return canvas

    def shown(self, images, rng):
        self.made.append(images.detach())
        return super().shown(images, rng)


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
    begun = trial(Diary, {"reinit_every": every, "generator_life": 0, "warmup_rounds": 6})
    begun.run(range(1))
    assert begun.method.redrawn == expected


def test_a_fresh_generator_starts_the_redraw_schedule_again():
    values = {"reinit_every": 2, "generator_life": 1, "warmup_rounds": 3, "warmup": 2}
    begun = trial(Diary, values)
    begun.run(range(2))
    assert begun.method.redrawn == [True, False, True] * 2


def test_the_redraw_schedule_goes_on_over_epochs():
    begun = trial(Diary, {"reinit_every": 2, "generator_life": 0, "warmup_rounds": 3, "warmup": 2})
    begun.run(range(2))
    assert begun.method.redrawn == [True, False] * 3


def renewals(epochs, **values):
    """In which epochs the generator is another one than before."""
    begun = trial(Diary, values, student=IdleStudent)
    found = []
    for epoch in range(epochs):
        before = len(begun.method.generators)
        begun.run([epoch])
        if len(begun.method.generators) > before:
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
    begun, draws = trial(Diary), rng()
    for _ in range(2):
        begun.method.start_over(draws)
    one, two = begun.method.generators
    assert not torch.equal(one.trunk.heads[0].weight, two.trunk.heads[0].weight)


def test_the_noisy_layers_of_a_fresh_generator_are_drawn_before_the_first_redraw():
    begun = started(values={"noisy_width": 1000, "noise_std": 0.3, "reinit_every": 0})
    assert begun.method.generator.noisy.weight.std().item() == pytest.approx(0.3, rel=0.03)


def adam(parameters, gradients, moments, step, *, lr, betas):
    """One step of Adam, from its definition (Kingma and Ba 2015, algorithm 1)."""
    for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        m, v = moments.get(i, (0, 0))
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g.square()
        moments[i] = m, v
        unbiased = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
        p.data -= lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)


def test_a_round_is_some_steps_of_a_fresh_adam():
    values = {"synthesis_steps": 4, "generator_lr": 0.01, "reinit_every": 0, "shift": 0}
    begun = started(values=values | {"flip": False})
    method, target, moments = begun.method, torch.arange(9) % 3, {}
    method.invert(target, adversarial=False, rng=rng())  # an Adam that must not go on
    slow, past = copy.deepcopy(method.generator), method.statistics.past
    method.invert(target, adversarial=False, rng=rng(1))
    method.statistics.past = past
    parameters = list(slow.parameters())
    for step in range(1, 5):
        loss = method.loss(begun.view(slow(target), target, adversarial=False))
        gradients = torch.autograd.grad(loss, parameters)
        adam(parameters, gradients, moments, step, lr=0.01, betas=(0.5, 0.999))
    for fast, expected in zip(method.generator.parameters(), parameters, strict=True):
        assert torch.allclose(fast, expected, atol=1e-4)


@pytest.mark.parametrize(("layers", "expected"), [(0, 3), (1, 1), (5, 5)])
def test_there_are_as_many_noisy_layers_as_asked_or_one_per_image_of_a_class(layers, expected):
    begun = started(values={"noisy_layers": layers})  # a batch of 7 has up to 3 of each class
    assert len(begun.method.generator.noisy.weight) == expected


# What goes wrong


def test_a_generator_that_diverges_is_renewed_after_every_round():
    begun = trial(Diary, {"generator_lr": 1e30, "warmup_rounds": 3})
    begun.run(range(1))
    assert len(begun.method.generators) == 1 + 3


def test_a_generator_that_diverges_in_every_round_fails_the_trial():
    begun = trial(values={"generator_lr": 1e30, "warmup_rounds": 10})
    with pytest.raises(TrialFailed, match="generator_lr below"):
        begun.run(range(1))


# The paper, and what synthesis is for


def test_the_paper_preset_is_what_the_reference_implementation_sets():
    paper = build(NayerSettings, Nayer.presets["paper"], "paper")
    reference = {  # scripts/nayer_100.sh, CIFAR-100, at tmtuan1307/nayer@c6bedcd
        **{"batch_size": 400, "synthesis_steps": 40, "warmup_rounds": 10, "rounds": 2},
        **{"generator_life": 10, "generator_lr": 4e-3, "noisy_layers": 0, "noisy_width": 1000},
        **{"bn_weight": 10, "one_hot_weight": 0.5, "adversarial_weight": 1.33},
        **{"bn_reduction": "sum", "bn_momentum": 0.9, "reinit_every": 1, "noise_std": 1},
        **{"warmup": 20, "kd_steps": 400, "kd_batch_size": 512, "temperature": 20},
        **{"kd_loss": "kl"},
        **{"student_lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4, "clip_norm": 0},
        **{"shift": 4, "flip": True, "generator_width": 64, "pool_capacity": 0},
        **{"held_out": 0, "precision": "float32", "accumulation": 1},
    }
    ours = {"drawn_share"}  # says something of sweeps only
    assert {k: v for k, v in dataclasses.asdict(paper).items() if k not in ours} == reference


@pytest.fixture(scope="module")
def digits(digits_teacher):
    """One longer round for a teacher that knows digits: the diary, the shard."""
    values = {"batch_size": 40, "synthesis_steps": 30, "generator_width": 8, "noisy_width": 32}
    begun = started(
        Diary,
        values | {"generator_lr": 4e-3, "flip": False, "bn_weight": 1.0},
        classes=10,
        teacher=digits_teacher,
    )
    shard, _ = begun.method.synthesize(adversarial=False, rng=rng())
    return begun.method, shard


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
        batch_norm_gap(digits_teacher.look(x).moments, digits_teacher.running)
        for x in (method.made[0], shard.images / 255)
    ]
    assert gaps[1] < 0.7 * gaps[0]
