"""Does the jury rank students as their true accuracy does?

    python benchmarks/methods.py run --keep FOLDER    trials of all methods, with their probes
    dfkd sweep digits --trials 24 --search random --scheduler fifo --name SWEEP    recipes of NAYER
    python benchmarks/jury.py FOLDER dfkd-runs/SWEEP ... [--into docs/jury.md]

Every student is scored on every other trial's probes, by several rules; the true accuracy, which no
rule sees, says how well each did: Spearman's correlation over all trials and within NAYER's, and
the regret of choosing the best of eight, in points of accuracy.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from cells import surroundings
from provenance import commit, machine
from tables import insert

from dfkd.methods.jury import Jury, ProbePool
from dfkd.methods.networks import Normalized, build_network
from dfkd.orchestrator.probes import pools_from_bytes
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import PROBE_FILE, STUDENT, Surroundings
from dfkd.orchestrator.verdicts import ranks as ranks_of
from dfkd.orchestrator.verdicts import spearman

DRAWS = 4000  # of eight trials, for the regret
CONTROLS = ("deepinversion", "fast", "noise")  # whose pools stand for the control pools
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Court:
    """All trials of one task and teacher, each judged by each pool that is not degenerate."""

    task: str
    teacher: str
    names: Sequence[str]
    methods: Sequence[str]
    accuracy: Matrix
    """[trials]"""
    divergence: Matrix
    """KL(teacher || student) [trials, pools], NaN on one's own pool."""
    agreement: Matrix
    own: Matrix
    """Agreement on one's own pool [trials], NaN where that is degenerate."""
    pools: Sequence[int]
    """Whose each pool is: its trial's number."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="kept runs, and sweeps' run folders")
    parser.add_argument("--into", type=Path, help="a document with <!-- tables --> marks")
    given = parser.parse_args()
    kept = [line for folder in given.folders for line in lines_of(folder)]
    cells = sorted({(line["key"][0], line["key"][1]) for line in kept})
    parts = []
    for task, teacher in cells:
        lines = [line for line in kept if line["key"][:2] == [task, teacher]]
        parts.append(table(court(task, teacher, lines)))
    parts.append(f"{machine()}; commit {commit()}.")
    text = "\n\n".join(parts)
    if given.into:
        insert(given.into, text)
    else:
        print(text)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Each trial's student, probes and accuracy, from a sweep's run folder or from kept runs."""
    if not (folder / "sweep.json").exists():
        return [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    run = Run(Folder.of(str(folder)))
    around = run.surroundings()
    found = []
    for record in run.records():
        home = run.trial_folder(record.spec.id)
        student, probes = home.read(STUDENT), home.read(PROBE_FILE)
        if record.best is not None and student is not None and probes is not None:
            (pool,) = pools_from_bytes(probes)
            name = f"{record.spec.method} {folder.name}-{record.spec.id}"
            line = {
                "key": [around.task.name, teacher_name(around), name, record.spec.seed],
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
    jury = Jury(
        around.teacher.build(problem),
        [ProbePool(str(number), line["probes"]) for number, line in enumerate(lines)],
    )
    shape = (len(lines), len(jury.pools))
    divergence, agreement = np.zeros(shape), np.zeros(shape)
    for number, line in enumerate(lines):
        network = build_network(problem.student, problem.shape.channels, len(problem.classes))
        network.load_state_dict(line["student"])
        verdict = jury.judge(Normalized(network, problem.mean, problem.std).eval())
        assert verdict is not None, "there are pools"
        divergence[number] = list(verdict.divergences.values())
        agreement[number] = list(verdict.agreements.values())
    pools = [int(name) for name in jury.pools]
    own = np.full(len(lines), np.nan)
    for column, number in enumerate(pools):
        own[number] = agreement[number, column]
        divergence[number, column] = agreement[number, column] = np.nan
    names = [line["key"][2] for line in lines]
    return Court(
        task=task,
        teacher=teacher,
        names=names,
        methods=[name.split()[0] for name in names],
        accuracy=np.array([line["accuracy"] for line in lines]),
        divergence=divergence,
        agreement=agreement,
        own=own,
        pools=pools,
    )


# The rules: each gives every trial a score, larger is better


def mean_divergence(court: Court) -> Matrix:
    """Each pool one vote."""
    return -np.nanmean(court.divergence, axis=1)


def mean_agreement(court: Court) -> Matrix:
    return np.asarray(np.nanmean(court.agreement, axis=1))


def log_divergence(court: Court) -> Matrix:
    """Geometric mean: no pool outweighs the others because its divergences are large."""
    return -np.nanmean(np.log(court.divergence + 1e-6), axis=1)


def trimmed(court: Court, share: float = 0.1) -> Matrix:
    """Without each student's worst tenth of the pools."""
    ordered = np.sort(court.divergence, axis=1)  # NaN last
    known = np.isfinite(ordered).sum(1)
    kept = np.arange(ordered.shape[1]) < np.ceil(known * (1 - share))[:, None]
    return -np.nanmean(np.where(kept, ordered, np.nan), axis=1)


def median(court: Court) -> Matrix:
    return -np.nanmedian(court.divergence, axis=1)


def by_family(court: Court) -> Matrix:
    """Each method one vote, however many pools it has."""
    families = np.array([court.methods[number] for number in court.pools])
    votes = []
    for family in dict.fromkeys(families):
        part = court.divergence[:, families == family]
        alone = np.isnan(part).all(1)
        votes.append(np.where(alone, np.nan, np.nanmean(np.where(alone[:, None], 0, part), axis=1)))
    return -np.nanmean(np.stack(votes, 1), axis=1)


def ranks(court: Court) -> Matrix:
    """Mean of the rank within each pool, as a share of the trials that it judged."""
    votes = np.full(court.divergence.shape, np.nan)
    for column in range(votes.shape[1]):
        known = np.isfinite(court.divergence[:, column])
        votes[known, column] = ranks_of(list(court.divergence[known, column])) / known.sum()
    return -np.nanmean(votes, axis=1)


def low_rank(court: Court) -> Matrix:
    """First factor of the log divergences, the pools' means taken off, gaps filled by iteration."""
    logs = np.log(court.divergence + 1e-6)
    gaps = np.isnan(logs)
    filled = np.where(gaps, np.nanmean(logs, axis=0), logs)
    for _ in range(20):
        centered = filled - filled.mean(0)
        u, s, v = np.linalg.svd(centered, full_matrices=False)
        filled = np.where(gaps, filled.mean(0) + s[0] * np.outer(u[:, 0], v[0]), logs)
    return -u[:, 0] * s[0] * np.sign(v[0].sum())


def control_pools(court: Court, log: bool = False) -> Matrix:
    """The pools of the first trial of each control method alone."""
    firsts = [
        next((c for c, number in enumerate(court.pools) if court.names[number] == name), None)
        for name in CONTROLS
    ]
    found = court.divergence[:, [column for column in firsts if column is not None]]
    return -np.nanmean(np.log(found + 1e-6) if log else found, axis=1)


RULES: dict[str, Callable[[Court], Matrix]] = {
    "mean KL, each pool one vote": mean_divergence,
    "mean agreement": mean_agreement,
    "mean log KL": log_divergence,
    "trimmed mean KL": trimmed,
    "median KL": median,
    "mean KL, each method one vote": by_family,
    "mean rank": ranks,
    "first factor of log KL": low_rank,
    "mean KL on three control pools": control_pools,
    "mean log KL on three control pools": lambda court: control_pools(court, log=True),
    "agreement on one's own pool": lambda court: court.own,
}


def table(court: Court) -> str:
    """How every rule did, as Markdown."""
    everyone = np.arange(len(court.names))
    good = everyone[court.accuracy > 0.9 * court.accuracy.max()]
    nayer = everyone[np.array(court.methods) == "nayer"]
    lines = [
        f"### {court.task}, {court.teacher} teacher",
        f"{len(everyone)} trials, of which {len(nayer)} NAYER's and {len(good)} within a tenth of "
        f"the best; {len(court.pools)} pools; accuracy {100 * court.accuracy.min():.1f} to "
        f"{100 * court.accuracy.max():.1f} %.",
        "| rule | Spearman, all | NAYER alone | the good ones | regret of the best of 8, points | "
        "among the good |\n| --- | --: | --: | --: | --: | --: |\n"
        + "\n".join(row(name, rule(court), court, good, nayer) for name, rule in RULES.items())
        + f"\n| at random | | | | {regret(None, court, everyone):.2f} "
        f"| {regret(None, court, good):.2f} |",
    ]
    return "\n\n".join(lines)


def row(name: str, scores: Matrix, court: Court, good: Matrix, nayer: Matrix) -> str:
    known = np.isfinite(scores)
    figures = []
    for some in (np.arange(len(scores)), nayer, good):
        some = some[known[some]]
        found = spearman(list(scores[some]), list(court.accuracy[some]))
        figures.append("" if found is None else f"{found:.2f}")
    for some in (np.arange(len(scores)), good):
        figures.append(f"{regret(scores, court, some[known[some]]):.2f}")
    return f"| {name} | " + " | ".join(figures) + " |"


def regret(scores: Matrix | None, court: Court, among: Matrix) -> float:
    """Mean points lost by taking the highest score of eight trials; None: by taking any."""
    rng = np.random.default_rng(0)
    lost = []
    for _ in range(DRAWS):
        eight = rng.choice(among, min(8, len(among)), replace=False)
        accuracy = court.accuracy[eight]
        taken = accuracy.mean() if scores is None else accuracy[np.argmax(scores[eight])]
        lost.append(accuracy.max() - taken)
    return 100 * statistics.fmean(lost)


if __name__ == "__main__":
    main()
