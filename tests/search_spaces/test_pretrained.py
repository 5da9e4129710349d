"""Published weights, without a network: what a hub would send is made here."""

import urllib.error
from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch
from torchvision.models import _api

from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces import pretrained
from dfkd.search_spaces.pretrained import fetch, known_tags
from dfkd.search_spaces.teachers import find_teacher, load_teacher

pytest_plugins = ["small_task_fixtures"]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture
def imagenet(stripes_task):
    """A task of 1,000 classes and small images."""
    mean, std = IMAGENET
    classes = tuple(f"class {i}" for i in range(1000))
    shape = ImageShape(3, 32, 32)
    return replace(stripes_task, classes=classes, shape=shape, mean=mean, std=std)


@pytest.fixture
def torch_hub(monkeypatch):
    """A hub that sends fresh weights of the small network; what it was asked for."""
    asked = []

    def load(url, **how):
        asked.append((url, how))
        return build_network(SMALL, 3, 1000).state_dict()

    monkeypatch.setattr(_api, "load_state_dict_from_url", load)
    return asked


@pytest.fixture
def no_network(monkeypatch):
    def load(*what, **how):
        raise urllib.error.URLError("no route to host")

    def refuse():
        raise OSError("no route to host")

    monkeypatch.setattr(_api, "load_state_dict_from_url", load)
    monkeypatch.setattr(pretrained, "_require_hub", refuse)
    monkeypatch.setattr(pretrained, "_in_cache", lambda hub_id: None)


@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "pretrained"])
def test_a_tag_of_torchvision_is_a_teacher(imagenet, torch_hub, tag):
    said = []
    teacher = find_teacher(imagenet, f"{SMALL}:{tag}", said.append)
    assert teacher.network == SMALL and teacher.origin == f"{SMALL}:{tag}"
    assert "BatchNorm layers" in said[0] and len(said) == 1


def test_weights_from_a_hub_are_no_pickles_and_checked_by_their_hash(imagenet, torch_hub):
    load_teacher(imagenet, f"{SMALL}:IMAGENET1K_V1")
    ((url, how),) = torch_hub
    assert url.startswith("https://") and how["weights_only"] and how["check_hash"]


def test_another_normalization_is_warned_of(imagenet, torch_hub):
    said = []
    task = replace(imagenet, mean=(0.5,) * 3, std=(0.5,) * 3)
    load_teacher(task, f"{SMALL}:IMAGENET1K_V1", said.append)
    assert "normalized by mean [0.485, 0.456, 0.406]" in said[-1]


def test_a_task_of_other_classes_is_refused(stripes_task, torch_hub):
    task = replace(stripes_task, shape=ImageShape(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ConfigError, match="has 1000 classes, task stripes has 3"):
        load_teacher(task, f"{SMALL}:IMAGENET1K_V1")


def test_timms_weights_are_read_from_where_its_hub_keeps_them(imagenet, tmp_path, monkeypatch):
    network = timm.create_model("mobilenetv3_small_050", pretrained=False)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    monkeypatch.setattr(pretrained, "_in_cache", lambda hub_id: str(path))
    teacher = load_teacher(imagenet, "timm/mobilenetv3_small_050:pretrained")
    for key, value in network.state_dict().items():
        assert torch.equal(teacher.state[key], value)


@pytest.mark.parametrize(
    "reference", [f"{SMALL}:IMAGENET1K_V1", "timm/tf_efficientnet_lite0:pretrained"]
)
def test_without_a_network_the_alternative_is_named(imagenet, no_network, reference):
    network = reference.partition(":")[0]
    with pytest.raises(ConfigError) as caught:
        find_teacher(imagenet, reference)
    assert "cannot be fetched" in str(caught.value) and "https://" in str(caught.value)
    assert f"--teacher {network}:FILE" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "tag"), [("torchvision/resnet50", "IMAGENET1K_V2"), ("timm/resnet18", "a1_in1k")]
)
def test_an_unknown_tag_is_answered_with_the_known_ones(network, tag):
    assert tag in known_tags(network)
    with pytest.raises(ConfigError, match=tag):
        fetch(network, "nonsense")


def test_a_network_without_weights_is_answered_with_its_tags(imagenet):
    with pytest.raises(ConfigError, match=r"needs weights.*IMAGENET1K_V1"):
        find_teacher(imagenet, "torchvision/resnet34")


def test_a_network_that_nobody_published_weights_for_is_said(imagenet):
    with pytest.raises(ConfigError, match="no weights are published for torchvision/resnet43"):
        find_teacher(imagenet, "torchvision/resnet43:IMAGENET1K_V1")


def test_a_file_goes_before_a_tag(imagenet, no_network, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(build_network(SMALL, 3, 1000).state_dict(), path)
    assert load_teacher(imagenet, f"{SMALL}:{path}").network == SMALL
