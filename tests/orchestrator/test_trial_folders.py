"""What a trial leaves in its folder: its best epoch, exact resumes, and what can go wrong."""

import functools
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from folders import Crash, InMemory
from safetensors.torch import load_file
from small_tasks import EPOCHS, Scores, contents, files_end_at, quick_trial, untimed

from dfkd.methods import pieces
from dfkd.methods.errors import DfkdError, TrialFailed
from dfkd.methods.team import Alone
from dfkd.orchestrator import checkpoints, trials
from dfkd.orchestrator.checkpoints import CHECKPOINT
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import HISTORY, SAVING_SHARE, STUDENT, Links, Trial, run_trial

pytest_plugins = ["small_task_fixtures"]

each_method = pytest.mark.parametrize("method", ["nayer", "noise"])


@pytest.fixture(scope="module")
def spec(stripes_file, dfkd_cache):
    """A trial of the small task by a method; the task's own recipe, as set."""
    return functools.partial(quick_trial, stripes_file)


@pytest.fixture
def folder(tmp_path):
    return Folder.of(str(tmp_path / "t000"))


def weights(trial):
    return {name: tensor.clone() for name, tensor in trial.inner.state_dict().items()}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# The best epoch


def scored(surroundings, *scores):
    return replace(surroundings, score=Scores(*scores))


@pytest.mark.parametrize(
    ("scores", "best"),
    [((1, 3, 2, 0), 2), ((0, 1, 3, 2), 3), ((0, 1, 2, 3), 4), ((2, 2, 1, 2), 4), ((0,) * 4, 4)],
)
def test_the_best_epoch_is_the_last_of_the_highest_score(spec, stripes_surroundings, scores, best):
    result = run_trial(spec(), scored(stripes_surroundings, *scores))
    assert result.best["epoch"] == best


def test_no_epoch_of_the_warm_up_is_best_once_the_student_has_learned(spec, stripes_surroundings):
    trial = Trial(spec(), scored(stripes_surroundings, 9, 1, 2, 0))
    assert [trial.step() and trial.best["epoch"] for _ in range(EPOCHS)] == [1, 2, 3, 3]


@pytest.fixture
def peaked(spec, stripes_surroundings, folder):
    """A trial that was best in epoch 2, with its student of then."""
    trial = Trial(spec("noise"), scored(stripes_surroundings, 0, 9, 1, 1), folder)
    states = []
    while not trial.finished:
        trial.step()
        states.append(weights(trial))
    assert not equal(states[1], states[3])
    return trial, states[1]


def test_the_result_is_the_student_of_the_best_epoch(peaked):
    trial, best = peaked
    assert equal(trial.result().student.network.state_dict(), best)


def test_the_file_holds_the_student_of_the_best_epoch(peaked, folder):
    assert equal(load_file(folder.local / STUDENT), peaked[1])


def test_a_resumed_trial_still_knows_its_best_student(peaked, folder, spec, stripes_surroundings):
    again = Trial(spec("noise"), stripes_surroundings, folder)
    assert equal(again.result().student.network.state_dict(), peaked[1])


def test_a_resumed_trial_still_knows_its_best_epoch(peaked, folder, spec, stripes_surroundings):
    assert Trial(spec("noise"), stripes_surroundings, folder).best == peaked[0].best


def test_a_resumed_trial_keeps_its_best_student_from_a_worse_one(
    spec, stripes_surroundings, folder
):
    first = Trial(spec("noise"), scored(stripes_surroundings, 0, 9), folder)
    first.step()
    first.step()
    first.save()
    second = Trial(spec("noise"), scored(stripes_surroundings, 0, 9, 1), folder)
    second.step()
    assert second.best["epoch"] == 2
    assert equal(load_file(folder.local / STUDENT), weights(first))


# Resuming is exact


def in_pieces(spec, surroundings, folder, stops):
    """A trial that is saved and begun anew from its folder after each of these epochs."""
    trial = Trial(spec, surroundings, folder)
    while not trial.finished:
        trial.step()
        if trial.epoch in stops:
            trial.save()
            trial = Trial(spec, surroundings, folder)
    return trial


@pytest.fixture(scope="module")
def whole(spec, stripes_surroundings):
    """Uninterrupted trials by method."""
    trials = {}
    for method in ("nayer", "noise"):
        trials[method] = Trial(spec(method), stripes_surroundings)
        while not trials[method].finished:
            trials[method].step()
    return trials


interruptions = pytest.mark.parametrize("stops", [{1}, {3}, {1, 2, 3, EPOCHS}], ids=str)


@each_method
@interruptions
def test_a_resumed_trial_gives_the_same_rows(
    spec, stripes_surroundings, folder, whole, method, stops
):
    trial = in_pieces(spec(method), stripes_surroundings, folder, stops)
    assert untimed(trial.history) == untimed(whole[method].history)


@each_method
@interruptions
def test_a_resumed_trial_gives_the_same_student_to_the_last_bit(
    spec, stripes_surroundings, folder, whole, method, stops
):
    trial = in_pieces(spec(method), stripes_surroundings, folder, stops)
    assert equal(weights(trial), weights(whole[method]))


@each_method
def test_a_resumed_trial_has_the_same_best_student(
    spec, stripes_surroundings, folder, whole, method
):
    trial = in_pieces(spec(method), stripes_surroundings, folder, {1, 3})
    one, two = (t.result().student.network.state_dict() for t in (trial, whole[method]))
    assert equal(one, two)


def test_a_finished_trial_has_nothing_left_to_do(spec, stripes_surroundings, folder):
    run_trial(spec(), stripes_surroundings, folder)
    told = []
    run_trial(spec(), stripes_surroundings, folder, on_epoch=told.append)
    assert not told


@pytest.mark.parametrize("last", [1, 2, EPOCHS])
def test_an_interrupted_run_is_resumed_without_gap_or_repetition(
    spec, stripes_surroundings, folder, whole, last
):
    def interrupt(row):
        if row["epoch"] == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(spec(), stripes_surroundings, folder, on_epoch=interrupt)
    rows = run_trial(spec(), stripes_surroundings, folder).history
    assert untimed(rows) == untimed(whole["nayer"].history)


def test_the_history_beside_a_checkpoint_is_the_checkpoints(spec, stripes_surroundings, folder):
    trial = Trial(spec(), stripes_surroundings, folder)
    for _ in range(3):
        trial.step()
        trial.save()
        assert folder.read_json(HISTORY) == Trial(spec(), stripes_surroundings, folder).history


def test_a_trial_without_a_folder_writes_nothing(spec, stripes_surroundings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_trial(spec(), stripes_surroundings)
    assert not contents(tmp_path)


class OneOfTwo(Alone):
    """Two workers that save one after the other, the first one last, and meet nowhere else."""

    size = 2

    def __init__(self, rank, states):
        self.rank, self.states = rank, states

    def gather(self, state):
        self.states[self.rank] = state
        return [] if self.rank else [self.states[0], self.states[1]]


def test_each_worker_of_a_trial_resumes_from_its_own_state(spec, stripes_surroundings, monkeypatch):
    monkeypatch.setattr(checkpoints, "LONG", 100)
    monkeypatch.setattr(trials, "SAVING_SHARE", -1.0)  # saved below, and nowhere else
    folder, teams = InMemory("t000"), [OneOfTwo(rank, {}) for rank in range(2)]
    for team in teams:
        team.states = teams[0].states

    def workers():
        return [
            Trial(spec(), stripes_surroundings, folder, links=Links(team=team)) for team in teams
        ]

    begun = workers()
    for trial in begun:
        trial.step()
        trial.step()
    for trial in reversed(begun):
        trial.save()
    for before, resumed in zip(begun, workers(), strict=True):
        one, two = (trial.method for trial in (before, resumed))
        assert torch.equal(one.pool.images, two.pool.images)
        assert equal(one.generator.state_dict(), two.generator.state_dict())
    one, two = (trial.method.pool.images for trial in begun)
    assert not torch.equal(one, two), "else it does not matter whose is whose"


# What can go wrong


@pytest.fixture
def half_done(spec, stripes_surroundings, folder):
    """A trial in its second epoch of four, and its last checkpoint."""
    trial = Trial(spec(), stripes_surroundings, folder)
    trial.step()
    trial.step()
    trial.save()
    return trial, folder.read(CHECKPOINT)


def fail_to_save(trial, checkpoint):
    trial.step()
    with files_end_at(len(checkpoint) - 1000), pytest.raises(TrialFailed) as failure:
        trial.save()
    return str(failure.value)


def test_a_checkpoint_that_cannot_be_written_fails_the_trial(half_done, folder):
    told = fail_to_save(*half_done)
    assert f"{folder.uri}/{CHECKPOINT} cannot be written: File too large" in told


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(half_done, folder):
    fail_to_save(*half_done)
    assert folder.read(CHECKPOINT) == half_done[1]


def test_a_trial_resumes_from_before_the_checkpoint_that_failed(
    half_done, folder, spec, stripes_surroundings, whole
):
    fail_to_save(*half_done)
    rows = run_trial(spec(), stripes_surroundings, folder).history
    assert untimed(rows) == untimed(whole["nayer"].history)


@pytest.mark.parametrize("after", range(5))
def test_wherever_saving_is_cut_off_the_trial_resumes_exactly(
    spec, stripes_surroundings, whole, after, monkeypatch
):
    monkeypatch.setattr(checkpoints, "LONG", 100)
    monkeypatch.setattr(pieces, "PIECE", 360)
    monkeypatch.setattr(trials, "SAVING_SHARE", 0.0)  # no save but the first, and those below
    folder = InMemory("t000")
    trial = Trial(spec(), stripes_surroundings, folder)
    trial.step()
    trial.step()
    with folder.failing(after, Crash()), pytest.raises(Crash):
        trial.save()
    monkeypatch.setattr(trials, "SAVING_SHARE", 1.0)
    rows = run_trial(spec(), stripes_surroundings, folder).history
    assert untimed(rows) == untimed(whole["nayer"].history)
    blocks = set(folder.child(checkpoints.BLOCKS).files())
    assert blocks == checkpoints.named(checkpoints.read(folder))


def test_saving_counts_all_that_it_takes(spec, stripes_surroundings, folder, monkeypatch):
    """Five percent of the time are for saving: the next one is due after twenty times as much."""
    trial = Trial(spec("noise"), stripes_surroundings, folder)
    state = trial.method.state
    monkeypatch.setattr(trial.method, "state", lambda: time.sleep(0.05) or state())
    trial.save()
    assert not trial._saving_is_due()
    trial._saved_at -= 0.04 / SAVING_SHARE
    assert not trial._saving_is_due()
    trial._saved_at -= 1 / SAVING_SHARE
    assert trial._saving_is_due()


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_a_damaged_checkpoint_is_an_error_that_says_so(
    half_done, folder, spec, stripes_surroundings, kept
):
    Path(folder.local / CHECKPOINT).write_bytes(half_done[1][:kept])
    with pytest.raises(DfkdError, match=CHECKPOINT):
        Trial(spec(), stripes_surroundings, folder)


@each_method
def test_a_loss_that_is_not_finite_fails_the_trial_with_advice(spec, stripes_surroundings, method):
    wild = spec(method, student_lr=1e30, clip_norm=0)
    with pytest.raises(TrialFailed, match="student_lr"):
        run_trial(wild, stripes_surroundings)


def test_a_generator_that_diverges_fails_the_trial_with_advice(spec, stripes_surroundings):
    with pytest.raises(TrialFailed, match="generator_lr"):
        run_trial(spec(generator_lr=1e38), stripes_surroundings)


def test_a_failed_trial_has_no_row_of_the_failed_epoch(spec, stripes_surroundings):
    trial = Trial(spec("noise", student_lr=1e30, clip_norm=0), stripes_surroundings)
    with pytest.raises(TrialFailed):
        while not trial.finished:
            trial.step()
    assert [row["epoch"] for row in trial.history] == list(range(1, trial.epoch + 1))
    assert all(math.isfinite(row["score"]) for row in trial.history)


# What is left of a trial that ended


def kept_by(folder):
    return set(folder.child(checkpoints.BLOCKS).files())


@pytest.fixture
def running(spec, stripes_surroundings, folder, monkeypatch):
    """A trial with an epoch to go, whose pool lies in blocks."""
    monkeypatch.setattr(checkpoints, "LONG", 100)
    trial = Trial(spec(), stripes_surroundings, folder)
    for _ in range(EPOCHS - 1):
        trial.step()
    trial.save()
    assert kept_by(folder)
    return trial


def test_a_finished_trial_leaves_no_pool(running, folder, spec, stripes_surroundings):
    running.step()
    assert not kept_by(folder)
    again = Trial(spec(), stripes_surroundings, folder)
    assert again.finished and equal(weights(again), weights(running))


def test_a_trial_that_was_stopped_leaves_no_checkpoint(running, tmp_path):
    run = Run(Folder.of(str(tmp_path / "run")))
    run.propose(running.spec)
    running.folder = run.trial_folder(running.spec.id)
    running.save()
    assert kept_by(running.folder)
    run.end_trial(TrialRecord(spec=running.spec, rows=tuple(running.history), outcome="stopped"))
    assert not kept_by(running.folder) and running.folder.read(CHECKPOINT) is None
    assert len(run.history(running.spec.id)) == EPOCHS - 1


def test_a_trial_that_failed_keeps_what_it_had(running, tmp_path):
    run = Run(Folder.of(str(tmp_path / "run")))
    running.folder = run.trial_folder(running.spec.id)
    running.save()
    run.end_trial(TrialRecord(spec=running.spec, outcome="failed", reason="no memory"))
    assert kept_by(running.folder)
