import pickle
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from small_tasks import tree, without, write_task

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network
from dfkd.search_spaces import teachers
from dfkd.search_spaces.data import LabeledImages, load_data
from dfkd.search_spaces.task import load_task, parse_task
from dfkd.search_spaces.teachers import (
    LOOK_EVERY,
    TeacherFailed,
    TeacherWeights,
    every_quarter,
    find_teacher,
    load_teacher,
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


# As values


def test_a_teacher_survives_being_bytes(stripes_teacher):
    back = teacher_from_bytes(stripes_teacher.to_bytes())
    assert (back.network, back.origin) == (stripes_teacher.network, stripes_teacher.origin)
    assert back.fingerprint == stripes_teacher.fingerprint


def test_a_teacher_is_always_the_same_bytes(stripes_teacher):
    assert len({stripes_teacher.to_bytes() for _ in range(20)}) == 1


def test_the_fingerprint_changes_with_every_weight(stripes_teacher):
    for name, tensor in stripes_teacher.state.items():
        state = {**stripes_teacher.state, name: tensor + 1}
        changed = replace(stripes_teacher, state=state)
        assert changed.fingerprint != stripes_teacher.fingerprint, name


def test_the_fingerprint_changes_with_the_network(stripes_teacher):
    other = replace(stripes_teacher, network="convnet-4-4-nobn")
    assert other.fingerprint != stripes_teacher.fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_the_weights(stripes_teacher):
    backwards = dict(reversed(stripes_teacher.state.items()))
    other = replace(stripes_teacher, state=backwards)
    assert other.fingerprint == stripes_teacher.fingerprint


def test_a_built_teacher_is_frozen(stripes_task, stripes_teacher):
    network = stripes_teacher.build(stripes_task).network
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


# Given by the user


@pytest.fixture
def state(stripes_teacher):
    """The small teacher's weights, to be saved in many ways."""
    return dict(stripes_teacher.state)


@pytest.fixture
def saved(tmp_path):
    """Saves something as torch does; returns the path."""

    def save(weights, name="teacher.pt", **how):
        torch.save(weights, tmp_path / name, **how)
        return str(tmp_path / name)

    return save


@pytest.fixture
def refused(stripes_task):
    """What is said of a teacher that is refused."""

    def load(reference, task=stripes_task):
        with pytest.raises(ConfigError) as refusal:
            find_teacher(task, reference)
        return str(refusal.value)

    return load


def test_weights_saved_by_torch_are_the_teacher(stripes_task, stripes_teacher, state, saved):
    assert find_teacher(stripes_task, saved(state)).fingerprint == stripes_teacher.fingerprint


def test_weights_in_torchs_old_format_are_the_teacher(stripes_task, stripes_teacher, state, saved):
    path = saved(state, _use_new_zipfile_serialization=False)
    assert find_teacher(stripes_task, path).fingerprint == stripes_teacher.fingerprint


def test_safetensors_are_the_teacher(stripes_task, stripes_teacher, state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "teacher.safetensors")
    loaded = find_teacher(stripes_task, str(tmp_path / "teacher.safetensors"))
    assert loaded.fingerprint == stripes_teacher.fingerprint


def test_a_training_checkpoint_holds_the_teacher(stripes_task, stripes_teacher, state, saved):
    path = saved({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}})
    assert find_teacher(stripes_task, path).fingerprint == stripes_teacher.fingerprint


def test_weights_of_a_parallel_network_are_the_teacher(stripes_task, stripes_teacher, state, saved):
    path = saved({f"module.{name}": tensor for name, tensor in state.items()})
    assert find_teacher(stripes_task, path).fingerprint == stripes_teacher.fingerprint


def logits(task, teacher):
    return teacher.build(task).logits(load_data(task, "test").images.float() / 255)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_weights_of_another_precision_answer_alike(
    stripes_task, stripes_teacher, state, saved, kind
):
    path = saved({name: tensor.to(kind) for name, tensor in state.items()})
    answers = logits(stripes_task, find_teacher(stripes_task, path))
    assert torch.allclose(answers, logits(stripes_task, stripes_teacher), atol=0.05)


def test_weights_without_batch_counts_answer_alike(stripes_task, stripes_teacher, state, saved):
    path = saved({name: t for name, t in state.items() if "num_batches" not in name})
    answers = logits(stripes_task, find_teacher(stripes_task, path))
    assert torch.equal(answers, logits(stripes_task, stripes_teacher))


def is_usable(task, path):
    """Whether the file can serve as a teacher all the way into a run folder."""
    teacher = find_teacher(task, path)
    back = teacher_from_bytes(teacher.to_bytes())
    return back.fingerprint == teacher.fingerprint and logits(task, back).isfinite().all()


def test_weights_in_bfloat16_are_a_teacher(stripes_task, state, saved):
    assert is_usable(stripes_task, saved({name: t.bfloat16() for name, t in state.items()}))


def test_weights_that_require_gradients_are_a_teacher(stripes_task, saved):
    network = build_network("convnet-4-4", 1, 3)
    assert is_usable(stripes_task, saved(network.state_dict(keep_vars=True)))


def test_weights_that_share_memory_are_a_teacher(stripes_task, state, saved):
    flat = torch.cat([tensor.flatten().float() for tensor in state.values()])
    pieces = flat.split([tensor.numel() for tensor in state.values()])
    views = {
        name: piece.view(tensor.shape)
        for piece, (name, tensor) in zip(pieces, state.items(), strict=True)
    }
    assert is_usable(stripes_task, saved(views))


def test_a_network_may_be_named_before_the_file(stripes_task, saved):
    path = saved(build_network("convnet-3-5", 1, 3).state_dict())
    assert find_teacher(stripes_task, f"convnet-3-5:{path}").network == "convnet-3-5"


def test_a_network_may_be_named_before_a_file_with_a_colon(stripes_task, saved):
    path = saved(build_network("convnet-3-5", 1, 3).state_dict(), "run:3.pt")
    assert find_teacher(stripes_task, f"convnet-3-5:{path}").network == "convnet-3-5"


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


def test_a_network_may_be_named_within_the_file(stripes_task, tmp_path):
    weights = TeacherWeights("convnet-3-5", build_network("convnet-3-5", 1, 3).state_dict(), "")
    (tmp_path / "teacher.safetensors").write_bytes(weights.to_bytes())
    found = find_teacher(stripes_task, str(tmp_path / "teacher.safetensors"))
    assert found.network == "convnet-3-5"


def test_a_teacher_that_is_given_needs_no_data(state, saved):
    task = parse_task(yaml.safe_dump(without("data")), "mine.yaml")
    assert load_teacher(task, saved(state)).network == task.teacher.network


def test_without_data_a_teacher_must_be_given():
    task = parse_task(yaml.safe_dump(without("data")), "mine.yaml")
    with pytest.raises(ConfigError, match="--teacher"):
        find_teacher(task)


def test_a_files_name_may_hold_a_colon(stripes_task, stripes_teacher, state, saved):
    path = saved(state, "run:3.pt")
    assert find_teacher(stripes_task, path).fingerprint == stripes_teacher.fingerprint


# Refused


@pytest.mark.parametrize("name", ["teacher.pt", "teacher.safetensors", "folder.pt"])
def test_a_missing_file_is_named(refused, tmp_path, name):
    (tmp_path / "folder.pt").mkdir()
    path = str(tmp_path / name)
    assert f"{path} does not exist" in refused(path)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_safetensors_that_are_cut_off_are_refused(refused, stripes_teacher, tmp_path, kept):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(stripes_teacher.to_bytes()[:kept])
    assert "cannot be read" in refused(str(path))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_weights_that_are_cut_off_are_refused(refused, state, saved, part):
    path = saved(state)
    with open(path, "r+b") as file:
        file.truncate(int(part * file.seek(0, 2)))
    assert "cannot be read" in refused(path)


@pytest.mark.parametrize("text", ["<html>404</html>", '{"weights": []}', "0" * 99])
def test_text_is_not_called_a_pickle_with_code(refused, tmp_path, text):
    (tmp_path / "teacher.pt").write_text(text)
    assert "holds more than weights" not in refused(str(tmp_path / "teacher.pt"))


@given(st.binary(max_size=40))
@example(b"hello, I am a text\n")
@example(pickle.dumps({"a": 1}, protocol=2)[:-3])
def test_whatever_a_file_holds_it_is_a_teacher_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "anything.pt"
    path.write_bytes(data)
    task = parse_task(yaml.safe_dump(without("data")), "mine.yaml")
    with pytest.raises(ConfigError, match="anything"):
        find_teacher(task, str(path))


class Trap:
    """Unpickled with code allowed, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.fixture(params=["torch", "torch, old format", "pickle"])
def trap(request, tmp_path):
    """A file that leaves another one when its code runs; both paths."""
    path, ran = tmp_path / "teacher.pt", tmp_path / "ran"
    weights = {"features.0.weight": Trap(ran)}
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(weights, protocol=2))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=request.param == "torch")
    return path, ran


def test_the_trap_works(trap):
    path, ran = trap
    if path.read_bytes()[:2] == b"PK" or b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." in path.read_bytes():
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert ran.exists()


def test_a_pickle_with_code_is_refused_with_advice(trap, refused):
    assert "torch.save(model.state_dict()" in refused(str(trap[0]))


def test_a_pickle_with_code_does_not_run(trap, refused):
    refused(str(trap[0]))
    assert not trap[1].exists()


@pytest.mark.parametrize("thing", [[], torch.ones(3), {"a": 1}, "words"], ids=str)
def test_what_is_no_state_dict_is_refused(refused, saved, thing):
    assert "no state dict" in refused(saved(thing))


def test_weights_without_names_are_refused(refused, saved):
    assert "state dict" in refused(saved({0: torch.ones(3)}))


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_weights_of_another_kind_are_refused(refused, state, saved, kind):
    bias = state["classifier.bias"]
    other = bias.to_sparse() if kind == "sparse" else bias.to(torch.complex64)
    assert "state dict" in refused(saved({**state, "classifier.bias": other}))


def test_weights_of_another_number_of_classes_are_refused(refused, saved):
    path = saved(build_network("convnet-4-4", 1, 7).state_dict())
    assert "has 7 classes, task stripes has 3" in refused(path)


def test_weights_whose_bias_is_a_number_are_refused(refused, state, saved):
    assert "convnet-4-4" in refused(saved({**state, "classifier.bias": torch.tensor(1.0)}))


def test_weights_of_another_depth_are_refused_with_advice(refused, saved):
    told = refused(saved(build_network("convnet-4-4-4", 1, 3).state_dict()))
    assert "is not a convnet-4-4" in told
    assert "--teacher NETWORK:FILE" in told


def test_weights_of_another_width_are_refused(refused, saved):
    told = refused(saved(build_network("convnet-4-5", 1, 3).state_dict()))
    assert "is not a convnet-4-4" in told


def test_an_unknown_network_is_refused(refused, state, saved):
    assert "no network 'resnet'" in refused(f"resnet:{saved(state)}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(refused, state, saved, value):
    state["features.0.weight"] = torch.full_like(state["features.0.weight"], value)
    assert "not finite" in refused(saved(state))


def test_a_cached_teacher_is_not_looked_for_when_one_is_given(tmp_path, cache):
    task = load_task(write_task(tmp_path))
    with pytest.raises(ConfigError):
        find_teacher(task, "missing.pt")
    assert not cache.exists()
