"""Tiny-ImageNet as it is unpacked: its val/ is one folder of images and a file of lines."""

import numpy as np
import pytest
import yaml
from PIL import Image
from small_tasks import tree

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import parse_task

IDS = ("n01440764", "n02012849", "n03837869")
COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def picture(label, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), COLORS[label]).save(path, quality=95)


@pytest.fixture
def root(tmp_path):
    """Two training images of each class, and six for validation, shuffled."""
    folder = tmp_path / "tiny-imagenet-200"
    for label, id in enumerate(IDS):
        for number in range(2):
            picture(label, folder / "train" / id / "images" / f"{id}_{number}.JPEG")
    lines = []
    for number, label in enumerate([2, 0, 1, 1, 0, 2]):
        name = f"val_{number}.JPEG"
        picture(label, folder / "val" / "images" / name)
        lines.append(f"{name}\t{IDS[label]}\t0\t0\t7\t7\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(IDS)))
    picture(0, folder / "test" / "images" / "test_0.JPEG")  # of which nobody knows the class
    return tmp_path


@pytest.fixture
def task():
    changes = {
        "classes": list(IDS),
        "image": {"channels": 3, "height": 8, "width": 8},
        "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    return parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")


def refused(task, root):
    with pytest.raises(ConfigError) as refusal:
        load_data(task, "test", str(root))
    return " ".join(refusal.value.problems)


@pytest.mark.parametrize("below", ["", "tiny-imagenet-200"])
def test_validation_images_get_the_classes_of_their_lines(root, task, below):
    found = load_data(task, "test", str(root / below))
    assert found.labels.tolist() == [2, 0, 1, 1, 0, 2]
    assert found.images.float().mean((2, 3)).argmax(1).tolist() == [2, 0, 1, 1, 0, 2]


def test_training_images_get_the_classes_of_their_folders(root, task):
    found = load_data(task, "train", str(root))
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(found.images.float().mean((2, 3)).argmax(1), found.labels)


def test_validation_images_that_somebody_sorted_into_folders_are_read_too(root, task):
    folder = root / "tiny-imagenet-200" / "val"
    for line in (folder / "val_annotations.txt").read_text().splitlines():
        name, id = line.split("\t")[:2]
        (folder / id).mkdir(exist_ok=True)
        (folder / "images" / name).rename(folder / id / name)
    (folder / "val_annotations.txt").unlink()
    (folder / "images").rmdir()
    (root / "tiny-imagenet-200" / "test").rename(root / "elsewhere")
    found = load_data(task, "test", str(root / "tiny-imagenet-200"))
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("val_9.JPEG\tn01440764\t0\n", "val_9.JPEG is missing, which"),
        ("val_0.JPEG\tn09999999\t0\n", "line 7: no class of the task in ['val_0.JPEG'"),
        ("val_0.JPEG\n", "line 7: no class of the task in ['val_0.JPEG']"),
    ],
)
def test_a_line_that_does_not_fit_is_told_of(root, task, line, told):
    with open(root / "tiny-imagenet-200" / "val" / "val_annotations.txt", "a") as file:
        file.write(line)
    assert told in refused(task, root)


def test_a_file_without_lines_is_told_of(root, task):
    (root / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("")
    assert "lists no images" in refused(task, root)
