"""A trial, one epoch after the other."""

import functools
import time
from dataclasses import replace

import pytest
import torch
from small_tasks import EPOCHS, Scores, quick_trial, untimed

from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import Trial, correct, run_trial
from dfkd.search_spaces.data import LabeledImages

pytest_plugins = ["small_task_fixtures"]

each_method = pytest.mark.parametrize("method", ["nayer", "noise"])


@pytest.fixture(scope="module")
def spec(stripes_file, dfkd_cache):
    """A trial of the small task by a method; the task's own recipe, as set."""
    return functools.partial(quick_trial, stripes_file)


@pytest.fixture
def folder(tmp_path):
    return Folder.of(str(tmp_path / "t000"))


@each_method
def test_a_trial_has_one_row_per_epoch(spec, stripes_surroundings, method):
    result = run_trial(spec(method), stripes_surroundings)
    assert [row["epoch"] for row in result.history] == list(range(1, EPOCHS + 1))


@each_method
def test_every_row_says_whose_it_is(spec, stripes_surroundings, method):
    rows = run_trial(spec(method), stripes_surroundings).history
    assert {(row["trial"], row["method"]) for row in rows} == {("t000", method)}


def test_rows_are_told_as_they_are_measured(spec, stripes_surroundings):
    told = []
    result = run_trial(spec(), stripes_surroundings, on_epoch=told.append)
    assert told == result.history


def activities(row):
    """Seconds by activity."""
    return {key: value for key, value in row.items() if key.startswith("seconds_")}


def test_the_time_of_an_epoch_is_split_into_activities(spec, stripes_surroundings):
    row = run_trial(spec(), stripes_surroundings).history[-1]
    assert all(activities(row)[f"seconds_{what}"] > 0 for what in ("synthesis", "distillation"))


class SlowlySaved(Trial):
    """A trial whose storage takes its time."""

    def save(self):
        time.sleep(0.2)
        super().save()


def test_activities_take_no_longer_than_their_epoch(spec, stripes_surroundings, folder):
    trial = SlowlySaved(spec(), stripes_surroundings, folder)
    for row in (trial.step(), trial.step()):
        assert sum(activities(row).values()) <= row["seconds"] + 0.1


@each_method
def test_the_same_seed_gives_the_same_numbers(spec, stripes_surroundings, method):
    rows = [run_trial(spec(method), stripes_surroundings).history for _ in range(2)]
    assert untimed(rows[0]) == untimed(rows[1])


@each_method
def test_numbers_do_not_depend_on_what_was_drawn_before(spec, stripes_surroundings, method):
    first = run_trial(spec(method), stripes_surroundings).history
    torch.manual_seed(99)
    assert untimed(run_trial(spec(method), stripes_surroundings).history) == untimed(first)


@each_method
def test_an_epoch_draws_nothing_from_the_global_generator(spec, stripes_surroundings, method):
    trial = Trial(spec(method), stripes_surroundings)
    before = torch.get_rng_state()
    while not trial.finished:
        trial.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_draws_its_own_numbers(spec, stripes_surroundings):
    """A student that stands still has another loss only on other images."""
    still = spec("noise", student_lr=1e-30, warmup=0)
    losses = {row["kd_loss"] for row in run_trial(still, stripes_surroundings).history}
    assert len(losses) == EPOCHS


def test_another_seed_gives_other_numbers(spec, stripes_surroundings):
    losses = [
        run_trial(replace(spec(), seed=seed), stripes_surroundings).history[-1]["kd_loss"]
        for seed in (0, 1)
    ]
    assert losses[0] != losses[1]


def test_a_trials_id_changes_no_number(spec, stripes_surroundings):
    one, two = (
        run_trial(replace(spec(), id=id), stripes_surroundings).history[-1]["kd_loss"]
        for id in ("t000", "t001")
    )
    assert one == two


def test_a_trial_leaves_its_surroundings_as_they_were(spec, stripes_surroundings):
    before = stripes_surroundings.teacher.fingerprint
    run_trial(spec(), stripes_surroundings)
    assert stripes_surroundings.teacher.fingerprint == before


def test_what_students_are_measured_on_does_not_change_how_they_learn(spec, stripes_surroundings):
    data = stripes_surroundings.evaluation
    mixed = LabeledImages(data.images, data.labels[torch.randperm(len(data))])
    measured = ("accuracy", "score")
    histories = [
        run_trial(spec(), replace(stripes_surroundings, evaluation=evaluation)).history
        for evaluation in (data, mixed)
    ]
    one, two = (
        [{key: row[key] for key in row if key not in measured} for row in untimed(rows)]
        for rows in histories
    )
    assert one == two


def test_without_labels_nothing_is_called_accuracy(spec, stripes_surroundings):
    blind = replace(stripes_surroundings, evaluation=None, score=Scores(*range(EPOCHS)))
    assert not any("accuracy" in row for row in run_trial(spec(), blind).history)


def test_without_labels_a_student_learns_the_same(spec, stripes_surroundings):
    blind = replace(stripes_surroundings, evaluation=None, score=Scores(*range(EPOCHS)))
    losses = [
        [row.get("kd_loss") for row in run_trial(spec(), surroundings).history]
        for surroundings in (stripes_surroundings, blind)
    ]
    assert losses[0] == losses[1]


def test_accuracy_is_the_share_of_images_classified_rightly(spec, stripes_surroundings):
    trial = Trial(spec(), stripes_surroundings)
    accuracy = trial.step()["accuracy"]
    data = stripes_surroundings.evaluation
    trial.network.eval()
    right = trial.network(data.images.float() / 255).argmax(1) == data.labels
    assert accuracy == pytest.approx(float(right.float().mean()))


def test_rightness_does_not_depend_on_batches(stripes_task, stripes_teacher, monkeypatch):
    from dfkd.search_spaces import encoded
    from dfkd.search_spaces.data import load_data

    data, network = load_data(stripes_task, "test"), stripes_teacher.build(stripes_task).network
    whole = correct(network, data)
    monkeypatch.setattr(encoded, "BATCH", 7)
    assert correct(network, data) == whole
