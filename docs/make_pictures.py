"""Make the pictures in docs/images from real runs of the digits task.

    pip install -e '.[docs]'                      matplotlib, besides dfkd itself
    python docs/make_pictures.py                  all of them, two or three minutes on two cores
    python docs/make_pictures.py --runs FOLDER    keep the runs there; a second time draws at once
    python docs/make_pictures.py leaderboard      one picture: learning, digits or leaderboard

Everything runs on the CPU, offline, with a cache and run folders of its own. The leaderboard's .png
is made from its .svg by rsvg-convert (Debian and Ubuntu: librsvg2-bin), where that is installed.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.padding import Padding

from dfkd import __version__
from dfkd.orchestrator import SweepResult, checkpoints, distill, sweep
from dfkd.orchestrator.board import Board
from dfkd.orchestrator.runs import TrialRecord
from dfkd.orchestrator.specs import CONTROL_ID, TrialSpec
from dfkd.orchestrator.trials import correct
from dfkd.search_spaces.data import LabeledImages, load_data
from dfkd.search_spaces.task import load_task

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
TASK = load_task("digits")
SEEDS = (0, 1, 2)
LARGEST = 200_000  # bytes in a .png

COLORS = {"nayer": "#0b6fa4", "noise": "#c4561b"}
NAMES = {"nayer": "NAYER", "noise": "noise (control)"}
QUIET = "#666666"  # captions, and what is not measured
DPI = 144

COLUMNS = 16  # digits per class
ZOOM = 5  # screen pixels per pixel of a digit
RULE = 40  # gray level of the lines between digits

BOARD_COLUMNS, BOARD_LINES = 118, 40
TRIALS = 8
MIDDLE = 5  # trials ended when the live board has its picture taken
VISIBLE_PROGRESS = 5  # epochs that the trials then running are in


def main() -> None:
    """Make the pictures asked for."""
    pictures: dict[str, Callable[[], None]] = {
        "learning": draw_learning,
        "digits": draw_digits,
        "leaderboard": draw_leaderboard,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", help=f"of {', '.join(pictures)}; default: all")
    parser.add_argument("--runs", type=Path, help="a folder to keep the runs in")
    asked = parser.parse_args()
    if unknown := set(asked.pictures) - set(pictures):
        parser.error(f"no picture is called {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # as `dfkd distill` does; figures depend on it in their last digits
    IMAGES.mkdir(exist_ok=True)
    with working_folder(asked.runs):
        for name in asked.pictures or pictures:
            pictures[name]()


@contextmanager
def working_folder(kept: Path | None) -> Iterator[None]:
    """Work in `kept`, or in a folder that is gone afterwards; dfkd's cache lies there too."""
    with tempfile.TemporaryDirectory(prefix="dfkd-pictures-") as temporary:
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["DFKD_CACHE"] = str(folder.absolute() / "cache")
        before = Path.cwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run(method: str, seed: int) -> SweepResult:
    """The task's own recipe of a method; run once per folder and commit, afterwards read back."""
    name = f"{method}-{seed}-{commit()}"
    return distill(TASK.name, methods=(method,), seed=seed, name=name)


# Learning curves


def draw_learning() -> None:
    """docs/images/learning.png: accuracy and KD loss by epoch, of NAYER and of the control."""
    found = {method: [run(method, seed) for seed in SEEDS] for method in NAMES}
    warmup = found["nayer"][0].best.spec.recipe["warmup"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.3), dpi=DPI)
    figure.subplots_adjust(left=0.07, right=0.985, top=0.92, bottom=0.265, wspace=0.22)
    for method, results in found.items():
        histories = [result.best.rows for result in results]
        draw_curves(left, method, histories, "accuracy", 100)
        draw_curves(right, method, histories, "kd_loss", 1)
        report(method, results)
    teacher = found["nayer"][0].teacher_accuracy or 0.0
    left.axhline(100 * teacher, color="black", linestyle="--", linewidth=1)
    left.text(
        TASK.epochs, 100 * teacher + 0.8, f"teacher {100 * teacher:.1f} %", ha="right", va="bottom"
    )
    left.set(title="Accuracy on real digits", ylabel="test images classified rightly, %")
    left.set(ylim=(0, 106), yticks=range(0, 101, 20))
    right.set(title="What the student minimizes", ylabel="KD loss, nats (log scale)", yscale="log")
    right.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 4]))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    for axes in (left, right):
        axes.axvspan(0.5, float(warmup) + 0.5, color="#eeeeee", zorder=0)
        axes.set(xlabel="epoch", xlim=(0.5, TASK.epochs + 0.5))
        axes.set_xticks([1, *range(5, TASK.epochs + 1, 5)])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    left.legend(loc="lower right", frameon=False)
    caption(figure, learning_caption(), 165)
    save(figure, "learning.png")


def draw_curves(
    axes: Axes, method: str, histories: Sequence[Sequence[dict[str, Any]]], key: str, factor: float
) -> None:
    """A thin line per seed, a thick one for their median; the warm-up has no KD loss.

    All seeds have the same epochs, as every trial runs to its end.
    """
    rows = [[row for row in history if key in row] for history in histories]
    epochs = [row["epoch"] for row in rows[0]]
    values = factor * np.array([[row[key] for row in history] for history in rows])
    axes.plot(epochs, values.T, color=COLORS[method], linewidth=0.7, alpha=0.55)
    middle = np.median(values, axis=0)
    axes.plot(epochs, middle, color=COLORS[method], linewidth=2.2, label=NAMES[method])


def learning_caption() -> str:
    """What was measured, on what, with what."""
    tested = len(real_digits())
    return (
        f"Thin: seeds {', '.join(map(str, SEEDS))}; thick: their median at each epoch "
        f"(n = {len(SEEDS)}). Accuracy: n = {tested} test images, one of them is "
        f"{100 / tested:g} points. Gray: the warm-up, in which the student does not learn yet. "
        "KD loss: KL(teacher, student) times temperature squared, on the images that each student "
        "learns from; the two curves are of different images. One teacher; the task's own recipe, "
        f"nothing searched. CPU, one thread; dfkd {__version__}, commit {commit()}."
    )


def report(method: str, results: Sequence[SweepResult]) -> None:
    """Print the figures behind the curves."""
    final = [100 * result.best.rows[-1]["accuracy"] for result in results]
    best = [100 * (result.best.best or {})["accuracy"] for result in results]
    loss = [result.best.rows[-1]["kd_loss"] for result in results]
    print(
        f"{NAMES[method]}: last epoch's accuracy {', '.join(f'{value:.2f}' for value in final)} %, "
        f"median {statistics.median(final):.2f} %; best epoch's median "
        f"{statistics.median(best):.2f} %; last KD loss, median {statistics.median(loss):.4f}"
    )


# Synthesized and real digits


def draw_digits() -> None:
    """docs/images/synthesized-digits.png: the newest images of a pool, beside real ones."""
    result = run("nayer", SEEDS[0])
    home = result.run.trial_folder("t000")
    pool = checkpoints.fetch(home, checkpoints.read(home))["methods"][0]["pool"]
    sheets = {
        "Synthesized by NAYER, without any data": sheet(
            LabeledImages(torch.cat(list(pool["images"])), pool["labels"])
        ),
        "Real digits of the test split": sheet(real_digits()),
    }
    high, wide = (ZOOM * side for side in sheet(real_digits()).shape)
    margin, gap, head, foot = 70, 60, 56, 84  # pixels
    size = (margin + 2 * wide + gap + 20, head + high + foot)
    figure = plt.figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    for number, (title, picture) in enumerate(sheets.items()):
        pixels = np.array([margin + number * (wide + gap), foot, wide, high])
        axes = figure.add_axes(tuple(pixels / np.array([*size, *size])))
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        step = picture.shape[0] / len(TASK.classes)
        axes.set_yticks([step * (row + 0.5) - 0.5 for row in range(len(TASK.classes))])
        axes.set_yticklabels(range(len(TASK.classes)), fontsize=9)
        axes.tick_params(length=0)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        if number == 0:
            axes.set_ylabel("class asked of the generator", fontsize=8, color=QUIET)
    caption(figure, digits_caption(pool, obeyed(result, pool)), 165)
    save(figure, "synthesized-digits.png")


def sheet(digits: LabeledImages) -> np.ndarray:
    """The last COLUMNS images of each class, a row per class, with lines between them."""
    side = TASK.shape.height + 1
    picture = np.full((len(TASK.classes) * side + 1, COLUMNS * side + 1), RULE, dtype=np.uint8)
    for row in range(len(TASK.classes)):
        for column, image in enumerate(digits.images[digits.labels == row][-COLUMNS:]):
            top, left = row * side + 1, column * side + 1
            picture[top : top + side - 1, left : left + side - 1] = image[0].numpy()
    return picture


def obeyed(result: SweepResult, pool: dict[str, Any]) -> float:
    """The share of the pool's images that the teacher gives the class they were made for."""
    teacher = result.run.surroundings().teacher.build(TASK)
    return float(correct(teacher.network, LabeledImages(pool["images"], pool["labels"]))) / len(
        pool["labels"]
    )


def digits_caption(pool: dict[str, Any], share: float) -> str:
    """Which images these are."""
    return (
        f"Left: the newest {COLUMNS} per class of the {len(pool['images']):,} images in the pool "
        f"at epoch {TASK.epochs} (seed {SEEDS[0]}, the task's own recipe); the teacher takes "
        f"{100 * share:.1f} % of the pool for the class asked. Right: {COLUMNS} per class of the "
        f"{len(real_digits())} test images, which neither teacher nor student learns from. 8 x 8 "
        f"pixels, dark is ink. dfkd {__version__}, commit {commit()}."
    )


def real_digits() -> LabeledImages:
    """The task's test images."""
    found = load_data(TASK, "test")
    assert found is not None
    return found


# The live board


class Photographer(Board):
    """The live board; takes its own picture once, when MIDDLE trials have ended and others run."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.ended = 0
        self.middle = ""

    def trial_ended(self, record: TrialRecord) -> None:
        super().trial_ended(record)
        self.ended += record.spec.id != CONTROL_ID

    def epoch_ended(self, spec: TrialSpec, row: dict[str, Any]) -> None:
        super().epoch_ended(spec, row)
        if not self.middle and self.ended >= MIDDLE and row["epoch"] >= VISIBLE_PROGRESS:
            self.middle = self.picture()

    def picture(self) -> str:
        """The board as it stands, as SVG, without the web font that Rich would have it fetch."""
        console = silent_console(record=True)
        console.print(Padding(self.render(), (1, 0)))
        svg = console.export_svg(title=f"dfkd sweep {TASK.name} --trials {TRIALS}")
        return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def draw_leaderboard() -> None:
    """docs/images/leaderboard.svg and .png, amid a sweep, and leaderboard-end of its end."""
    board = Photographer(silent_console())
    with tempfile.TemporaryDirectory(dir=".") as storage:  # a new one: nothing to be resumed
        result = sweep(TASK.name, trials=TRIALS, storage=storage, watcher=board)
    if not board.middle:
        raise SystemExit("the sweep was over before its picture was taken; lower MIDDLE")
    save_svg("leaderboard", board.middle)
    save_svg("leaderboard-end", board.picture())
    best = result.best.best or {}
    print(f"sweep: best {result.best.spec.id}, score {best['score']:.4f}, {result.seconds:.0f} s")


def silent_console(*, record: bool = False) -> Console:
    """A terminal that nobody sees."""
    return Console(
        record=record,
        width=BOARD_COLUMNS,
        height=BOARD_LINES,
        force_terminal=True,
        color_system="truecolor",
        file=open(os.devnull, "w"),
    )


def save_svg(stem: str, svg: str) -> None:
    """Write the .svg, and a .png of it where rsvg-convert is there to make one."""
    target = IMAGES / f"{stem}.svg"
    target.write_text(svg)
    print(f"wrote {target.relative_to(ROOT)}")
    if shutil.which("rsvg-convert") is None:
        print(f"rsvg-convert is not installed: {stem}.png was not made (package librsvg2-bin)")
        return
    picture = target.with_suffix(".png")
    # rsvg-convert knows no textLength, and drops leading blanks unless told otherwise.
    svg = svg.replace("font-size: 20px;", "font-size: 20px; letter-spacing: 0.17px;")
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)
    subprocess.run(["rsvg-convert", "--output", picture], input=svg, text=True, check=True)
    Image.open(picture).quantize(64).save(picture, optimize=True)
    check_size(picture)


# All of them


@functools.cache
def commit() -> str:
    """The last commit of dfkd's code, marked if the code has changed since."""
    code = ["methods", "search_spaces", "orchestrator"]
    try:
        log = ["git", "log", "-1", "--format=%h", "--", *code]
        last = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=True)
        clean = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *code], cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return last.stdout.strip() + ("" if clean.returncode == 0 else "-changed")


def caption(figure: Any, text: str, columns: int) -> None:
    """Small print at the lower left."""
    lines = textwrap.fill(text, columns)
    figure.text(0.008, 0.02, lines, fontsize=7.5, linespacing=1.35, color=QUIET)


def save(figure: Any, name: str) -> None:
    """Write a figure as PNG."""
    figure.savefig(IMAGES / name, metadata={"Software": None}, pil_kwargs={"optimize": True})
    plt.close(figure)
    check_size(IMAGES / name)


def check_size(picture: Path) -> None:
    """Say that a picture was written; a large one burdens every clone."""
    size = picture.stat().st_size
    print(f"wrote {picture.relative_to(ROOT)}, {size / 1000:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{picture.name} is larger than {LARGEST / 1000:.0f} kB")


if __name__ == "__main__":
    main()
