"""Where a figure comes from: the machine and the commit."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """CPU, cores and Python, in words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


@functools.cache
def commit() -> str:
    """The checkout's commit, marked if the tree differs from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=9"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()
