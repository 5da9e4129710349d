import hashlib
import re

import numpy as np
import pytest
import torch
import yaml
from small_tasks import stripes, tree, without

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.data import load_data, load_digits
from dfkd.search_spaces.task import load_task, parse_task

pytest_plugins = ["small_task_fixtures"]

IMAGES, LABELS = stripes()


@pytest.fixture
def save(tmp_path):
    """Writes an .npz of the small task's images, some of its arrays replaced; returns the path."""

    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **({"images": IMAGES, "labels": LABELS} | arrays))
        return str(tmp_path / "mine.npz")

    return write


@pytest.fixture
def refused(stripes_task):
    """The problems with a file of labeled images."""

    def read(path, task=stripes_task):
        with pytest.raises(ConfigError) as refusal:
            load_data(task, "test", path)
        assert all(path in problem for problem in refusal.value.problems)
        return refusal.value.problems

    return read


# The digits


def all_digits():
    from sklearn.datasets import load_digits as bundled

    return bundled()


def test_of_the_digits_400_are_for_testing():
    assert [len(load_digits(split)) for split in ("train", "test")] == [1397, 400]


def test_every_digit_is_in_one_split_and_only_once():
    both = torch.cat([load_digits(split).images.flatten(1) for split in ("train", "test")])
    levels = (both.double() * 16 / 255).round().numpy()
    everything = all_digits().data
    assert sorted(map(tuple, levels)) == sorted(map(tuple, everything))


def test_every_digit_keeps_its_class():
    digits = all_digits()
    known = {}
    for image, label in zip(digits.data, digits.target, strict=True):
        known.setdefault(tuple(image), set()).add(int(label))
    test = load_digits("test")
    levels = (test.images.flatten(1).double() * 16 / 255).round().numpy()
    assert all(
        label in known[tuple(image)]
        for image, label in zip(levels, test.labels.tolist(), strict=True)
    )


def test_the_test_digits_are_the_same_for_ever():
    """Published accuracies are on these images: another hash means other numbers."""
    test = load_digits("test")
    digest = hashlib.sha256(test.images.numpy().tobytes() + test.labels.numpy().tobytes())
    assert digest.hexdigest()[:16] == "c44c83818c0272b0"


def test_digits_use_all_of_the_range():
    images = load_digits("train").images
    assert (images.dtype, int(images.min()), int(images.max())) == (torch.uint8, 0, 255)


def test_digits_are_images_of_one_channel():
    assert load_digits("test").images.shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_class_of_digits_is_in_both_splits(split):
    assert set(load_digits(split).labels.tolist()) == set(range(10))


def test_the_digits_task_is_normalized_by_its_train_split():
    task = load_task("digits")
    pixels = load_digits("train").images.float() / 255
    wanted = (float(pixels.mean()), float(pixels.std()))
    assert (task.mean[0], task.std[0]) == pytest.approx(wanted, abs=5e-4)


# Whose data


def test_a_task_without_data_has_none():
    task = parse_task(yaml.safe_dump(without("data")), "mine.yaml")
    assert load_data(task, "test") is None


def test_data_given_goes_before_the_tasks_own(stripes_task, save):
    path = save(images=IMAGES[:5], labels=LABELS[:5])
    assert len(load_data(stripes_task, "test", path)) == 5


def test_data_given_serves_a_task_that_has_none(save):
    task = parse_task(yaml.safe_dump(without("data")), "mine.yaml")
    assert len(load_data(task, "test", save())) == len(LABELS)


@pytest.mark.parametrize(
    "changes",
    [{"image.width": 8, "image.height": 8}, {"classes": list("abcdefghij")}],
    ids=["classes", "shape"],
)
def test_digits_are_refused_for_a_task_of_another_kind(changes):
    task = parse_task(yaml.safe_dump(tree({"data": "digits", **changes})), "mine.yaml")
    with pytest.raises(ConfigError, match="digits"):
        load_data(task, "train")


# Files


def colored():
    changes = {
        "image.channels": 3,
        "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "data": None,
    }
    changed = {key: value for key, value in tree(changes).items() if value is not None}
    return parse_task(yaml.safe_dump(changed), "mine.yaml")


COLORS = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 6)).astype(np.uint8)


@pytest.mark.parametrize(
    "images", [IMAGES, IMAGES[:, None], IMAGES[..., None]], ids=["NHW", "NCHW", "NHWC"]
)
def test_gray_images_may_come_in_any_layout(stripes_task, save, images):
    found = load_data(stripes_task, "test", save(images=images)).images
    assert torch.equal(found[:, 0], torch.from_numpy(IMAGES))


@pytest.mark.parametrize("images", [COLORS, COLORS.transpose(0, 2, 3, 1)], ids=["NCHW", "NHWC"])
def test_color_images_may_come_in_any_layout(save, images):
    path = save(images=images, labels=LABELS[:4])
    assert torch.equal(load_data(colored(), "test", path).images, torch.from_numpy(COLORS))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
def test_labels_may_be_any_whole_numbers(stripes_task, save, kind):
    found = load_data(stripes_task, "test", save(labels=LABELS.astype(kind))).labels
    assert found.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"images": IMAGES / 255}, "images must be uint8, got float64"),
        ({"images": IMAGES[:, :5]}, r"images of \(1, 6, 6\), got \(1, 5, 6\)"),
        ({"images": IMAGES.reshape(60, 36)}, r"images of \(1, 6, 6\), got \(36,\)"),
        ({"images": COLORS, "labels": LABELS[:4]}, r"images of \(1, 6, 6\), got \(3, 6, 6\)"),
        ({"labels": LABELS[:7]}, r"60 images but labels of shape \(7,\)"),
        ({"labels": np.eye(3)[LABELS]}, r"labels of shape \(60, 3\)"),
        ({"labels": LABELS + 1}, "labels must be 0 to 2, got 1 to 3"),
        ({"labels": LABELS - 1}, "labels must be 0 to 2, got -1 to 1"),
        ({"labels": LABELS.astype(object)}, "not an .npz"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(save, refused, arrays, told):
    (problem,) = refused(save(**arrays))
    assert re.search(told, problem)


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": LABELS + 0.5},
        {"labels": np.full(60, np.nan)},
        {"labels": LABELS.astype(str)},
        {"labels": LABELS == 1},
        {"images": np.uint8(3)},
        {"images": IMAGES[:0], "labels": LABELS[:0]},
    ],
    ids=["fractions", "nan", "words", "switches", "a number", "empty"],
)
def test_labels_and_images_that_make_no_sense_are_refused(save, refused, arrays):
    assert refused(save(**arrays))


def test_all_problems_of_a_file_are_told_at_once(save, refused):
    assert len(refused(save(images=IMAGES[:, :5] / 255, labels=LABELS + 1))) == 3


def test_a_missing_file_is_named(refused):
    assert "does not exist" in refused("/nowhere/mine.npz")[0]


@pytest.mark.parametrize("array", ["images", "labels"])
def test_a_file_that_lacks_an_array_is_refused(tmp_path, refused, array):
    arrays = {"images": IMAGES, "labels": LABELS}
    np.savez(tmp_path / "mine.npz", other=arrays.pop(array), **arrays)
    assert array in refused(str(tmp_path / "mine.npz"))[0]


def test_a_file_of_something_else_is_refused(tmp_path, refused):
    (tmp_path / "mine.npz").write_text("images and labels")
    assert "not an .npz" in refused(str(tmp_path / "mine.npz"))[0]


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(save, refused, part):
    path = save()
    with open(path, "r+b") as file:
        file.truncate(int(part * file.seek(0, 2)))
    assert "not an .npz" in refused(path)[0]


def test_a_file_with_damaged_images_is_refused(save, refused):
    path = save()
    with open(path, "r+b") as file:
        file.seek(400)
        file.write(bytes(range(100)))
    assert "not an .npz" in refused(path)[0]


def test_a_file_of_one_array_is_refused(tmp_path, refused):
    np.save(tmp_path / "mine.npy", IMAGES)
    assert "not an .npz" in refused(str(tmp_path / "mine.npy"))[0]


def test_a_file_whose_arrays_are_pickled_does_not_run_their_code(tmp_path, refused):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "mine.npz", images=np.array([Trap()], dtype=object), labels=LABELS)
    refused(str(tmp_path / "mine.npz"))
    assert not (tmp_path / "ran").exists()
