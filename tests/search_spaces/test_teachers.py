"""Teachers that tasks declare: trained once and cached, or files that a task names."""

from dataclasses import replace

import pytest
import torch
import yaml
from small_tasks import tree, without, write_task

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network
from dfkd.search_spaces import teachers
from dfkd.search_spaces.data import LabeledImages, load_data
from dfkd.search_spaces.task import load_task, parse_task
from dfkd.search_spaces.teachers import (
    LOOK_EVERY,
    TeacherFailed,
    every_quarter,
    find_teacher,
    planned_teacher,
    teacher_from_bytes,
    teacher_key,
    train_teacher,
)

pytest_plugins = ["small_task_fixtures"]


# Trained once, then cached


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def cached_file(cache):
    (file,) = cache.rglob("*.safetensors")
    return file


@pytest.fixture
def no_training(monkeypatch):
    """Lets a teacher be trained never again."""

    def train(task, data, **how):
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(teachers, "train_teacher", train)


def test_a_teacher_is_trained_once(stripes_task, cache, no_training):
    first = find_teacher(stripes_task)
    no_training()
    assert find_teacher(stripes_task).fingerprint == first.fingerprint


def test_training_is_announced(stripes_task, cache):
    said = []
    find_teacher(stripes_task, say=said.append)
    assert str(cache) in said[0]


def test_a_cached_teacher_is_not_announced(stripes_task, cache):
    said = []
    find_teacher(stripes_task)
    find_teacher(stripes_task, say=said.append)
    assert not said


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_damaged_cache_is_made_anew(stripes_task, cache, kept):
    first = find_teacher(stripes_task)
    cached_file(cache).write_bytes(cached_file(cache).read_bytes()[:kept])
    assert find_teacher(stripes_task).fingerprint == first.fingerprint
    assert teacher_from_bytes(cached_file(cache).read_bytes()).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "junk",
    [b"junk" * 100, b"\x02" + bytes(7) + b"{}", b"\xff" * 64],
    ids=["text", "no metadata", "a huge header"],
)
def test_a_cache_of_junk_is_made_anew(stripes_task, cache, junk):
    first = find_teacher(stripes_task)
    cached_file(cache).write_bytes(junk)
    assert find_teacher(stripes_task).fingerprint == first.fingerprint


def test_a_cache_that_cannot_be_written_is_the_users_to_know(stripes_task, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "file" / "cache"))
    said = []
    assert find_teacher(stripes_task, say=said.append).fingerprint
    assert "set DFKD_CACHE to another folder" in said[-1]


def test_a_planned_teacher_is_neither_trained_nor_cached(stripes_task, cache, no_training):
    no_training()
    assert planned_teacher(stripes_task).network == stripes_task.teacher.network
    assert not cache.exists()


def test_it_is_told_how_far_the_training_is(stripes_task, cache):
    long = replace(stripes_task, teacher=replace(stripes_task.teacher, epochs=4 * LOOK_EVERY))
    said = []
    find_teacher(long, say=said.append)
    told = [text.partition(" % trained")[0] for text in said[1:]]
    assert told == [f"stripes teacher: {part}" for part in (25, 50, 75)]


def test_quarters_that_a_short_training_leaps_over_are_left_out():
    said = []
    on_progress = every_quarter("teacher", said.append)
    on_progress(20, 36)
    on_progress(36, 36)
    assert [text.partition(",")[0] for text in said] == ["teacher: 50 % trained"]


def test_progress_ends_with_all_steps_done(stripes_task):
    seen = []
    data = load_data(stripes_task, "train")
    train_teacher(stripes_task, data, on_progress=lambda *steps: seen.append(steps))
    assert seen == [(LOOK_EVERY, 36), (36, 36)]


def test_a_training_that_diverges_says_what_to_lower(stripes_task, cache):
    wild = replace(stripes_task, teacher=replace(stripes_task.teacher, learning_rate=1e30))
    with pytest.raises(TeacherFailed, match=r"diverged.*learning_rate below 1e\+30"):
        find_teacher(wild)
    assert not cache.exists()


def test_weights_that_are_not_finite_after_the_last_step_are_noticed(stripes_task):
    """The last loss can still be finite when the step after it is not."""
    once = replace(
        stripes_task.teacher, epochs=1, batch_size=60, learning_rate=1e38, weight_decay=1e9
    )
    data = load_data(stripes_task, "train")
    with pytest.raises(TeacherFailed, match="not finite at the end"):
        train_teacher(replace(stripes_task, teacher=once), data)


def test_mirroring_makes_another_teacher(stripes_task, stripes_teacher):
    mirrored = replace(stripes_task, teacher=replace(stripes_task.teacher, flip=True))
    network = train_teacher(mirrored, load_data(stripes_task, "train"))
    state = network.state_dict()
    assert any(not torch.equal(state[key], stripes_teacher.state[key]) for key in state)


def test_images_stay_bytes_until_their_batch_is_drawn(stripes_task):
    """As floats all of them would take four times the memory."""

    class OnlyIndexed:
        def __init__(self, images):
            self.images = images

        def __getitem__(self, batch):
            return self.images[batch]

    data = load_data(stripes_task, "train")
    assert train_teacher(stripes_task, LabeledImages(OnlyIndexed(data.images), data.labels))


def test_training_is_the_same_whatever_was_drawn_before(stripes_task, stripes_teacher, cache):
    torch.manual_seed(1)
    assert find_teacher(stripes_task).fingerprint == stripes_teacher.fingerprint


def test_training_draws_nothing_from_the_global_generator(stripes_task, cache):
    before = torch.get_rng_state()
    find_teacher(stripes_task)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_trains_another_teacher(stripes_task, stripes_teacher, cache):
    other = replace(stripes_task, teacher=replace(stripes_task.teacher, seed=1))
    assert find_teacher(other).fingerprint != stripes_teacher.fingerprint


def test_the_small_teacher_has_learned_its_task(stripes_task, stripes_teacher):
    data = load_data(stripes_task, "train")
    logits = stripes_teacher.build(stripes_task).logits(data.images.float() / 255)
    assert (logits.argmax(1) == data.labels).float().mean() > 0.9


def test_the_digits_teacher_is_right_on_at_least_97_5_percent(shipped_digits_teacher):
    task = load_task("digits")
    data = load_data(task, "test")
    logits = shipped_digits_teacher.build(task).logits(data.images.float() / 255)
    assert (logits.argmax(1) == data.labels).float().mean() >= 0.975


@pytest.mark.parametrize(
    "change",
    [
        {"teacher.network": "convnet-4-5"},
        {"teacher.epochs": 3},
        {"teacher.batch_size": 11},
        {"teacher.learning_rate": 0.05},
        {"teacher.weight_decay": 0.0},
        {"teacher.shift": 0},
        {"teacher.flip": True},
        {"teacher.seed": 1},
        {"normalize.mean": [0.5]},
        {"normalize.std": [0.5]},
    ],
    ids=str,
)
def test_the_key_changes_with_what_the_training_depends_on(stripes_task, change):
    data = load_data(stripes_task, "train")
    other = parse_task(yaml.safe_dump(tree(change)), "other.yaml")
    assert teacher_key(other, data) != teacher_key(stripes_task, data)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_the_key_changes_with_the_data(stripes_task, part):
    data = load_data(stripes_task, "train")
    changed = getattr(data, part).clone()
    changed.view(-1)[0] += 1
    other = replace(data, **{part: changed})
    assert teacher_key(stripes_task, other) != teacher_key(stripes_task, data)


@pytest.mark.parametrize(
    "change",
    [
        {"summary": "other"},
        {"student": "convnet-2-3"},
        {"epochs": 9},
        {"teachers.plain": {"shift": 0}},
    ],
    ids=str,
)
def test_the_key_does_not_change_with_what_the_training_ignores(stripes_task, change):
    data = load_data(stripes_task, "train")
    other = parse_task(yaml.safe_dump(tree(change)), "other.yaml")
    assert teacher_key(other, data) == teacher_key(stripes_task, data)


def test_the_key_changes_with_the_number_of_classes(stripes_task):
    data = load_data(stripes_task, "train")
    other = replace(stripes_task, classes=(*stripes_task.classes, "none of these"))
    assert teacher_key(other, data) != teacher_key(stripes_task, data)


def test_the_key_changes_with_the_shape_of_the_images(stripes_task):
    data = load_data(stripes_task, "train")
    flat = LabeledImages(data.images.view(-1, 1, 4, 9), data.labels)
    assert teacher_key(stripes_task, flat) != teacher_key(stripes_task, data)


def test_a_cached_teacher_is_not_looked_for_when_one_is_given(tmp_path, cache):
    task = load_task(write_task(tmp_path))
    with pytest.raises(ConfigError):
        find_teacher(task, "missing.pt")
    assert not cache.exists()


# Further teachers of a task, by name


@pytest.fixture
def two_teachers(tmp_path):
    """The small task with a second teacher, `plain`."""
    return load_task(write_task(tmp_path, {"teachers.plain": {"shift": 0, "epochs": 3}}))


def test_teachers_that_are_trained_otherwise_differ(two_teachers, cache):
    found = find_teacher(two_teachers), find_teacher(two_teachers, "plain")
    assert found[0].fingerprint != found[1].fingerprint


def test_a_teacher_by_name_is_trained_once(two_teachers, cache, no_training):
    first = find_teacher(two_teachers, "plain")
    no_training()
    assert find_teacher(two_teachers, "plain").fingerprint == first.fingerprint


def test_a_teacher_by_name_is_trained_as_if_it_were_the_default_one(two_teachers, cache):
    alone = replace(two_teachers, teacher=two_teachers.teachers["plain"])
    named = find_teacher(two_teachers, "plain")
    assert find_teacher(alone).fingerprint == named.fingerprint


def test_a_further_teacher_leaves_the_default_one_as_it_is(two_teachers, stripes_teacher, cache):
    assert find_teacher(two_teachers).fingerprint == stripes_teacher.fingerprint


def test_a_cached_teacher_can_be_told_by_its_files_name(two_teachers, cache):
    find_teacher(two_teachers, "plain")
    assert cached_file(cache).name.startswith("stripes-plain-")


def test_a_teacher_by_name_says_so(two_teachers, cache):
    said = []
    assert find_teacher(two_teachers, "plain", said.append).origin == "trained on stripes, plain"
    assert "stripes plain teacher" in said[0]


def test_a_teacher_by_name_can_have_another_network(tmp_path, cache):
    task = load_task(write_task(tmp_path, {"teachers.wide.network": "convnet-6-6"}))
    assert find_teacher(task, "wide").network == "convnet-6-6"
    assert planned_teacher(task, "wide").network == "convnet-6-6"


def test_a_planned_teacher_by_name_is_not_trained(two_teachers, cache, no_training):
    no_training()
    assert planned_teacher(two_teachers, "plain").origin == "not trained yet"
    assert not cache.exists()


def test_a_planned_teacher_from_a_file_is_that_of_the_file(two_teachers, stripes_teacher, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(stripes_teacher.to_bytes())
    assert planned_teacher(two_teachers, str(path)).fingerprint == stripes_teacher.fingerprint


@pytest.mark.parametrize("find", [find_teacher, planned_teacher])
def test_an_unknown_name_gets_the_nearest_known_one(find, two_teachers):
    with pytest.raises(ConfigError, match=r"'plian'. Did you mean 'plain'\?.*\[NETWORK:\]FILE"):
        find(two_teachers, "plian")


def test_a_name_goes_before_a_file_called_alike(two_teachers, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_bytes(b"junk")
    assert find_teacher(two_teachers, "plain").origin == "trained on stripes, plain"
    with pytest.raises(ConfigError, match="cannot be read"):
        find_teacher(two_teachers, "./plain")


def test_a_file_may_be_called_by_a_plain_word(two_teachers, stripes_teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(stripes_teacher.state), tmp_path / "weights")
    assert find_teacher(two_teachers, "weights").fingerprint == stripes_teacher.fingerprint


def test_without_data_a_named_teacher_cannot_be_trained():
    task = parse_task(yaml.safe_dump({**without("data"), "teachers": {"plain": {}}}), "mine.yaml")
    with pytest.raises(ConfigError, match="--teacher FILE"):
        find_teacher(task, "plain")


# Weights that the task names


def test_a_task_may_name_its_teachers_weights(tmp_path, cache, no_training):
    no_training()
    path = write_task(tmp_path, {"teacher.weights": "mine.pt", "teachers.plain.shift": 0})
    network = build_network("convnet-4-4", 1, 3)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    task, said = load_task(path), []
    for found in (find_teacher(task, say=said.append), planned_teacher(task)):
        assert torch.equal(found.state["classifier.bias"], network.classifier.bias)
    assert "2 BatchNorm layers" in said[0] and not cache.exists()


def test_weights_that_a_task_names_must_be_there(tmp_path):
    task = load_task(write_task(tmp_path, {"teacher.weights": "mine.pt"}))
    with pytest.raises(ConfigError, match=r"mine.pt does not exist"):
        find_teacher(task)
