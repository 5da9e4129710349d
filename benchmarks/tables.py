"""The results of `methods.py` as Markdown tables, and what they say about the literature."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START, END = "<!-- tables -->", "<!-- end of tables -->"
RESAMPLES = 2000
ENOUGH = 5  # seeds, for a verdict

Line = Mapping[str, Any]
Figure = Callable[[Line], float]

COLUMNS: dict[str, tuple[str, Figure]] = {
    "mean over epochs": ("{:.1f}", lambda line: 100 * line["over_epochs"]["mean"]),
    "sd over epochs": ("{:.1f}", lambda line: 100 * line["over_epochs"]["variance"] ** 0.5),
    "in 2nd half": ("{:.1f}", lambda line: deviation(line)),
    "best - last": ("{:.1f}", lambda line: 100 * line["over_epochs"]["gap"]),
    "synthesis, s": ("{:.0f}", lambda line: line["seconds_synthesis"]),
    "distillation, s": ("{:.0f}", lambda line: line["seconds_distillation"]),
    "images made": ("{:,.0f}", lambda line: line["images_made"]),
    "memory, MiB": ("{:.0f}", lambda line: line["memory_mib"]),
    "epochs": ("{:.0f}", lambda line: line["epochs"]),
}


def accuracy(line: Line) -> float:
    """Of the last epoch's student, in percent."""
    return 100.0 * float(line["accuracy"])


def deviation(line: Line) -> float:
    """Of the accuracy over the second half of the epochs, in points: the first is the ascent."""
    accuracies = line["accuracies"]
    return 100.0 * statistics.pstdev(accuracies[len(accuracies) // 2 :])


@dataclass(frozen=True, slots=True)
class Claim:
    """What the literature says of two rows: the first is better, or at most `margin` worse."""

    first: str
    second: str
    source: str
    tasks: tuple[str, ...] = ("digits", "fashion_mnist")
    figure: Figure = accuracy
    sign: int = 1
    margin: float = 0.0

    @property
    def words(self) -> str:
        of = "accuracy" if self.figure is accuracy else "sd over the 2nd half"
        relation = "above" if self.sign > 0 else "below"
        if self.margin:
            return f"{of} of `{self.first}` within {self.margin:g} points of `{self.second}`"
        return f"{of} of `{self.first}` {relation} `{self.second}`"


CLAIMS = (
    Claim("nayer", "fast", "NAYER, tables"),
    Claim("fast", "dfq", "Fast, on ResNet-34 to WRN pairs"),
    Claim("dfq", "dfad", "CMI and Fast, tables"),
    Claim("dfq", "dafl", "CMI and Fast, tables"),
    Claim("dfad", "noise", "implied"),
    Claim("dafl", "noise", "implied"),
    Claim("nayer", "nayer reinit_every=0", "NAYER, ablation"),
    Claim("nayer", "nayer embeddings=onehot", "NAYER, ablation"),
    Claim("mad", "mad replay_share=0.0", "MAD", figure=deviation, sign=-1),
    Claim("pre_dfkd", "pre_dfkd replay_share=0.0", "PRE-DFKD", figure=deviation, sign=-1),
    Claim("dfkd_mb", "dfkd_mb replay_share=0.0", "DFKD-MB", figure=deviation, sign=-1),
    Claim("ssd_kd", "ssd_kd pool_capacity=20000", "SSD-KD", margin=1.0),
    Claim("muse", "nayer", "MUSE, abstract", tasks=("framed_fashion",)),
)


def report(lines: Sequence[Line]) -> Iterator[str]:
    """All tables: one per task, then the claims."""
    runs = [line for line in lines if line["key"][3] >= 0]
    for task in dict.fromkeys(line["key"][0] for line in runs):
        yield table(task, [line for line in runs if line["key"][0] == task])
    yield claims(runs)


def table(task: str, lines: Sequence[Line]) -> str:
    """A row per entrant, the most accurate first; medians over seeds."""
    teachers = sorted({line["key"][1] for line in lines})
    rows = {name: chosen(lines, name) for name in dict.fromkeys(line["key"][2] for line in lines)}
    order = sorted(
        rows, key=lambda name: -median(map(accuracy, chosen(rows[name], None, "default")))
    )
    head = ["method", *(f"{t} teacher, %" for t in teachers), *COLUMNS, "n", "failed"]
    out = [f"### {task}", "", facts(lines), "", row(head), row(["---", *["--:"] * (len(head) - 1)])]
    for name in order:
        cells = [f"`{name}`"]
        cells += [interval(map(accuracy, chosen(rows[name], None, t))) for t in teachers]
        good = chosen(rows[name], None, "default")
        for form, figure in COLUMNS.values():
            cells.append(form.format(median(map(figure, good))) if good else "")
        counts = [len(chosen(rows[name], None, t)) for t in teachers]
        failed = len(rows[name]) - sum(counts)
        out.append(row([*cells, " + ".join(map(str, counts)), str(failed)]))
    return "\n".join(out)


def facts(lines: Sequence[Line]) -> str:
    """Teachers, machine, commit and n, as a sentence."""
    good = [line for line in lines if "failed" not in line]
    if not good:
        return "All runs failed."
    teachers = {line["key"][1]: 100 * line["teacher_accuracy"] for line in good}
    told = ", ".join(f"{name} {share:.2f} %" for name, share in sorted(teachers.items()))
    images = {line["test_images"] for line in good}
    commits = ", ".join(sorted({line["commit"] for line in good}))
    machines = "; ".join(sorted({line["machine"] for line in good}))
    return (
        f"Teachers: {told}. Accuracy of the last epoch's student on {max(images):,} test images: "
        f"median over seeds [95 % bootstrap interval of it, which for up to five seeds is their "
        f"range]. All other columns: on the default teacher. {machines}; commit {commits}."
    )


def chosen(lines: Iterable[Line], name: str | None, teacher: str | None = None) -> list[Line]:
    """The lines of one entrant and one teacher; with a teacher, only those that succeeded."""
    return [
        line
        for line in lines
        if name in (None, line["key"][2])
        and teacher in (None, line["key"][1])
        and (teacher is None or "failed" not in line)
    ]


def claims(lines: Sequence[Line]) -> str:
    """Each claim's difference, paired by seed, and whether the runs bear it out."""
    head = ["expected", "from", "task", "teacher", "difference, points", "n", "found"]
    out = ["### What the literature leads to expect", "", row(head), row(["---"] * len(head))]
    for claim in CLAIMS:
        for task, teacher in itertools.product(claim.tasks, ("default", "plain")):
            gaps = differences(
                claim, [line for line in lines if line["key"][:2] == [task, teacher]]
            )
            if gaps:
                cells = [claim.words, claim.source, task, teacher, interval(gaps), str(len(gaps))]
                out.append(row([*cells, verdict(claim, gaps)]))
    return "\n".join(out)


def differences(claim: Claim, lines: Sequence[Line]) -> list[float]:
    """First minus second, for each seed that both have."""
    sides = []
    for name in (claim.first, claim.second):
        good = [line for line in lines if line["key"][2] == name and "failed" not in line]
        sides.append({line["key"][3]: claim.figure(line) for line in good})
    return [sides[0][seed] - sides[1][seed] for seed in sides[0] if seed in sides[1]]


def verdict(claim: Claim, gaps: Sequence[float]) -> str:
    """Confirmed or refuted if all of ENOUGH seeds agree (by chance: 1 in 16), else undecided."""
    holds = sum(claim.sign * gap + claim.margin > 0 for gap in gaps)
    fails = sum(claim.sign * gap + claim.margin < 0 for gap in gaps)
    said = f"({holds} of {len(gaps)})"
    if len(gaps) < ENOUGH:
        return f"too few {said}"
    if holds == len(gaps):
        return f"confirmed {said}"
    return f"refuted {said}" if fails == len(gaps) else f"undecided {said}"


def interval(values: Iterable[float]) -> str:
    """The median with its bootstrap interval."""
    found = list(values)
    if not found:
        return ""
    low, high = bootstrap(found)
    return f"{median(found):.1f} [{low:.1f}, {high:.1f}]"


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the median of resampled values."""
    rng = random.Random(0)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1]


def median(values: Iterable[float]) -> float:
    """The median; of nothing, minus infinity."""
    found = list(values)
    return statistics.median(found) if found else float("-inf")


def row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def insert(document: Path, text: str) -> None:
    """Put `text` between the document's marks."""
    before, _, rest = document.read_text().partition(START)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}")
