"""Making label-text embeddings and looking at their geometry."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from small_tasks import write_task

from dfkd.methods.embeddings import LabelEmbeddings, load_label_embeddings
from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.embedding import (
    COLD,
    PAPER,
    WARM,
    as_json,
    cosines,
    draw,
    effective_dimensions,
    embed,
    inspect,
    told,
)
from dfkd.search_spaces.task import load_task


def embeddings(rows, names=None):
    vectors = torch.tensor(rows, dtype=torch.float32)
    return LabelEmbeddings(vectors, tuple(names or "abcdefgh"[: len(rows)]), "by hand")


def shown(found):
    import io

    console = Console(file=io.StringIO(), width=200)
    for part in told(found):
        console.print(part)
    return console.file.getvalue()


# Making


def test_what_is_written_is_read_back_by_name(tmp_path):
    to = str(tmp_path / "new" / "mine.safetensors")
    found = embed("cifar10", to=to)
    assert found.files == (to,)
    names = load_task("cifar10").classes
    again = load_label_embeddings(to, names[::-1]).vectors
    assert torch.equal(again, load_label_embeddings("minilm", names).vectors.flip(0))


def test_what_is_written_says_where_it_comes_from(tmp_path):
    to = str(tmp_path / "mine.safetensors")
    embed("cifar10", "random", to)
    with safe_open(to, framework="pt") as file:
        assert file.metadata()["source"] == "random, seed 0"


def test_a_task_of_the_users_can_name_what_was_written(tmp_path):
    task = write_task(tmp_path)
    embed(task, "random", str(tmp_path / "mine.safetensors"))
    other = write_task(tmp_path, {"embeddings": "mine.safetensors"})
    assert embed(other).width == 384


def test_the_source_is_the_tasks_own_unless_another_is_given():
    assert embed("digits").source == "minilm, digits"
    assert embed("digits", "onehot").source == "onehot"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"to": "mine.bin"}, "--to must be a .safetensors file"),
        ({"picture": "mine.jpg"}, "--picture must be a .png file"),
        ({"source": "minilmm"}, "Did you mean 'minilm'"),
        ({"to": "/proc/nothing/mine.safetensors"}, "cannot be written"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(tmp_path, monkeypatch, options, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=named):
        embed("digits", **options)
    assert not list(tmp_path.iterdir())


# Geometry


def test_the_nearest_class_is_the_one_nearest_in_meaning():
    found = embed("cifar10").neighbors
    closest = {name: near[0].name for name, near in found.items()}
    assert {name: closest[name] for name in ("cat", "truck", "deer")} == {
        "cat": "dog",
        "truck": "automobile",
        "deer": "horse",
    }
    assert all(near[0].cosine >= near[1].cosine >= near[2].cosine for near in found.values())


def test_no_class_is_its_own_neighbor():
    found = inspect(embeddings([[1, 0], [1, 0.1], [0, 1]])).neighbors
    assert [len(near) for near in found.values()] == [2, 2, 2]
    assert all(name not in {one.name for one in near} for name, near in found.items())


def test_vectors_that_share_a_large_part_are_nearly_collinear_until_centered():
    found = inspect(embeddings([[100, 1, 0], [100, -1, 0], [100, 0, 1], [100, 0, -1]]))
    assert found.mean_cosine > 0.999
    assert found.centered_cosine == pytest.approx(0, abs=1e-6)
    assert found.dimensions == pytest.approx(2)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_onehot_uses_one_direction_less_than_it_has_classes(count):
    assert inspect(embeddings(torch.eye(count).tolist())).dimensions == pytest.approx(count - 1)


def test_classes_with_one_vector_are_named():
    found = inspect(embeddings([[1, 2], [3, 1], [1, 2]]))
    assert found.alike == (("a", "c"),)
    assert "nothing tells these classes apart: a and c" in shown(found)


def test_imagenet_has_two_pairs_of_classes_that_nothing_tells_apart():
    assert embed("imagenet").alike == (("missile", "missile"), ("sunglasses", "sunglasses"))


def test_vectors_that_are_all_the_same_use_no_direction():
    found = inspect(embeddings([[1, 2], [1, 2]]))
    assert (found.dimensions, found.centered_cosine) == (0.0, 0.0)


vectors = st.lists(
    st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4), min_size=2, max_size=8
)


@given(rows=vectors)
def test_cosines_are_symmetric_and_bounded(rows):
    matrix = cosines(torch.tensor(rows, dtype=torch.float64))
    assert torch.allclose(matrix, matrix.T)
    assert float(matrix.abs().max()) <= 1 + 1e-9


@given(rows=vectors, scale=st.floats(0.1, 10))
def test_dimensions_do_not_depend_on_scale_and_stay_below_the_width(rows, scale):
    tensor = torch.tensor(rows, dtype=torch.float64)
    tensor = tensor - tensor.mean(0)
    if float(tensor.square().sum()) < 1e-6:
        return
    found = effective_dimensions(tensor)
    assert found == pytest.approx(effective_dimensions(scale * tensor), rel=1e-6)
    assert 1 - 1e-9 <= found <= min(tensor.shape) + 1e-9


# The picture


def colors(found):
    return {tuple(color) for _, color in draw(found).getcolors(1 << 24)}


def test_the_picture_has_the_colors_of_its_cosines():
    found = embeddings([[1, 0], [-1, 0], [0, 1], [0, -1]])
    picture = np.asarray(draw(found))
    cells = picture[8::16, -4 * 16 + 8 :: 16]
    assert tuple(cells[0, 0]) == WARM
    assert tuple(cells[0, 1]) == COLD
    assert tuple(cells[0, 2]) == PAPER


def test_names_stand_beside_few_classes_and_not_beside_many():
    few = draw(embeddings([[1.0, 0.0], [0.0, 1.0]]))
    many = draw(embeddings(torch.eye(70).tolist(), [str(number) for number in range(70)]))
    assert few.width > few.height == 32
    assert many.size == (280, 280)


def test_a_picture_of_a_thousand_classes_is_not_too_large(tmp_path):
    embed("imagenet", picture=str(tmp_path / "it.png"))
    with Image.open(tmp_path / "it.png") as picture:
        assert picture.size == (4000, 4000)


def test_the_picture_is_the_same_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        embed("cifar10", picture=str(tmp_path / name))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# Telling


def test_of_few_classes_the_neighbors_of_each_are_told():
    assert "dog" in shown(embed("cifar10")).split("cat ", 1)[1]


def test_of_many_classes_the_closest_pairs_are_told(tmp_path):
    text = shown(embed("cifar100", to=str(tmp_path / "x.safetensors")))
    assert text.count("\n") < 40
    assert f"wrote {tmp_path / 'x.safetensors'}" in text


def test_a_geometry_is_json():
    found = json.loads(json.dumps(as_json(embed("cifar10"))))
    assert found["neighbors"]["cat"][0]["class"] == "dog"
    assert math.isclose(found["mean_cosine"], embed("cifar10").mean_cosine)
