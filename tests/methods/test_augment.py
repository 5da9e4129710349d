import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.augment import Augmentation, flipped, resized_crop, rolled, shifted


def moved(image, down, right):
    """One image [channels, H, W] moved pixel by pixel; what comes in is black."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for i, j in itertools.product(range(height), range(width)):
        if 0 <= i - down < height and 0 <= j - right < width:
            result[:, i, j] = image[:, i - down, j - right]
    return result


def moves(before, after, pixels):
    """All (down, right) that explain what happened to one image."""
    steps = itertools.product(range(-pixels, pixels + 1), repeat=2)
    return [step for step in steps if torch.equal(moved(before, *step), after)]


BATCHES = st.builds(
    lambda seed, *size: torch.rand(size, generator=rng(seed)) + 0.01,
    st.integers(0, 99),
    st.integers(1, 4),
    st.sampled_from([1, 3]),
    st.integers(1, 6),
    st.integers(1, 6),
)


@given(BATCHES, st.integers(1, 3), st.integers(0, 99))
def test_a_shifted_image_is_the_image_moved_over_black(images, pixels, seed):
    after = shifted(images, pixels, rng(seed))
    assert all(moves(a, b, pixels) for a, b in zip(images, after, strict=True))


def test_all_shifts_occur_about_equally_often():
    images = torch.rand(900, 1, 3, 3, generator=rng()) + 0.01
    after = shifted(images, 1, rng())
    counts = dict.fromkeys(itertools.product((-1, 0, 1), repeat=2), 0)
    for a, b in zip(images, after, strict=True):
        counts[moves(a, b, 1)[0]] += 1
    assert 60 < min(counts.values()) <= max(counts.values()) < 140


@given(BATCHES, st.integers(0, 99))
def test_a_flipped_image_is_itself_or_its_mirror_image(images, seed):
    for a, b in zip(images, flipped(images, rng(seed)), strict=True):
        assert torch.equal(b, a) or torch.equal(b, a.flip(2))


def test_about_half_of_the_images_are_flipped():
    images = torch.rand(1000, 1, 2, 3, generator=rng())
    kept = (flipped(images, rng()) == images).flatten(1).all(1).sum()
    assert 440 < kept < 560


@given(BATCHES, st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_size_and_range_are_kept(images, shift, flip, seed):
    after = Augmentation(shift, flip)(images, rng(seed))
    assert after.shape == images.shape
    assert after.min() >= 0 and after.max() <= images.max()


@given(BATCHES, st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_the_same_stream_moves_alike(images, shift, flip, seed):
    augment = Augmentation(shift, flip)
    assert torch.equal(augment(images, rng(seed)), augment(images, rng(seed)))


@given(BATCHES, st.integers(1, 3), st.integers(0, 99))
def test_every_pixel_that_stays_in_view_gets_its_gradient_once(images, pixels, seed):
    images = images.clone().requires_grad_()
    after = Augmentation(pixels, flip=True)(images, rng(seed))
    after.sum().backward()
    assert set(images.grad.unique().tolist()) <= {0.0, 1.0}
    assert images.grad.sum() == after.count_nonzero()


@given(BATCHES, st.integers(0, 99))
def test_the_images_passed_in_are_not_changed(images, seed):
    before = images.clone()
    Augmentation(2, flip=True)(images, rng(seed))
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_in_memory_does_not_matter(layout):
    images = torch.rand(4, 3, 5, 6, generator=rng())
    expected = Augmentation(2, flip=True)(images, rng())
    after = Augmentation(2, flip=True)(images.contiguous(memory_format=layout), rng())
    assert torch.equal(after, expected)


def test_no_augmentation_changes_nothing():
    images = torch.rand(2, 1, 4, 4, generator=rng())
    assert torch.equal(Augmentation()(images, rng()), images)


def rolls(before, after, furthest):
    """All (down, right) by which one image may have been rolled."""
    steps = itertools.product(*(range(-f, f + 1) for f in furthest))
    return [step for step in steps if torch.equal(before.roll(step, (1, 2)), after)]


@given(BATCHES, st.floats(0, 0.5), st.integers(0, 99))
def test_a_rolled_image_comes_back_on_the_other_side_at_most_its_share_of_the_side(
    images, share, seed
):
    furthest = [int(share * side) for side in images.shape[2:]]
    after = rolled(images, share, rng(seed))
    assert all(rolls(a, b, furthest) for a, b in zip(images, after, strict=True))


def test_all_rolls_occur_about_equally_often():
    images = torch.rand(900, 1, 3, 3, generator=rng()) + 0.01
    after = rolled(images, 0.34, rng())
    counts = dict.fromkeys(itertools.product((-1, 0, 1), repeat=2), 0)
    for a, b in zip(images, after, strict=True):
        counts[rolls(a, b, (1, 1))[0]] += 1
    assert 60 < min(counts.values()) <= max(counts.values()) < 140


def test_every_pixel_of_a_rolled_image_gets_its_gradient_once():
    images = torch.rand(5, 3, 6, 4, generator=rng()).requires_grad_()
    Augmentation(roll=0.5)(images, rng()).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


def test_a_roll_of_less_than_a_pixel_changes_nothing():
    images = torch.rand(5, 1, 8, 8, generator=rng())
    assert torch.equal(Augmentation(roll=0.12)(images, rng()), images)


def ramps(height, width, smallest=0.25, count=200):
    """Crops [count, 2, H - 2, W - 2] of an image whose channels tell row and column, less edges."""
    ends = torch.arange(float(height)), torch.arange(float(width))
    places = torch.stack(torch.meshgrid(*ends, indexing="ij")).repeat(count, 1, 1, 1)
    return resized_crop(places, smallest, rng())[:, :, 1:-1, 1:-1]


def slopes(height, width):
    """How far a pixel of the crops reaches down and right, in pixels of the image: [count, 2]."""
    crops = ramps(height, width)
    down, right = crops[:, 0].diff(dim=1), crops[:, 1].diff(dim=2)
    assert (down - down[:, :1, :1]).abs().max() < 1e-4  # a linear image stays linear
    assert (right - right[:, :1, :1]).abs().max() < 1e-4
    return torch.stack([down[:, 0, 0], right[:, 0, 0]], dim=1)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_a_crop_shows_a_part_of_an_area_between_the_smallest_and_the_whole(size):
    areas = slopes(*size).prod(1)
    assert 0.25 <= areas.min() < 0.4 and 0.8 < areas.max() <= 1


def test_a_crops_sides_are_in_a_proportion_of_at_most_three_to_four():
    down, right = slopes(16, 16).unbind(1)
    ratios = right / down
    assert 0.749 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.335


def test_crops_lie_all_over_the_image():
    middles = ramps(16, 16).mean((2, 3))
    assert middles.mean(0).tolist() == pytest.approx([7.5, 7.5], abs=0.3)
    assert middles.min(0).values.max() < 5.5 and middles.max(0).values.min() > 9.5


@given(BATCHES, st.floats(0.1, 1), st.integers(0, 99))
def test_a_crop_keeps_size_and_range(images, smallest, seed):
    after = resized_crop(images, smallest, rng(seed))
    assert after.shape == images.shape
    assert after.min() >= images.min() - 1e-5 and after.max() <= images.max() + 1e-5


def test_every_pixel_of_a_crop_sends_its_gradient_to_the_image():
    images = torch.rand(5, 3, 6, 4, generator=rng()).requires_grad_()
    resized_crop(images, 0.25, rng()).sum().backward()
    assert images.grad.sum().item() == pytest.approx(images.numel(), rel=1e-5)


def test_each_image_is_cropped_on_its_own_and_again_alike_by_the_same_stream():
    images = torch.rand(1, 1, 6, 6, generator=rng()).repeat(2, 1, 1, 1)
    one, two = resized_crop(images, 0.25, rng())
    assert not torch.allclose(one, two)
    assert torch.equal(resized_crop(images, 0.25, rng()), torch.stack([one, two]))
