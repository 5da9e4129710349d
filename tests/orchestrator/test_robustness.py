import io
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from small_tasks import EPOCHS, STRIPES, plan

from dfkd.orchestrator import catalog, distill, rendering
from dfkd.orchestrator.model_card import model_card, over_epochs, percent
from dfkd.orchestrator.robustness import LAST, Robustness, as_json, robustness
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder

pytest_plugins = ["small_task_fixtures"]

WARMUP = STRIPES["recipe"]["warmup"]


def learned(accuracies, key="accuracy"):
    """The rows of epochs in which the student learned."""
    return [
        {"epoch": epoch, "kd_loss": 1.0, key: accuracy}
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def warmup(accuracy=0.1):
    return {"epoch": 0, "pool_images": 10, "accuracy": accuracy}


# By hand


def test_the_figures_are_those_computed_by_hand():
    """Mean 2.4 / 4; squares 0.04 + 0.01 + 0.09 + 0 over 4."""
    assert robustness(learned([0.4, 0.5, 0.9, 0.6]), last=3) == Robustness(
        epochs=4,
        mean=pytest.approx(0.6),
        variance=pytest.approx(0.035),
        best=0.9,
        last=0.6,
        last_mean=pytest.approx(2 / 3),
        last_epochs=3,
        gap=pytest.approx(0.3),
    )


def test_the_variance_is_the_populations():
    found = robustness(learned([0.4, 0.6]))
    assert (found.variance, found.deviation) == (pytest.approx(0.01), pytest.approx(0.1))


def test_the_last_five_are_averaged_unless_told_otherwise():
    found = robustness(learned([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert (found.last_mean, found.last_epochs) == (pytest.approx(0.4), 5)


def test_a_trial_of_few_epochs_says_over_how_many_its_last_ones_are():
    found = robustness(learned([0.2, 0.4]))
    assert (found.epochs, found.last_epochs, found.last_mean) == (2, 2, pytest.approx(0.3))


@pytest.mark.parametrize("last", [0, -1])
def test_no_last_epochs_have_no_mean(last):
    with pytest.raises(ValueError, match="at least 1"):
        robustness(learned([0.5]), last=last)


# What counts


def test_epochs_of_warmup_do_not_count():
    rows = learned([0.4, 0.6, 0.5])
    assert robustness([warmup(), warmup(0.99), *rows]) == robustness(rows)


def test_a_table_of_results_marks_warmup_by_an_empty_loss():
    rows = learned([0.4, 0.6])
    assert robustness([{**warmup(), "kd_loss": None}, *rows]) == robustness(rows)


def test_a_loss_of_zero_is_of_an_epoch_that_counts():
    assert robustness([{"epoch": 1, "kd_loss": 0.0, "accuracy": 0.5}]).epochs == 1


@pytest.mark.parametrize(
    "rows",
    [[], [warmup()], [{"epoch": 1, "kd_loss": 1.0}], learned([None, None])],
    ids=["no epoch", "warm-up only", "no accuracy", "empty accuracy"],
)
def test_there_are_no_figures_without_an_accuracy(rows):
    assert robustness(rows) is None


def test_a_score_without_labels_has_the_same_figures():
    values = [-3.0, -1.0, -2.0]
    assert robustness(learned(values, "score"), key="score") == robustness(learned(values))


# Properties

fractions = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(st.floats(0, 1), st.integers(1, 30))
def test_a_constant_accuracy_has_no_variance_and_no_gap(value, epochs):
    found = robustness(learned([value] * epochs))
    assert (found.variance, found.gap) == (0.0, 0.0)
    assert found.mean == found.best == found.last == found.last_mean == value


@given(st.data(), fractions)
def test_the_order_of_epochs_does_not_change_mean_variance_and_best(data, values):
    one = robustness(learned(values))
    two = robustness(learned(data.draw(st.permutations(values))))
    assert (one.mean, one.variance, one.best) == (two.mean, two.variance, two.best)


@given(fractions, st.integers(1, 10))
def test_nothing_is_better_than_the_best(values, last):
    found = robustness(learned(values), last=last)
    assert max(found.mean, found.last, found.last_mean) <= found.best
    assert found.gap >= 0
    assert found.variance >= 0


@given(fractions)
def test_the_mean_of_as_many_last_epochs_as_there_are_is_the_mean(values):
    found = robustness(learned(values), last=len(values))
    assert found.last_mean == found.mean


@given(fractions)
def test_the_figures_are_json_and_can_be_read_back(values):
    found = robustness(learned(values))
    assert Robustness(**json.loads(json.dumps(as_json(found)))) == found


# For people


def test_figures_for_people_are_in_percent():
    shown = over_epochs(robustness(learned([0.5, 0.7, 0.6, 0.6, 0.6])))
    assert shown == ("5", "60.00 ± 6.32 %", "60.00 %", "10.00 points")


def test_the_mean_of_fewer_last_epochs_says_of_how_many():
    assert over_epochs(robustness(learned([0.5, 0.7])))[2] == "60.00 % (of 2)"


def test_what_was_not_measured_is_shown_as_such():
    assert set(over_epochs(None)) == {"0", "not measured"}


# In a sweep


@pytest.fixture(scope="module")
def expected(done):
    """The figures of the finished run's student, from its accuracies alone."""
    accuracies = [row["accuracy"] for row in done.best.rows][WARMUP:]
    mean = math.fsum(accuracies) / len(accuracies)
    return {
        "epochs": EPOCHS - WARMUP,
        "mean": pytest.approx(mean),
        "variance": pytest.approx(
            math.fsum((accuracy - mean) ** 2 for accuracy in accuracies) / len(accuracies)
        ),
        "best": max(accuracies),
        "last": accuracies[-1],
        "last_mean": pytest.approx(mean),
        "last_epochs": min(LAST, EPOCHS - WARMUP),
        "gap": max(accuracies) - accuracies[-1],
    }


@pytest.fixture(scope="module")
def noise(stripes_file, tmp_path_factory, dfkd_cache):
    """A run of the control's method."""
    storage = str(tmp_path_factory.mktemp("storage"))
    return distill(stripes_file, name="noise", storage=storage, methods=("noise",))


@pytest.fixture(scope="module")
def compared(done, noise):
    """The finished run as a sweep with a control would end."""
    return replace(done, control=noise.best)


def printed(result):
    console = Console(file=io.StringIO(), width=120)
    for part in rendering.outcome(result):
        console.print(part)
    return console.file.getvalue()


def test_the_outcome_holds_the_figures_of_student_and_control(compared, expected):
    facts = catalog.outcome(compared)
    assert facts["robustness"] == expected
    assert facts["noise_control_robustness"] == as_json(compared.control.robustness)
    assert facts["noise_control_robustness"]["epochs"] == EPOCHS - WARMUP


def test_the_outcome_has_no_figures_of_a_control_that_did_not_run(done):
    assert catalog.outcome(done)["noise_control_robustness"] is None


def test_the_summary_lists_each_trial_with_its_figures(done, expected):
    best = done.best.best
    assert catalog.summary(done.run)["per_trial"] == [
        {
            "trial": "t000",
            "method": "nayer",
            "outcome": "finished",
            "epochs_run": EPOCHS,
            "best_epoch": best["epoch"],
            "score": best["score"],
            "fidelity": best["fidelity"],
            "agreement": best["agreement"],
            "accuracy": best["accuracy"],
            "robustness": expected,
        }
    ]


def test_the_exported_figures_hold_them_too(done, expected):
    metrics = done.exported.read_json("metrics.json")
    assert metrics["robustness"] == expected
    assert metrics["noise_control_robustness"] is None
    assert (metrics["epochs_run"], metrics["epochs_planned"]) == (EPOCHS, EPOCHS)


def test_the_summary_for_people_shows_student_and_control(compared):
    shown = printed(compared)
    for record in (compared.best, compared.control):
        assert all(cell in shown for cell in over_epochs(record.robustness))
    assert "standard deviation" in shown


def test_a_student_that_was_stopped_early_is_shown_as_such(compared):
    stopped = replace(compared.best, outcome="stopped")
    assert "best student (stopped)" in printed(replace(compared, best=stopped))


def test_a_sweep_without_labels_shows_no_figures(done):
    blind = tuple({k: v for k, v in row.items() if k != "accuracy"} for row in done.best.rows)
    assert "over epochs" not in printed(replace(done, best=replace(done.best, rows=blind)))


def test_the_card_shows_the_figures_and_how_many_epochs_ran(done):
    metrics = done.exported.read_json("metrics.json")
    card = model_card({**metrics, "epochs_run": 3})
    assert " | ".join(over_epochs(done.best.robustness)) in card
    assert f"3 of {EPOCHS} epochs ran" in card


def test_the_card_shows_the_controls_figures_where_there_are_some(done):
    metrics = done.exported.read_json("metrics.json")
    found = robustness(learned([0.25, 0.75]))
    card = model_card({**metrics, "noise_control_robustness": as_json(found)})
    assert f"| noise control | {' | '.join(over_epochs(found))} |" in card


def test_without_labels_the_card_says_that_nothing_was_measured(done):
    metrics = done.exported.read_json("metrics.json")
    card = model_card({**metrics, "accuracy": None, "robustness": None})
    assert f"| **this student** | 0 | {percent(None)} |" in card


# Trials that did not end as planned


@pytest.fixture
def unfinished(tmp_path, done):
    """A run with a trial cut off after two epochs, and one that has not begun."""
    run = Run(Folder.of(str(tmp_path / "unfinished")))
    run.folder.write("sweep.json", done.run.folder.read("sweep.json"))
    run.propose(done.best.spec)
    run.trial_folder("t000").write_json("history.json", done.best.rows[:2])
    run.propose(replace(done.best.spec, id="t001"))
    return run


def test_an_interrupted_trial_has_the_figures_of_the_epochs_it_had(unfinished):
    cut, waiting = catalog.summary(unfinished)["per_trial"]
    assert (cut["outcome"], cut["epochs_run"]) == (None, 2)
    assert cut["robustness"]["epochs"] == 2 - WARMUP
    assert (waiting["epochs_run"], waiting["best_epoch"], waiting["robustness"]) == (0, None, None)


@pytest.mark.parametrize("outcome", ["stopped", "failed"])
def test_a_trial_that_ended_early_says_after_how_many_epochs(unfinished, done, outcome):
    record = TrialRecord(spec=done.best.spec, rows=done.best.rows[:3], outcome=outcome)
    unfinished.end_trial(record)
    ended = catalog.summary(unfinished)["per_trial"][0]
    assert (ended["outcome"], ended["epochs_run"]) == (outcome, 3)
    assert ended["robustness"]["epochs"] == 3 - WARMUP


def test_the_summary_can_be_written_as_json(unfinished):
    facts = catalog.summary(unfinished)
    assert json.loads(json.dumps(facts)) == facts


def test_a_trial_in_its_warmup_has_no_figures_yet(stripes_file, dfkd_cache):
    spec = plan(stripes_file).trial("t000", "nayer", {})
    assert TrialRecord(spec=spec, rows=(warmup(),)).robustness is None
