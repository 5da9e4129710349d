import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.experiment.trial import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from dfkd.orchestrator.schedulers import SCHEDULERS, make_scheduler
from dfkd.orchestrator.specs import CONTROL_ID

EPOCHS = 10  # rungs of ASHA at 3 and 9
STOP = TrialScheduler.STOP

each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
stopping_schedulers = pytest.mark.parametrize("name", ["asha", "median"])


def tune_trial(id):
    return TuneTrial("dfkd", config={"id": id}, stub=True)


def row(epoch, score):
    return {"epoch": epoch, "score": score}


class Live:
    """A sweep as Tune's controller plays it to a scheduler."""

    def __init__(self, name, past=None, going_on=()):
        self.scheduler = make_scheduler(name, EPOCHS, past, going_on)
        self.trials = {}
        self.rows = {}

    def report(self, id, epoch, score):
        """One epoch of a trial; says whether the scheduler stops it."""
        if id not in self.trials:
            self.trials[id] = tune_trial(id)
            self.rows[id] = []
            self.scheduler.on_trial_add(None, self.trials[id])
        self.rows[id].append(row(epoch, score))
        stopped = self.scheduler.on_trial_result(None, self.trials[id], row(epoch, score)) == STOP
        if stopped or epoch == EPOCHS:
            self.scheduler.on_trial_complete(None, self.trials[id], row(epoch, score))
        return stopped

    def play(self, id, score, epochs=EPOCHS):
        """A trial on its own with one score throughout; the epoch of its end."""
        for epoch in range(1, epochs + 1):
            if self.report(id, epoch, score):
                return epoch
        return epochs


def good_trials(name):
    live = Live(name)
    for number in range(4):
        live.play(f"t{number:03d}", 0.8 + 0.01 * number)
    return live


@stopping_schedulers
def test_a_bad_trial_is_stopped(name):
    assert good_trials(name).play("bad", 0.1) < EPOCHS


@stopping_schedulers
def test_the_best_trial_so_far_goes_on(name):
    assert good_trials(name).play("best", 0.9) == EPOCHS


@stopping_schedulers
def test_nothing_is_stopped_in_the_first_epochs(name):
    live = good_trials(name)
    assert not any(live.report("bad", epoch, 0.0) for epoch in (1, 2))


@each_scheduler
def test_the_control_is_never_stopped(name):
    assert good_trials(name).play(CONTROL_ID, 0.0) == EPOCHS


@stopping_schedulers
def test_the_control_sets_no_standard(name):
    live = Live(name)
    for _ in range(4):
        live.play(CONTROL_ID, 0.99)
    assert live.play("t000", 0.5) == EPOCHS


def test_fifo_stops_nothing():
    assert good_trials("fifo").play("bad", 0.0) == EPOCHS


@each_scheduler
def test_one_trial_alone_is_not_stopped(name):
    assert Live(name).play("t000", 0.0) == EPOCHS


@each_scheduler
def test_equal_trials_are_not_stopped(name):
    live = Live(name)
    assert {live.play(f"t{number:03d}", 0.5) for number in range(5)} == {EPOCHS}


@each_scheduler
@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_any_number_of_epochs_will_do(name, epochs):
    scheduler = make_scheduler(name, epochs)
    trial = tune_trial("t000")
    scheduler.on_trial_add(None, trial)
    told = [scheduler.on_trial_result(None, trial, row(e, 0.5)) for e in range(1, epochs + 1)]
    assert STOP not in told


@each_scheduler
def test_a_trial_that_failed_without_a_score_is_no_trouble(name):
    live = Live(name)
    live.report("t000", 1, 0.5)
    live.scheduler.on_trial_complete(None, live.trials["t000"], {"failed": "why", "done": True})
    assert live.play("t001", 0.5) == EPOCHS


scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), min_size=EPOCHS, max_size=EPOCHS)


def side_by_side(name, curves):
    """Trials that report in turn, as a sweep of concurrent trials gives."""
    live = Live(name)
    running = {f"t{number:03d}": curve for number, curve in enumerate(curves)}
    for epoch in range(1, EPOCHS + 1):
        for id, curve in list(running.items()):
            if live.report(id, epoch, curve[epoch - 1]):
                del running[id]
    return live


@given(st.lists(scores, max_size=6), scores)
def test_asha_decides_after_a_resume_as_it_would_have(curves, probe):
    live = side_by_side("asha", curves)
    resumed = Live("asha", live.rows)
    decisions = [
        list(
            itertools.takewhile(
                lambda epoch, sweep=sweep: not sweep.report("probe", epoch, probe[epoch - 1]),
                range(1, EPOCHS + 1),
            )
        )
        for sweep in (live, resumed)
    ]
    assert decisions[0] == decisions[1]


def test_a_trial_that_was_interrupted_counts_once():
    """t001 ran to epoch 3, then the sweep was interrupted; now both schedulers see the rest."""
    live = Live("asha")
    for epoch in (1, 2, 3):
        live.report("t001", epoch, 0.9)
    resumed = Live("asha", live.rows, going_on=["t001"])
    resumed.report("t001", 4, 0.9)
    rungs = [
        sorted(recorded.values())
        for sweep in (live, resumed)
        for milestone, recorded in sweep.scheduler._brackets[0]._rungs
        if milestone == 3
    ]
    assert rungs[0] == rungs[1]


def test_a_median_sweep_can_be_resumed():
    """t003 was spared, since t000 was slow then; played again, it would have been stopped."""
    live = Live("median")
    live.play("t000", 0.75, epochs=2)
    assert [live.play(id, 0.75) for id in ("t001", "t002")] == [EPOCHS, EPOCHS]
    assert live.play("t003", 0.1) == EPOCHS
    for epoch in range(3, EPOCHS + 1):
        live.report("t000", epoch, 0.75)
    assert make_scheduler("median", EPOCHS, live.rows)


def test_median_stops_after_a_resume_what_it_would_have_stopped():
    live = good_trials("median")
    assert Live("median", live.rows).play("bad", 0.1) == live.play("bad", 0.1)
