"""The benchmark of GPUs runs on a CPU, in small."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parents[1] / "benchmarks")
sys.path.insert(0, FOLDER)
try:
    import gpu
finally:
    sys.path.remove(FOLDER)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What it writes of CIFAR-10."""
    return written(tmp_path_factory.mktemp("gpu"), "--cases", "cifar10")


def written(folder, *options):
    """The lines of a small run, wherever the tests may lie."""
    path = folder / "gpu.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "commit", lambda: "0123456")
        gpu.main(["--device", "cpu", "--small", "--to", str(path), *options])
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_says_where_it_comes_from(lines):
    assert [line["kind"] for line in lines] == ["rate", "epoch", "synthesis step"]
    assert all({"device", "machine", "torch", "commit"} <= line.keys() for line in lines)


def test_the_operations_are_those_of_the_networks_passes(lines):
    """By hand: 2 x multiply-adds of ResNet-34 and ResNet-18 at 32x32, as papers count them.

    A synthesis step passes both forward, and back to the images; a KD step the teacher forward,
    the student forward and back to images and weights, but not to its first layer's images.
    """
    teacher, student = 2 * 1.16e9, 2 * 0.556e9
    figures = lines[1]
    images = figures["batch_size"]
    assert figures["flops_of_a_synthesis_step"] == pytest.approx(
        images * 2 * (teacher + student), rel=0.02
    )
    assert figures["flops_of_a_kd_step"] == pytest.approx(
        images * (teacher + 3 * student), rel=0.02
    )


def test_shares_and_rates_follow_from_what_was_timed(lines):
    rate, figures = lines[0]["flops_per_second"], lines[1]
    assert figures["share"] == pytest.approx(figures["flops"] / figures["epoch"] / rate)
    assert figures["bare_of_epoch"] == pytest.approx(figures["bare"] / figures["epoch"])
    assert figures["synthesized_per_second"] > 0 < figures["distilled_per_second"]


def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path):
    lines = written(tmp_path, "--limit", "0")
    assert [line.get("why") for line in lines] == [None, *["no time"] * 3]
