"""Test images that are too many for the memory are decoded batch by batch, to the same arrays."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_tasks import stripes

from dfkd.methods.errors import ConfigError, TrialFailed
from dfkd.orchestrator.trials import correct
from dfkd.search_spaces import data as module
from dfkd.search_spaces import encoded
from dfkd.search_spaces.data import LabeledImages, load_data, same_images
from dfkd.search_spaces.encoded import slices
from dfkd.search_spaces.streaming import StreamedImages

NAMES = ("top", "middle", "bottom")
IMAGES, LABELS = stripes(23)

pytest_plugins = ["small_task_fixtures"]


@pytest.fixture
def folder(tmp_path):
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = tmp_path / NAMES[label] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path


@pytest.fixture
def both(folder, stripes_task, monkeypatch):
    """The same images, kept and streamed in batches of 4."""
    monkeypatch.setattr(encoded, "BATCH", 4)
    kept = load_data(stripes_task, "test", str(folder))
    monkeypatch.setattr(module, "HELD", 100)
    return kept, load_data(stripes_task, "test", str(folder))


def whole(found):
    images, labels = zip(*found.batches(), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_what_fits_is_kept_and_what_does_not_is_streamed(both):
    assert isinstance(both[0], LabeledImages)
    assert isinstance(both[1], StreamedImages)


def test_streamed_images_are_the_kept_ones(both):
    assert all(torch.equal(*pair) for pair in zip(*map(whole, both), strict=True))
    assert same_images(*both)


def test_streamed_images_can_be_gone_through_again_and_left_early(both):
    batches = both[1].batches()
    first = next(batches)[0]
    batches.close()
    assert torch.equal(first, next(both[1].batches())[0])


def test_a_worker_gets_its_part(both):
    kept, streamed = (found.part(slice(1, None, 3)) for found in both)
    assert len(kept) == len(streamed) == 8
    assert same_images(kept, streamed)


def test_parts_of_parts_are_parts(both):
    kept, streamed = (found.part(slice(2, 20)).part(slice(0, None, 5)) for found in both)
    assert same_images(kept, streamed)


def test_accuracy_is_the_same(both, stripes_task, stripes_teacher):
    network = stripes_teacher.build(stripes_task).network
    assert correct(network, both[0]) == correct(network, both[1]) > 0


def test_elsewhere_than_on_a_cpu_they_are_fitted_there(both):
    """On a device that computes no numbers, but says what it would."""
    there = [list(found.batches(torch.device("meta"))) for found in both]
    for pairs in zip(*there, strict=True):
        for kept, streamed in zip(*pairs, strict=True):
            assert (kept.shape, kept.dtype, kept.device) == (
                (streamed.shape, streamed.dtype, streamed.device)
            )


def test_images_that_differ_are_not_the_same(both, folder, stripes_task):
    path = next((folder / "top").iterdir())
    Image.fromarray(255 - IMAGES[0]).save(path)
    assert not same_images(both[0], both[1])


def test_streamed_images_travel_to_other_processes(both):
    assert same_images(pickle.loads(pickle.dumps(both[1])), both[0])


def test_training_images_are_kept_while_they_fit(both, folder, stripes_task):
    found = load_data(stripes_task, "train", str(folder))
    assert isinstance(found, LabeledImages)
    assert same_images(found, both[1])


def test_training_images_that_do_not_fit_are_refused(folder, stripes_task, monkeypatch):
    monkeypatch.setattr(module, "TRAINED", 100)
    with pytest.raises(ConfigError, match=r"23 training images take .* give a trained teacher"):
        load_data(stripes_task, "train", str(folder))


def test_labels_are_checked_before_anything_is_streamed(folder, stripes_task, monkeypatch):
    monkeypatch.setattr(module, "HELD", 100)
    monkeypatch.setattr(module, "find_images", lambda *args: bad)
    bad = module.FileImages((("x.png", 0, 0),) * 30, np.full(30, 7))
    with pytest.raises(ConfigError, match="labels must be 0 to 2, got 7 to 7"):
        load_data(stripes_task, "test", str(folder))


def test_the_first_image_is_tried_at_once(folder, stripes_task, monkeypatch):
    monkeypatch.setattr(module, "HELD", 100)
    (sorted((folder / "bottom").iterdir())[0]).write_bytes(b"none")
    with pytest.raises(ConfigError, match="is no image that can be read"):
        load_data(stripes_task, "test", str(folder))


def test_an_image_that_breaks_later_fails_the_trial_by_name(both, folder):
    path = sorted((folder / "top").iterdir())[-1]
    path.write_bytes(b"none")
    with pytest.raises(TrialFailed, match=path.name):
        whole(both[1])


@given(count=st.integers(0, 3000), side=st.sampled_from([1, 28, 64, 224, 5000]))
def test_batches_cover_everything_once_and_are_never_too_large(count, side):
    found = list(slices(count, (3, side, side)))
    assert [row for part in found for row in range(count)[part]] == list(range(count))
    assert all(part.stop - part.start <= max(1, (1 << 24) // (3 * side * side)) for part in found)
