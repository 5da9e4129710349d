"""A real teacher distilled from the command line, end to end, with what came of it and when."""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import real_teachers
from provenance import commit, machine
from recognized import recognized
from stages import evaluate, sweep

from dfkd.orchestrator.contact_sheet import save_contact_sheet
from dfkd.orchestrator.pool_files import POOLS


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is distilled, and by what."""

    title: str
    task: Path
    data_set: str
    method: str


def run(plan: Plan) -> None:
    """Do as the command line says, and print a table."""
    parser = argparse.ArgumentParser(description=plan.title)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="default: the task's")
    parser.add_argument("--method", default=plan.method)
    parser.add_argument("--cpus-per-worker", type=float, default=1.0)
    parser.add_argument("--no-control", action="store_true", help="leave the noise control out")
    parser.add_argument("--sheet", help="where to draw some of the images, a .png file")
    parser.add_argument("--keep", help="a folder for run and cache, to look at afterwards")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with ExitStack() as stack:
        folder = options.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="dfkd-"))
        os.environ["DFKD_CACHE"] = f"{folder}/cache"
        teacher, images = real_teachers.write(plan.data_set, Path(folder) / "teachers")
        words = ["--teacher", str(teacher), "--data", str(images), "--keep-pool"]
        words += ["--trials", str(options.trials), "--method", options.method]
        words += ["--cpus-per-worker", str(options.cpus_per_worker)]
        words += ["--no-control"] * options.no_control
        words += ["--epochs", str(options.epochs)] if options.epochs else []
        words += [word for pair in options.set for word in ("--set", pair)]
        swept = sweep(str(plan.task), folder, "run", *words)
        found, evaluating = evaluate("run", folder)
        seen = recognized(swept.run)
        if options.sheet:
            save_contact_sheet(swept.run.folder.child(POOLS), options.sheet, 10)
    print(f"{machine()}, commit {commit()}; {vars(options)}\n")
    print("| | |\n|---|--:|")
    print("\n".join(swept.lines()))
    print(f"| `dfkd evaluate` | {evaluating:.1f} |")
    print(f"| **in all, s** | **{swept.seconds + evaluating:.1f}** |")
    print(f"| epochs of all trials | {swept.epochs} |")
    print(f"| images kept | {seen.images.total():,} |")
    print(f"| of these recognized by the teacher, % | {100 * seen.share:.2f} |")
    print(f"| its standard error | {100 * seen.error:.2f} |")
    teachers = 100 * found["teacher_accuracy"]
    print(f"| teacher right, % of {found['images']} labeled images | {teachers:.0f} |")
    print(f"| student right, % | {100 * found['accuracy']:.0f} |")
    print(f"| both alike, % | {100 * found['agreement']:.0f} |")
    alike = 100 * found["jury_agreement"]
    print(f"| on the jury's {found['pools']} pools both alike, % | {alike:.1f} |")
    print(f"| fidelity, nats | {found['fidelity']:.3f} |")
    verdicts = sorted(swept.run.verdicts().items())
    told = ", ".join(f"{trial} {verdict.fidelity:.3f}" for trial, verdict in verdicts)
    print(f"\nThe jury's fidelities: {told}")
