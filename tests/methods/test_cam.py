import math

import pytest
import torch
from definitions import softmax
from torch import nn
from torchvision.models import resnet18
from workbenches import rng, tiny_network

from dfkd.methods.cam import activation_map, coverage, place_logits, place_weights
from dfkd.methods.losses import one_hot
from dfkd.methods.random_streams import global_stream
from dfkd.methods.teacher import Teacher


def looked_at(network, images):
    """Of a teacher, in float64: its head, cells, last feature maps and logits."""
    channels = images.shape[1]
    teacher = Teacher(network.double(), (0.4,) * channels, (0.3,) * channels)
    sight = teacher.look(images)
    return teacher.head, teacher.pooled, sight.maps, sight.logits


@pytest.fixture(scope="module", params=["pooled to 2 x 2", "pooled to 1 x 1", "resnet18"])
def look(request):
    """A small network of each kind, and one as torchvision builds it."""
    if request.param == "resnet18":
        with global_stream("cpu", "resnet"):
            network = resnet18(weights=None, num_classes=5).eval()
        return looked_at(network, torch.rand(2, 3, 64, 96, generator=rng(), dtype=torch.float64))
    network = tiny_network()
    if request.param == "pooled to 1 x 1":
        network.pool = nn.AdaptiveAvgPool2d(1)
        network.classifier = nn.Linear(6, 4)
    return looked_at(network, torch.rand(3, 1, 8, 16, generator=rng(), dtype=torch.float64))


def by_hand(head, cells, maps):
    """g^2 W[c, :, cell(u)] . F(u) + b, place by place."""
    batch, channels, height, width = maps.shape
    weight = head.weight.view(-1, channels, cells, cells)
    found = torch.zeros(batch, len(weight), height, width, dtype=maps.dtype)
    for row in range(height):
        for column in range(width):
            cell = weight[:, :, row * cells // height, column * cells // width]
            found[:, :, row, column] = cells**2 * maps[:, :, row, column] @ cell.T + head.bias
    return found


def test_a_places_answer_is_the_heads_for_an_image_that_is_everywhere_alike(look):
    head, cells, maps, _ = look
    assert torch.allclose(place_logits(maps, head, cells), by_hand(head, cells, maps))


def test_the_answers_of_all_places_average_to_the_teachers_logits(look):
    head, cells, maps, logits = look
    assert maps.shape[2] != maps.shape[3]  # or rows and columns could be confused
    assert torch.allclose(place_logits(maps, head, cells).mean((2, 3)), logits)


@pytest.mark.parametrize("cells", [1, 2])
def test_a_head_without_bias_adds_none(cells):
    head = nn.Linear(3 * cells**2, 4, bias=False)
    assert not place_logits(torch.zeros(2, 3, 4, 4), head, cells).any()


def test_a_map_of_a_single_place_answers_as_the_teacher_does():
    head = nn.Linear(3 * 4, 5)
    maps = torch.rand(2, 3, 1, 1, generator=rng())
    logits = head(nn.AdaptiveAvgPool2d(2)(maps).flatten(1))
    assert torch.allclose(place_logits(maps, head, 2).mean((2, 3)), logits, atol=1e-6)


@pytest.mark.parametrize("cells", [1, 2])
def test_a_head_that_does_not_read_the_pooled_maps_is_refused(cells):
    with pytest.raises(ValueError, match="head of 13 inputs over 3 channels"):
        place_weights(nn.Linear(13, 4), torch.zeros(1, 3, 4, 4), cells)


def test_each_place_meets_the_weights_of_its_own_cell_times_the_number_of_cells():
    head = nn.Linear(4, 1, bias=False)
    head.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    expected = [[4, 4, 8, 8], [4, 4, 8, 8], [12, 12, 16, 16], [12, 12, 16, 16]]
    assert place_weights(head, torch.zeros(1, 1, 4, 4), 2)[0, 0].tolist() == expected


# The map of evidence

LOGITS = torch.randn(5, 3, 4, 6, generator=rng(), dtype=torch.float64)
TARGET = torch.tensor([0, 1, 2, 0, 1])


def test_a_map_lies_between_no_evidence_and_the_strongest():
    maps = activation_map(LOGITS, TARGET)
    assert maps.shape == (5, 1, 4, 6)
    assert torch.equal(maps.amin((1, 2, 3)), torch.zeros(5, dtype=torch.float64))
    assert torch.allclose(maps.amax((1, 2, 3)), torch.ones(5, dtype=torch.float64))


def test_a_map_is_the_positive_evidence_for_the_images_own_class_scaled():
    maps = activation_map(LOGITS, TARGET)
    for image, target, found in zip(LOGITS, TARGET, maps, strict=True):
        evidence = [max(0.0, value) for value in image[target].flatten().tolist()]
        low, high = min(evidence), max(evidence)
        expected = [(value - low) / (high - low) for value in evidence]
        assert found.flatten().tolist() == pytest.approx(expected)


def test_more_evidence_never_means_less_on_the_map():
    for image, target, found in zip(LOGITS, TARGET, activation_map(LOGITS, TARGET), strict=True):
        order = image[target].flatten().argsort()
        assert (found.flatten()[order].diff() >= 0).all()


def test_an_image_without_evidence_has_an_empty_map():
    assert not activation_map(-LOGITS.abs(), TARGET).any()


def test_an_image_with_the_same_evidence_everywhere_has_a_full_map():
    assert (activation_map(torch.full((5, 3, 2, 2), 0.7), TARGET) == 1).all()
    assert (activation_map(torch.full((5, 3, 1, 1), 0.7), TARGET) == 1).all()


def test_the_scale_of_one_images_evidence_does_not_change_another_ones_map():
    louder = LOGITS.clone()
    louder[0] *= 100
    assert torch.allclose(activation_map(louder, TARGET), activation_map(LOGITS, TARGET))


# Coverage


def test_coverage_is_the_mean_surprise_of_all_places_at_the_class():
    expected = [
        -math.log(softmax(image[:, row, column].tolist())[target])
        for image, target in zip(LOGITS, TARGET, strict=True)
        for row in range(4)
        for column in range(6)
    ]
    assert coverage(LOGITS, TARGET).item() == pytest.approx(sum(expected) / len(expected))


def test_coverage_vanishes_where_every_place_is_sure_of_the_class_and_one_doubter_raises_it():
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1] = 100
    assert coverage(logits, torch.tensor([1])).item() == pytest.approx(0, abs=1e-6)
    logits[0, :, 1, 0] = torch.tensor([8.0, 0.0, -100.0])
    assert coverage(logits, torch.tensor([1])).item() == pytest.approx(8 / 4, rel=1e-3)


def test_coverage_makes_more_places_show_the_class_than_the_one_hot_loss_does(digits_teacher):
    target = torch.arange(20) % 10
    head, cells = digits_teacher.head, digits_teacher.pooled

    def places(images):
        return place_logits(digits_teacher.look(images).maps, head, cells)

    shares = []
    for steps, loss in (
        (0, None),
        (40, lambda images: one_hot(digits_teacher.logits(images), target)),
        (40, lambda images: coverage(places(images), target)),
    ):
        pixels = torch.randn(20, 1, 8, 8, generator=rng(1)).requires_grad_()
        adam = torch.optim.Adam([pixels], lr=0.1)
        for _ in range(steps):
            adam.zero_grad()
            loss(pixels.sigmoid()).backward()
            adam.step()
        right = places(pixels.sigmoid()).argmax(1) == target.view(-1, 1, 1)
        shares.append(right.float().mean().item())
    nothing, by_one_hot, by_coverage = shares
    assert by_coverage > 3 * nothing and by_coverage > by_one_hot + 0.15
