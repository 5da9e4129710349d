"""The networks of the papers and of the libraries, by their names."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models
from workbenches import rng

from dfkd.methods.errors import ConfigError
from dfkd.methods.losses import attention_transfer
from dfkd.methods.networks import build_network, parameters, require_logits
from dfkd.methods.networks.names import FAMILIES
from dfkd.methods.random_streams import global_stream
from dfkd.methods.shape import ImageShape
from dfkd.methods.sight import Observer
from dfkd.methods.teacher import Teacher

SMALL = ((16, 16), (32, 32), (24, 40))
LARGE = ((32, 32), (64, 64), (48, 80))  # for networks that halve an image five times, or do not pad
NAMES = {
    **dict.fromkeys(["resnet-8", "resnet-14", "resnet-20", "resnet-20-b", "resnet-32"], SMALL),
    **dict.fromkeys(["resnet-44", "resnet-56-b", "resnet-110"], SMALL),
    **dict.fromkeys(["resnet18", "resnet34", "resnet50", "resnet18-maxpool"], SMALL),
    **dict.fromkeys(["vgg11", "vgg13", "vgg16", "vgg19", "vgg11-512", "vgg11-pool3"], SMALL),
    **dict.fromkeys(["wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2"], SMALL),
    "keras-cifar10": LARGE,
    **dict.fromkeys(["torchvision/mobilenet_v2", "torchvision/resnet34"], LARGE),
    "torchvision/shufflenet_v2_x0_5": LARGE,
    **dict.fromkeys(["timm/tf_efficientnet_lite0", "timm/mobilenetv3_small_050"], LARGE),
    "timm/resnet10t": LARGE,
}

each_network = pytest.mark.parametrize("name", NAMES)


def built(name, channels=3, classes=10):
    with global_stream("cpu", name):
        return build_network(name, channels, classes).eval()


@each_network
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_three_sizes_become_one_finite_logit_per_class(name, channels):
    network = built(name, channels, 7)
    for height, width in NAMES[name]:
        logits = network(torch.rand(2, channels, height, width, generator=rng()))
        assert logits.shape == (2, 7) and logits.isfinite().all()


@each_network
def test_a_teacher_finds_batch_norms_and_a_head(name):
    teacher = Teacher(built(name), (0.5,) * 3, (0.25,) * 3)
    images = torch.rand(2, 3, *NAMES[name][1], generator=rng())
    seen = teacher.look(images)
    assert teacher.batch_norms == len(seen.moments) > 5
    assert torch.allclose(teacher.head(seen.features), seen.logits, atol=1e-5)


@each_network
def test_gradients_reach_the_images_through_what_the_layers_saw(name):
    teacher = Teacher(built(name), (0.5,) * 3, (0.25,) * 3)
    images = torch.rand(2, 3, *NAMES[name][1], generator=rng()).requires_grad_()
    sum(variance.sum() for _, variance in teacher.look(images).moments).backward()
    assert images.grad.isfinite().all() and images.grad.abs().amax((1, 2, 3)).min() > 0


@each_network
def test_every_weight_takes_part_in_learning(name):
    network = built(name).train()
    with global_stream("cpu", "dropout"):
        network(torch.rand(4, 3, *NAMES[name][1], generator=rng())).square().sum().backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["resnet-20", "wrn-16-2", "vgg11", "resnet18", "keras-cifar10"])
def test_a_name_and_a_state_dict_rebuild_a_network(name):
    network = built(name)
    again = build_network(name, 3, 10).eval()
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=rng())
    assert torch.equal(again(images), network(images))


# Sizes as published


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # He et al. 2016, table 6
        *(("resnet-20", "0.27"), ("resnet-32", "0.46"), ("resnet-44", "0.66")),
        *(("resnet-56", "0.85"), ("resnet-110", "1.7")),
        # Zagoruyko and Komodakis 2017 (attention transfer), table 1
        *(("wrn-16-1", "0.2"), ("wrn-16-2", "0.7"), ("wrn-40-1", "0.6"), ("wrn-40-2", "2.2")),
        # Liu et al. 2017 (network slimming), table 1
        ("vgg19", "20.04"),
        # README of chenyaofo/pytorch-cifar-models
        *(("resnet-20-b", "0.27"), ("resnet-32-b", "0.47"), ("resnet-56-b", "0.86")),
        *(("vgg11-512", "9.76"), ("vgg13-512", "9.94"), ("vgg16-512", "15.25")),
        # README of da2so/DA2Lite
        *(("resnet18", "11.17"), ("resnet34", "21.28"), ("resnet50", "23.52"), ("vgg16", "14.73")),
        # what the package cifar-10-model holds
        ("keras-cifar10", "0.968394"),
    ],
)
def test_networks_for_cifar_have_as_many_millions_of_parameters_as_was_published(name, published):
    digits = len(published.partition(".")[2])
    assert f"{parameters(build_network(name, 3, 10)) / 1e6:.{digits}f}" == published


def test_timms_network_has_as_many_parameters_as_its_table_of_results_says():
    assert parameters(build_network("timm/tf_efficientnet_lite0", 3, 1000)) == 4_652_008


@pytest.mark.parametrize(
    "name",
    ["resnet34", "mobilenet_v2", "googlenet", "densenet121", "mnasnet0_5", "regnet_y_400mf"],
)
def test_torchvisions_networks_have_as_many_parameters_as_its_weights(name):
    published = models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert parameters(build_network(f"torchvision/{name}", 3, 1000)) == published


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_the_small_stem_is_all_that_differs_from_torchvisions_network(name):
    small, theirs = (
        build_network(name, 3, 1000).state_dict() for name in (name, f"torchvision/{name}")
    )
    different = [key for key in small if small[key].shape != theirs[key].shape]
    assert small.keys() == theirs.keys() and different == ["conv1.weight"]


# Architectures


def test_option_a_has_no_weights_in_its_shortcuts_and_option_b_has():
    plain, projected = (build_network(name, 3, 10) for name in ("resnet-20", "resnet-20-b"))
    extra = projected.state_dict().keys() - plain.state_dict().keys()
    assert extra and all("downsample" in key for key in extra)
    assert plain.state_dict().keys() < projected.state_dict().keys()


def test_option_a_passes_every_second_pixel_and_adds_channels_of_zeros():
    shortcut = build_network("resnet-8", 3, 10).layer2[0].downsample
    maps = torch.rand(2, 16, 6, 8, generator=rng())
    passed = shortcut(maps)
    assert torch.equal(passed[:, 8:24], maps[:, :, ::2, ::2])
    assert (
        passed.shape == (2, 32, 3, 4) and passed[:, :8].eq(0).all() and passed[:, 24:].eq(0).all()
    )


@pytest.mark.parametrize("name", ["resnet-20", "wrn-40-2"])
def test_the_stages_of_cifar_networks_have_full_half_and_quarter_size(name):
    seen = Observer(built(name)).look(torch.rand(2, 3, 32, 32, generator=rng()))
    assert [tuple(maps.shape[2:]) for maps in seen.stages] == [(32, 32), (16, 16), (8, 8)]


@pytest.mark.parametrize(("name", "first"), [("resnet18", 16), ("resnet18-maxpool", 8)])
def test_a_small_stem_keeps_the_size(name, first):
    seen = Observer(built(name)).look(torch.rand(2, 3, 16, 16, generator=rng()))
    assert seen.moments[1][0].shape == (64,)
    assert seen.norm_inputs[1].shape[2] == first


@pytest.mark.parametrize(
    ("teacher", "student"),
    [("resnet34", "resnet18"), ("wrn-40-2", "wrn-16-1"), ("wrn-40-2", "wrn-40-1")],
)
def test_the_papers_pairs_of_one_family_can_transfer_attention(teacher, student):
    images = torch.rand(2, 3, 16, 16, generator=rng())
    mine, theirs = (Observer(built(name)).look(images).stages for name in (student, teacher))
    assert attention_transfer(mine, theirs).isfinite()


def test_a_wide_block_that_changes_its_width_shortcuts_what_is_normalized():
    block = built("wrn-16-2").block1[0]
    maps = torch.randn(2, 16, 4, 4, generator=rng())
    ready = block.relu(block.bn1(maps))
    residual = block.conv2(block.relu(block.bn2(block.conv1(ready))))
    assert torch.allclose(block(maps), residual + block.shortcut(ready))


def test_poolings_that_round_up_change_nothing_at_32_pixels():
    network = built("vgg11")
    images = torch.rand(2, 3, 32, 32, generator=rng())
    expected = network(images)
    for layer in network.modules():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = False
    assert torch.equal(network(images), expected)


def test_a_vgg_with_fewer_poolings_has_the_same_weights_and_larger_maps():
    five, three = built("vgg11"), built("vgg11-pool3")
    assert five.state_dict().keys() == three.state_dict().keys()
    images = torch.rand(2, 3, 32, 32, generator=rng())
    sides = [Observer(network).look(images).maps.shape[2] for network in (five, three)]
    assert sides == [1, 4]


def test_googlenet_has_no_heads_that_only_training_uses():
    network = build_network("torchvision/googlenet", 3, 5).train()
    assert network(torch.rand(2, 3, 64, 64, generator=rng())).shape == (2, 5)


# Names


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.grammar)
def test_every_example_in_the_table_is_a_network(family):
    for name in family.examples:
        assert parameters(build_network(name, 3, 10))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet-21", "6n + 2"),
        ("resnet-2", "6n + 2"),
        ("wrn-16", "'wrn-16-1'"),
        ("wrn-18-1", "6n + 4"),
        ("resnet-20-c", "'resnet-20'"),
        ("resnet101", "resnet18|34|50"),
        ("vgg12", "'vgg13'"),
        ("vgg11-pool6", "1 to 5"),
        ("torchvision/resnet43", "'resnet34'"),
        ("torchvision/fcn_resnet50", "torchvision has no network"),
        ("timm/tf_efficientnet_light0", "'tf_efficientnet_lite0'"),
        ("timm/../x", "no network"),
        ("torchvison/resnet34", "'torchvision/resnet34'"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_near(name, told):
    with pytest.raises(ConfigError) as caught:
        build_network(name, 3, 10)
    assert name.rpartition("/")[2] in str(caught.value) and told in str(caught.value)


def test_a_name_is_never_fetched_from_a_hub():
    with pytest.raises(ConfigError, match="no network"):
        build_network("timm/hf-hub:timm/resnet18.a1_in1k", 3, 10)


# What a network can take


def test_a_network_that_takes_one_size_only_is_refused_for_another():
    network = build_network("timm/vit_tiny_patch16_224", 3, 4)
    require_logits(network, "vit", ImageShape(3, 224, 224), 4)
    with pytest.raises(ConfigError, match="vit cannot take 2 images of 3x32x32"):
        require_logits(network, "vit", ImageShape(3, 32, 32), 4)


def test_a_network_of_other_classes_is_refused():
    network = build_network("convnet-4", 3, 5)
    with pytest.raises(ConfigError, match=r"answers \(2, 5\).*expected \(2, 4\)"):
        require_logits(network, "mine", ImageShape(3, 8, 8), 4)


def test_asking_what_a_network_takes_leaves_it_as_it_was():
    network = build_network("convnet-4", 3, 5).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    require_logits(network, "mine", ImageShape(3, 8, 8), 5)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# What the documents say


def test_the_page_of_networks_counts_parameters_as_they_are():
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    table = page[: page.index("## A teacher's weights")]
    counted = re.findall(r"`([\w/-]+)` (\d{1,3}(?:,\d{3})+)", table)
    assert len(counted) > 20
    for name, count in counted:
        assert f"{parameters(build_network(name, 3, 10)):,}" == count, name
    assert {family.examples[0] for family in FAMILIES} <= {name for name, _ in counted}
