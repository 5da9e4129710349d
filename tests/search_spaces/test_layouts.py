"""Weights under other names than dfkd's."""

import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng, same, snapshot

from dfkd.methods.networks import build_network
from dfkd.methods.random_streams import global_stream
from dfkd.search_spaces.layouts import PREFIXES, Misfit, fit, misfits
from dfkd.search_spaces.weight_files import WRAPPERS, WeightFile, read_weights

NAMES = ["convnet-2-3", "resnet-8", "resnet-8-b", "wrn-10-1", "vgg11", "keras-cifar10"]


def weights(name, channels=3, classes=4, seed=0):
    """A network's state dict with values that tell its entries apart."""
    with global_stream("cpu", name, seed):
        state = snapshot(build_network(name, channels, classes))
    draws = rng(seed)
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.rand(value.shape, generator=draws)
    return state


def given_file(state, *, ordered=True):
    return WeightFile(state, None, ordered)


def renamed(state, *pairs):
    """The state dict with parts of its names replaced."""

    def other(key):
        for old, new in pairs:
            key = key.replace(old, new)
        return key

    return {other(key): value for key, value in state.items()}


# Wrappers and prefixes


@given(
    name=st.sampled_from(NAMES[:4]),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=3),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=2),
    ordered=st.booleans(),
)
def test_weights_survive_any_wrapping_and_prefix(
    tmp_path_factory, name, prefixes, wrappers, ordered
):
    state = weights(name)
    saved = {"".join(prefixes) + key: value for key, value in state.items()}
    for wrapper in wrappers:
        saved = {"epoch": 3, "optimizer": {"lr": 0.1}, wrapper: saved}
    path = tmp_path_factory.getbasetemp() / "wrapped.pt"
    torch.save(saved, path)
    file = read_weights(str(path))
    fitted = fit(WeightFile(file.state, None, ordered), state)
    assert same(fitted.state, state) and fitted.remark is None


@given(st.text(string.ascii_lowercase, min_size=1, max_size=6))
def test_a_prefix_of_one_part_only_is_no_prefix(word):
    state = weights("convnet-2-3")
    first, *rest = state
    saved = {f"module.{word}.{first}": state[first], **{key: state[key] for key in rest}}
    with pytest.raises(Misfit):
        fit(given_file(saved, ordered=False), state)


def test_an_averaged_models_counter_is_left_out(tmp_path):
    network = build_network("convnet-2", 3, 4)
    averaged = torch.optim.swa_utils.AveragedModel(network)
    torch.save(averaged.state_dict(), tmp_path / "ema.pt")
    fitted = fit(read_weights(str(tmp_path / "ema.pt")), network.state_dict())
    assert same(fitted.state, network.state_dict())


def test_data_parallel_around_a_part_is_looked_through():
    state = weights("vgg11")
    saved = renamed(state, ("features.", "features.module."))
    assert same(fit(given_file(saved, ordered=False), state).state, state)


# Names that differ by a rule


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("resnet-8-b", [("downsample", "shortcut"), ("fc.", "linear.")]),  # kuangliu's
        ("resnet-8", [("fc.", "linear.")]),  # akamaster's
        ("resnet18", [("downsample", "shortcut"), ("fc.", "linear.")]),
        (
            "wrn-10-2",  # RepDistiller's and CMI's
            [
                ("shortcut", "convShortcut"),
                *((f"block{i}.", f"block{i}.layer.") for i in (1, 2, 3)),
            ],
        ),
    ],
)
def test_the_names_of_public_collections_are_known_in_any_order(name, pairs):
    state = weights(name)
    saved = dict(reversed(renamed(state, *pairs).items()))
    assert saved.keys() != state.keys()
    fitted = fit(given_file(saved, ordered=False), state)
    assert same(fitted.state, state) and fitted.remark is None


def test_heads_that_only_training_uses_are_left_out():
    state = weights("torchvision/googlenet")
    more = {f"aux{i}.conv.conv.weight": torch.ones(3) for i in (1, 2)}
    assert same(fit(given_file(state | more), state).state, state)


# The same shapes in the same order


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counted", [True, False])
def test_weights_of_unknown_names_are_matched_by_order_and_shape_and_it_is_said(name, counted):
    state = weights(name)
    kept = {key: v for key, v in state.items() if counted or "num_batches" not in key}
    saved = {f"layer_{i}.{key.rpartition('.')[2]}": v for i, (key, v) in enumerate(kept.items())}
    fitted = fit(given_file(saved), state)
    assert "order and shape" in fitted.remark and "layer_0.weight" in fitted.remark
    assert same(fitted.state, {k: v for k, v in state.items() if "num_batches" not in k})


def test_blocks_that_are_sequences_are_matched_by_order():
    """As weiaicunzai/pytorch-cifar100 has them."""
    state = weights("resnet18")
    blocks = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}
    parts = [
        (f".{i}.{p}.", f".{i}.residual_function.{n}.") for i in (0, 1) for p, n in blocks.items()
    ]
    stages = [(f"layer{i}.", f"conv{i + 1}_x.") for i in (1, 2, 3, 4)]
    saved = renamed(state, *parts, *stages, ("downsample", "shortcut"))
    saved = renamed(saved, ("conv1.weight", "conv1.0.weight"), ("bn1.", "conv1.1."))
    fitted = fit(given_file(saved), state).state
    assert "conv2_x.0.residual_function.4.running_var" in saved
    assert len(fitted) == 102 and all(torch.equal(v, state[key]) for key, v in fitted.items())


def test_sorted_weights_of_unknown_names_are_refused():
    state = weights("resnet-8")
    saved = {f"x.{key}": value for key, value in state.items()}
    with pytest.raises(Misfit, match="unknown"):
        fit(given_file(saved, ordered=False), state)


def test_the_first_weight_of_another_shape_is_named():
    state = weights("convnet-2-3-4")
    other = renamed(weights("convnet-2-5-4"), ("features", "body"))
    with pytest.raises(Misfit) as caught:
        fit(given_file(other), state)
    assert "body.3.weight 5x2x3x3 stands where features.3.weight 3x2x3x3" in str(caught.value)


@given(st.data())
def test_two_weights_of_one_shape_in_the_wrong_order_are_told_apart_by_what_they_are(data):
    state = weights("convnet-2")
    saved = renamed(state, ("features", "body"))
    norms = [key for key in saved if key.startswith("body.1.") and "num" not in key]
    order = data.draw(st.permutations(norms).filter(lambda order: order != norms))
    rest = [key for key in saved if key not in norms]
    first, *others = rest
    shuffled = {key: saved[key] for key in [first, *order, *others]}
    with pytest.raises(Misfit, match=r"body.1.\w+ 2 stands where"):
        fit(given_file(shuffled), state)


def test_weights_of_another_number_are_counted():
    with pytest.raises(Misfit, match="5 weights missing"):
        fit(given_file(weights("convnet-2-3")), weights("convnet-2-3-4"))


# What else can be wrong


def test_another_number_of_classes_is_told_even_under_other_names():
    wanted = weights("resnet-8-b", classes=4)
    saved = renamed(weights("resnet-8-b", classes=100), ("layer", "stage"))
    (told,) = misfits(fit(given_file(saved), wanted).state, wanted, "resnet-8-b", "pets")
    assert told == "has 100 classes, task pets has 4"


def test_another_number_of_channels_is_told():
    wanted = weights("resnet-8", channels=1)
    (told,) = misfits(weights("resnet-8", channels=3), wanted, "resnet-8", "pets")
    assert told == "takes images of 3 channels, task pets has 1"


def test_weights_that_fit_have_nothing_wrong():
    assert misfits(weights("resnet-8"), weights("resnet-8", seed=1), "resnet-8", "pets") == []
