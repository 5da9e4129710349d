"""What the comparison's tables make of results."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "tables.py"
spec = importlib.util.spec_from_file_location("benchmark_tables", PATH)
tables = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tables  # where dataclasses look their annotations up
spec.loader.exec_module(tables)


def line(name="nayer", accuracy=0.9, seed=0, variance=0.01, teacher="default", **more):
    over_epochs = {"mean": 0.8, "variance": variance, "gap": 0.01}
    facts = {"teacher_accuracy": 0.99, "test_images": 400, "commit": "abc", "machine": "a box"}
    costs = dict.fromkeys(("seconds_synthesis", "seconds_distillation", "images_made"), 1.0)
    half = [0.5 - variance**0.5, 0.5 + variance**0.5]
    figures = {"accuracy": accuracy, "over_epochs": over_epochs, "memory_mib": 1.0, "epochs": 4}
    figures["accuracies"] = [0.0, 0.1, *half]
    return {"key": ["digits", teacher, name, seed], **facts, **costs, **figures, **more}


def test_the_interval_of_equal_values_is_that_value():
    assert tables.interval([97.5] * 5) == "97.5 [97.5, 97.5]"


def test_the_interval_holds_the_median_and_lies_within_the_values():
    values = [90.0, 92.0, 93.0, 97.0, 99.0]
    low, high = tables.bootstrap(values)
    assert min(values) <= low <= 93.0 <= high <= max(values)


def test_the_most_accurate_comes_first():
    text = tables.table("digits", [line("noise", 0.7), line("nayer", 0.95), line("fast", 0.9)])
    assert text.index("`nayer`") < text.index("`fast`") < text.index("`noise`")


def test_a_failed_run_is_counted_and_not_averaged():
    failed = {"key": ["digits", "default", "nayer", 1], "failed": "diverged"}
    text = tables.table("digits", [line(), failed])
    assert text.rstrip().endswith("| 1 | 1 |")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0.95] * 5, [0.90, 0.91, 0.92, 0.93, 0.94], "confirmed (5 of 5)"),
        ([0.90] * 5, [0.91, 0.92, 0.93, 0.94, 0.95], "refuted (0 of 5)"),
        ([0.90, 0.96, 0.93, 0.95, 0.94], [0.93] * 5, "undecided (3 of 5)"),
        ([0.95, 0.96], [0.90, 0.90], "too few (2 of 2)"),
    ],
)
def test_a_claim_is_judged_by_differences_of_the_same_seed(first, second, expected):
    runs = [line("nayer", a, seed) for seed, a in enumerate(first)]
    runs += [line("fast", a, seed) for seed, a in enumerate(second)]
    claim = tables.Claim("nayer", "fast", "a paper")
    assert tables.verdict(claim, tables.differences(claim, runs)) == expected


def test_less_deviation_confirms_a_claim_that_something_is_steadier():
    claim = tables.Claim("mad", "dfad", "MAD", figure=tables.deviation, sign=-1)
    runs = [line("mad", seed=s, variance=0.01) for s in range(5)]
    runs += [line("dfad", seed=s, variance=0.04) for s in range(5)]
    gaps = tables.differences(claim, runs)
    assert gaps == pytest.approx([-10.0] * 5)
    assert tables.verdict(claim, gaps) == "confirmed (5 of 5)"


def test_a_margin_is_how_much_worse_the_first_may_be():
    claim = tables.Claim("ssd_kd", "fast", "SSD-KD", margin=1.0)
    assert tables.verdict(claim, [-0.5, -0.4, -0.6, 0.1, 0.0]) == "confirmed (5 of 5)"
    assert tables.verdict(claim, [-1.5, -1.4, -1.6, -1.2, -1.1]) == "refuted (0 of 5)"


def test_tables_take_the_place_of_those_before(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{tables.START}\nold\n{tables.END}\nbelow\n")
    tables.insert(page, "new")
    assert page.read_text() == f"above\n{tables.START}\n\nnew\n\n{tables.END}\nbelow\n"
