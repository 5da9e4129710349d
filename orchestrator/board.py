"""The live leaderboard of a sweep in a terminal, drawn with Rich."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dfkd.orchestrator.model_card import brief
from dfkd.orchestrator.requests import definition_name
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.scores import SCORES, merit
from dfkd.orchestrator.specs import CONTROL_ID, TrialSpec
from dfkd.orchestrator.trials import Row
from dfkd.orchestrator.watching import SweepView

STATE_STYLES = {
    "running": "cyan",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "waiting": "dim",
}
ROWS_BESIDE_THE_TABLE = 8  # title, heading, rule, blank lines and totals
NARROW = 100  # columns below which recipes and agreement are left out
REMARKS_SHOWN = 3
BESIDE = ("agreement", "accuracy")  # what stands beside the score, in [0, 1]


class Entry:
    """What the board shows of one trial."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self.state = "waiting"
        self.epoch = 0
        self.best: Row | None = None
        self.reason = ""
        self.seconds = 0.0

    def saw(self, row: Row) -> None:
        """Take in an epoch's row."""
        if row["epoch"] > self.epoch:
            self.seconds += row.get("seconds", 0.0)
        self.epoch = row["epoch"]
        if self.best is None or merit(row) >= merit(self.best):
            self.best = row

    @property
    def may_win(self) -> bool:
        """Whether its student may be chosen: not the control's, and not a failed trial's."""
        return bool(self.best) and self.state != "failed" and self.spec.id != CONTROL_ID

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts the best trial first, failed ones after the others, and the control last."""
        score = self.best["score"] if self.best else float("-inf")
        place = 2 if self.spec.id == CONTROL_ID else int(self.state == "failed")
        return (place, -score)


class Board:
    """A Watcher that redraws one table of all trials, best first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._entries: dict[str, Entry] = {}
        self._remarks: list[str] = []
        self._view: SweepView | None = None
        self._start: float | None = None
        self._live: Live | None = None

    def say(self, text: str) -> None:
        if self._live is None:
            self._console.print(Text(text, style="dim"), soft_wrap=True)
        else:
            self._remarks.append(text)

    def sweep_started(self, sweep: SweepView, known: Sequence[TrialRecord]) -> None:
        self.fill(sweep, known)
        since = 0.0 if sweep.began is None else max(0.0, time.time() - sweep.began)
        self._start = time.monotonic() - since
        self._live = Live(
            self.render(), console=self._console, refresh_per_second=4, transient=False
        )
        self._live.start()

    def fill(
        self, sweep: SweepView, known: Sequence[TrialRecord], unfinished: str = "waiting"
    ) -> None:
        """Take in what is known of a sweep's trials, and the state of those that have not ended."""
        self._view = sweep
        for record in known:
            entry = self._entry(record.spec)
            for row in record.rows:
                entry.saw(row)
            entry.state = record.outcome or unfinished
            entry.reason = record.reason

    def trial_started(self, spec: TrialSpec) -> None:
        self._entry(spec).state = "running"

    def epoch_ended(self, spec: TrialSpec, row: Row) -> None:
        entry = self._entry(spec)
        entry.state = "running"
        entry.saw(row)

    def trial_ended(self, record: TrialRecord) -> None:
        entry = self._entry(record.spec)
        entry.state = record.outcome or "waiting"
        entry.reason = record.reason

    def tick(self) -> None:
        if self._live is not None:
            self._live.update(self.render())

    def sweep_ended(self) -> None:
        if self._live is not None:
            self._live.update(self.render())
            self._live.stop()
            self._live = None

    def render(self) -> RenderableType:
        """The board as it stands."""
        view = self._view
        if view is None:
            return Text("")
        entries = sorted(self._entries.values(), key=lambda entry: entry.rank)
        remarks = self._remarks[-REMARKS_SHOWN:]
        room = max(3, self._console.height - ROWS_BESIDE_THE_TABLE - len(remarks))
        shown = entries[:room]
        if len(entries) > room:  # rather what runs than what has ended low
            running = [entry for entry in entries[room:] if entry.state == "running"][: room // 2]
            shown = [*entries[: room - len(running)], *running]
        parts: list[RenderableType] = [self._table(view, shown), self._totals(view, entries)]
        if len(shown) < len(entries):
            parts.append(Text(f"  and {len(entries) - len(shown)} more trials", style="dim"))
        parts += [Text(f"  {remark}", style="dim") for remark in remarks]
        return Group(*parts)

    def _table(self, view: SweepView, entries: Sequence[Entry]) -> Table:
        oracle = " (selected by real labels)" if view.score == "accuracy" else ""
        title = Text(f"  {view.name}{oracle}", style="bold")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for heading in ("trial", "method", "state"):
            table.add_column(heading, no_wrap=True)
        table.add_column("epochs", no_wrap=True, min_width=18)
        table.add_column(view.score, justify="right", no_wrap=True)
        wide = self._console.width >= NARROW
        beside = [
            name
            for name in (BESIDE if wide else BESIDE[-1:])
            if name != view.score and any(name in (entry.best or {}) for entry in entries)
        ]
        for name in beside:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        if wide:
            table.add_column("recipe")  # the only one that may shrink; its cells never wrap
        leader = next((e for e in entries if e.may_win), None)
        for entry in entries:
            best = entry.best or {}
            score = SCORES[view.score].show(best["score"]) if best else ""
            table.add_row(
                entry.spec.id,
                entry.spec.method,
                Text(entry.state, style=STATE_STYLES[entry.state]),
                self._epochs(entry),
                Text(score, style="bold" if entry is leader else ""),
                *(f"{100 * best[name]:.2f} %" if name in best else "" for name in beside),
                f"{entry.seconds:.0f} s",
                *([self._recipe(entry)] if wide else []),
            )
        return table

    @staticmethod
    def _recipe(entry: Entry) -> Text:
        told = entry.reason or recipe_in_brief(entry.spec)
        style = "red" if entry.reason else "dim"
        return Text(told, style=style, no_wrap=True, overflow="ellipsis")

    @staticmethod
    def _epochs(entry: Entry) -> Table:
        cell = Table.grid(padding=(0, 1))
        total, style = entry.spec.epochs, STATE_STYLES[entry.state]
        bar = ProgressBar(total, entry.epoch, width=10, complete_style=style, finished_style=style)
        cell.add_row(bar, f"{entry.epoch}/{total}")
        return cell

    def _totals(self, view: SweepView, entries: Sequence[Entry]) -> Text:
        ended = sum(
            entry.state in ("finished", "stopped", "failed") and entry.spec.id != CONTROL_ID
            for entry in entries
        )
        teacher = (
            ""
            if view.teacher_accuracy is None
            else f" · teacher {100 * view.teacher_accuracy:.2f} %"
        )
        elapsed = "" if self._start is None else f" · {time.monotonic() - self._start:.0f} s"
        return Text(f"  {ended} of {view.trials} trials ended{elapsed}{teacher}")

    def _entry(self, spec: TrialSpec) -> Entry:
        return self._entries.setdefault(spec.id, Entry(spec))


def recipe_in_brief(spec: TrialSpec) -> str:
    """The searched settings of a trial, in one line."""
    if spec.id == CONTROL_ID:
        return "uniform noise instead of synthesis"
    return " ".join(f"{key}={brief(spec.recipe[key])}" for key in spec.searched)


def view_of(run: Run) -> SweepView:
    """A run folder's sweep, for watchers."""
    facts = run.facts()
    return SweepView(
        name=run.name,
        task=definition_name(facts["definition"]),
        score=facts["definition"]["select"],
        trials=facts["request"]["trials"],
        epochs=facts["definition"]["epochs"],
        teacher_accuracy=(run.folder.read_json("best/metrics.json") or {}).get("teacher_accuracy"),
    )


def leaderboard(run: Run, console: Console) -> RenderableType:
    """A run folder's trials as the board shows them, once."""
    board = Board(console)
    board.fill(view_of(run), run.records(), "running" if run.is_running() else "waiting")
    return board.render()
