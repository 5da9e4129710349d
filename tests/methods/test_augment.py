import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workbenches import rng

from dfkd.methods.augment import Augmentation, flipped, shifted


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
