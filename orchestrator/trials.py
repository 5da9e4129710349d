"""One trial: a recipe run once, in this process, epoch by epoch, resumable exactly.

`run_trial` runs a whole trial; `Trial` is the same thing one epoch at a time, which is how Ray
workers call it. Nothing here knows Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import nn

from dfkd.methods import load_method
from dfkd.methods.commons import Commons, NoCommons
from dfkd.methods.errors import TrialFailed
from dfkd.methods.jury import PROBES, Jury, ProbePool
from dfkd.methods.method import Clock, Workbench
from dfkd.methods.networks import Normalized, build_network
from dfkd.methods.random_streams import derive_seed, global_stream, stream
from dfkd.methods.settings import build
from dfkd.methods.shelf import NoShelf, Shelf
from dfkd.methods.student import Student
from dfkd.methods.team import Alone, Team
from dfkd.orchestrator import checkpoints
from dfkd.orchestrator.probes import pools_to_bytes
from dfkd.orchestrator.scores import Score, merit
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.data import Labeled
from dfkd.search_spaces.label_text import label_embeddings
from dfkd.search_spaces.task import Task
from dfkd.search_spaces.teachers import TeacherWeights

Row = dict[str, Any]
HISTORY = "history.json"
STUDENT = "student.safetensors"
PROBE_FILE = "probes.safetensors"
SAVING_SHARE = 0.05  # checkpoints may take this share of a trial's time


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all trials of a sweep have in common."""

    task: Task
    teacher: TeacherWeights
    score: Score
    evaluation: Labeled | None
    """Labeled test images; measured and reported, and selected by only if the score says so."""
    controls: tuple[ProbePool, ...] = ()
    """The teacher's control pools, by which every epoch's student is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What connects one worker of a trial with others."""

    team: Team = field(default_factory=Alone)
    """The workers of this trial."""
    shelf: Shelf = field(default_factory=NoShelf)
    """Where trials leave synthesis that is the same for several."""
    commons: Commons = field(default_factory=NoCommons)
    """Shards that trials are taught from together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """How a trial ended."""

    spec: TrialSpec
    history: list[Row]
    """One row per epoch."""
    best: Row
    """The row with the highest score."""
    student: nn.Module
    """The best epoch's student, in evaluation mode; takes images in [0, 1]."""


class Trial:
    """A trial between two epochs. `step()` runs one; `save()` and a new Trial on the same folder
    continue with the very numbers that an uninterrupted one gives (on a CPU, bit for bit).
    """

    def __init__(
        self,
        spec: TrialSpec,
        surroundings: Surroundings,
        folder: Folder | None = None,
        *,
        device: torch.device | str = "cpu",
        links: Links | None = None,
    ) -> None:
        self.spec = spec
        self.surroundings = surroundings
        self.folder = folder
        self.links = links or Links()
        self.team = self.links.team
        self.device = torch.device(device)
        self.clock = Clock()
        self.epoch = 0
        self.history: list[Row] = []
        self.best: Row = {}
        self._best_weights: dict[str, torch.Tensor] = {}
        self._blocks: set[str] | None = None  # of the last checkpoint, on storage; None: unknown
        self._saving_seconds = 0.0
        self._saved_at = time.perf_counter()
        self._build()
        if folder is not None:
            self._resume(folder)
        self._row_at = time.perf_counter()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.spec.epochs

    def step(self) -> Row:
        """Run one epoch; returns its row, and saves a checkpoint when that is cheap enough.

        The row's `seconds` run from the row before, so that they hold the saving in between, as
        waiting. Raises TrialFailed when the trial cannot go on.
        """
        began = time.time()
        place = (*self._roots, "epoch", self.epoch, self.team.rank)
        with global_stream(self.device, "layers", *place):
            metrics = self.method.epoch(self.epoch, stream(self.device, *place))
        with self.clock("evaluation"):
            metrics |= self._evaluate() | self._judge()
        self.epoch += 1
        row: Row = {"trial": self.spec.id, "method": self.spec.method, "epoch": self.epoch}
        row |= metrics
        row["score"] = self.surroundings.score([*self.history, row])
        row |= {f"seconds_{activity}": spent for activity, spent in self.clock.read().items()}
        now = time.perf_counter()
        row |= {"began": began, "ended": time.time(), "seconds": now - self._row_at}
        self._row_at = now
        self.history.append(row)
        if not self.best or merit(row) > merit(self.best):
            self.best = row
            self._keep_best()
        if self.finished:
            self._put_probes_aside()
        if self.finished or self._saving_is_due():
            with self.clock("waiting"):
                self.save()
        return row

    def save(self) -> None:
        """Write history and checkpoint to the trial's folder, if it has one.

        Each worker writes the blocks of its own state: workers whose pools are alike write them
        once, and none of them passes through the first worker. A finished trial leaves no method
        and no pool: nothing goes on from it.
        """
        if self.folder is None:
            return
        start = time.perf_counter()
        with checkpoints.saving(self.folder):
            own = {} if self.finished else self.method.state()
            methods = self.team.gather(checkpoints.stow(self.folder, own))
            if self.team.rank == 0:
                state = {
                    "epoch": self.epoch,
                    "student": self.student.state(),
                    "history": self.history,
                    "best": self.best,
                    "best_weights": self._best_weights,
                }
                stowed = checkpoints.stow(self.folder, state) | {"methods": methods}
                self._write(HISTORY, None)
                self._blocks = checkpoints.publish(self.folder, stowed, self._blocks)
        self.team.total(torch.zeros(()))  # nobody writes new blocks while old ones are removed
        self._saving_seconds = time.perf_counter() - start
        self._saved_at = time.perf_counter()

    def result(self) -> TrialResult:
        """The trial as it stands."""
        network = self._new_network()
        network.load_state_dict(self._best_weights)
        return TrialResult(
            spec=self.spec,
            history=self.history,
            best=self.best,
            student=Normalized(network, self.task.mean, self.task.std).eval(),
        )

    @property
    def task(self) -> Task:
        return self.surroundings.task

    def _build(self) -> None:
        spec, task = self.spec, self.task
        method = load_method(spec.method)
        settings = build(method.settings_class, spec.recipe, f"trial {spec.id}")
        with global_stream("cpu", spec.seed, "student"):
            self.inner = self._new_network()
        self.inner.to(memory_format=torch.channels_last)  # faster convolutions
        self.network = Normalized(self.inner, task.mean, task.std).to(self.device)
        self.student = Student(self.network, settings, spec.epochs, self.team)
        embeddings = label_embeddings(task.embeddings, task.classes, spec.seed).vectors
        bench = Workbench(
            teacher=self.surroundings.teacher.build(task).to(self.device, settings.precision),
            student=self.student,
            embeddings=embeddings.to(self.device),
            shape=task.shape,
            classes=len(task.classes),
            seed=derive_seed(*self._roots, "worker", self.team.rank),
            team=self.team,
            device=self.device,
            clock=self.clock,
            shelf=self.links.shelf,
            commons=self.links.commons,
        )
        self.method = method(settings, bench)
        self.jury = Jury(bench.teacher, self.surroundings.controls)

    @property
    def _roots(self) -> tuple[int | str, ...]:
        """Where its random streams begin: trials that draw each other's images differ in theirs."""
        return (
            (self.spec.seed, self.spec.id) if self.links.commons.others_add else (self.spec.seed,)
        )

    def _new_network(self) -> nn.Module:
        task = self.task
        return build_network(self.spec.student, task.shape.channels, len(task.classes))

    def _saving_is_due(self) -> bool:
        """The first worker decides, since it alone knows how long saving takes."""
        elapsed = time.perf_counter() - self._saved_at
        due = self.team.rank == 0 and elapsed * SAVING_SHARE >= self._saving_seconds
        return bool(self.team.total(torch.tensor(float(due), device=self.device)))

    def _evaluate(self) -> dict[str, float]:
        data = self.surroundings.evaluation
        if data is None:
            return {}
        mine = slice(self.team.rank, None, self.team.size)
        right = correct(self.network, data.part(mine))
        return {"accuracy": float(self.team.total(right)) / len(data)}

    def _judge(self) -> dict[str, float]:
        """Fidelity, agreement and spread by the control pools; the first worker judges for all."""
        if not self.surroundings.controls:
            return {}
        if not self.jury.pools:
            raise TrialFailed(
                "no control pool can judge: the teacher answers to each of them with one class, or "
                "with none; choose --select accuracy, with labeled images"
            )
        figures = torch.zeros(3, dtype=torch.float64)
        if self.team.rank == 0 and (verdict := self.jury.judge(self.network.eval())) is not None:
            figures += torch.tensor([verdict.fidelity, verdict.agreement, verdict.spread])
        names = ("fidelity", "agreement", "spread")
        return dict(zip(names, self.team.total(figures).tolist(), strict=True))

    def _put_probes_aside(self) -> None:
        """Write images that no other student was taught from, for these to be judged on."""
        if self.folder is not None and self.team.rank == 0:
            images = self.method.probes(PROBES, stream(self.device, self.spec.seed, "probes"))
            if len(images):
                self._write(PROBE_FILE, pools_to_bytes([ProbePool(self.spec.id, images)]))

    def _keep_best(self) -> None:
        self._best_weights = {
            key: weight.cpu().clone(memory_format=torch.contiguous_format)
            for key, weight in self.inner.state_dict().items()
        }
        self._write_best()

    def _write_best(self) -> None:
        if self.team.rank == 0 and self._best_weights:
            facts = {"network": self.spec.student, "epoch": str(self.best["epoch"])}
            self._write(STUDENT, safetensors.torch.save(self._best_weights, facts))

    def _write(self, name: str, data: bytes | None) -> None:
        if self.folder is None:
            return
        with checkpoints.explained(self.folder, name):
            if data is None:
                self.folder.write_json(name, self.history)
            else:
                self.folder.write(name, data)

    def _resume(self, folder: Folder) -> None:
        stowed = checkpoints.read(folder)
        if stowed is None:
            return
        if self.team.rank == 0:
            checkpoints.prune(folder, stowed)  # what an interrupted save left
        saved = checkpoints.fetch(folder, stowed, self.device)
        self.epoch = saved["epoch"]
        self.student.restore(saved["student"])
        if not self.finished:
            self.method.restore(saved["methods"][self.team.rank])
        self.history = saved["history"]
        self.best = saved["best"]
        self._best_weights = {key: t.cpu() for key, t in saved["best_weights"].items()}
        self._write_best()


@torch.no_grad()
def correct(network: nn.Module, data: Labeled) -> torch.Tensor:
    """How many images the network classifies rightly, as a scalar on its device."""
    network.eval()
    device = next(network.parameters()).device
    right = torch.zeros((), device=device)
    for images, labels in data.batches(device):
        right += (network(images.float() / 255).argmax(1) == labels).sum()
    return right


def run_trial(
    spec: TrialSpec,
    surroundings: Surroundings,
    folder: Folder | None = None,
    *,
    device: torch.device | str = "cpu",
    links: Links | None = None,
    on_epoch: Callable[[Row], None] = lambda row: None,
) -> TrialResult:
    """Run one trial to its end in this process; resumes if `folder` holds a checkpoint of it.

    `on_epoch` is told each epoch's row as it is measured. Raises TrialFailed when the trial cannot
    go on; whatever ends it early, the last checkpoint stays.
    """
    trial = Trial(spec, surroundings, folder, device=device, links=links)
    while not trial.finished:
        on_epoch(trial.step())
    return trial.result()
