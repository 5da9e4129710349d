"""Twenty real images each of ImageNet, CIFAR-10 and CIFAR-100, read as their tasks declare.

They come with PyPI's foolbox, whose code is not imported; a file's name ends in its label.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import transforms

from dfkd.search_spaces import data as module
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.files import packaged_file
from dfkd.search_spaces.streaming import StreamedImages
from dfkd.search_spaces.task import load_task


def samples(label_set):
    """Paths and labels, in the order of the labels' files."""
    first = packaged_file("foolbox", "__init__.py")
    if first is None:
        pytest.skip("the sample images come with foolbox: pip install --no-deps foolbox==3.3.4")
    paths = sorted((first.parent / "data").glob(f"{label_set}_*"))
    return paths, [int(re.findall(r"\d+", path.stem)[-1]) for path in paths]


def as_table(label_set, path):
    paths, labels = samples(label_set)
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in paths]
    pq.write_table(pa.table({"image": images, "label": labels}), path, row_group_size=7)
    return str(path)


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "cifar100"])
def test_there_are_twenty_of_the_tasks_size(tmp_path, name):
    task = load_task(name)
    found = load_data(task, "test", as_table(name, tmp_path / "some.parquet"))
    assert found.images.shape == (20, 3, task.shape.height, task.shape.width)
    assert found.labels.tolist() == samples(name)[1]


def test_a_photo_is_what_torchvisions_own_preset_makes_of_it(tmp_path):
    found = load_data(load_task("imagenet"), "test", as_table("imagenet", tmp_path / "x.parquet"))
    preset = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    for path, image in zip(samples("imagenet")[0], found.images, strict=True):
        theirs = np.asarray(preset(Image.open(path).convert("RGB")))
        assert np.array_equal(image.permute(1, 2, 0), theirs)


def test_small_pictures_stay_as_they_are(tmp_path):
    found = load_data(load_task("cifar10"), "test", as_table("cifar10", tmp_path / "x.parquet"))
    for path, image in zip(samples("cifar10")[0], found.images, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(Image.open(path).convert("RGB")))


def test_photos_that_are_streamed_are_the_same(tmp_path, monkeypatch):
    path = as_table("imagenet", tmp_path / "some.parquet")
    kept = load_data(load_task("imagenet"), "test", path)
    monkeypatch.setattr(module, "HELD", 1 << 20)
    streamed = load_data(load_task("imagenet"), "test", path)
    assert isinstance(streamed, StreamedImages)
    assert module.same_images(kept, streamed)


def test_labels_and_class_names_of_imagenet_go_together():
    """By what the files of a few well-known labels show; the names are ours."""
    names = load_task("imagenet").classes
    known = {1: "goldfish", 207: "Golden Retriever", 281: "tabby cat", 985: "daisy", 963: "pizza"}
    assert {label: names[label] for label in known} == known
