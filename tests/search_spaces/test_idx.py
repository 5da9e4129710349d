import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import stripes, tree

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.idx import find_idx, read_idx, read_idx_folder
from dfkd.search_spaces.task import parse_task

IMAGES, LABELS = stripes()
TRAIN, TEST = slice(0, 40), slice(40, 60)
NAMES = ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte")
DOTTED = ("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte")

pytest_plugins = ["small_task_fixtures"]


def idx(array, kind=0x08):
    """The bytes of an IDX file."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_set(folder, *, names=NAMES, packed=False, images=IMAGES, labels=LABELS):
    """The four files of a set, as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, rows in (("train", TRAIN), ("t10k", TEST)):
        for name, array in zip(names, (images, labels), strict=True):
            data = idx(array[rows])
            path = folder / (name.format(prefix) + ".gz" * packed)
            path.write_bytes(gzip.compress(data) if packed else data)
    return folder


def refused(read, *arguments):
    with pytest.raises(ConfigError) as refusal:
        read(*arguments)
    return refusal.value.problems


# One file


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), packed=st.booleans(), data=st.data()
)
def test_an_array_comes_back_from_a_file(tmp_path_factory, shape, packed, data):
    count = int(np.prod(shape))
    values = data.draw(st.lists(st.integers(0, 255), min_size=count, max_size=count))
    array = np.array(values, np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    assert np.array_equal(read_idx(path), array)


def test_sizes_are_read_with_the_first_byte_highest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\0\0\x08\x01" + b"\x00\x00\x01\x02" + bytes(258))
    assert read_idx(path).shape == (258,)


@pytest.mark.parametrize("size", [0, 3, 4, 9, 15, 16, 100])
def test_a_file_that_is_cut_off_is_refused_by_its_name(tmp_path, size):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(IMAGES)[:size])
    (problem,) = refused(read_idx, path)
    assert problem.startswith(str(path))
    assert "again" in problem


def test_of_a_file_that_is_cut_off_both_sizes_are_told(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(idx(IMAGES)[:-10])
    assert re.search(
        r"2,150 bytes.*\(60, 6, 6\) says 2,160: it is cut off", refused(read_idx, path)[0]
    )


def test_a_file_with_something_after_its_values_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(idx(IMAGES) + b"\0")
    assert "something was added" in refused(read_idx, tmp_path / "file")[0]


@pytest.mark.parametrize("part", [0.2, 0.6, 0.99])
def test_a_packed_file_that_is_cut_off_is_refused(tmp_path, part):
    data = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (50, 6, 6))))
    (tmp_path / "file.gz").write_bytes(data[: int(part * len(data))])
    assert "cannot be read" in refused(read_idx, tmp_path / "file.gz")[0]


def test_a_packed_file_that_is_damaged_is_refused(tmp_path):
    data = bytearray(gzip.compress(idx(IMAGES)))
    data[60:80] = bytes(20)
    (tmp_path / "file.gz").write_bytes(data)
    assert "cannot be read" in refused(read_idx, tmp_path / "file.gz")[0]


def test_a_file_of_something_else_is_refused_with_how_it_begins(tmp_path):
    (tmp_path / "file").write_text("<html>not found</html>")
    assert "no IDX file: it begins with b'<htm'" in refused(read_idx, tmp_path / "file")[0]


def test_values_that_are_no_bytes_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(idx(IMAGES, kind=0x0D))
    assert "type 0x0d" in refused(read_idx, tmp_path / "file")[0]


def test_a_header_that_promises_more_than_any_memory_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"\0\0\x08\x04" + b"\xff" * 16)
    assert "cut off" in refused(read_idx, tmp_path / "file")[0]


def test_a_missing_file_is_named(tmp_path):
    assert "No such file" in refused(read_idx, tmp_path / "file")[0]


# A folder of four

each_layout = pytest.mark.parametrize("inside", ["", "raw", "FashionMNIST/raw", "MNIST/raw"])


@each_layout
@pytest.mark.parametrize("names", [NAMES, DOTTED], ids=["dashes", "dots"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_a_set_is_found_however_it_lies(tmp_path, inside, names, packed):
    write_set(tmp_path / inside, names=names, packed=packed)
    images, labels = read_idx_folder(find_idx(tmp_path, "mine"), "train")
    assert np.array_equal(images, IMAGES[TRAIN])
    assert np.array_equal(labels, LABELS[TRAIN])


def test_the_test_split_is_what_is_called_t10k(tmp_path):
    images, labels = read_idx_folder(write_set(tmp_path), "test")
    assert np.array_equal(images, IMAGES[TEST])
    assert np.array_equal(labels, LABELS[TEST])


def test_a_file_that_is_there_twice_is_read_unpacked(tmp_path):
    write_set(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    assert len(read_idx_folder(tmp_path, "train")[0]) == 40


def test_a_file_that_was_unpacked_but_not_renamed_is_read(tmp_path):
    write_set(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(f"{path}.gz")
    assert len(read_idx_folder(tmp_path, "train")[0]) == 40


def test_a_folder_of_other_things_holds_no_set(tmp_path):
    (tmp_path / "cats").mkdir()
    assert find_idx(tmp_path, "mine") is None


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "Fashion-MNIST"])
def test_of_two_sets_the_one_called_as_the_task_is_taken(tmp_path, name):
    for folder in ("MNIST", "FashionMNIST"):
        write_set(tmp_path / folder / "raw")
    found = find_idx(tmp_path, name)
    assert found.parent.name == ("MNIST" if name == "mnist" else "FashionMNIST")


def test_two_sets_neither_of_which_is_meant_are_both_named(tmp_path):
    for folder in ("MNIST", "FashionMNIST"):
        write_set(tmp_path / folder / "raw")
    (problem,) = refused(find_idx, tmp_path, "mine")
    assert str(tmp_path / "MNIST/raw") in problem
    assert str(tmp_path / "FashionMNIST/raw") in problem


def test_all_files_that_are_missing_are_named_at_once(tmp_path):
    write_set(tmp_path)
    for name in NAMES:
        (tmp_path / name.format("t10k")).unlink()
    problems = refused(read_idx_folder, tmp_path, "test")
    assert [name.format("t10k") in told for name, told in zip(NAMES, problems, strict=True)] == [
        True,
        True,
    ]


def test_a_file_of_labels_that_holds_images_is_refused(tmp_path):
    write_set(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(IMAGES))
    assert re.search("labels.*3 dimensions", refused(read_idx_folder, tmp_path, "train")[0])


# As a task's data


def task_of(**changes):
    dotted = {"image.channels": 1, **{key.replace("_", "."): v for key, v in changes.items()}}
    channels = dotted["image.channels"]
    dotted["normalize"] = {"mean": [0.5] * channels, "std": [0.5] * channels}
    return parse_task(yaml.safe_dump(tree(dotted)), "mine.yaml")


def test_images_of_the_tasks_size_are_left_as_they_are(tmp_path, stripes_task):
    found = load_data(stripes_task, "train", str(write_set(tmp_path)))
    assert torch.equal(found.images[:, 0], torch.from_numpy(IMAGES[TRAIN]))
    assert found.labels.tolist() == LABELS[TRAIN].tolist()


def test_gray_images_serve_a_task_in_color(tmp_path):
    found = load_data(task_of(image_channels=3), "train", str(write_set(tmp_path)))
    assert torch.equal(found.images, torch.from_numpy(IMAGES[TRAIN])[:, None].expand(-1, 3, -1, -1))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 3), (5, 9), (12, 4)])
def test_images_are_fitted_to_the_tasks_size(tmp_path, height, width):
    task = task_of(image_height=height, image_width=width)
    images = load_data(task, "test", str(write_set(tmp_path))).images
    assert images.shape == (20, 1, height, width)
    assert images.dtype == torch.uint8


def test_an_even_image_stays_even_when_it_is_fitted(tmp_path):
    write_set(tmp_path, images=np.full((60, 6, 6), 200))
    images = load_data(task_of(image_height=9, image_width=4), "test", str(tmp_path)).images
    assert (int(images.min()), int(images.max())) == (200, 200)


def test_fitting_keeps_the_middle(tmp_path):
    middle = np.zeros((60, 6, 6))
    middle[:, 2:4, 2:4] = 255
    write_set(tmp_path, images=middle)
    images = load_data(task_of(image_height=12, image_width=12), "test", str(tmp_path)).images
    assert torch.equal(images, images.flip(2))
    assert torch.equal(images, images.flip(3))
    assert int(images[0, 0, 5, 5]) > 200 > int(images[0, 0, 0, 0])


def test_labels_beyond_the_tasks_classes_are_refused(tmp_path, stripes_task):
    write_set(tmp_path, labels=LABELS + 1)
    assert (
        "labels must be 0 to 2, got 1 to 3"
        in refused(load_data, stripes_task, "train", str(tmp_path))[0]
    )


def test_another_number_of_labels_than_images_is_refused(tmp_path, stripes_task):
    write_set(tmp_path)
    Path(tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:7]))
    assert (
        "40 images but labels of shape (7,)"
        in refused(load_data, stripes_task, "train", str(tmp_path))[0]
    )
