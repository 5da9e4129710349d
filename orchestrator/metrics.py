"""A sweep's figures for Prometheus, by way of Ray's metrics, where a cluster has a dashboard.

Only the driver reports, as rows arrive: trials and their workers know nothing of it. Ray puts
`ray_` before each name and adds its own labels; docs/observability.md lists what there is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune
from ray.util.metrics import Counter, Gauge

from dfkd.orchestrator.trials import Row

OF_A_TRIAL = ("sweep", "trial", "method")
ACTIVITIES = ("synthesis", "distillation", "evaluation", "waiting")
GAUGES = {  # of a trial's last epoch; by the name of what the row holds
    "epoch": "Epochs that the trial has done.",
    "score": "What the sweep selects by; larger is better.",
    "fidelity": "The jury's fidelity of the student to its teacher, minus a divergence in nats.",
    "accuracy": "Accuracy on labeled images, 0 to 1; where there are any.",
}


class Metrics(tune.Callback):
    """Sets the gauges of a trial to what its last row says."""

    def __init__(self, sweep: str, image_bytes: int) -> None:
        self._sweep = sweep
        self._image_bytes = image_bytes
        self._gauges = {name: _gauge(name, told) for name, told in GAUGES.items()}
        self._rate = _gauge("images_per_second", "Images synthesized per second of the last epoch.")
        self._pool = _gauge("pool_bytes", "Images in the trial's own pool, in bytes.")
        share = "Share of the last epoch's time spent on an activity, 0 to 1."
        self._share = _gauge("time_share", share, "activity")
        told = "Epochs that this driver has seen end, over all trials."
        self._epochs = Counter("dfkd_epochs", told, ("sweep", "method"))

    def __reduce__(self) -> tuple[Any, ...]:
        return tune.Callback, ()  # into Tune's snapshot, which nobody reads

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "row" in result:
            self.told(result["row"])

    def told(self, row: Row) -> None:
        """Take in an epoch's row."""
        tags = {"sweep": self._sweep, "trial": row["trial"], "method": row["method"]}
        for name, gauge in self._gauges.items():
            _set(gauge, row.get(name), tags)
        seconds = row.get("seconds") or math.nan
        _set(self._rate, row.get("images_made", math.nan) / seconds, tags)
        _set(self._pool, row.get("pool_images", math.nan) * self._image_bytes, tags)
        for activity in ACTIVITIES:
            spent = row.get(f"seconds_{activity}", 0.0)
            _set(self._share, spent / seconds, {**tags, "activity": activity})
        self._epochs.inc(1, {"sweep": self._sweep, "method": row["method"]})


def _gauge(name: str, told: str, *more: str) -> Gauge:
    return Gauge(f"dfkd_{name}", told, (*OF_A_TRIAL, *more))


def _set(gauge: Gauge, value: float | None, tags: Mapping[str, str]) -> None:
    if value is not None and math.isfinite(value):
        gauge.set(value, tags)


def dashboard() -> str | None:
    """Where the dashboard of the Ray that is up answers; None if it has none."""
    with contextlib.suppress(AttributeError):  # Ray 2.60 has no public way but ray.init's answer
        url = ray._private.worker._global_node.webui_url
        if url:
            return str(url) if "://" in url else f"http://{url}"
    return None
