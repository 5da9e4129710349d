"""How much memory this process holds, and held at most, while something went on."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from dfkd.methods.method import Clock

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"  # what Linux takes, in clear_refs, for: forget the highest resident size


def _kilobytes(name: str) -> int | None:
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return None


def resident() -> int:
    """Bytes of memory that this process holds now; its peak where only that is known."""
    found = _kilobytes("VmRSS")
    return peak() if found is None else 1024 * found


def peak() -> int:
    """The most it held, in bytes: since the last `reset_peak`, where the system can do that.

    Not by getrusage on Linux: there it begins with what the parent held when it forked.
    """
    found = _kilobytes("VmHWM")
    if found is not None:
        return 1024 * found
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak() -> None:
    """Let `peak` begin anew, where that is possible."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)


class Gauge(Clock):
    """A clock that notes the highest memory of each activity as well, in bytes.

    One thread on a CPU is timed by what it computes, whatever else the machine does meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._now = time.process_time if alone else time.perf_counter
        self.on_gpu = device.type == "cuda"
        self.host = {"synthesis": 0, "distillation": 0, "judging": 0}
        self.rises = dict(self.host)  # the highest, above what was held when the activity began
        self.device_peaks = dict(self.host) if self.on_gpu else {}

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        reset_peak()
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        before, start = resident(), self._now()
        yield
        self._seconds[activity] = self._seconds.get(activity, 0.0) + self._now() - start
        if activity in self.host:
            self.host[activity] = max(self.host[activity], peak())
            self.rises[activity] = max(self.rises[activity], peak() - before)
        if activity in self.device_peaks:
            held = torch.cuda.max_memory_allocated()
            self.device_peaks[activity] = max(self.device_peaks[activity], held)
