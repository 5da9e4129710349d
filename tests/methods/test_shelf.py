"""Sharing synthesis changes nothing but who made it."""

import dataclasses
import functools

import pytest
import torch
from pixels import Pixels
from pixels import trial as pixel_trial
from shelves import EPOCHS, INVERSIONS, SILENT, DictShelf, ran, trial
from workbenches import same, snapshot, tiny_network, tiny_teacher

from dfkd.methods import METHODS, load_method
from dfkd.methods.inversion import Inversion
from dfkd.methods.memory import Shard
from dfkd.methods.settings import describe
from dfkd.methods.shelf import Bundle, NoShelf, digest
from dfkd.methods.student import LEARNING
from dfkd.methods.team import Alone

OTHER_LESSONS = {"student_lr": 0.2, "temperature": 3.0, "kd_steps": 3, "kd_loss": "l1"}
WARMUP = 2  # epochs

each_method = pytest.mark.parametrize("name", INVERSIONS)


def equal(a, b):
    """Whether two states are the same to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_the_same_trial(one, two):
    assert one.metrics == two.metrics
    assert equal(one.method.state(), two.method.state())
    assert same(snapshot(one.bench.student.network), snapshot(two.bench.student.network))


def stocked(name, values=None):
    """A shelf that a trial with other lessons and another student has filled."""
    shelf = DictShelf()
    ran(name, OTHER_LESSONS | (values or {}), seed="another", shelf=shelf)
    return shelf


def test_every_method_that_makes_batch_by_batch_is_in_these_tests():
    known = {name for name in METHODS if issubclass(load_method(name), Inversion)}
    assert known == set(INVERSIONS)


# Who takes has what he would have made


@each_method
def test_a_trial_that_takes_the_warm_up_is_the_trial_that_makes_it(name):
    shelf = stocked(name)
    taker = ran(name, shelf=shelf)
    assert shelf.taken >= WARMUP
    assert_the_same_trial(taker, ran(name))


@each_method
def test_without_an_adversary_every_epoch_can_be_taken(name):
    shelf = stocked(name, SILENT[name])
    taker = ran(name, SILENT[name], shelf=shelf)
    assert shelf.taken == EPOCHS
    assert_the_same_trial(taker, ran(name, SILENT[name]))


@each_method
def test_what_looked_at_the_student_is_neither_shared_nor_asked_for_again(name):
    shelf = DictShelf()
    ran(name, {"adversarial_weight": 1.0}, shelf=shelf)
    assert len(shelf.bundles) == WARMUP
    assert len(shelf.asked) <= WARMUP + 1


def test_deepinversion_has_no_adversary_by_itself():
    assert len(stocked("deepinversion").bundles) == EPOCHS


@each_method
def test_sharing_ends_where_trials_with_different_adversaries_part(name):
    shelf = stocked(name, {"adversarial_weight": 0.3, "rounds": 2})
    taker = ran(name, {"adversarial_weight": 0.7}, shelf=shelf)
    assert shelf.taken == WARMUP
    assert_the_same_trial(taker, ran(name, {"adversarial_weight": 0.7}))


@each_method
def test_a_trial_resumed_in_the_middle_takes_and_gives_as_if_it_had_never_stopped(name):
    shelf = stocked(name, SILENT[name])
    first = trial(name, SILENT[name])  # without a shelf, as a sweep that shared nothing
    first.run(range(3))
    saved = first.save()
    resumed = trial(name, SILENT[name], shelf=shelf, seed="not the one that was saved")
    resumed.load(saved)
    after = resumed.run(range(3, EPOCHS))
    assert shelf.taken == EPOCHS - 3
    whole = ran(name, SILENT[name])
    assert after == whole.metrics[3:]
    assert equal(resumed.method.state(), whole.method.state())


# A shelf that fails


class LossyShelf(DictShelf):
    """Forgets every second bundle."""

    def take(self, key):
        found = super().take(key)
        return found if len(self.asked) % 2 else None


def flipped_pixel(bundle):
    images = bundle.shards[0].images.clone()
    images.view(-1)[0] ^= 1
    first = Shard(images, bundle.shards[0].labels)
    return dataclasses.replace(bundle, shards=(first, *bundle.shards[1:]))


def lost_shard(bundle):
    return dataclasses.replace(bundle, shards=bundle.shards[1:])


def torn_state(bundle):
    return dataclasses.replace(bundle, rest=bundle.rest[: len(bundle.rest) // 2])


@each_method
@pytest.mark.parametrize("damage", [flipped_pixel, lost_shard, torn_state])
def test_a_damaged_bundle_is_made_again_and_replaced(name, damage):
    shelf = stocked(name)
    intact = dict(shelf.bundles)
    shelf.bundles = {key: damage(bundle) for key, bundle in intact.items()}
    assert_the_same_trial(ran(name, shelf=shelf), ran(name))
    for key in intact:
        assert equal(opened(shelf.bundles[key]), opened(intact[key]))


@each_method
def test_what_the_shelf_has_lost_is_made_in_between_what_it_has(name):
    shelf = LossyShelf()
    ran(name, SILENT[name] | OTHER_LESSONS, shelf=shelf)
    assert_the_same_trial(ran(name, SILENT[name], shelf=shelf), ran(name, SILENT[name]))
    assert shelf.taken


def test_a_shelf_that_is_closed_is_left_alone():
    shelf = DictShelf()
    shelf.open = False
    ran("nayer", shelf=shelf)
    assert not shelf.asked and not shelf.bundles
    assert not NoShelf().open


# The key


def opened(bundle):
    """All that is in a bundle, to compare."""
    rest = bundle.open(torch.device("cpu"))
    assert rest is not None
    return [[(shard.images, shard.labels) for shard in bundle.shards], rest]


@functools.cache
def given(name, silent, **more):
    """What a trial leaves on the shelf, by key; `more` changes one setting."""
    shelf = DictShelf()
    values = (SILENT[name] if silent else {}) | more
    ran(name, values, seed=repr(more), shelf=shelf)
    return shelf.bundles


def others(setting, value):
    """Some values of a setting that `value` is not."""
    if setting.bounds.choices:
        found = setting.bounds.choices
    elif setting.type is bool:
        found = [not value]
    elif setting.type is str:
        found = ["1", "0.75 1"]  # resolutions
    else:
        found = [0, 1, value + 1, value * 1.5, value / 2]
    fitting = [setting.type(v) for v in found if setting.type is str or setting.type(v) == v]
    fitting = [v for v in fitting if v != value and setting.bounds.problem(v) is None]
    assert fitting
    return fitting


FIELDS = [
    (name, field) for name in INVERSIONS for field in describe(load_method(name).settings_class)
]


@pytest.mark.parametrize(
    ("name", "field"), FIELDS, ids=[f"{name}-{field}" for name, field in FIELDS]
)
def test_a_setting_changes_the_key_or_leaves_the_synthesis_as_it_is(name, field):
    """The one that matters: nobody takes what he would not have made himself, to the last bit."""
    setting = describe(load_method(name).settings_class)[field]
    default = (INVERSIONS[name] | SILENT[name]).get(field, setting.default)
    method = load_method(name)
    unread = field in method.taught | method.played
    for value in others(setting, default)[: 2 if unread else 1]:
        for silent in (True, False)[: 1 + (field in method.played)]:
            base, changed = given(name, silent), given(name, silent, **{field: value})
            common = base.keys() & changed.keys()
            assert all(equal(opened(base[key]), opened(changed[key])) for key in common)
            assert len(common) >= (WARMUP if unread else 0)


@each_method
def test_the_students_own_settings_change_no_key(name):
    assert load_method(name).taught >= LEARNING
    for field in load_method(name).taught:
        setting = describe(load_method(name).settings_class)[field]
        value = others(setting, INVERSIONS[name].get(field, setting.default))[0]
        assert given(name, True).keys() == given(name, True, **{field: value}).keys()


@each_method
def test_what_synthesis_reads_changes_every_key(name):
    steps = {"synthesis_steps": 3}
    assert not given(name, True).keys() & given(name, True, **steps).keys()


SURROUNDINGS = {
    "another teacher": {"teacher": tiny_teacher(name="convnet-4-5")},
    "another seed of the worker": {"bench_seed": 1},
    "another text": {"embeddings": torch.eye(3, 5)},
    "another place in the team": {"rank": 1},
}


class Second(Alone):
    rank = 1


@pytest.mark.parametrize("what", SURROUNDINGS)
def test_what_lies_around_the_method_changes_every_key(what):
    bench = dict(SURROUNDINGS[what])
    if "rank" in bench:
        bench = {"team": Second()}
    shelf = DictShelf()
    started = trial("nayer", shelf=shelf, **{k: v for k, v in bench.items() if k != "bench_seed"})
    if "bench_seed" in bench:
        changed = dataclasses.replace(started.bench, seed=bench["bench_seed"])
        started.method = type(started.method)(started.method.settings, changed)
    started.run(range(2))
    assert shelf.bundles and not shelf.bundles.keys() & given("nayer", False).keys()


def test_another_seed_of_the_trial_changes_every_key():
    shelf = DictShelf()
    trial("nayer", shelf=shelf).run(range(2), seed=1)
    assert shelf.bundles and not shelf.bundles.keys() & given("nayer", False).keys()


def test_another_number_of_threads_changes_every_key():
    before = torch.get_num_threads()
    shelf = DictShelf()
    try:
        torch.set_num_threads(before + 1)
        ran("nayer", shelf=shelf)
    finally:
        torch.set_num_threads(before)
    assert shelf.bundles and not shelf.bundles.keys() & given("nayer", False).keys()


def test_two_methods_never_share():
    assert not given("fast", True).keys() & given("ssd_kd", True).keys()
    assert not given("deepinversion", True).keys() & given("adi", True).keys()


class Curious(Pixels):
    """Asks the student during the warm-up too, past its view."""

    def loss(self, view):
        return super().loss(view) + self.bench.student.network(view.images).mean()


def test_a_method_that_asks_the_student_unexpectedly_shares_nothing():
    shelf = DictShelf()
    pixel_trial(method=Curious, shelf=shelf).run(range(3))
    assert not shelf.bundles
    pixel_trial(method=Pixels, shelf=shelf).run(range(1))
    assert len(shelf.bundles) == 1


class Paired(Alone):
    """The first of two workers; the other one sends images that are all alike."""

    size = 2

    def __init__(self, brightness):
        self.brightness = brightness

    def share(self, shards):
        images = torch.full((2, 1, 8, 8), self.brightness, dtype=torch.uint8)
        return [*shards, Shard(images, torch.zeros(2, dtype=torch.int64))]

    def total(self, values):
        return 2 * values


def test_what_the_other_workers_made_is_part_of_the_lineage():
    keys = []
    for brightness in (10, 10, 200):
        shelf = DictShelf()
        ran("ssd_kd", SILENT["ssd_kd"], shelf=shelf, team=Paired(brightness))
        keys.append(list(shelf.bundles))
    assert keys[0] == keys[1]
    assert keys[0][0] == keys[2][0] and not set(keys[0][1:]) & set(keys[2][1:])


# Bundles and digests


def test_a_bundle_is_a_snapshot():
    weights = torch.zeros(3)
    bundle = Bundle.of([], {"weights": weights, "count": 1})
    weights += 1
    assert equal(bundle.open(torch.device("cpu")), {"weights": torch.zeros(3), "count": 1})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (torch.zeros(4), torch.zeros(2, 2)),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int32)),
        (torch.zeros(2), torch.tensor([0.0, -0.0])),
        (torch.zeros(()), torch.ones(())),
        (torch.zeros(0), torch.zeros(0, 2)),
    ],
)
def test_a_digest_tells_shapes_types_and_bits_apart(one, two):
    assert digest(one) == digest(one.clone()) != digest(two)


def test_a_digest_ignores_the_memory_layout():
    images = torch.rand(2, 3, 4, 4)
    assert digest(images) == digest(images.contiguous(memory_format=torch.channels_last))


def test_the_student_counts_looks_at_its_network():
    started = trial("nayer")
    network, student = started.bench.student.network, started.bench.student
    assert student.looks == 0
    student.look(torch.rand(2, 1, 8, 8))
    with student.frozen() as frozen:
        frozen(torch.rand(2, 1, 8, 8))
    assert student.looks == 2
    assert snapshot(network).keys() == snapshot(tiny_network()).keys()
