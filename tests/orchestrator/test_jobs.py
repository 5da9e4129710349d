import io
import json
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.orchestrator import jobs
from dfkd.orchestrator.jobs import Detached, Job, JobState, follow, fresh_name
from dfkd.orchestrator.watching import JsonLines, Silent, SweepView

JOB = Job(name="s", storage="s3://b/runs", arguments=("digits",))


class Cluster:
    """A backend of one job, whose states and lines are given; the last state stays."""

    def __init__(self, states, lines=(), hangs=False):
        self.states = list(states)
        self.lines = lines
        self.hangs = hangs

    def submit(self, job):
        raise NotImplementedError

    def state(self, name):
        found = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(found, Exception):
            raise found
        return found

    def logs(self, name):
        for line in self.lines:
            if isinstance(line, Exception):
                raise line
            yield line
        if self.hangs:
            threading.Event().wait()

    def stop(self, name):
        raise NotImplementedError

    def leave(self, name):
        return jobs.farewell(name, ("--address", "http://head:8265"))


class Remarks(Silent):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing is waited for longer than a test may take."""
    for name, seconds in {"TICK": 0.01, "LOOK": 0.05, "PATIENCE": 0.3, "SETTLING": 0.3}.items():
        monkeypatch.setattr(jobs, name, seconds)
    wait = time.sleep
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: wait(seconds / 100))


RUNNING, DONE = JobState("running"), JobState("succeeded")
BEGUN = SweepView(name="s", task="t", score="fidelity", trials=1, epochs=1, teacher_accuracy=None)


def begun():
    watcher = JsonLines(io.StringIO())
    watcher.sweep_started(BEGUN, [])
    return watcher.out.getvalue()


def test_what_a_job_waits_for_is_said():
    watcher = Remarks()
    waiting = JobState("pending", "its image is being pulled")
    follow(Cluster([waiting, waiting, RUNNING, DONE]), "s", watcher)
    assert "its image is being pulled" in watcher.said[0]


def test_the_events_of_the_job_reach_the_watcher_and_its_outcome_the_caller():
    watcher = JsonLines(io.StringIO())
    outcome = {"best": "t000", "failed": {}}
    ended = json.dumps({"event": "sweep_ended", **outcome})
    state = follow(Cluster([RUNNING, DONE], [begun(), ended]), "s", watcher)
    assert (state.status, state.outcome) == ("succeeded", outcome)
    assert json.loads(watcher.out.getvalue())["event"] == "sweep_started"


def test_why_a_job_failed_is_what_its_command_line_complained_of():
    failed = JobState("failed", "exit status 2")
    state = follow(Cluster([RUNNING, failed], ["error: no task 'x'"]), "s", Silent())
    assert (state.told, state.outcome) == ("error: no task 'x'", None)


def test_a_job_that_says_nothing_of_its_failure_has_the_backends_reason():
    state = follow(Cluster([JobState("failed", "out of memory")]), "s", Silent())
    assert state.told == "out of memory"


def test_lines_that_never_end_do_not_hold_up_the_end_of_a_job():
    ended = '{"event": "sweep_ended"}'
    assert follow(Cluster([RUNNING, DONE], [ended], hangs=True), "s", Silent()).outcome == {}


def test_ctrl_c_leaves_the_job_and_says_how_to_come_back():
    class Leaving(Silent):
        def sweep_started(self, sweep, known):
            raise KeyboardInterrupt

    with pytest.raises(Detached) as detached:
        follow(Cluster([RUNNING], [begun()], hangs=True), "s", Leaving())
    said = str(detached.value)
    assert "dfkd status s --watch --address http://head:8265" in said
    assert "dfkd stop s --address http://head:8265" in said


def test_a_cluster_may_be_silent_for_a_while():
    lost = DfkdError("no answer")
    watcher = Remarks()
    states = [JobState("pending"), lost, lost, RUNNING, DONE]
    assert follow(Cluster(states), "s", watcher).status == "succeeded"
    assert any("no answer" in text for text in watcher.said)


def test_a_cluster_that_stays_silent_is_given_up():
    with pytest.raises(DfkdError, match="no answer"):
        follow(Cluster([RUNNING, DfkdError("no answer")], hangs=True), "s", Silent())


def test_a_job_that_is_not_there_is_a_mistake_at_once():
    with pytest.raises(ConfigError, match="no job"):
        follow(Cluster([ConfigError("no job 's'")]), "s", Silent())


def test_what_goes_wrong_with_the_lines_is_raised():
    with pytest.raises(DfkdError, match="broke off"):
        follow(Cluster([RUNNING], [DfkdError("it broke off")]), "s", Silent())


def test_a_job_that_does_not_end_after_its_last_line_is_given_up():
    with pytest.raises(DfkdError, match="has not ended"):
        follow(Cluster([RUNNING]), "s", Silent())


def test_the_sweep_ends_for_the_watcher_whatever_happens():
    class Ends(Silent):
        ends = 0

        def sweep_ended(self):
            self.ends += 1

    watcher = Ends()
    with pytest.raises(DfkdError):
        follow(Cluster([RUNNING], [begun(), DfkdError("it broke off")]), "s", watcher)
    assert watcher.ends == 1


@given(st.text(max_size=60))
def test_a_fresh_name_suits_every_cluster(task):
    name = fresh_name(task)
    assert re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", name)
    assert len(name) <= 47


def test_a_fresh_name_begins_with_the_task():
    assert fresh_name("some/where/My_Task.yaml").startswith("my-task-20")
