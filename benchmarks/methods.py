"""Every method against every other: same teachers, same student, same seconds, several seeds.

    python benchmarks/methods.py run      two hours on two cores; resumes where it stopped
    python benchmarks/methods.py table    prints the tables of what there is
    python benchmarks/methods.py table --into docs/methods.md

A run is one trial on one thread, in a process of its own. Its budget is in seconds of synthesis and
distillation. How many epochs that is, is measured once per method and task, and then the same for
every teacher, seed and ablation: `epochs` in the results, which are lines of JSON, repeats a run
anywhere.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cells import surroundings
from provenance import commit, machine
from rich.progress import track
from tables import insert, report

from dfkd.methods import METHODS
from dfkd.methods.errors import DfkdError
from dfkd.methods.jury import PROBES
from dfkd.orchestrator.robustness import robustness
from dfkd.orchestrator.specs import Choices, TrialSpec, plan_methods
from dfkd.orchestrator.trials import Surroundings, Trial, correct
from dfkd.search_spaces.data import LabeledImages

RESULTS = Path(__file__).parent / "methods.jsonl"
WATCHED = 2000  # test images that each epoch is measured on; the last epoch on all
BUDGETS = {"digits": 30.0, "fashion_mnist": 60.0, "framed_fashion": 60.0}  # seconds
SEEDS = {"digits": 5, "fashion_mnist": 3, "framed_fashion": 3}
TEACHERS = (None, "plain")


@dataclass(frozen=True, slots=True)
class Entrant:
    """One row of a table: a method, and what is set differently from its own recipe."""

    method: str
    settings: tuple[tuple[str, Any], ...] = ()
    embeddings: str | None = None

    @property
    def name(self) -> str:
        words = [f"{key}={value}" for key, value in self.settings]
        words += [f"embeddings={self.embeddings}"] * bool(self.embeddings)
        return " ".join([self.method, *words])


def against(method: str, **settings: Any) -> Entrant:
    """The method with an ingredient changed."""
    return Entrant(method, tuple(settings.items()))


ABLATIONS = (
    against("nayer", reinit_every=0),
    Entrant("nayer", embeddings="onehot"),
    Entrant("nayer", embeddings="random"),
    against("mad", replay_share=0.0),
    against("pre_dfkd", replay_share=0.0),
    against("dfkd_mb", replay_share=0.0),
    against("ssd_kd", pool_capacity=20000),
)
EVERYWHERE = (against("nayer", bn_weight=1.0),)  # on every teacher
FRAMED = (Entrant("nayer"), Entrant("muse"), Entrant("noise"))


@dataclass(frozen=True, slots=True)
class Run:
    """One cell of the comparison, once."""

    task: str
    teacher: str | None
    entrant: Entrant
    seed: int

    @property
    def key(self) -> list[Any]:
        return [self.task, self.teacher or "default", self.entrant.name, self.seed]

    @property
    def calibration(self) -> Run:
        """What finds its number of epochs: one per method and task, for all that is varied."""
        return Run(self.task, None, Entrant(self.entrant.method), -1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--task", action="append", choices=tuple(BUDGETS), help="default: all")
    parser.add_argument("--method", action="append", choices=tuple(METHODS), help="default: all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--keep", type=Path, help="a folder for students and probes: jury.py's")
    parser.add_argument("--into", type=Path, help="a document with <!-- tables --> marks")
    given = parser.parse_args()
    if given.what == "run":
        run_all(given.results, list(planned(given.task, given.method)), given.jobs, given.keep)
        return
    tables = "\n\n".join(report(read(given.results)))
    if given.into:
        insert(given.into, tables)
    else:
        print(tables)


def planned(tasks: Sequence[str] | None, methods: Sequence[str] | None) -> Iterator[Run]:
    """All runs, seed by seed, so that a table of few seeds is there early."""
    for task in tasks or BUDGETS:
        for seed in range(SEEDS[task]):
            for teacher in TEACHERS:
                for entrant in entrants(task, teacher):
                    if methods is None or entrant.method in methods:
                        yield Run(task, teacher, entrant, seed)


def entrants(task: str, teacher: str | None) -> tuple[Entrant, ...]:
    """Who takes part: every method, and ablations, most of them on the task's own teacher only."""
    if task == "framed_fashion":
        return () if teacher else FRAMED
    everyone = tuple(map(Entrant, METHODS)) + EVERYWHERE
    return everyone if teacher else everyone + ABLATIONS


# Running


def run_all(results: Path, runs: Sequence[Run], jobs: int, keep: Path | None = None) -> None:
    """Run what is not in the results yet, `jobs` at a time; calibrate first where that is due."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    done = {json.dumps(line["key"]) for line in read(results)}
    drop_cut_line(results)
    cells = [run.calibration for run in runs]
    for title, stage in (("calibrating", dict.fromkeys(cells)), ("running", runs)):
        due = [run for run in stage if json.dumps(run.key) not in done]
        calibrated = {json.dumps(line["key"]): line for line in read(results)}
        for task, teacher in dict.fromkeys((run.task, run.teacher) for run in due):
            surroundings(task, teacher)  # trained here, inherited by the forked runs
        work = [(run, calibrated.get(json.dumps(run.calibration.key)), keep) for run in due]
        with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
            lines = pool.imap_unordered(attempt, work)
            for line in track(lines, total=len(work), description=title):
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def attempt(work: tuple[Run, Mapping[str, Any] | None, Path | None]) -> dict[str, Any]:
    """One run or calibration, as a line of the results."""
    run, calibration, keep = work
    torch.set_num_threads(1)
    line: dict[str, Any] = {"key": run.key, "commit": commit(), "machine": machine()}
    try:
        if run.seed < 0:
            return line | calibrate(run)
        assert calibration is not None, "calibrations come first"
        if "failed" in calibration:
            return line | {"failed": calibration["failed"]}
        return line | measure(run, calibration["epochs"], keep)
    except DfkdError as error:
        return line | {"failed": str(error)}


def trial(run: Run, epochs: int) -> Trial:
    """The run's trial, measured on the first test images only while it runs."""
    around = surroundings(run.task, run.teacher)
    assert around.evaluation is not None, "both tasks have test images"
    some = LabeledImages(around.evaluation.images[:WATCHED], around.evaluation.labels[:WATCHED])
    task = around.task
    if run.entrant.embeddings:
        task = replace(task, embeddings=run.entrant.embeddings)
    choices = Choices(
        methods=(run.entrant.method,), epochs=epochs, settings=dict(run.entrant.settings)
    )
    plan = plan_methods(task, choices)[run.entrant.method]
    spec = TrialSpec(
        id=run.entrant.name,
        method=run.entrant.method,
        recipe=plan.recipe,
        student=task.student,
        epochs=epochs,
        seed=max(run.seed, 0),
    )
    return Trial(spec, replace(around, task=task, evaluation=some))


def spent(running: Trial) -> float:
    """CPU seconds of an epoch that count for the budget: all but our own measuring.

    Other processes slow a clock on the wall down, but hardly a thread's own.
    """
    start = time.process_time()
    row = running.step()
    return time.process_time() - start - float(row["seconds_evaluation"])


def calibrate(run: Run) -> dict[str, Any]:
    """How many epochs fill the budget, from five learning epochs after the warm-up."""
    running = trial(run, 1000)
    warmup = running.method.settings.warmup  # type: ignore[attr-defined]
    before = sum(spent(running) for _ in range(warmup))
    each = statistics.median(spent(running) for _ in range(5))
    epochs = warmup + max(2, int((BUDGETS[run.task] - before) / each))
    return {"epochs": epochs, "seconds_warmup": before, "seconds_per_epoch": each}


def measure(run: Run, epochs: int, keep: Path | None) -> dict[str, Any]:
    """One trial to its end, and what is worth keeping of it."""
    around = surroundings(run.task, run.teacher)
    assert around.evaluation is not None, "both tasks have test images"
    before = memory_now()
    running = trial(run, epochs)
    start = time.perf_counter()
    while not running.finished:
        running.step()
    wall = time.perf_counter() - start
    rows = running.history
    figures = robustness(rows)
    assert figures is not None, "the student learned in some epoch"
    last = float(correct(running.network, around.evaluation)) / len(around.evaluation)
    if keep is not None:
        save_for_jury(keep, run, running, last)
    return {
        "epochs": epochs,
        "accuracy": last,
        "test_images": len(around.evaluation),
        "teacher_accuracy": teacher_accuracy(around),
        "teacher": around.teacher.fingerprint,
        "over_epochs": asdict(figures),
        "seconds_synthesis": sum(row.get("seconds_synthesis", 0.0) for row in rows),
        "seconds_distillation": sum(row.get("seconds_distillation", 0.0) for row in rows),
        "seconds_wall": wall,
        "images_made": sum(row.get("images_made", 0) for row in rows),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
        "accuracies": [round(row["accuracy"], 4) for row in rows],
    }


def save_for_jury(folder: Path, run: Run, ended: Trial, accuracy: float) -> None:
    """The student, and images [PROBES, channels, H, W] that it puts aside for the jury."""
    probes = ended.method.probes(PROBES, torch.Generator().manual_seed(0))
    kept = {
        "key": run.key,
        "recipe": dict(ended.spec.recipe),
        "accuracy": accuracy,
        "probes": probes,
        "student": {name: w.contiguous() for name, w in ended.inner.state_dict().items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(kept, folder / ("-".join(map(str, run.key)).replace(" ", "_") + ".pt"))


def teacher_accuracy(around: Surroundings) -> float:
    """On all test images."""
    assert around.evaluation is not None, "both tasks have test images"
    network = around.teacher.build(around.task).network
    return float(correct(network, around.evaluation)) / len(around.evaluation)


def memory_now() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def drop_cut_line(results: Path) -> None:
    """Remove what an interrupted run left of its last line, or the next would be glued to it."""
    if results.exists():
        text = results.read_text()
        results.write_text(text[: text.rfind("\n") + 1])


def read(results: Path) -> list[dict[str, Any]]:
    """The lines of the results so far; a last one that was cut off is dropped."""
    lines = results.read_text().splitlines() if results.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


if __name__ == "__main__":
    main()
