import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dfkd.orchestrator.board import Board
from dfkd.orchestrator.replaying import Replay
from dfkd.orchestrator.runs import TrialRecord
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.watching import JsonLines, PlainLines, Silent, SweepView

WORDS = st.text('abcé \n\x1b[{}"', max_size=8)
SCORES = st.floats(-5, 0)


def spec_of(id, epochs=4):
    return TrialSpec(
        id=id,
        method="nayer",
        recipe={"student_lr": 0.1, "flip": False},
        searched=("student_lr",),
        student="convnet-4-4",
        epochs=epochs,
        seed=0,
    )


def row_of(id, epoch, score, learned=True):
    row = {"trial": id, "method": "nayer", "epoch": epoch, "score": score, "seconds": 1.5}
    return {**row, "kd_loss": 0.1, "accuracy": 0.5} if learned else row


@st.composite
def stories(draw):
    """A sweep's events in an order in which a driver tells them."""
    ids = [f"t{number:03}" for number in range(draw(st.integers(1, 4)))]
    before = draw(st.integers(0, len(ids)))
    known, events = [], []
    for id in ids:
        scores = draw(st.lists(SCORES, min_size=1, max_size=4))
        rows = tuple(row_of(id, n, score, draw(st.booleans())) for n, score in enumerate(scores, 1))
        spec = spec_of(id)
        if id in ids[:before]:
            outcome = draw(st.sampled_from([None, "finished", "failed"]))
            known.append(TrialRecord(spec=spec, rows=rows, outcome=outcome, reason=draw(WORDS)))
            continue
        events.append(("trial_started", spec))
        events += [("epoch_ended", spec, row) for row in rows if draw(st.booleans())]
        if draw(st.booleans()):
            outcome = draw(st.sampled_from(["finished", "stopped", "failed"]))
            record = TrialRecord(spec=spec, rows=rows, outcome=outcome, reason=draw(WORDS))
            events.append(("trial_ended", record))
    view = SweepView(
        name="s",
        task="tiny",
        score="fidelity",
        trials=len(ids),
        epochs=4,
        teacher_accuracy=draw(st.one_of(st.none(), st.floats(0, 1))),
    )
    return [("sweep_started", view, known), *events]


def told_to(watcher, story):
    for name, *facts in story:
        getattr(watcher, name)(*facts)


def emitted(story):
    """The lines that a driver would print of a story."""
    watcher = JsonLines(io.StringIO())
    told_to(watcher, story)
    return watcher.out.getvalue().splitlines()


def replayed(lines, watcher):
    replay = Replay(watcher)
    for line in lines:
        replay.line(line)
    replay.close()
    return replay


def emitted_again(lines):
    watcher = JsonLines(io.StringIO())
    replayed(lines, watcher)
    return watcher.out.getvalue().splitlines()


def untimed(lines):
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


@given(stories())
def test_replaying_what_was_emitted_gives_the_same_emission(story):
    lines = emitted(story)
    assert untimed(emitted_again(lines)) == untimed(lines)


@given(stories())
def test_the_leaderboard_of_a_replay_is_that_of_the_sweep(story):
    here, there = (Board(Console(file=io.StringIO(), width=120)) for _ in range(2))
    told_to(here, story)
    replay = Replay(there)
    for line in emitted(story):
        replay.line(line)
    assert text(here) == text(there)
    here.sweep_ended()
    replay.close()


def text(board):
    console = Console(file=io.StringIO(), width=120)
    console.print(board.render())
    return console.file.getvalue().replace(" · 0 s", "")


@given(stories(), st.randoms())
def test_lines_that_come_twice_do_no_harm(story, random):
    lines = emitted(story)
    again = random.randrange(len(lines) + 1)
    assert untimed(emitted_again(lines[:again] + lines)) == untimed(lines)


@given(stories(), st.randoms())
def test_torn_lines_do_no_harm(story, random):
    """As one that was being printed when the connection broke off."""
    lines = emitted(story)
    torn = random.randrange(len(lines))
    at = random.randrange(2, len(lines[torn]))
    broken = [*lines[:torn], lines[torn][:at], *lines[torn:]]
    assert untimed(emitted_again(broken)) == untimed(lines)


class Remarks(Silent):
    def __init__(self):
        self.said = []
        self.ends = 0

    def say(self, text):
        self.said.append(text)

    def sweep_ended(self):
        self.ends += 1


def test_a_line_that_is_no_event_is_a_remark():
    watcher = Remarks()
    replayed(["UserWarning: slow", '{"event": "news", "time": 1.0}', "{}"], watcher)
    assert watcher.said == ["UserWarning: slow", "{}"]


def test_what_could_command_a_terminal_is_left_out():
    watcher = Remarks()
    replayed(["a\x1b]0;title\x07b", json.dumps({"event": "remark", "text": "\x1b[2J"})], watcher)
    assert watcher.said == ["a]0;titleb", "[2J"]


def test_what_the_command_line_complains_of_is_kept():
    replay = replayed(["loading", "error: no method 'nayr'", "failed: no disk"], Silent())
    assert replay.complaints == ["error: no method 'nayr'", "failed: no disk"]


@pytest.mark.parametrize("missing", ["task", "records", "score"])
def test_an_event_of_another_version_is_left_out(missing):
    view = SweepView(name="s", task="t", score="x", trials=1, epochs=1, teacher_accuracy=None)
    lines = emitted([("sweep_started", view, [])])
    event = json.loads(lines[0])
    del event[missing]
    watcher = Remarks()
    replayed([json.dumps(event)], watcher)
    assert (watcher.said, watcher.ends) == ([], 0)


def test_a_second_driver_begins_the_sweep_anew():
    view = SweepView(name="s", task="t", score="x", trials=1, epochs=1, teacher_accuracy=None)
    watcher = Remarks()
    replay = Replay(watcher)
    for line in emitted([("sweep_started", view, [])]) + emitted([("sweep_started", view, [])]):
        replay.line(line)
    assert watcher.ends == 1
    replay.close()
    assert watcher.ends == 2


def test_the_outcome_is_there_once_the_sweep_has_ended():
    replay = Replay(Silent())
    assert replay.outcome is None
    replay.line(json.dumps({"event": "sweep_ended", "best": "t000"}))
    assert replay.outcome == {"best": "t000"}


def test_plain_lines_come_out_as_of_a_local_sweep():
    record = TrialRecord(spec=spec_of("t000"), rows=(row_of("t000", 1, -0.5),), outcome="stopped")
    view = SweepView(
        name="s", task="t", score="fidelity", trials=1, epochs=4, teacher_accuracy=None
    )
    story = [("sweep_started", view, []), ("trial_started", record.spec), ("trial_ended", record)]
    here, there = PlainLines(io.StringIO()), PlainLines(io.StringIO())
    told_to(here, story)
    replayed(emitted(story), there)
    assert here.out.getvalue() == there.out.getvalue() != ""
