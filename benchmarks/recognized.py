"""Does the teacher see in synthetic images what they were made to show?

    python benchmarks/recognized.py dfkd-runs/NAME ...

Counts, over all images that a sweep with --keep-pool kept, those that its teacher puts into the
class that they were made for. Prints Markdown.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from provenance import commit, machine

from dfkd.methods.jury import logits_of
from dfkd.orchestrator.pool_files import POOLS, read
from dfkd.orchestrator.pools import survey_whole
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder


@dataclass(slots=True)
class Recognized:
    """Counts over a kept pool."""

    images: Counter[str] = field(default_factory=Counter)
    """By trial, as the next."""
    right: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Of all images, in [0, 1]."""
        return self.right.total() / self.images.total()

    @property
    def error(self) -> float:
        """The standard error of that share."""
        return math.sqrt(self.share * (1 - self.share) / self.images.total())


def recognized(run: Run) -> Recognized:
    """What the teacher of a run makes of the images that it kept, unaugmented."""
    around = run.surroundings()
    teacher = around.teacher.build(around.task)
    folder, found = run.folder.child(POOLS), Recognized()
    for file in survey_whole(folder):
        kept = read(folder, file.name)
        for shard in kept.shards:
            seen = logits_of(teacher.network, shard.images).argmax(1)
            found.images[kept.about.trial] += len(seen)
            found.right[kept.about.trial] += int(seen.eq(shard.labels).sum())
    return found


def table(runs: Iterable[Run]) -> str:
    """A line per trial, and one for all of a run."""
    lines = ["| run | trial | images | recognized, % | standard error |", "|---|---|--:|--:|--:|"]
    for run in runs:
        found = recognized(run)
        for trial, images in sorted(found.images.items()):
            share = 100 * found.right[trial] / images
            lines.append(f"| {run.name} | {trial} | {images:,} | {share:.2f} | |")
        whole = f"{found.images.total():,} | **{100 * found.share:.2f}** | {100 * found.error:.2f}"
        lines.append(f"| {run.name} | all | {whole} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the runs that were named."""
    torch.set_num_threads(2)
    print(table(Run(Folder.of(path)) for path in sys.argv[1:]))
    print(f"\n{machine()}, commit {commit()}")


if __name__ == "__main__":
    main()
