from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from method_contract import LEARNING, MethodContract
from torch import nn
from workbenches import EPOCHS, IdleStudent, Trial, rng, same, snapshot, tiny_network, tiny_teacher

from dfkd.methods.cam import activation_map, place_logits
from dfkd.methods.errors import ConfigError
from dfkd.methods.memory import Shard
from dfkd.methods.muse import Muse, MuseSettings
from dfkd.methods.nayer import Nayer
from dfkd.methods.settings import build
from dfkd.methods.shape import ImageShape
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Alone

QUICK = {
    "batch_size": 7,  # divisible by no number of classes in these tests
    "synthesis_steps": 2,
    "generator_width": 2,
    "noisy_width": 6,
    "warmup_rounds": 3,
    "rounds": 3,
    "generator_life": 3,
    "reinit_every": 2,
}
SIZES = [(4, 4), (6, 6), (8, 8)]
OFF = {"cam_weight": 0.0, "student_diversity_weight": 0.0, "generator_diversity_weight": 0.0}
SILENT = OFF | {"bn_weight": 0.0, "one_hot_weight": 0.0, "adversarial_weight": 0.0}
PLAIN = {"shift": 0, "flip": False}
IMAGES = torch.rand(9, 1, 8, 8, generator=rng(2))
TARGET = torch.arange(9) % 3


class TestMuse(MethodContract):
    method = Muse
    quick = QUICK | {"upsample": True}
    bounded: ClassVar = {"pool_capacity": 20}
    adversarial: ClassVar = SILENT | {"adversarial_weight": 1.0}
    without_batch_norm: ClassVar = {"bn_weight": 0.0}


class Diary(Muse):
    """Writes down the size of every round and of the images in every step."""

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.rounds, self.made = [], []

    def resolution(self):
        self.rounds.append(super().resolution())
        return self.rounds[-1]

    def shown(self, images, rng):
        self.made.append(tuple(images.shape[2:]))
        return super().shown(images, rng)


def trial(values=None, method=Diary, **bench):
    return Trial(method, LEARNING | QUICK | (values or {}), **bench)


# Without its own ingredients it is NAYER


def both(epochs, **values):
    """NAYER and MUSE with nothing of its own, after some epochs."""
    own = OFF | {"resolutions": "1"}
    found = [trial(values | more, method) for method, more in ((Nayer, {}), (Muse, own))]
    for started in found:
        started.run(range(epochs))
    return found


@pytest.mark.parametrize("capacity", [0, 20])
def test_without_its_ingredients_it_synthesizes_what_nayer_does(capacity):
    nayer, muse = both(3, warmup=3, pool_capacity=capacity)
    assert muse.metrics == nayer.metrics
    (pool,) = muse.method.pool.pools.values()
    assert torch.equal(pool.images, nayer.method.pool.images)
    assert torch.equal(pool.labels, nayer.method.pool.labels)


def test_without_its_ingredients_its_student_is_nayers_bit_for_bit():
    nayer, muse = both(3)
    assert muse.metrics == nayer.metrics
    assert same(snapshot(muse.bench.student.network), snapshot(nayer.bench.student.network))


def test_the_paper_preset_is_nayers_at_half_the_size():
    paper = build(MuseSettings, Muse.presets["paper"], "test")
    assert Nayer.presets["paper"].items() <= Muse.presets["paper"].items()
    assert (paper.resolutions, paper.upsample) == ("0.5", False)


# Several resolutions


def test_rounds_take_turns_in_size_over_epochs_and_go_on_where_a_saved_trial_was():
    values = {"warmup_rounds": 2, "rounds": 2}
    whole = trial(values)
    whole.run(range(4))
    assert whole.method.rounds == [0, 1, 2, 0, 1, 2, 0, 1]
    stopped, resumed = trial(values), trial(values)
    stopped.run(range(2))
    resumed.load(stopped.save())
    resumed.run(range(2, 4))
    assert resumed.method.rounds == whole.method.rounds[4:]


def test_workers_begin_at_different_sizes():
    class Member(Alone):
        size = 3

        def __init__(self, rank):
            self.rank = rank

    for rank, expected in enumerate([[0, 1], [1, 2], [2, 0]]):
        started = trial({"rounds": 3}, team=Member(rank), student=IdleStudent)
        started.run(range(2))
        assert started.method.rounds == expected


@pytest.mark.parametrize("text", ["0.5 0.75 1", "1 0.5 0.75"])
def test_from_coarse_to_fine_sizes_go_up_with_the_epochs_and_never_down(text):
    values = {"resolutions": text, "resolution_schedule": "coarse_to_fine", "synthesis_steps": 1}
    started = trial(values | {"rounds": 1, "warmup_rounds": 1}, student=IdleStudent)
    started.run(range(EPOCHS))
    assert started.method.made == [(4, 4)] * 3 + [(6, 6)] * 3 + [(8, 8)] * 2


@pytest.mark.parametrize("upsample", [True, False])
def test_images_are_made_at_their_size_and_lie_in_its_bucket(upsample):
    (started := trial({"upsample": upsample})).run(range(1))
    assert started.method.made == [size for size in SIZES for _ in range(2)]
    buckets = started.method.pool.pools
    assert list(buckets) == SIZES and [len(pool) for pool in buckets.values()] == [7, 7, 7]
    assert [tuple(pool.images.shape[2:]) for pool in buckets.values()] == SIZES


@pytest.mark.parametrize(("upsample", "expected"), [(True, {(8, 8)}), (False, set(SIZES))])
def test_networks_see_the_tasks_size_or_the_size_that_images_were_made_at(upsample, expected):
    started = trial({"upsample": upsample, "kd_steps": 12})
    bench, seen = started.bench, {"teacher": set(), "student": set()}
    for who, found in seen.items():
        network = getattr(bench, who).network
        network.register_forward_pre_hook(
            lambda _, inputs, found=found: found.add(tuple(inputs[0].shape[2:]))
        )
    started.run(range(1))
    assert seen == {"teacher": expected, "student": set()}
    started.run(range(1, 2))
    assert seen == {"teacher": expected, "student": expected}
    samples = [started.method.source.sample(3, rng(seed)) for seed in range(30)]
    assert {tuple(sample.images.shape[2:]) for sample in samples} == expected


@pytest.mark.parametrize(
    ("text", "expected"),  # 0.99 is the same pixels
    [("0.5 1", [(4, 10), (7, 20)]), ("1,0.25", [(2, 5), (7, 20)]), ("1 0.99", [(7, 20)])],
)
def test_resolutions_are_shares_of_height_and_width(text, expected):
    sizes = trial({"resolutions": text}, shape=ImageShape(1, 7, 20)).method.sizes
    assert list(sizes) == expected


@pytest.mark.parametrize("text", ["", " ", "0", "0.5 -1", "1.5", "half", "0.5;1", "nan", "inf"])
def test_resolutions_that_are_no_shares_are_refused(text):
    with pytest.raises(ConfigError, match="resolutions must be numbers above 0 and up to 1"):
        MuseSettings(resolutions=text)


def test_each_size_has_a_moving_average_of_its_own():
    started = trial({"warmup_rounds": 1, "warmup": 6, "bn_momentum": 0.5} | PLAIN)
    method, moved, before = started.method, [], [None] * 3
    for epoch in range(6):
        started.run([epoch])
        past = [average.past for average in method.averages]
        moved.append([i for i in range(3) if past[i] is not before[i]])
        before = past
    assert moved == [[0], [1], [2], [0], [1], [2]]


# Class activation maps


def optimized(started, images, target, *, steps=40):
    """The images after their pixels went down MUSE's loss."""
    pixels = images.logit(1e-3).requires_grad_()
    adam = torch.optim.Adam([pixels], lr=0.1)
    with started.bench.student.frozen():
        for _ in range(steps):
            adam.zero_grad()
            started.method.loss(started.view(pixels.sigmoid(), target)).backward()
            adam.step()
    return pixels.detach().sigmoid()


def masked_loss(teacher, images, target):
    """How badly the teacher knows the class from the places with evidence alone."""
    answers = place_logits(teacher.look(images).maps, teacher.head, teacher.pooled)
    evidence = F.interpolate(activation_map(answers, target), (8, 8), mode="bilinear")
    return F.cross_entropy(teacher.logits(images * evidence.detach()), target)


def test_masks_make_the_places_with_evidence_suffice_more_than_the_one_hot_loss_does(
    digits_teacher,
):
    images, target = torch.rand(20, 1, 8, 8, generator=rng(1)), torch.arange(20) % 10
    found = [masked_loss(digits_teacher, images, target)]
    for values in ({"one_hot_weight": 1.0}, {"cam_weight": 1.0, "cam": "mask"}):
        started = trial(SILENT | values, classes=10, teacher=digits_teacher)
        after = optimized(started, images, target)
        found.append(masked_loss(digits_teacher, after, target))
    assert found[2] < 0.6 * found[0] and found[2] < 0.8 * found[1]


def test_the_masks_loss_is_that_of_the_masked_image_and_no_gradient_goes_through_the_mask():
    teacher = tiny_teacher()
    teacher.network.double()
    started = trial(SILENT | {"cam_weight": 2.0, "cam": "mask"}, teacher=teacher)
    images = IMAGES.double().requires_grad_()
    expected = 2 * masked_loss(teacher, images, TARGET)
    (slope,) = torch.autograd.grad(expected, images)
    found = started.method.loss(started.view(images, TARGET))
    assert found.item() == pytest.approx(expected.item())
    assert torch.allclose(torch.autograd.grad(found, images)[0], slope)
    assert slope.abs().max() > 1e-4


def test_masks_leave_something_to_see_where_the_teachers_map_is_one_place():
    teacher = tiny_teacher(name="convnet-4-4-4-4-4-6")  # as ResNet-18 is at 32 pixels
    started = trial(SILENT | {"cam_weight": 1.0, "cam": "mask"}, teacher=teacher)
    assert started.gradient(IMAGES, TARGET).any()


def test_with_a_weight_of_zero_no_map_is_made(monkeypatch):
    monkeypatch.delattr("dfkd.methods.muse.place_logits")
    trial({"cam_weight": 0.0}).run(range(2))
    with pytest.raises(NameError, match="place_logits"):
        trial().run(range(1))


class Unpooled(nn.Module):
    """A classifier without pooling, whose head reads all places; or without a linear head."""

    def __init__(self, *, head):
        super().__init__()
        first = [nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)]
        last = nn.Linear(3 * 64, 3) if head else nn.Flatten()
        pool = nn.Flatten() if head else nn.AdaptiveMaxPool2d(1)
        self.layers = nn.Sequential(*first, pool, last)

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("head", [True, False])
def test_a_teacher_without_maps_is_refused_unless_they_are_off(head):
    teacher = Teacher(Unpooled(head=head), (0.5,), (0.25,))
    (objection,) = Muse.objections(MuseSettings(), teacher)
    assert "cam_weight=0" in objection
    assert Muse.objections(MuseSettings(cam_weight=0.0), teacher) == []
    trial({"cam_weight": 0.0, "upsample": True}, teacher=teacher).run(range(2))


@pytest.mark.parametrize("width", [5, 24])  # 24: as wide as what is pooled, so shapes do not tell
def test_a_teacher_with_a_layer_between_pooling_and_head_is_refused_unless_maps_are_off(width):
    network = tiny_network()  # as VGG is
    between = nn.Linear(24, width)
    network.classifier = nn.Sequential(between, nn.ReLU(), nn.Linear(width, 3))
    teacher = Teacher(network, (0.5,), (0.25,))
    with pytest.raises(ConfigError, match=r"between its last pooling.*cam_weight=0"):
        trial(teacher=teacher)
    trial({"cam_weight": 0.0}, teacher=teacher).run(range(2))


# Embedding diversity


def test_the_distance_is_the_mean_squared_gap_between_embedding_and_standardized_text():
    method = trial().method
    texts = method.bench.embeddings - method.bench.embeddings.mean(0)
    texts = texts / (texts.square().sum() / texts.numel()).sqrt()
    head = method.texts.head
    features = torch.randn(9, head.in_features, generator=rng())
    gaps = features @ head.weight.T + head.bias - texts[TARGET]
    assert torch.allclose(method.texts(features, TARGET), gaps.square().sum(1) / 5)


def pupil(values, **bench):
    """A student that learns from a few images only: the trial, these images, and mirrored ones."""
    values = {"resolutions": "1", "kd_batch_size": 32, "temperature": 1.0} | PLAIN | values
    started = trial({"diversity_radius": 0.0} | values, **bench)
    seen = torch.rand(48, 1, 8, 8, generator=rng(3)) * torch.linspace(1, 0.1, 8)
    started.method.pool.add(Shard.of(seen, torch.arange(48) % 3))
    return started, seen, seen.flip(3)


def distance(started, images):
    with started.bench.student.frozen(), torch.no_grad():
        features = started.bench.student.look(images).features
    return started.method.texts(features, torch.arange(len(images)) % 3).mean().item()


def learn(started):
    """One epoch of the student; returns its network."""
    student, method = started.bench.student, started.method
    student.distill(started.bench.teacher, method.source, 1, rng(5), method.lesson)
    return snapshot(student.network)


def test_the_student_comes_to_embed_what_it_has_seen_nearer_its_text_than_what_is_new():
    started, seen, new = pupil({"student_diversity_weight": 1.0, "kd_steps": 80})
    before = distance(started, seen)
    learn(started)
    assert distance(started, seen) < 0.5 * min(before, distance(started, new))


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_lesson_is_kd_plus_what_the_distance_exceeds_the_radius_by(weight):
    started, _, _ = pupil({"student_diversity_weight": weight, "diversity_radius": 0.7})
    bench, method = started.bench, started.method
    batch = method.source.sample(20, rng())
    mine, theirs = bench.student.look(batch.images), bench.teacher.look(batch.images)
    excess = (method.texts(mine.features, batch.labels) - 0.7).clamp_min(0)
    assert 0 < (excess > 0).sum() < 20
    kd, loss = bench.student.kd(batch, mine, theirs), method.lesson(batch, mine, theirs)
    assert loss.item() == pytest.approx((kd + (weight or 1) * excess.mean()).item(), rel=1e-5)
    slopes = [
        torch.autograd.grad(x, mine.features, retain_graph=True, allow_unused=True)[0]
        for x in (kd, loss)
    ]
    assert torch.equal(*slopes) is (weight == 0)  # what the network feels beside KD
    loss.backward()
    assert method.texts.head.weight.grad.any()  # the head learns in either case


def without_and_with_a_head(**values):
    """The student after an epoch of plain KD, and where the head learns on the side."""
    weights = ({}, {"generator_diversity_weight": 1.0})
    return [learn(pupil(OFF | values | weight)[0]) for weight in weights]


def test_a_head_that_learns_on_the_side_leaves_the_student_as_it_would_be():
    assert same(*without_and_with_a_head(clip_norm=0.0))


def test_a_head_that_learns_on_the_side_leaves_a_bounded_student_as_it_would_be():
    assert same(*without_and_with_a_head(clip_norm=0.5))


def test_the_head_is_saved_with_the_student_and_is_no_part_of_its_network():
    started, _, _ = pupil({})
    learn(started)
    state = started.bench.student.state()
    assert state["network"].keys() == snapshot(tiny_network()).keys()
    assert torch.equal(state["heads"]["0.head.weight"], started.method.texts.head.weight)
    resumed, _, _ = pupil({})
    resumed.load(started.save())
    assert same(snapshot(resumed.method.texts), snapshot(started.method.texts))


def test_without_diversity_there_is_no_head_and_the_lesson_is_kd():
    started = trial(OFF)
    assert started.method.texts is None and started.method.lesson is None
    assert started.bench.student.state()["heads"] == {}


AED = SILENT | {"generator_diversity_weight": 2.0, "diversity_bound": 1e9}


def test_images_that_the_generator_is_paid_for_are_new_to_the_student():
    started, seen, _ = pupil(AED | {"kd_steps": 80})
    learn(started)
    after = optimized(started, seen, torch.arange(48) % 3, steps=20)
    assert distance(started, after) > 2 * distance(started, seen)


def test_beyond_the_bound_nothing_is_paid_and_before_warm_up_ends_nothing_is_asked():
    near, far = trial(AED), trial(AED | {"diversity_bound": 1e-4})
    expected = -2 * distance(near, IMAGES)
    with near.bench.student.frozen():
        assert near.method.loss(near.view(IMAGES, TARGET)).item() == pytest.approx(expected)
    assert near.gradient(IMAGES, TARGET).abs().max() > 1e-4
    assert not far.gradient(IMAGES, TARGET).any()
    assert near.method.loss(near.view(IMAGES, TARGET, adversarial=False)).item() == 0


@pytest.mark.parametrize("ingredient", ["student", "generator"])
def test_a_student_without_a_linear_head_is_refused_unless_diversity_is_off(ingredient):
    values = OFF | {f"{ingredient}_diversity_weight": 1.0}
    with pytest.raises(ConfigError, match="student_diversity_weight=0 and generator_diversity"):
        trial(values, network=Unpooled(head=False))
    trial(OFF, network=Unpooled(head=False)).run(range(2))
