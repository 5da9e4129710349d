"""Running trials: one in this process, many on Ray.

    from dfkd.orchestrator import distill, sweep
    result = sweep("digits", trials=8)

The names are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfkd.orchestrator.sweeps import SweepResult, distill, resume, sweep

__all__ = ["SweepResult", "distill", "resume", "sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("dfkd.orchestrator.sweeps"), name)
