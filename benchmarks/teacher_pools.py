"""Sweeps whose trials draw each other's shards (`--share-pools teacher`) against `off`.

Compute is seconds of synthesis and of distillation, summed over trials and epochs in the order in
which epochs ended; epochs that others were in the middle of do not count yet. It is counted until a
sweep's best accuracy first reaches that of the `off` sweep, which is the highest of many epochs and
therefore partly luck: so also until it reaches one standard error of the test images less. What
drawing costs is the waiting, printed beside.

A trial's random streams depend on its id where trials draw from each other, and not otherwise: the
ranks of two sweeps differ for that reason too. How far chance moves ranks at least is told by the
`off` sweep's last epoch but one against its last.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from swept import Swept, sweep
from torch import Tensor

from dfkd.methods.teacher import Teacher
from dfkd.orchestrator import checkpoints
from dfkd.orchestrator.probes import pools_from_bytes
from dfkd.orchestrator.trials import PROBE_FILE
from dfkd.orchestrator.verdicts import spearman

AIM = "40 % or less"
LOOKED_AT = 300  # images of a pool
TARGETS = ("the best of off", "one standard error less")
COUNTED = ("synthesis", "distillation")
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sweeps over the same recipes."""

    seed: int
    off: Swept
    teacher: Swept

    @property
    def sides(self) -> tuple[tuple[str, Swept], tuple[str, Swept]]:
        return ("off", self.off), ("teacher", self.teacher)

    def targets(self) -> tuple[float, float]:
        """The accuracies of TARGETS."""
        images = self.off.run.surroundings().evaluation
        assert images is not None, "digits have labels"
        best = highest(self.off)
        return best, best - math.sqrt(best * (1 - best) / len(images))


def compare(folder: str, options: argparse.Namespace) -> None:
    """Run a pair per seed, and print what there is to say."""
    epochs = options.epochs or 30
    print(f"nayer, {options.trials} trials of {epochs} epochs over all it searches\n")
    pairs = []
    for seed in range(options.seeds):
        plan = {
            "method": "nayer",
            "seed": seed,
            "epochs": epochs,
            "trials": options.trials,
            "concurrent": options.concurrent,
        }
        sides = (
            sweep(folder, f"teacher-{seed}-{way}", {**plan, "share-pools": way})
            for way in ("off", "teacher")
        )
        pairs.append(Pair(seed, *sides))
    until_as_good(pairs)
    whole(pairs)
    ranking(pairs)
    variety(pairs)


def highest(swept: Swept) -> float:
    """The best accuracy of all epochs of all trials."""
    return max(float(row["accuracy"]) for row in swept.rows)


def compute(row: dict[str, Any]) -> float:
    """Seconds of an epoch."""
    return sum(row.get(f"seconds_{what}") or 0.0 for what in COUNTED)


def spent_until(swept: Swept, accuracy: float) -> float:
    """Compute until an epoch's student is that accurate."""
    spent = 0.0
    for row in sorted(swept.rows, key=lambda row: float(row["ended"])):
        spent += compute(row)
        if row["accuracy"] >= accuracy:
            return spent
    return NEVER


# Tables


def until_as_good(pairs: Sequence[Pair]) -> None:
    """Compute until the `off` sweep's best accuracy is reached."""
    head("seed", "until", "accuracy, %", "off, s", "teacher, s", "share", "aimed at")
    shares: dict[str, list[float]] = {target: [] for target in TARGETS}
    for pair in pairs:
        for target, accuracy in zip(TARGETS, pair.targets(), strict=True):
            spent = [spent_until(swept, accuracy) for _, swept in pair.sides]
            shares[target].append(spent[1] / spent[0])
            seconds = (f"{value:.1f}" if value < NEVER else "never" for value in spent)
            share = percent(shares[target][-1])
            line(pair.seed, target, f"{100 * accuracy:.2f}", *seconds, share, "")
    for target, found in shares.items():
        line("median", target, "", "", "", f"**{percent(statistics.median(found))}**", AIM)
    print()


def percent(share: float) -> str:
    """A share of what `off` took."""
    return f"{100 * share:.0f} %" if share < NEVER else "never"


def whole(pairs: Sequence[Pair]) -> None:
    """What the sweeps took and gave as a whole."""
    shown = (*COUNTED, "waiting")
    numbers = ("made", "drawn", "best epoch, %", "last epochs, median, %", "chosen, %")
    head("seed", "sharing", *(f"{what}, s" for what in shown), "the first two", *numbers)
    for pair in pairs:
        for name, swept in pair.sides:
            share = swept.total(*COUNTED) / pair.off.total(*COUNTED)
            cells = [f"{swept.total(what):.1f}" for what in shown] + [percent(share)]
            for what in ("images_made", "images_drawn"):
                cells.append(f"{sum(row[what] or 0 for row in swept.rows):,.0f}")
            last = statistics.median(finals(swept))
            found = (highest(swept), last, float(swept.best["accuracy"]))
            line(pair.seed, name, *cells, *(f"{100 * value:.2f}" for value in found))
    print(f"\n{'; '.join(pair.teacher.told for pair in pairs)}\n")


def ranking(pairs: Sequence[Pair]) -> None:
    """Whether the same recipes come out on top, and whether the jury still knows them."""
    chance, jury = "off: last epoch but one", "jury against accuracy, off"
    head("seed", "the same recipes", "Spearman of last epochs", chance, jury, "teacher")
    for pair in pairs:
        same = [recipes(swept) for _, swept in pair.sides]
        found = [spearman(finals(pair.off), finals(pair.teacher))]
        found.append(spearman(finals(pair.off), finals(pair.off, back=2)))
        for _, swept in pair.sides:
            found.append((swept.run.jury_against_accuracy() or {}).get("spearman"))
        cells = ("" if value is None else f"{value:.2f}" for value in found)
        line(pair.seed, "yes" if same[0] == same[1] else "**no**", *cells)
    print()


def finals(swept: Swept, back: int = 1) -> list[float]:
    """Each trial's accuracy in its last epoch, or the one `back` - 1 before."""
    return [float(rows[-back]["accuracy"]) for rows in swept.trials().values()]


def recipes(swept: Swept) -> dict[str, dict[str, Any]]:
    """By trial."""
    return {
        trial: {key: value for key, value in rows[0].items() if key.startswith("recipe.")}
        for trial, rows in swept.trials().items()
    }


def variety(pairs: Sequence[Pair]) -> None:
    """How different the images are: of what a trial made itself, and of what it was taught from."""
    measures = ("class balance", "pixel distance")
    head("seed", "sharing", *(f"{of}, {what}" for of in ("probes", "pool") for what in measures))
    for pair in pairs:
        for name, swept in pair.sides:
            around = swept.run.surroundings()
            teacher = around.teacher.build(around.task)
            found = [
                spread(images, teacher, len(around.task.classes))
                for trial in swept.trials()
                for images in images_of(swept, trial)
            ]
            sides = (*zip(*found[::2], strict=True), *zip(*found[1::2], strict=True))
            line(pair.seed, name, *(f"{statistics.median(values):.3f}" for values in sides))
    print(
        f"\nClass balance: entropy of the teacher's decisions, 1 for all classes alike. Pixel "
        f"distance: root mean square between two images in [0, 1], mean over pairs of {LOOKED_AT}. "
        "Medians over trials; probes are the trial's own, its pool holds what it drew too.\n"
    )


def images_of(swept: Swept, trial: str) -> tuple[Tensor, Tensor]:
    """Probes of a trial, and as many images of its pool at its end."""
    home = swept.run.trial_folder(trial)
    probes = home.read(PROBE_FILE)
    assert probes is not None, f"{trial} ran to its end"
    (put_aside,) = pools_from_bytes(probes)
    saved = checkpoints.fetch(home, checkpoints.read(home))
    pool = torch.cat(list(saved["methods"][0]["pool"]["images"]))
    some = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))[:LOOKED_AT]
    return put_aside.images[:LOOKED_AT], pool[some]


@torch.no_grad()
def spread(images: Tensor, teacher: Teacher, classes: int) -> tuple[float, float]:
    """Class balance and mean pairwise pixel distance of uint8 images."""
    floats = images.float() / 255
    decided = teacher.look(floats, deep=False).logits.argmax(1)
    shares = torch.bincount(decided, minlength=classes) / len(images)
    balance = float(torch.special.entr(shares).sum()) / math.log(classes)
    flat = floats.flatten(1)
    return balance, float(F.pdist(flat).mean()) / math.sqrt(flat.shape[1])


def head(*names: str) -> None:
    """The first two lines of a table."""
    line(*names)
    print("|" + "--:|" * len(names))


def line(*cells: object) -> None:
    """A line of a table."""
    print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    raise SystemExit("python benchmarks/sharing.py --part teacher")
