"""Labeled images in Parquet and Arrow files, as Hugging Face lays them out."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_tasks import stripes

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.data import load_data

IMAGES, LABELS = stripes(12)
NAMES = ["top", "middle", "bottom"]

pytest_plugins = ["small_task_fixtures"]


def as_png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def table(rows=slice(None), labels=LABELS, *, columns=("image", "label"), names=None):
    schema = pa.schema(
        {
            columns[0]: pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            columns[1]: pa.int64(),
        }
    )
    if names is not None:
        features = {columns[1]: {"names": names, "_type": "ClassLabel"}}
        told = {"info": {"features": features}}
        schema = schema.with_metadata({"huggingface": json.dumps(told)})
    held = [[as_png(image) for image in IMAGES[rows]], [int(label) for label in labels[rows]]]
    return pa.Table.from_arrays(
        [pa.array(column, type) for column, type in zip(held, schema.types, strict=True)],
        schema=schema,
    )


def write(path, table, kind="parquet"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=5)
        return path
    writer = {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind]
    with writer(str(path), table.schema) as sink:
        sink.write_table(table, max_chunksize=5)
    return path


def load(task, path, split="test"):
    return load_data(task, split, str(path))


def refused(task, path):
    with pytest.raises(ConfigError) as refusal:
        load(task, path)
    return " ".join(refusal.value.problems)


def is_whole(found, rows=slice(None)):
    same = np.array_equal(found.images[:, 0].numpy(), IMAGES[rows])
    return same and found.labels.tolist() == LABELS[rows].tolist()


# What is read


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "label"), ("img", "fine_label")])
def test_a_file_of_parquet_is_read(stripes_task, tmp_path, columns):
    path = write(tmp_path / "all.parquet", table(columns=columns))
    assert is_whole(load(stripes_task, path))


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_a_file_of_arrow_is_read(stripes_task, tmp_path, kind):
    assert is_whole(load(stripes_task, write(tmp_path / "all.arrow", table(), kind)))


def test_the_files_of_a_split_are_read_in_the_order_of_their_names(stripes_task, tmp_path):
    write(tmp_path / "data" / "test-00001-of-00002.parquet", table(slice(7, None)))
    write(tmp_path / "data" / "test-00000-of-00002.parquet", table(slice(7)))
    write(tmp_path / "data" / "train-00000-of-00001.parquet", table(slice(2)))
    assert is_whole(load(stripes_task, tmp_path))
    assert is_whole(load(stripes_task, tmp_path, "train"), slice(2))


def test_folders_may_say_which_split_their_files_are(stripes_task, tmp_path):
    write(tmp_path / "validation" / "data-00000-of-00001.arrow", table(slice(3)), "stream")
    write(tmp_path / "train" / "data-00000-of-00001.arrow", table(slice(5)), "stream")
    write(tmp_path / "train" / "cache-1.arrow", table(), "stream")
    assert is_whole(load(stripes_task, tmp_path), slice(3))
    assert is_whole(load(stripes_task, tmp_path, "train"), slice(5))


def test_files_that_name_no_split_serve_both(stripes_task, tmp_path):
    write(tmp_path / "0.parquet", table())
    assert is_whole(load(stripes_task, tmp_path))
    assert is_whole(load(stripes_task, tmp_path, "train"))


def test_a_test_split_without_labels_gives_way_to_the_validation_split(stripes_task, tmp_path):
    """As ImageNet's on the hub."""
    write(tmp_path / "test-00000-of-00001.parquet", table(labels=np.full(12, -1)))
    write(tmp_path / "validation-00000-of-00001.parquet", table(slice(4)))
    assert is_whole(load(stripes_task, tmp_path), slice(4))


def test_classes_are_matched_by_name_where_the_file_names_the_tasks(stripes_task, tmp_path):
    backward = table(labels=2 - LABELS, names=NAMES[::-1])
    assert is_whole(load(stripes_task, write(tmp_path / "all.parquet", backward)))


@pytest.mark.parametrize("names", [["a", "b", "c"], ["top", "middle"], None])
def test_other_names_leave_the_numbers_as_they_are(stripes_task, tmp_path, names):
    path = write(tmp_path / "all.parquet", table(names=names))
    assert is_whole(load(stripes_task, path))


# What is refused


def test_labels_beyond_the_tasks_classes_are_refused(stripes_task, tmp_path):
    path = write(tmp_path / "all.parquet", table(labels=LABELS + 1, names=NAMES))
    assert "labels must be 0 to 2, got 1 to 3" in refused(stripes_task, path)


def test_a_split_without_labels_is_refused(stripes_task, tmp_path):
    path = write(tmp_path / "all.parquet", table(labels=np.full(12, -1)))
    assert "has no labels, only -1" in refused(stripes_task, path)


def test_a_split_that_is_missing_is_told_of(stripes_task, tmp_path):
    write(tmp_path / "train-00000-of-00001.parquet", table())
    told = refused(stripes_task, tmp_path)
    assert "holds tables of train, none of test or val" in told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda whole: whole.drop_columns("image"), "has columns label; expected a column image"),
        (lambda whole: whole.rename_columns(["image", "class"]), "has columns image, class"),
        (lambda whole: whole.set_column(1, "label", pa.array(["a"] * 12)), "labels of string"),
        (lambda whole: whole.set_column(1, "label", pa.array([None] * 12, pa.int8())), "int8"),
    ],
    ids=["images", "labels", "words", "nothing"],
)
def test_a_table_of_something_else_is_told_of(stripes_task, tmp_path, changed, told):
    path = write(tmp_path / "all.parquet", changed(table()))
    assert told in refused(stripes_task, path)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_file_that_is_cut_off_is_told_of(stripes_task, tmp_path, suffix):
    kind = "parquet" if suffix == "parquet" else "stream"
    path = write(tmp_path / f"all.{suffix}", table(), kind)
    path.write_bytes(path.read_bytes()[:40])
    assert f"all.{suffix} cannot be read" in refused(stripes_task, path)


def test_an_image_that_cannot_be_read_is_named_by_its_place(stripes_task, tmp_path):
    whole = table()
    pictures = whole.column("image").to_pylist()
    pictures[6] = {"bytes": b"none", "path": None}
    pictures[7] = {"bytes": None, "path": "elsewhere.png"}
    broken = whole.set_column(0, "image", pa.array(pictures, whole.schema.types[0]))
    told = refused(stripes_task, write(tmp_path / "all.parquet", broken))
    assert "all.parquet, image 1 of part 1, is no image" in told
    assert "image 2 of part 1" in told


def test_a_table_without_rows_is_refused(stripes_task, tmp_path):
    path = write(tmp_path / "all.parquet", table(slice(0)))
    assert "at least one image" in refused(stripes_task, path)
