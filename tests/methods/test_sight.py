import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import googlenet, resnet18
from workbenches import rng, same, snapshot, tiny_network

from dfkd.methods.networks import ConvNet, Normalized, build_network
from dfkd.methods.random_streams import global_stream
from dfkd.methods.sight import Observer

IMAGES = torch.rand(6, 1, 8, 12, generator=rng())
COLOR = torch.rand(2, 3, 64, 48, generator=rng())


def small(name="convnet-4-6-5"):
    return tiny_network(name=name).eval()


@pytest.fixture(scope="module")
def resnet():
    with global_stream("cpu", "resnet"):
        return resnet18(weights=None, num_classes=7).eval()


def inputs_by_hand(network, images, kind):
    """What the layers of a kind are given when a ConvNet's are called one by one."""
    found, maps = [], images
    for layer in network.features:
        if isinstance(layer, kind):
            found.append(maps.clone())
        maps = layer(maps)
    return found, maps


# Logits


def test_what_is_seen_are_the_networks_logits():
    network = small()
    expected = copy.deepcopy(network)(IMAGES)
    assert torch.equal(Observer(network).look(IMAGES).logits, expected)


def test_a_look_leaves_the_network_as_it_was():
    network = small()
    before = snapshot(network)
    Observer(network).look(IMAGES)
    assert same(snapshot(network), before)


def test_a_look_does_not_care_whether_it_is_deep():
    observer = Observer(small())
    deep, shallow = (observer.look(IMAGES, deep=deep).logits for deep in (True, False))
    assert torch.equal(deep, shallow)


def test_a_look_through_a_wrapper_calls_the_wrapper_and_sees_the_layers_within():
    network = small()
    wrapper = Normalized(network, (0.3,), (0.4,))
    seen = Observer(network).look(IMAGES, wrapper)
    assert torch.equal(seen.logits, network((IMAGES - 0.3) / 0.4))
    plain = Observer(network).look((IMAGES - 0.3) / 0.4)
    assert torch.equal(seen.features, plain.features)


# Moments


def test_moments_are_mean_and_biased_variance_of_what_each_batch_norm_is_given():
    network = small()
    given, _ = inputs_by_hand(network, IMAGES, nn.BatchNorm2d)
    seen = Observer(network).look(IMAGES)
    assert len(seen.moments) == len(given) == 3
    for (mean, variance), maps in zip(seen.moments, given, strict=True):
        rows = maps.transpose(0, 1).flatten(1)  # [K, B h w]
        assert torch.allclose(mean, rows.sum(1) / rows.shape[1], atol=1e-6)
        gaps = rows - mean[:, None]
        assert torch.allclose(variance, gaps.square().sum(1) / rows.shape[1], atol=1e-6)


def test_the_moments_of_a_batch_as_it_was_learned_are_what_is_remembered():
    network = small()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0  # remember the last batch alone
    seen = Observer(network.train()).look(IMAGES)
    for (mean, variance), (kept_mean, kept_variance), maps in zip(
        seen.moments, seen.running, seen.norm_inputs, strict=True
    ):
        count = maps.numel() / maps.shape[1]
        assert torch.allclose(mean, kept_mean, atol=1e-6)
        assert torch.allclose(variance * count / (count - 1), kept_variance, atol=1e-6)


def test_what_is_remembered_has_the_channels_of_what_is_seen(resnet):
    seen = Observer(resnet).look(COLOR)
    assert len(seen.moments) == 20
    for (mean, _), (kept, _) in zip(seen.moments, seen.running, strict=True):
        assert mean.shape == kept.shape


def test_gradients_of_the_moments_reach_every_image():
    images = IMAGES.clone().requires_grad_()
    seen = Observer(small()).look(images)
    sum(m.sum() + v.sum() for m, v in seen.moments).backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_without_gradients_nothing_is_kept_for_them():
    with torch.no_grad():
        seen = Observer(small()).look(IMAGES.clone().requires_grad_())
    assert not seen.features.requires_grad and not seen.moments[0][0].requires_grad


# Features, maps, stages


def test_features_are_the_input_of_the_last_linear_layer():
    network = small()
    seen = Observer(network).look(IMAGES)
    _, maps = inputs_by_hand(network, IMAGES, nn.Conv2d)
    assert torch.equal(seen.features, network.pool(maps).flatten(1))
    assert torch.equal(network.classifier(seen.features), seen.logits)


def test_maps_are_the_input_of_the_last_pooling():
    network = small()
    _, maps = inputs_by_hand(network, IMAGES, nn.Conv2d)
    assert torch.equal(Observer(network).look(IMAGES).maps, maps)


def test_stages_are_the_last_maps_of_each_size():
    network = small("convnet-4-5-6-7-8")  # 8x12, 4x6 twice, 2x3 twice
    given, last = inputs_by_hand(network, IMAGES, nn.Conv2d)
    one, _, three, _ = given[1:]
    stages = Observer(network).look(IMAGES).stages
    for stage, expected in zip(stages, [one, three, last], strict=True):
        assert torch.equal(stage, expected)


def test_a_residual_network_has_the_features_maps_and_stages_of_its_own_forward(resnet):
    seen = Observer(resnet).look(COLOR)
    maps = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(COLOR))))
    expected = []
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        maps = layer(maps)
        expected.append(maps)
    for stage, by_hand in zip(seen.stages, expected, strict=True):
        assert torch.equal(stage, by_hand)
    assert [tuple(stage.shape) for stage in seen.stages] == [
        (2, 64, 16, 12),
        (2, 128, 8, 6),
        (2, 256, 4, 3),
        (2, 512, 2, 2),
    ]
    assert torch.equal(seen.maps, expected[-1])
    assert torch.equal(seen.features, expected[-1].mean((2, 3)))
    assert torch.equal(resnet.fc(seen.features), seen.logits)


def test_the_first_stage_is_no_image():
    seen = Observer(small("convnet-4")).look(IMAGES)
    assert [stage.shape[1] for stage in seen.stages] == [4]


def test_networks_of_the_same_strides_have_stages_of_the_same_sizes():
    wide, narrow = (
        Observer(small(name)).look(IMAGES) for name in ("convnet-8-9-10", "convnet-2-3-4")
    )
    sizes = [[stage.shape[2:] for stage in seen.stages] for seen in (wide, narrow)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    "name", ["torchvision/mobilenet_v3_small", "timm/mobilenetv3_small_050", "timm/regnety_002"]
)
def test_attention_over_channels_and_heads_of_convolutions_are_no_stages(name):
    with global_stream("cpu", name):
        network = build_network(name, 3, 7).eval()
    seen = Observer(network).look(torch.rand(2, 3, 64, 64, generator=rng()))
    assert [maps.shape[2] for maps in seen.stages] == [32, 16, 8, 4, 2]
    assert torch.equal(seen.stages[-1], seen.maps)


def test_a_stage_of_one_place_is_one_if_it_comes_last():
    seen = Observer(small("convnet-4-5-6-7-8-9-9")).look(IMAGES[:, :, :4, :4])
    assert [maps.shape[2] for maps in seen.stages] == [4, 2, 1]


# Layers that are never reached


class TwoHeads(ConvNet):
    """Has a second head, defined before the first, that evaluation does not use."""

    def __init__(self):
        super().__init__((4, 6), channels=1, classes=3)
        own = self.classifier
        del self.classifier
        self.auxiliary = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Linear(9, 3))
        self.classifier = own


def test_an_auxiliary_head_that_is_not_used_is_passed_over():
    network = TwoHeads().eval()
    seen = Observer(network).look(IMAGES)
    assert len(seen.moments) == len(seen.running) == len(seen.norm_inputs) == 2
    assert [stage.shape[1] for stage in seen.stages] == [4, 6]
    assert torch.equal(network.classifier(seen.features), seen.logits)


def test_an_auxiliary_head_that_is_defined_last_is_passed_over():
    network = ConvNet((4, 6), channels=1, classes=3).eval()
    network.auxiliary = nn.Linear(9, 3)
    seen = Observer(network).look(IMAGES)
    assert torch.equal(network.classifier(seen.features), seen.logits)


def test_the_auxiliary_heads_of_googlenet_are_passed_over():
    with global_stream("cpu", "googlenet"), torch.no_grad():
        network = googlenet(weights=None, num_classes=7, init_weights=False).eval()
        seen = Observer(network).look(COLOR)
        assert torch.equal(network.fc(seen.features), seen.logits)
    assert len(seen.moments) == len(seen.running) == 57
    assert seen.maps.shape == (2, 1024, 2, 2)


def test_what_a_network_does_not_have_is_said():
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    seen = Observer(network).look(IMAGES[..., :8])
    with pytest.raises(AssertionError, match="no Linear"):
        _ = seen.features
    with pytest.raises(AssertionError, match="no AdaptiveAvgPool2d"):
        _ = seen.maps
    assert seen.moments == [] and seen.stages == []


def test_a_batch_norm_that_remembers_nothing_is_passed_over():
    network = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.BatchNorm2d(1))
    seen = Observer(network).look(IMAGES)
    assert len(seen.moments) == len(seen.running) == 1


# One look and the next


def test_two_looks_do_not_disturb_each_other():
    observer = Observer(small())
    one = observer.look(IMAGES)
    expected = one.features.clone(), one.maps.clone()
    two = observer.look(1 - IMAGES)
    assert torch.equal(one.features, expected[0]) and torch.equal(one.maps, expected[1])
    assert not torch.equal(one.features, two.features)
    assert not torch.equal(one.moments[0][0], two.moments[0][0])


def test_a_shallow_look_keeps_nothing():
    observer = Observer(small())
    seen = observer.look(IMAGES, deep=False)
    assert seen.moments == [] and seen.stages == []
    with pytest.raises(AssertionError, match="no Linear"):
        _ = seen.features


def test_a_call_of_the_network_between_looks_is_not_watched():
    network = small()
    seen = Observer(network).look(IMAGES)
    expected = seen.features.clone()
    network(1 - IMAGES)
    assert torch.equal(seen.features, expected)


def test_a_failed_look_does_not_break_the_next():
    observer = Observer(small())
    with pytest.raises(RuntimeError):
        observer.look(torch.rand(1, 2, 8, 8))
    assert len(observer.look(IMAGES).moments) == 3


def test_an_observer_keeps_nothing_of_what_it_gave_away():
    observer = Observer(small())
    given = weakref.ref(observer.look(IMAGES).features)
    gc.collect()
    assert given() is None


def test_two_observers_of_one_network_do_not_disturb_each_other():
    network = small()
    one, two = Observer(network), Observer(network)
    first = one.look(IMAGES)
    expected = first.features.clone()
    two.look(1 - IMAGES)
    assert torch.equal(first.features, expected)


def test_the_copy_of_a_watched_network_is_on_its_own():
    network = small()
    observer = Observer(network)
    copied = copy.deepcopy(network)
    seen = observer.look(IMAGES)
    features = seen.features.clone()
    assert torch.equal(copied(1 - IMAGES), network(1 - IMAGES))
    assert torch.equal(seen.features, features)


def test_activations_that_work_in_place_do_not_spoil_what_was_seen():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Conv2d(2, 2, 3)
    ).eval()
    seen = Observer(network).look(IMAGES)
    assert torch.equal(seen.norm_inputs[0], network[0](IMAGES))
    assert torch.equal(seen.stages[0], F.relu(network[1](network[0](IMAGES))))
