"""How far something is: drawn on a terminal, in plain lines elsewhere, in JSON on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:  # `dfkd teacher` would wait for Ray
    from dfkd.orchestrator.watching import Watcher


def sweep_watcher(console: Console, as_json: bool) -> Watcher:
    """A live table on a terminal, plain lines elsewhere, JSON lines on request."""
    from dfkd.orchestrator.board import Board
    from dfkd.orchestrator.watching import JsonLines, PlainLines

    if as_json:
        return JsonLines()
    return Board(console) if console.is_terminal else PlainLines()


@contextmanager
def progress(
    console: Console, title: str, as_json: bool, did: str = "trained"
) -> Iterator[Callable[[int, int], None]]:
    """What to tell steps done and steps in all: a bar on a terminal, lines elsewhere.

    In the lines `did` says what was done. With JSON it is silent: the result is one value.
    """
    from dfkd.search_spaces.teachers import every_quarter

    if as_json:
        yield lambda done, total: None
    elif not console.is_terminal:
        yield every_quarter(title, lambda text: console.print(text, soft_wrap=True), did)
    else:
        words = TextColumn("{task.description}", markup=False)
        columns = (words, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Bars(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)
