"""What does a trial take whose pool is larger than Ray's object store?

    python benchmarks/large_pool.py    a pool of 128,000 images, under ten minutes on two cores
    python benchmarks/large_pool.py --images 2000 --epochs 4    does it run?

Images of 3x112x112 that cost next to nothing to make (large_images.py): 128,000 are 4.8 GB. Three
times, each in a process of its own: a trial fills the pool epoch by epoch, and saves checkpoints
when that is cheap enough, as trials do; another process resumes it, and saves it once more; a sweep
of one trial does the same in Ray, with an object store of 500 MB and `--share-pools exact`. Memory
is the resident set of the process that runs the trial, without the page cache. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ray
import torch
from large_images import BATCH, IMAGE, METHOD, write_task
from provenance import commit, machine
from watched_memory import forget_peak, highest_memory, memory

from dfkd.methods.shelf import digest
from dfkd.orchestrator import sweep
from dfkd.orchestrator.clusters import QUIET
from dfkd.orchestrator.requests import SweepRequest, resolve
from dfkd.orchestrator.scores import SCORES
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import Surroundings, Trial
from dfkd.search_spaces.data import load_data

STORE = 500_000_000
GB = 1e9


class Watched(Trial):
    """A trial that notes what saving took."""

    saves: list[tuple[int, float, int, int]]
    """Images in the pool, seconds, bytes that were not on disk before, and what memory grew by."""
    peak = 0
    """Of the memory before the last save."""
    resuming = 0.0
    """Seconds that reading the checkpoint took."""

    def save(self) -> None:
        assert self.folder is not None, "it has a folder"
        self.peak = max(self.peak, memory()["VmHWM"])
        forget_peak()
        before, there, start = memory()["VmRSS"], set(files(self.folder)), time.perf_counter()
        super().save()
        seconds, grown = time.perf_counter() - start, memory()["VmHWM"] - before
        new = sum(size for file, size in files(self.folder).items() if file not in there)
        method: Any = self.method
        images = len(method.pool)
        self.saves.append((images, seconds, new, grown))

    def _resume(self, folder: Folder) -> None:
        start = time.perf_counter()
        super()._resume(folder)
        self.resuming = time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128_000)
    parser.add_argument("--epochs", type=int, default=32)
    options = parser.parse_args()
    os.environ.update(QUIET | {"RAY_AUTH_MODE": "disabled"})
    print(f"{machine()}, commit {commit()}; {vars(options)}\n")
    with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
        os.environ["DFKD_CACHE"] = f"{folder}/cache"
        task, recipe = write_task(folder), plan(options.images, options.epochs)
        grown = apart(run, task, recipe, f"{folder}/t000")
        resumed = apart(resume, task, recipe, f"{folder}/t000")
        on_ray = swept(task, recipe, folder)
    told(grown, resumed, on_ray, options.images * IMAGE)


def plan(images: int, epochs: int) -> dict[str, Any]:
    """Epochs and settings with which the pool is full after the last epoch."""
    rounds = images // (epochs * BATCH)
    if rounds * epochs * BATCH != images:
        raise SystemExit(f"--images must be a multiple of {epochs * BATCH} for {epochs} epochs")
    settings = {"warmup": epochs - 1, "warmup_rounds": rounds, "rounds": rounds, "held_out": 0.0}
    return {"epochs": epochs, "settings": settings | {"pool_capacity": images}}


def one_more(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with an epoch that nobody runs."""
    return {**recipe, "epochs": recipe["epochs"] + 1}


def apart(what: Any, *given: Any) -> dict[str, Any]:
    """What a function returns, called in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        found: dict[str, Any] = process.submit(what, *given).result()
        return found


def trial_of(task: str, recipe: Mapping[str, Any], folder: str) -> Watched:
    """The trial as its folder has it, on one thread."""
    torch.set_num_threads(1)
    request = SweepRequest(task=task, methods=(METHOD,), select="accuracy", **recipe)
    sweep = resolve(request, lambda text: None)
    around = Surroundings(
        task=sweep.task,
        teacher=sweep.teacher,
        score=SCORES["accuracy"],
        evaluation=load_data(sweep.task, "test"),
    )
    trial = Watched(sweep.trial("t000", METHOD, {}), around, Folder.of(folder))
    trial.saves = []
    return trial


def run(task: str, recipe: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A trial from its start to before its last epoch: of one that has ended no pool is left."""
    trial = trial_of(task, one_more(recipe), folder)
    start, before = time.perf_counter(), memory()["VmRSS"]
    trial.step()
    first = max(trial.peak, memory()["VmHWM"])
    for _ in range(recipe["epochs"] - 1):
        trial.step()
    trial.save()
    found = {"before": before, "first": first, "seconds": time.perf_counter() - start}
    return found | at_the_end(trial)


def resume(task: str, recipe: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """That trial, begun anew from its folder."""
    trial_of(task, one_more(recipe), f"{folder}-empty")  # what it takes without a checkpoint
    before = memory()["VmRSS"]
    trial = trial_of(task, one_more(recipe), folder)
    found = {"before": before, "resumed": memory()["VmHWM"], "seconds": trial.resuming}
    trial.save()
    return found | at_the_end(trial)


def at_the_end(trial: Watched) -> dict[str, Any]:
    """What the process took, and what the trial left."""
    assert trial.folder is not None, "it has a folder"
    method: Any = trial.method
    pool = method.pool
    return {
        "peak": max(trial.peak, memory()["VmHWM"]),
        "saves": trial.saves,
        "digest": digest(pool.images, pool.labels),
        "disk": sum(files(trial.folder).values()),
        "blocks": len(trial.folder.child("blocks").files()),
    }


def swept(task: str, recipe: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A sweep of one such trial, in Ray."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=STORE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    with highest_memory() as peaks:
        result = sweep(
            task,
            methods=(METHOD,),
            trials=1,
            scheduler="fifo",
            search="random",
            control=False,
            select="accuracy",
            share_pools="exact",
            storage=f"{folder}/runs",
            **recipe,
        )
    ray.shutdown()
    (record,) = result.records
    rows = record.rows
    return {
        "outcome": record.outcome,
        "images": rows[-1]["pool_images"],
        "seconds": result.seconds,
        "waiting": sum(row["seconds_waiting"] for row in rows),
        "shared": result.run.facts()["shared"],
        "disk": sum(files(result.run.trial_folder(record.spec.id)).values()),
        **peaks,
    }


def files(folder: Folder) -> dict[str, int]:
    """The sizes of all files below a local folder."""
    paths = [path for path in Path(folder.uri).rglob("*") if path.is_file()]
    return {str(path): path.stat().st_size for path in paths}


def told(
    grown: Mapping[str, Any], resumed: Mapping[str, Any], on_ray: Mapping[str, Any], pool: int
) -> None:
    """Two tables: memory and time; the checkpoints."""
    print("| | trial | resumed | in Ray, store of 500 MB |\n|---|--:|--:|--:|")

    def row(what: str, *cells: str) -> None:
        print(f"| {what} | {' | '.join(cells)} |")

    def gb(found: Mapping[str, Any], key: str) -> str:
        return f"{found[key] / GB:.2f} GB" if key in found else ""

    print(f"| the pool, as stated | {pool / GB:.2f} GB | {pool / GB:.2f} GB | {pool / GB:.2f} GB |")
    row("memory before the first epoch", gb(grown, "before"), gb(resumed, "before"), "")
    row("peak of the first epoch", gb(grown, "first"), "", "")
    row("peak when resumed", "", gb(resumed, "resumed"), "")
    row("**peak**", gb(grown, "peak"), gb(resumed, "peak"), gb(on_ray, "VmHWM"))
    row("of it mapped from the object store", "", "", gb(on_ray, "RssShmem"))
    beyond = [
        f"{(found['peak'] - found['before'] - pool) / GB:.2f} GB" for found in (grown, resumed)
    ]
    row("peak, less pool and start", *beyond, "")
    row("on disk at the end", gb(grown, "disk"), gb(resumed, "disk"), gb(on_ray, "disk"))
    row(
        "seconds",
        f"{grown['seconds']:.0f}",
        f"{resumed['seconds']:.1f}",
        f"{on_ray['seconds']:.0f}",
    )
    print("\n| checkpoint | images | seconds | written | memory |\n|--:|--:|--:|--:|--:|")
    for number, save in enumerate([*grown["saves"], *resumed["saves"]], 1):
        images, seconds, *sizes = save
        row(str(number), f"{images:,}", f"{seconds:.2f}", *(f"{s / 1e6:,.0f} MB" for s in sizes))
    alike, shared = grown["digest"] == resumed["digest"], on_ray["shared"]
    print(f"\n{grown['blocks']} blocks; the resumed pool is the same: {alike}.")
    print(
        f"In Ray: {on_ray['outcome']}, {on_ray['images']:,.0f} images; {on_ray['waiting']:.0f} s "
        f"of saving and sharing; bundles: {shared['kept']} kept, {shared['evictions']} given up, "
        f"{shared['refusals']} refused; {shared['spilled'] / 1e6:.0f} MB spilled."
    )


if __name__ == "__main__":
    main()
