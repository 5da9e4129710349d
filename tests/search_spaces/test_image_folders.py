import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_tasks import stripes, tree

from dfkd.methods.errors import ConfigError
from dfkd.methods.shape import ImageShape
from dfkd.search_spaces.classes import Classes
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.image_folders import match_classes, read_image_folder, split_folder
from dfkd.search_spaces.pictures import as_array
from dfkd.search_spaces.task import parse_task

NAMES = ("top", "middle", "bottom")
CLASSES = Classes(NAMES)
IMAGES, LABELS = stripes(12)
SHAPE = ImageShape(1, 6, 6)

pytest_plugins = ["small_task_fixtures"]


def write_classes(root, rows=slice(None), *, suffix="png", folders=NAMES):
    """A folder for each class with its images of the small task; lossless as png and bmp."""
    for number, (image, label) in enumerate(zip(IMAGES[rows], LABELS[rows], strict=True)):
        folder = root / folders[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:03}.{suffix}")
    return root


def write_image(root, image, **options):
    """The same image for each class, in a folder of its own; its path is `{class}/it.png`."""
    for name in NAMES:
        (root / name).mkdir(parents=True, exist_ok=True)
        image.save(root / name / "it.png", **options)
    return root


def refused(root, split="train", classes=CLASSES, shape=SHAPE):
    with pytest.raises(ConfigError) as refusal:
        read_image_folder(root, split, classes, shape)
    return refusal.value.problems


def by_class(images, labels):
    return {name: images[labels == index].tolist() for index, name in enumerate(NAMES)}


# Where images lie


@pytest.mark.parametrize("suffix", ["png", "bmp", "PNG"])
def test_images_come_back_with_their_classes(tmp_path, suffix):
    images, labels = read_image_folder(
        write_classes(tmp_path, suffix=suffix), "train", CLASSES, SHAPE
    )
    assert by_class(images[:, 0], labels) == by_class(IMAGES, LABELS)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_packed_images_come_back_nearly(tmp_path, suffix):
    write_image(tmp_path, Image.new("L", (6, 6), 90))
    for name in NAMES:
        (tmp_path / name / "it.png").unlink()
        Image.new("RGB", (6, 6), (90, 90, 90)).save(tmp_path / name / f"it.{suffix}")
    images, _ = read_image_folder(tmp_path, "train", CLASSES, SHAPE)
    assert abs(int(images.max()) - 90) <= 2


def test_a_folder_that_is_not_divided_serves_both_splits(tmp_path):
    write_classes(tmp_path)
    train, test = (read_image_folder(tmp_path, s, CLASSES, SHAPE)[0] for s in ("train", "test"))
    assert np.array_equal(train, test)


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation", "Test"])
def test_a_divided_folder_keeps_its_splits_apart(tmp_path, name):
    write_classes(tmp_path / "train", slice(0, 9))
    write_classes(tmp_path / name, slice(9, 12))
    sizes = [len(read_image_folder(tmp_path, s, CLASSES, SHAPE)[1]) for s in ("train", "test")]
    assert sizes == [9, 3]


def test_of_test_and_val_the_first_is_the_test_split(tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / name).mkdir()
    assert split_folder(tmp_path, "test", CLASSES) == tmp_path / "test"


@pytest.mark.parametrize(("there", "asked"), [("train", "test"), ("val", "train")])
def test_a_split_that_is_missing_is_asked_for(tmp_path, there, asked):
    write_classes(tmp_path / there)
    (problem,) = refused(tmp_path, asked)
    assert re.search(f"holds {there} but no folder {asked}", problem)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
    assert split_folder(tmp_path, "test", Classes(("bus", "train"))) == tmp_path


def test_images_may_lie_deeper_in_their_class(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "top" / "more").mkdir()
    Image.new("L", (6, 6)).save(tmp_path / "top" / "more" / "it.png")
    assert len(read_image_folder(tmp_path, "train", CLASSES, SHAPE)[1]) == 13


def test_files_and_folders_that_are_no_images_do_not_count(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "top" / "notes.txt").write_text("mine")
    (tmp_path / "top" / "._000.png").write_bytes(b"left by a file manager")
    (tmp_path / "labels.csv").write_text("a,b")
    for name in (".cache", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert len(read_image_folder(tmp_path, "train", CLASSES, SHAPE)[1]) == 12


def test_the_order_is_the_same_every_time(tmp_path):
    write_classes(tmp_path)
    first = read_image_folder(tmp_path, "train", CLASSES, SHAPE)
    assert first[1].tolist() == sorted(
        first[1].tolist(), key=lambda i: sorted(NAMES).index(NAMES[i])
    )


# Which folder is which class


@pytest.mark.parametrize(
    "name", ["Ankle boot", "ankle boot", "ankle_boot", "Ankle-Boot", "ankle__boot"]
)
def test_case_and_separators_of_a_class_do_not_matter(tmp_path, name):
    for folder in (name, "T-shirt_top"):
        (tmp_path / folder).mkdir()
    found = match_classes(tmp_path, Classes(("T-shirt/top", "Ankle boot")))
    assert found == {tmp_path / name: 1, tmp_path / "T-shirt_top": 0}


def test_a_folder_may_be_called_by_the_wordnet_id_of_its_class(tmp_path):
    for folder in ("n01440764", "crane bird"):
        (tmp_path / folder).mkdir()
    known = Classes(("crane bird", "tench"), ("n02012849", "n01440764"))
    assert match_classes(tmp_path, known) == {
        tmp_path / "crane bird": 0,
        tmp_path / "n01440764": 1,
    }


def test_case_matters_where_classes_differ_in_nothing_else(tmp_path):
    for folder in ("a", "A"):
        (tmp_path / folder).mkdir()
    assert match_classes(tmp_path, Classes(("A", "a"))) == {tmp_path / "A": 0, tmp_path / "a": 1}


def test_an_unknown_folder_gets_the_nearest_class(tmp_path):
    write_classes(tmp_path, folders=("top", "midle", "bottom"))
    problems = refused(tmp_path)
    assert re.search("no class 'midle' in the task; did you mean 'middle'", problems[0])
    assert "no folder for class 'middle'" in problems[1]


def test_every_unknown_folder_and_missing_class_is_told_at_once(tmp_path):
    write_classes(tmp_path, folders=("top", "x", "y"))
    told = " ".join(refused(tmp_path))
    assert all(f"'{name}'" in told for name in ("x", "y", "middle", "bottom"))


def test_of_many_missing_classes_some_are_named(tmp_path):
    (tmp_path / "0").mkdir()
    (problem,) = refused(tmp_path, classes=Classes(tuple(map(str, range(100)))))
    assert problem.count("'") == 10
    assert "94 more" in problem


def test_two_folders_of_one_class_are_refused(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "TOP").mkdir()
    assert "two folders are called as class 'top'" in refused(tmp_path)[0]


def test_a_class_without_images_is_refused(tmp_path):
    write_classes(tmp_path)
    for path in (tmp_path / "middle").iterdir():
        path.unlink()
    assert f"{tmp_path / 'middle'} holds no images" in refused(tmp_path)[0]


def test_a_folder_of_nothing_is_refused(tmp_path):
    assert (
        "none of these: a folder of images for each class (top/, middle/, ...)"
        in refused(tmp_path)[0]
    )


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, stripes_task, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_data(stripes_task, "test", str(tmp_path))


# What an image becomes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_kind_get_the_tasks_channels(tmp_path, mode, channels):
    image = Image.new("RGB", (6, 6), (255, 255, 255)).convert(mode)
    suffix = "png"
    if mode == "CMYK":
        suffix = "jpg"
    for name in NAMES:
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / f"it.{suffix}")
    images, _ = read_image_folder(tmp_path, "train", CLASSES, ImageShape(channels, 6, 6))
    assert images.shape == (3, channels, 6, 6)
    assert int(images.min()) >= 250


def test_colors_keep_their_channels(tmp_path):
    write_image(tmp_path, Image.new("RGB", (6, 6), (10, 20, 30)))
    images, _ = read_image_folder(tmp_path, "train", CLASSES, ImageShape(3, 6, 6))
    assert images[0, :, 0, 0].tolist() == [10, 20, 30]


def test_of_images_of_16_bits_the_upper_8_are_kept(tmp_path):
    levels = (np.arange(36).reshape(6, 6) * 1800).astype(np.uint16)
    write_image(tmp_path, Image.fromarray(levels))
    images, _ = read_image_folder(tmp_path, "train", CLASSES, SHAPE)
    assert np.array_equal(images[0, 0], levels >> 8)


def test_an_image_of_the_tasks_size_is_left_as_it_is(tmp_path):
    write_image(tmp_path, Image.fromarray(IMAGES[0]))
    assert np.array_equal(read_image_folder(tmp_path, "train", CLASSES, SHAPE)[0][0, 0], IMAGES[0])


@pytest.mark.parametrize("size", [(3, 3), (20, 20), (7, 30), (30, 7)])
def test_every_image_gets_the_tasks_size(tmp_path, size):
    write_image(tmp_path, Image.new("L", size, 77))
    images, _ = read_image_folder(tmp_path, "train", CLASSES, ImageShape(1, 5, 8))
    assert images.shape == (3, 1, 5, 8)
    assert set(images.ravel().tolist()) == {77}


@pytest.mark.parametrize("axis", [0, 1])
def test_of_a_long_image_the_middle_is_kept(tmp_path, axis):
    levels = np.zeros((6, 18), np.uint8)
    levels[:, 6:12] = 255
    write_image(tmp_path, Image.fromarray(levels if axis else levels.T.copy()))
    assert read_image_folder(tmp_path, "train", CLASSES, SHAPE)[0].min() == 255


def test_a_photo_is_turned_upright(tmp_path):
    levels = np.zeros((6, 6), np.uint8)
    levels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    write_image(tmp_path, Image.fromarray(levels), exif=exif)
    images, _ = read_image_folder(tmp_path, "train", CLASSES, SHAPE)
    assert images[0, 0, :, 0].tolist() == [0, 0, 0, 0, 0, 255]


def test_an_image_that_was_replaced_is_read_again(tmp_path):
    write_image(tmp_path, Image.new("L", (6, 6), 10))
    before = read_image_folder(tmp_path, "train", CLASSES, SHAPE)[0]
    time.sleep(0.01)  # file systems tell times no finer
    write_image(tmp_path, Image.new("L", (6, 6), 20))
    after = read_image_folder(tmp_path, "train", CLASSES, SHAPE)[0]
    assert (int(before.max()), int(after.min())) == (10, 20)


@pytest.mark.parametrize("damage", [b"", b"no image", None])
def test_a_broken_image_is_named(tmp_path, damage):
    write_classes(tmp_path)
    path = tmp_path / "middle" / "001.png"
    path.write_bytes(path.read_bytes()[:60] if damage is None else damage)
    (problem,) = refused(tmp_path)
    assert problem.startswith(f"{path} is no image that can be read")


def test_of_many_broken_images_some_are_named_and_all_counted(tmp_path):
    write_classes(tmp_path)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"")
    problems = refused(tmp_path)
    assert len(problems) == 6
    assert problems[-1] == "7 more cannot be read"


def test_images_are_fitted_as_the_task_says(tmp_path):
    gradient = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) // 2)
    write_image(tmp_path, gradient)
    found = [read_image_folder(tmp_path, "train", CLASSES, SHAPE, fit)[0] for fit in (None, Fit(9))]
    assert np.array_equal(found[1][0], as_array(gradient, SHAPE, Fit(9)))
    assert not np.array_equal(*found)


def test_a_task_of_two_channels_is_told_of_npz(tmp_path):
    assert ".npz" in refused(write_classes(tmp_path), shape=ImageShape(2, 6, 6))[0]


# As a task's data


def test_a_folder_serves_as_a_tasks_data(tmp_path, stripes_task):
    write_classes(tmp_path)
    found = load_data(stripes_task, "test", str(tmp_path))
    assert by_class(found.images[:, 0].numpy(), found.labels.numpy()) == by_class(IMAGES, LABELS)
    assert (found.images.dtype, found.labels.dtype) == (torch.uint8, torch.int64)


def test_a_task_in_color_gets_images_in_color(tmp_path):
    changes = {"image.channels": 3, "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    task = parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")
    found = load_data(task, "train", str(write_classes(tmp_path)))
    assert found.images.shape == (12, 3, 6, 6)
