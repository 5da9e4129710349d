"""What processes take, as Linux tells it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOK = 0.2  # seconds between looks at Ray's processes
OWN = Path("/proc/self")


def memory(process: Path = OWN) -> dict[str, int]:
    """Bytes of a process, by the kernel's names."""
    status = (process / "status").read_text()
    found = re.findall(r"^(VmHWM|VmRSS|RssAnon|RssShmem):\s+(\d+)", status, re.M)
    return {key: 1024 * int(value) for key, value in found}


def forget_peak() -> None:
    """Let this process's VmHWM begin anew."""
    (OWN / "clear_refs").write_text("5")


@contextmanager
def highest_memory() -> Iterator[dict[str, int]]:
    """While the block runs: the peak of each figure over the workers of this process's Ray."""
    peaks: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it has just ended
                    if is_our_worker(process):
                        for key, value in memory(process).items():
                            peaks[key] = max(value, peaks.get(key, 0))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield peaks
    finally:
        over.set()
        watch.join()


def is_our_worker(process: Path) -> bool:
    """Whether it is one of Ray's workers, and descends from this process."""
    if not (process / "cmdline").read_bytes().startswith(b"ray::"):
        return False
    above = process
    while (id := parent(above)) > 1:
        if id == os.getpid():
            return True
        above = Path(f"/proc/{id}")
    return False


def parent(process: Path) -> int:
    """Its parent's id."""
    found = re.search(r"^PPid:\s+(\d+)", (process / "status").read_text(), re.M)
    return int(found[1]) if found else 0
