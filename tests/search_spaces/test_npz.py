import numpy as np
import pytest
from small_tasks import stripes

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.npz import read_npz

IMAGES, LABELS = stripes()
DIVIDED = {
    "train_images": IMAGES[:40],
    "train_labels": LABELS[:40],
    "test_images": IMAGES[40:],
    "test_labels": LABELS[40:],
}

pytest_plugins = ["small_task_fixtures"]


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return write


def without(*names):
    return {name: array for name, array in DIVIDED.items() if name not in names}


@pytest.mark.parametrize(("split", "rows"), [("train", slice(0, 40)), ("test", slice(40, 60))])
def test_a_file_may_keep_its_splits_apart(stripes_task, save, split, rows):
    found = load_data(stripes_task, split, save(**DIVIDED))
    assert np.array_equal(found.images[:, 0].numpy(), IMAGES[rows])
    assert found.labels.tolist() == LABELS[rows].tolist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_that_is_not_divided_serves_both_splits(save, split):
    images, labels = read_npz(save(images=IMAGES, labels=LABELS), split)
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)


def test_a_divided_file_serves_the_split_that_it_has(save):
    path = save(**without("train_images", "train_labels"))
    assert len(read_npz(path, "test")[0]) == 20


@pytest.mark.parametrize("name", DIVIDED)
def test_an_array_that_a_divided_file_lacks_is_named(save, name):
    with pytest.raises(ConfigError, match=f"it lacks {name}, it has"):
        read_npz(save(**without(name)), name.partition("_")[0])


def test_images_of_no_split_never_stand_in_for_those_of_one(save):
    """They could be the very images that the other split holds."""
    path = save(**without("test_images", "test_labels"), images=IMAGES, labels=LABELS)
    with pytest.raises(ConfigError, match="lacks test_images and test_labels"):
        read_npz(path, "test")


def test_arrays_of_other_names_do_not_divide_a_file(save):
    path = save(images=IMAGES, labels=LABELS, train_seconds=np.zeros(3))
    assert len(read_npz(path, "test")[0]) == 60
