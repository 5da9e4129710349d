"""What a picture becomes, as a task declares it."""

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_tasks import tree
from torchvision import transforms

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.pictures import as_array
from dfkd.search_spaces.task import parse_task

sides = st.integers(7, 90)


def noise(width, height):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def parse(changes):
    return parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")


@given(width=sides, height=sides, how=st.sampled_from(["bilinear", "bicubic"]))
def test_with_resize_an_image_is_what_torchvision_makes_of_it(width, height, how):
    image = noise(width, height)
    mode = transforms.InterpolationMode(how)
    theirs = transforms.Compose([transforms.Resize(16, mode), transforms.CenterCrop(14)])(image)
    ours = as_array(image, ImageShape(3, 14, 14), Fit(16, how))
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


@given(width=sides, height=sides)
def test_without_resize_an_image_is_scaled_until_it_just_covers(width, height):
    image = noise(width, height)
    assert as_array(image, ImageShape(3, 9, 11), Fit()).shape == (3, 9, 11)


def test_an_image_of_the_right_size_stays_as_it_is():
    image = noise(8, 8)
    assert np.array_equal(as_array(image, ImageShape(3, 8, 8), Fit()).transpose(1, 2, 0), image)


def test_the_interpolation_matters():
    image, shape = noise(40, 40), ImageShape(3, 12, 12)
    ways = [as_array(image, shape, Fit(14, how)) for how in ("bilinear", "bicubic")]
    assert not np.array_equal(*ways)


def test_a_task_says_how_its_images_are_fitted():
    assert parse({}).fit == Fit(None, "bilinear")
    changes = {"image.resize": 8, "image.interpolation": "bicubic"}
    assert parse(changes).fit == Fit(8, "bicubic")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image.resize": 5}, "image.resize must be at least 6"),
        ({"image.resize": 0}, "image.resize must be at least 1"),
        ({"image.resize": "big"}, "image.resize must be a number"),
        ({"image.interpolation": "cubic"}, "Did you mean 'bicubic'"),
    ],
)
def test_a_fit_that_cannot_work_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        parse(changes)
