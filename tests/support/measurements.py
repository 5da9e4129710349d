"""Measurements as `measuring` makes them, written by hand, and a meter that hands them out."""

from __future__ import annotations

from typing import Any

from dfkd.methods.effort import Effort
from dfkd.orchestrator.estimates import Measured, Point, Sample

MB = 1_000_000


def sample(rounds: float, steps: float, lessons: float, **spent: float) -> Sample:
    """An epoch; `spent` holds the seconds of synthesis and distillation, 0 where left out."""
    times = {"synthesis": 0.0, "distillation": 0.0, **spent}
    return Sample(effort=Effort(rounds=rounds, steps=steps, lessons=lessons), **times)


def point(images: int = 10, **changes: Any) -> Point:
    """A point at batches of so many images, whose steps hold 1 MB for each image."""
    peak = 300 * MB + images * MB
    values: dict[str, Any] = {
        "images": {"synthesis": images, "distillation": images, "judging": 300},
        "warmup": (sample(1, 4, 0, synthesis=0.4),),
        "learning": (sample(1, 4, 5, synthesis=0.8, distillation=0.5),),
        "judging": 0.001,
        "program": 200 * MB,
        "networks": 90 * MB,
        "peaks": {"synthesis": peak, "distillation": peak - MB, "judging": peak - 2 * MB},
        "pool": 10 * MB,
        "rows": {"pool": 100.0},
        "student": MB,
        "checkpoint": 3 * MB,
    }
    return Point(**{**values, **changes})


def measured(*points: Point, **changes: Any) -> Measured:
    """What was measured at these points, by default at one, on a CPU."""
    values: dict[str, Any] = {"device": "CPU, 1 thread", "on_gpu": False, "seconds": 2.0}
    return Measured(**{**values, "points": points or (point(),), **changes})


class FakeMeter:
    """Measures nothing, and starts no process."""

    def __enter__(self) -> FakeMeter:
        return self

    def __exit__(self, *reason: object) -> None:
        return

    def measure(self, *order: Any, **more: Any) -> Measured:
        return measured()
