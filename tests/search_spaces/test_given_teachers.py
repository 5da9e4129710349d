"""Teachers as values and as files that a user gives."""

import pickle
from dataclasses import replace

import pytest
import safetensors.torch
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from small_tasks import without

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import parse_task
from dfkd.search_spaces.teachers import (
    TeacherWeights,
    find_teacher,
    load_teacher,
    teacher_from_bytes,
)

pytest_plugins = ["small_task_fixtures"]


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
