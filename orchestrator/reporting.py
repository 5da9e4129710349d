"""What a trial's actor tells Ray Tune about an epoch, or about why it cannot go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfkd.methods.errors import DfkdError
from dfkd.orchestrator.trials import Row

FAILED = "failed"

Constants = Mapping[str, Any]
"""A Tune configuration: `id` and `run` (a Ticket) name the trial, the rest what it may use:
`workers`, `cpus` and `gpus` per worker, `pools` where trials share synthesis, `scratch` for trials
of several workers."""


def report(row: Row, *, done: bool) -> Row:
    """The row whole, and beside it what schedulers look at."""
    return {"row": row, "epoch": row["epoch"], "score": row["score"], "done": done}


def failure(reason: DfkdError | str) -> Row:
    """The trial ends without a score, and for good."""
    return {FAILED: str(reason), "done": True}
