"""The figures of docs/measurements.md that concern the digits task and the command line.

    python benchmarks/digits.py            everything, about ten minutes on two idle cores
    python benchmarks/digits.py --seeds 1  one seed only

Prints Markdown. Uses a cache and a storage folder of its own, and the `dfkd` of this environment.
Close everything else: on busy cores the times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

from provenance import commit, machine

DFKD = [sys.executable, "-m", "dfkd.cli"]
REPEATS = 15  # of the quick commands


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        os.environ["DFKD_CACHE"] = f"{folder}/cache"
        os.environ["RAY_AUTH_MODE"] = "disabled"
        print(f"{machine()}, commit {commit()}\n")
        quick_commands()
        sweeps(folder, seeds)
        two_workers(folder)
        interruption(folder)


def quick_commands() -> None:
    """Wall time of commands that must not import torch or Ray."""
    print("| command | median, s | max, s | n |\n|---|--:|--:|--:|")
    for words in (["--help"], ["tasks"], ["sweep", "--help"]):
        took = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            subprocess.run([*DFKD, *words], capture_output=True, check=True)
            took.append(time.perf_counter() - start)
        print(f"| dfkd {' '.join(words)} | {median(took):.2f} | {max(took):.2f} | {len(took)} |")
    print()


def sweeps(folder: str, seeds: Iterable[int]) -> None:
    """Eight trials per seed: time, accuracy, starting delays."""
    head = ("seed", "sweep, s", "student, %", "teacher, %", "noise, %", "first start, s", "next, s")
    print("| " + " | ".join(head) + " |\n|" + "--:|" * len(head))
    table = []
    for seed in seeds:
        events = run(folder, "--trials", "8", "--seed", str(seed), "--name", f"s{seed}")
        ended = events[-1]
        evaluated = subprocess.run(
            [*DFKD, "evaluate", f"s{seed}", "--storage", folder, "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        student = json.loads(evaluated.stdout)["accuracy"]
        first, later = starting_delays(events)
        shares = (student, ended["teacher_accuracy"], ended["noise_control_accuracy"])
        table.append((ended["seconds"], *(100 * share for share in shares), first, max(later)))
        print(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in table[-1]) + " |")
    medians = (median(column) for column in zip(*table, strict=True))
    print("| median | " + " | ".join(f"{value:.2f}" for value in medians) + " |\n")
    print("first start: from Ray up to the first trial's first epoch; next: from the end of a")
    print("trial's last epoch to the first of the trial that takes its place, the worst of all.\n")


def two_workers(folder: str) -> None:
    """How long a trial of two workers takes to start."""
    options = ("--trials", "1", "--workers", "2", "--cpus-per-worker", "0.9", "--no-control")
    delays = []
    for number in range(3):
        events = run(folder, *options, "--epochs", "4", "--name", f"w{number}")
        delays.append(starting_delays(events)[0])
    print(f"a trial of two workers starts {median(delays):.1f} s after Ray is up (median of 3)\n")


def interruption(folder: str) -> None:
    """How long Ctrl-C takes in the middle of a sweep."""
    took = []
    for number in range(3):
        command = [*DFKD, "sweep", "digits", "--trials", "4", "--storage", folder]
        process = subprocess.Popen(
            [*command, "--name", f"c{number}", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["event"] != "epoch":
            pass
        time.sleep(5)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.communicate()
        took.append(time.perf_counter() - start)
        assert process.returncode == 130, process.returncode
    print(f"Ctrl-C ends a sweep after {median(took):.1f} s, at worst {max(took):.1f} s (n = 3)")


def run(folder: str, *options: str) -> list[dict[str, Any]]:
    """The events of a digits sweep."""
    command = [*DFKD, "sweep", "digits", "--storage", folder, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def starting_delays(events: Sequence[dict[str, Any]]) -> tuple[float, list[float]]:
    """Seconds from Ray up to the first epoch, and from each trial's end to its successor."""
    up = next(e["time"] for e in events if "Ray is up" in e.get("text", ""))
    epochs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event["event"] == "epoch":
            epochs.setdefault(event["trial"], []).append(event)
    starts = sorted(rows[0]["began"] for rows in epochs.values())
    ends = sorted(rows[-1]["began"] + rows[-1]["seconds"] for rows in epochs.values())
    together = len(starts) - sum(start > ends[0] for start in starts)
    return starts[0] - up, [s - e for s, e in zip(starts[together:], ends, strict=False)]


def median(values: Iterable[float]) -> float:
    """The median of some numbers."""
    return statistics.median(list(values))


if __name__ == "__main__":
    main()
