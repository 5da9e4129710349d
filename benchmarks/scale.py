"""How a sweep grows: nodes simulated on one machine, trials that sleep, and the bookkeeping alone.

    python benchmarks/scale.py                     both parts, about half an hour on four idle cores
    python benchmarks/scale.py --part bookkeeping  without Ray, ten minutes
    python benchmarks/scale.py --cells 1x8 --seconds 4 --epochs 4 --trials 16   does it run?

cluster: `run_trials` as a sweep calls it, with the product's search, bookkeeping, run folder,
scheduler and board; only what a trial runs is another (simulated.py): it sleeps, and reports as
many figures per epoch as a real one. Each cell is NODESxTRIALS, on a cluster of its own; a trial
takes one GPU. All trials take equally long and none is
stopped, so that the ideal is known: as many rounds as it takes, back to back, from the first
second. The overhead per trial is what a trial takes from its start to its successor's beyond what
it sleeps. Ray runs a process of 110 MB for each trial at a time: 64 are what fits here.

bookkeeping: the same events without Ray, told to the same bookkeeping; by event, as trials grow.

Prints Markdown. Close everything else: a node is here a fraction of a core.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provenance import commit, machine
from simulated import cluster, memory_taken
from tables import row

CELLS = "1x16,4x64,16x64,16x256"
TRIALS = "16,64,256,1000"
DRIVER = Path(__file__).with_name("simulated_sweep.py")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("cluster", "bookkeeping"), help="without it, both")
    parser.add_argument("--cells", default=CELLS, help=f"NODESxTRIALS, default {CELLS}")
    parser.add_argument("--gpus", type=int, default=4, help="of a node, none of them real")
    parser.add_argument("--seconds", type=float, default=60.0, help="that a trial takes")
    parser.add_argument("--epochs", type=int, default=12, help="of such a trial")
    parser.add_argument("--trials", default=TRIALS, help=f"of bookkeeping, default {TRIALS}")
    parser.add_argument("--long", type=int, default=100, help="epochs of bookkeeping's trials")
    options = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        os.environ.setdefault("DFKD_CACHE", f"{folder}/cache")
        print(f"{machine()}, commit {commit()}; {vars(options)}\n", flush=True)
        if options.part != "bookkeeping":
            sweeps(Path(folder), options)
        if options.part != "cluster":
            events(Path(folder), options)


def sweeps(folder: Path, options: argparse.Namespace) -> None:
    """A table of sweeps on simulated clusters, a row per cell."""
    head = ["nodes", "trials", "at once", "ideal, s", "wall, s", "above it, %"]
    head += ["to run_trials, s", "to the first start, s", "to the first wave's last, s"]
    head += ["overhead per trial, %", "turnover, s"]
    head += ["driver CPU, s", "per event, ms", "driver's peak, MB", "machine, GB"]
    head += ["files", "MB", "results, kB", "written, times", "writing, s"]
    print(row(head), row(["--:"] * len(head)), sep="\n", flush=True)
    for cell in options.cells.split(","):
        nodes, trials = map(int, cell.split("x"))
        print(row(one_sweep(folder / cell, nodes, trials, options)), flush=True)
    print()


def one_sweep(folder: Path, nodes: int, trials: int, options: argparse.Namespace) -> list[str]:
    """The cells of a row."""
    with memory_taken() as taken, cluster(nodes, options.gpus) as address:
        order = {
            "trials": trials,
            "seconds": options.seconds,
            "epochs": options.epochs,
            "began": time.time(),
        }
        command = [sys.executable, str(DRIVER), address, str(folder), json.dumps(order)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["outcomes"] == ["finished"], found["outcomes"]
    ideal = math.ceil(trials / found["at_once"]) * options.seconds
    gaps, cycles = found["turnovers"], found["cycles"]
    overhead = f"{100 * (statistics.fmean(cycles) / options.seconds - 1):.2f}" if cycles else ""
    turnover = f"{statistics.median(gaps):.2f} (at most {max(gaps):.2f})" if gaps else ""
    return [
        f"{nodes} of {options.gpus} GPUs",
        str(trials),
        str(found["at_once"]),
        f"{ideal:.0f}",
        f"{found['wall']:.1f}",
        f"{100 * (found['wall'] / ideal - 1):.1f}",
        f"{found['command_to_call']:.1f}",
        f"{found['call_to_first_start']:.1f}",
        f"{found['call_to_first_wave']:.1f}",
        overhead,
        turnover,
        f"{found['cpu']:.1f}",
        f"{1000 * found['cpu'] / found['events']:.1f}",
        f"{found['memory'] / 1e6:.0f}",
        f"{taken[0] / 1e9:.1f}",
        str(found["files"]),
        f"{found['bytes'] / 1e6:.2f}",
        f"{found['results_bytes'] / 1e3:.0f}",
        str(found["results_writes"]),
        f"{found['results_seconds']:.2f}",
    ]


def events(folder: Path, options: argparse.Namespace) -> None:
    """A table of what the driver spends on each event, a row per number of trials."""
    from bookkeeping import kept

    by_event = {
        "propose": "a proposal",
        "epoch": "an epoch's row",
        "step": "a step's end",
        "asha": "asha's decision",
        "median": "median's decision",
        "end": "a trial's end",
        "results.parquet": "results.parquet",
    }
    head = ["trials", *(f"{told}, ms" for told in by_event.values())]
    head += ["all of it, s", "per event, ms", "peak, MB", "files", "MB", "results, MB"]
    print(f"{options.long} epochs each; means over the last tenth of the events\n")
    print(row(head), row(["--:"] * len(head)), sep="\n", flush=True)
    for trials in map(int, options.trials.split(",")):
        found = kept(folder / f"events-{trials}", trials, options.long)
        total = sum(found["seconds"].values()) - found["seconds"]["median"]
        cells = [str(trials), *(f"{found['late'][name]:.3g}" for name in by_event)]
        cells += [f"{total:.1f}", f"{1000 * total / (trials * options.long):.2f}"]
        cells += [f"{found['memory'] / 1e6:.0f}", str(found["files"])]
        cells += [f"{found['bytes'] / 1e6:.1f}"]
        print(row([*cells, f"{found['results_bytes'] / 1e6:.2f}"]), flush=True)
    print("\nAll of it: with asha, without median.")


if __name__ == "__main__":
    main()
