"""Many pictures scaled and cropped together are what PIL makes of each."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dfkd.methods.shape import ImageShape
from dfkd.search_spaces import pictures, resampling
from dfkd.search_spaces.fit import INTERPOLATIONS, Fit
from dfkd.search_spaces.pictures import as_array, as_picture
from dfkd.search_spaces.resampling import axes, fitted_together, weights

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
)
sides = st.integers(5, 90)
fits = st.builds(Fit, st.sampled_from([None, 14, 20, 33]), st.sampled_from(INTERPOLATIONS))


def noise(width, height, mode="RGB"):
    """Every level next to every other: what hides no rounding."""
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = np.random.default_rng(width * height).integers(0, 256, shape)
    return Image.fromarray(pixels.astype(np.uint8))


def both(images, shape, fit, device="cpu"):
    """By PIL and together, as whole numbers."""
    one_by_one = np.stack([as_array(image, shape, fit) for image in images])
    found = [as_picture(image, shape, fit) for image in images]
    together = fitted_together(found, shape, fit, torch.device(device))
    return torch.from_numpy(one_by_one).int(), together.cpu().int()


@given(width=sides, height=sides, fit=fits, size=st.tuples(st.integers(3, 14), st.integers(3, 14)))
def test_no_level_differs_by_more_than_one_from_pils(width, height, fit, size):
    one_by_one, together = both([noise(width, height)], ImageShape(3, *size), fit)
    assert (one_by_one - together).abs().max() <= 1


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("how", INTERPOLATIONS)
def test_of_photos_sizes_few_levels_differ_at_all(how, device):
    images = [noise(500, 375), noise(375, 500), noise(333, 500)]
    one_by_one, together = both(images, ImageShape(3, 224, 224), Fit(256, how), device)
    apart = (one_by_one - together).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01


def test_pictures_of_several_sizes_keep_their_order(monkeypatch):
    monkeypatch.setattr(pictures, "LARGE", 1000)
    sizes = [(20, 30), (40, 20), (20, 30), (50, 60), (9, 8), (40, 20)]  # one of them large
    images = [noise(*size) for size in sizes]
    one_by_one, together = both(images, ImageShape(3, 8, 9), Fit(12))
    assert (one_by_one - together).abs().amax(dim=(1, 2, 3)).max() <= 1


def test_what_is_large_is_fitted_at_once(monkeypatch):
    monkeypatch.setattr(pictures, "LARGE", 20 * 20)
    shape = ImageShape(3, 9, 8)
    kept, reduced = (as_picture(noise(20, side), shape, Fit(12)) for side in (20, 21))
    assert (kept.pixels.shape, kept.fitted) == ((20, 20, 3), False)
    assert (reduced.pixels.shape, reduced.fitted) == ((9, 8, 3), True)


def test_gray_pictures_have_one_channel():
    one_by_one, together = both([noise(20, 30, "L")], ImageShape(1, 8, 8), Fit())
    assert (one_by_one - together).abs().max() <= 1


def test_many_pictures_are_taken_in_parts(monkeypatch):
    taken = []
    whole = resampling.fitted
    monkeypatch.setattr(
        resampling, "fitted", lambda found, *more: taken.append(len(found)) or whole(found, *more)
    )
    monkeypatch.setattr("dfkd.search_spaces.encoded.VALUES", 2 * 3 * 20 * 20)
    both([noise(20, 20)] * 5, ImageShape(3, 8, 8), Fit())
    assert taken == [2, 2, 1]


@given(height=sides, width=sides, fit=fits)
def test_the_weights_of_a_new_pixel_sum_to_one_and_it_lies_within_the_picture(height, width, fit):
    for axis, length in zip(
        axes(height, width, ImageShape(3, 14, 14), fit), (height, width), strict=True
    ):
        found = weights(axis, length, fit.interpolation)
        assert found.shape == (14, length)
        assert torch.allclose(found.sum(1), torch.ones(14), atol=1e-5)
        assert axis.start >= 0 and axis.start + axis.step * axis.count <= length + 1e-9
