import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from workbenches import rng

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import Normalized, build_network, parameters
from dfkd.methods.random_streams import global_stream


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]), st.integers(2, 5))
def test_images_of_any_size_become_one_logit_per_class(height, width, channels, classes):
    network = build_network("convnet-2-3-2", channels, classes).eval()
    assert network(torch.rand(2, channels, height, width)).shape == (2, classes)


def test_a_name_lists_the_widths_of_the_convolutions():
    network = build_network("convnet-4-6-5", 3, 10)
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 6, 5]


@pytest.mark.parametrize(("name", "count"), [("convnet-4-6", 2), ("convnet-4-6-nobn", 0)])
def test_a_name_says_whether_there_is_batch_norm(name, count):
    network = build_network(name, 3, 10)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == count


def test_every_second_convolution_halves_the_size():
    network = build_network("convnet-2-2-2", 1, 3)
    assert network.features(torch.rand(1, 1, 16, 8)).shape[2:] == (8, 4)


@pytest.mark.parametrize(
    "name",
    [
        *("convnet", "convnet-", "convnet-0", "convnet-4-", "convnet-4--6", "convnet-4-nobn-6"),
        *("Convnet-4", "convnet-4 ", "convnet-4\n", "resnet-", ""),
    ],
)
def test_a_name_outside_the_grammar_is_refused(name):
    with pytest.raises(ConfigError, match="convnet-24-48-64"):
        build_network(name, 1, 10)


def test_the_same_global_stream_gives_the_same_weights():
    networks = []
    for _ in range(2):
        with global_stream("cpu", "weights", 5):
            networks.append(build_network("convnet-4", 1, 3))
    assert all(torch.equal(a, b) for a, b in zip(*(n.parameters() for n in networks), strict=True))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnet-4", 3 * 4 * 9 + 2 * 4 + (4 * 4 * 10 + 10)),
        ("convnet-4-nobn", (3 * 4 * 9 + 4) + (4 * 4 * 10 + 10)),
        ("convnet-4-6", 3 * 4 * 9 + 2 * 4 + 4 * 6 * 9 + 2 * 6 + (4 * 6 * 10 + 10)),
    ],
)
def test_parameters_are_counted_as_by_hand(name, count):
    assert parameters(build_network(name, 3, 10)) == count


def test_normalization_is_per_channel():
    images = torch.rand(2, 3, 4, 4, generator=rng())
    normalized = Normalized(nn.Identity(), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))(images)
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        assert torch.allclose(normalized[:, channel], (images[:, channel] - mean) / std)


def test_normalization_is_no_part_of_the_weights():
    network = nn.Linear(2, 2)
    names = Normalized(network, (0.5,), (0.5,)).state_dict().keys()
    assert names == {f"network.{name}" for name in network.state_dict()}
