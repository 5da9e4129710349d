"""Does the jury rank students as their true accuracy does?

    python benchmarks/methods.py run --keep FOLDER    trials of all methods, with their probes
    dfkd sweep digits --trials 24 --search random --scheduler fifo --name SWEEP    recipes of NAYER
    python benchmarks/jury.py FOLDER dfkd-runs/SWEEP ... [--into docs/jury.md]

Every student is scored on the control pools and on every other trial's probes, by several rules
(jury_rules.py); the true accuracy, which no rule sees, says how well each did: Spearman's
correlation over all trials and within NAYER's, and the regret of choosing the best of several, in
points of accuracy.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from cells import surroundings
from jury_rules import RULES, Judged, Matrix
from provenance import commit, machine
from tables import insert, row

from dfkd.methods.consensus import fit
from dfkd.methods.jury import Jury, ProbePool
from dfkd.methods.networks import Normalized, build_network
from dfkd.orchestrator.controls import cached_controls, make_controls
from dfkd.orchestrator.probes import pools_from_bytes
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import PROBE_FILE, STUDENT, Surroundings, correct
from dfkd.orchestrator.verdicts import spearman
from dfkd.search_spaces.data import load_data

DRAWS = 4000  # of eight trials, all scored by the whole jury
SWEEPS = 1000  # of trials that are scored by their own pools and the control pools
FEW = 5000  # test images that cannot tell students apart: more are then looked at
SURENESS = (0.0, 0.5, 0.7, 0.85, 0.95, 1.0)
LINES: dict[tuple[str, str], list[dict[str, Any]]] = {}
"""The trials, by task and teacher: read here, inherited by the forked hearings."""


@dataclass(frozen=True, slots=True)
class Court:
    """All trials of one task and teacher, each judged by each pool that is not degenerate."""

    task: str
    teacher: str
    methods: Sequence[str]
    accuracy: Matrix
    """On the test images [trials]."""
    accuracy_of_all: Matrix | None
    """On those and the teacher's train images, if the test images are few; no student saw any."""
    agreement_of_exams: float | None
    """Spearman between accuracy on the test images and on the train images."""
    judged: Judged

    @property
    def nayer(self) -> Matrix:
        return np.flatnonzero(np.array(self.methods) == "nayer")

    @property
    def good(self) -> Matrix:
        """Within a tenth of the best."""
        return np.flatnonzero(self.accuracy > 0.9 * self.accuracy.max())


@dataclass(frozen=True, slots=True)
class Figures:
    """How a rule did in one court: correlations in [-1, 1], regrets in points."""

    everyone: float | None
    nayer: float | None
    good: float | None
    regret: float
    """Of the best of eight by the whole jury."""
    of_eight: float
    """Of a sweep of eight, judged by its own pools and the control pools."""
    of_sixteen: float
    everyone_on_all: float | None = None
    nayer_on_all: float | None = None
    regret_on_all: float | None = None


HEAD = ("rule", "Spearman, all", "NAYER", "good ones", "regret of 8", "sweep of 8", "sweep of 16")
MORE = ("all, more images", "NAYER, more images", "regret of 8, more images")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="kept runs, and sweeps' run folders")
    parser.add_argument("--jobs", type=int, default=2, help="tasks and teachers at once")
    parser.add_argument("--into", type=Path, help="a document with <!-- tables --> marks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for folder in given.folders:
        for line in lines_of(folder):
            LINES.setdefault((line["key"][0], line["key"][1]), []).append(line)
    with multiprocessing.get_context("fork").Pool(given.jobs, maxtasksperchild=1) as pool:
        found = pool.map(hearing, sorted(LINES), chunksize=1)
    figures = {f"{court.task}, {court.teacher}": rules for court, rules, _ in found}
    parts = ["### Over all tasks and teachers", overall(figures)]
    sure = [(court.task, sweeps) for court, _, sweeps in found]
    parts += ["### How sure the choice is", sureness(sure)]
    for court, rules, _ in found:
        parts += [f"### {court.task}, {court.teacher} teacher", facts(court), table(rules)]
    text = "\n\n".join([*parts, f"{machine()}; commit {commit()}."])
    if given.into:
        insert(given.into, text)
    else:
        print(text)


def hearing(cell: tuple[str, str]) -> tuple[Court, dict[str, Figures], Matrix]:
    """The court of a task and a teacher, how each rule did there, and how sure the choices were."""
    torch.set_num_threads(1)
    held = court(*cell, LINES[cell])
    rules = {name: figures(name, held) for name in [*RULES, "at random"]}
    return held, rules, resampled(held)


# Collecting


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Each trial's student, probes and accuracy, from a sweep's run folder or from kept runs."""
    if not (folder / "sweep.json").exists():
        return [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    run = Run(Folder.of(str(folder)))
    around = run.surroundings()
    teacher = teacher_name(around)
    found = []
    for record in run.records():
        home = run.trial_folder(record.spec.id)
        student, probes = home.read(STUDENT), home.read(PROBE_FILE)
        if record.best is not None and student is not None and probes is not None:
            (pool,) = pools_from_bytes(probes)
            name = f"{record.spec.method} {folder.name}-{record.spec.id}"
            line = {
                "key": [around.task.name, teacher, name, record.spec.seed],
                "accuracy": record.best["accuracy"],
                "probes": pool.images,
                "student": safetensors.torch.load(student),
            }
            found.append(line)
    return found


def teacher_name(around: Surroundings) -> str:
    """Which of the comparison's teachers a sweep used."""
    for name in ("default", "plain"):
        known = surroundings(around.task.name, None if name == "default" else name)
        if known.teacher.fingerprint == around.teacher.fingerprint:
            return name
    raise SystemExit(f"a teacher of {around.task.name} that the comparison does not know")


def court(task: str, teacher: str, lines: Sequence[Mapping[str, Any]]) -> Court:
    """Judge every student by every pool."""
    around = surroundings(task, None if teacher == "default" else teacher)
    problem = around.task
    controls = cached_controls(problem, around.teacher) or make_controls(problem, around.teacher)
    pools: list[tuple[int | None, ProbePool]] = [(None, p) for p in pools_from_bytes(controls)]
    pools += [(i, ProbePool(f"trial {i}", line["probes"])) for i, line in enumerate(lines)]
    jury = Jury(around.teacher.build(problem), [pool for _, pool in pools])
    owners = [owner for owner, pool in pools if pool.name in jury.pools]
    students = [network_of(line, around) for line in lines]
    verdicts = [jury.judge(student) for student in students]
    divergence, agreement = (
        np.array([list(getattr(verdict, kind).values()) for verdict in verdicts])
        for kind in ("divergences", "agreements")
    )
    own = np.full(len(lines), np.nan)
    for column, owner in enumerate(owners):
        if owner is not None:
            own[owner] = agreement[owner, column]
            divergence[owner, column] = agreement[owner, column] = np.nan
    methods = [line["key"][2].split()[0] for line in lines]
    makers = [  # a control pool is called after the method that made it
        name.split()[0] if owner is None else methods[owner]
        for owner, name in zip(owners, jury.pools, strict=True)
    ]
    accuracy = np.array([line["accuracy"] for line in lines])
    both, agreed = more_exams(students, accuracy, around)
    judged = Judged(divergence, agreement, own, makers, owners)
    return Court(task, teacher, methods, accuracy, both, agreed, judged)


def network_of(line: Mapping[str, Any], around: Surroundings) -> torch.nn.Module:
    task = around.task
    network = build_network(task.student, task.shape.channels, len(task.classes))
    network.load_state_dict(line["student"])
    return Normalized(network, task.mean, task.std).eval()


def more_exams(
    students: Sequence[torch.nn.Module], accuracy: Matrix, around: Surroundings
) -> tuple[Matrix | None, float | None]:
    """Accuracy on test and train images together, and how far the two agree on the students."""
    test, train = around.evaluation, load_data(around.task, "train")
    assert test is not None and train is not None, "all tasks here have both"
    if len(test) >= FEW:
        return None, None
    other = np.array([float(correct(student, train)) / len(train) for student in students])
    both = (accuracy * len(test) + other * len(train)) / (len(test) + len(train))
    return both, spearman(list(accuracy), list(other))


# Measuring


def figures(name: str, held: Court) -> Figures:
    """How the rule called `name` did; any other name chooses at random."""
    rule = RULES.get(name)
    scores = None if rule is None else rule(held.judged)
    everyone = np.arange(len(held.methods))
    rng = np.random.default_rng(0)
    small = []
    for size in (8, 16):
        lost = []
        for _ in range(SWEEPS):
            some = rng.choice(everyone, min(size, len(everyone)), replace=False)
            own = None if rule is None else rule(held.judged.sweep(list(some)))
            lost.append(lost_by(own, held.accuracy[some]))
        small.append(statistics.fmean(lost))
    more = held.accuracy_of_all
    return Figures(
        *(correlation(scores, held.accuracy, who) for who in (everyone, held.nayer, held.good)),
        regret(scores, held.accuracy),
        *small,
        *() if more is None else (correlation(scores, more, who) for who in (everyone, held.nayer)),
        *() if more is None else (regret(scores, more),),
    )


def correlation(scores: Matrix | None, accuracy: Matrix, among: Matrix) -> float | None:
    """Spearman's, of those that have a score."""
    if scores is None:
        return None
    some = among[np.isfinite(scores[among])]
    return spearman(list(scores[some]), list(accuracy[some]))


def regret(scores: Matrix | None, accuracy: Matrix) -> float:
    """Mean points lost by taking the highest score of eight trials; None: by taking any."""
    rng = np.random.default_rng(0)
    known = np.arange(len(accuracy)) if scores is None else np.flatnonzero(np.isfinite(scores))
    lost = []
    for _ in range(DRAWS):
        eight = rng.choice(known, min(8, len(known)), replace=False)
        lost.append(lost_by(None if scores is None else scores[eight], accuracy[eight]))
    return statistics.fmean(lost)


def lost_by(scores: Matrix | None, accuracy: Matrix) -> float:
    """Points that the choice has less than the best; without scores any is taken."""
    if scores is None:
        return float(100 * (accuracy.max() - accuracy.mean()))
    taken = accuracy[np.where(np.isfinite(scores), scores, -np.inf).argmax()]
    return float(100 * (accuracy.max() - taken))


def resampled(held: Court) -> Matrix:
    """Of sweeps of sixteen [SWEEPS, 3]: the choice's sureness, whether it is the best, its cost."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(SWEEPS):
        some = rng.choice(len(held.methods), min(16, len(held.methods)), replace=False)
        accuracy = held.accuracy[some]
        sweep = held.judged.sweep(list(some))
        model = fit(sweep.divergence, sweep.families)
        chosen = model.divergences.argmin()
        share = (model.resampled(200).argmin(1) == chosen).mean()
        lost = accuracy.max() - accuracy[chosen]
        found.append((share, lost < 1e-9, 100 * lost))
    return np.array(found)


# Showing


def facts(held: Court) -> str:
    """What was judged, as a sentence."""
    low, high = 100 * held.accuracy.min(), 100 * held.accuracy.max()
    said = (
        f"{len(held.methods)} trials, of which {len(held.nayer)} NAYER's and {len(held.good)} "
        f"within a tenth of the best; {len(held.judged.owners)} pools; accuracy {low:.1f} to "
        f"{high:.1f} %."
    )
    if held.agreement_of_exams is not None:
        said += (
            " *More images* are the test images and those that the teacher learned from: accuracy "
            "on the ones and on the others ranks the trials with a Spearman correlation of "
            f"{held.agreement_of_exams:.2f}, which is about what any score can reach on the test "
            "images."
        )
    return said


def table(rules: Mapping[str, Figures]) -> str:
    """How every rule did in one court."""
    more = any(found.everyone_on_all is not None for found in rules.values())
    head = [*HEAD, *MORE] if more else [*HEAD]
    out = [row(head), row(["---", *["--:"] * (len(head) - 1)])]
    for name, found in rules.items():
        values = [found.everyone, found.nayer, found.good]
        values += [found.regret, found.of_eight, found.of_sixteen]
        if more:
            values += [found.everyone_on_all, found.nayer_on_all, found.regret_on_all]
        out.append(row([name, *map(cell, values)]))
    return "\n".join(out)


def overall(courts: Mapping[str, Mapping[str, Figures]]) -> str:
    """The worst and the mean of every rule over all courts."""
    named = ("everyone", "nayer", "regret", "of_eight", "of_sixteen")
    head = ["rule", "Spearman, all", "NAYER", "regret of 8", "sweep of 8", "sweep of 16"]
    out = [row(head), row(["---", *["--:"] * len(named)])]
    for name in next(iter(courts.values())):
        cells = [name]
        for kind in named:
            values = [getattr(rules[name], kind) for rules in courts.values()]
            known = [value for value in values if value is not None]
            worst = min if kind in ("everyone", "nayer") else max
            said = f"{statistics.fmean(known):.2f} ({worst(known):.2f})" if known else ""
            cells.append(said)
        out.append(row(cells))
    return "\n".join(out)


def sureness(found: Sequence[tuple[str, Matrix]]) -> str:
    """How often the best was chosen, and the regret, where so many juries drawn again agreed."""
    tasks = {
        task: np.concatenate([sweeps for name, sweeps in found if name == task])
        for task in dict.fromkeys(task for task, _ in found)
    }
    head = ["juries that choose the same", *(f"{task}: the best; regret" for task in tasks)]
    out = [row(head), row(["---", *["--:"] * len(tasks)])]
    for low, high in itertools.pairwise(SURENESS):
        cells = [f"{100 * low:.0f} to {100 * high:.0f} %"]
        for sweeps in tasks.values():
            some = sweeps[(sweeps[:, 0] > low) & (sweeps[:, 0] <= high)]
            cells.append("" if len(some) == 0 else met(some))
        out.append(row(cells))
    return "\n".join(out)


def met(sweeps: Matrix) -> str:
    best, lost = sweeps[:, 1:].mean(0)
    return f"{100 * best:.0f} %; {lost:.2f} (n = {len(sweeps)})"


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
