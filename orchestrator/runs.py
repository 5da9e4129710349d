"""Run folders: what a sweep leaves behind, written and read in one place.

<storage>/<name>/sweep.json            definition, versions, command, state
                 teacher.safetensors   the teacher, so that the folder stands alone
                 controls.safetensors  the control pools that students are judged on
                 jury.json             the verdict on every student, and how well it ranked them
                 results.parquet       one row per trial and epoch
                 trials/<id>/          recipe.json, checkpoint.pt, blocks/, history.json,
                                       student.safetensors (the best epoch's), result.json,
                                       probes.safetensors (images put aside for the jury)
                 pools/                shards as Arrow files, if they are kept (pool_files.py)
                 best/                 the exported student
"""

from __future__ import annotations

import fcntl
import io
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.methods.jury import ProbePool, Verdict
from dfkd.orchestrator import checkpoints
from dfkd.orchestrator.leases import Follower, Lease, held, holder
from dfkd.orchestrator.probes import pools_from_bytes
from dfkd.orchestrator.robustness import Robustness, robustness
from dfkd.orchestrator.scores import SCORES, merit
from dfkd.orchestrator.specs import (
    SweepSpec,
    TrialSpec,
    fingerprint,
    task_from_definition,
    trial_as_json,
)
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import HISTORY, Row, Surroundings
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.teachers import teacher_from_bytes

SWEEP = "sweep.json"
TEACHER = "teacher.safetensors"
CONTROLS = "controls.safetensors"
RESULTS = "results.parquet"
JURY = "jury.json"
RECIPE = "recipe.json"
RESULT = "result.json"
LOCK_ATTEMPTS = 10
READERS = 16  # threads
VERSIONED = ("ray", "torch", "torchvision", "optuna", "pyarrow", "numpy")

Outcome = Literal["finished", "stopped", "failed"]
Ticket = tuple[str, str | None]
"""A run folder's URI and, where that has a lease, who must hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial as its folder tells it."""

    spec: TrialSpec
    rows: tuple[Row, ...] = ()
    outcome: Outcome | None = None
    """None: not ended yet."""
    reason: str = ""
    """Why it failed."""

    @property
    def best(self) -> Row | None:
        """The row of the highest score, the latest of equals; before learning, any other."""
        return max(self.rows, key=merit, default=None)

    @property
    def robustness(self) -> Robustness | None:
        """Its accuracy over the epochs there are; None where no accuracy was measured."""
        return robustness(self.rows)


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder."""

    folder: Folder

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ticket(self) -> Ticket:
        """What another process needs to work for the driver that holds this run (`Run.of`)."""
        guard = self.folder.guard
        return self.folder.uri, guard.owner if isinstance(guard, Lease) else None

    @classmethod
    def of(cls, ticket: Ticket) -> Run:
        """The run of a ticket, to be changed only as long as the driver that gave it holds it."""
        uri, owner = ticket
        folder = Folder(uri)
        return cls(folder if owner is None else Folder(uri, guard=Follower(folder, owner)))

    def require_held(self) -> None:
        """Raise LeaseLost if another driver has taken it over."""
        if self.folder.guard is not None:
            self.folder.guard.check()

    def facts(self) -> dict[str, Any]:
        """The contents of sweep.json; raises ConfigError where there is none."""
        facts: dict[str, Any] | None = self.folder.read_json(SWEEP)
        if facts is None:
            raise ConfigError(f"no sweep in {self.folder.uri}; `dfkd runs` lists what there is")
        return facts

    def require_same(self, sweep: SweepSpec) -> None:
        """Raise ConfigError when the name is taken by a sweep with another definition."""
        definition = sweep.definition()
        there = self.folder.read_json(SWEEP)
        if there is not None and there["definition"] != definition:
            changed = [key for key in definition if there["definition"].get(key) != definition[key]]
            raise ConfigError(
                f"the name {self.name} is taken by another sweep in {self.folder.uri}, with other "
                f"{', '.join(changed)}; choose another --name, or repeat its settings to resume it"
            )

    def create(self, sweep: SweepSpec, **facts: Any) -> None:
        """Write the teacher and sweep.json; raises ConfigError as `require_same` does."""
        self.require_same(sweep)
        definition = sweep.definition()
        there = self.folder.read_json(SWEEP)
        self.folder.write(TEACHER, sweep.teacher.to_bytes())
        packages = {name: version(name) for name in VERSIONED}
        fresh = {
            "name": self.name,
            "definition": definition,
            "fingerprint": fingerprint(definition),
            "versions": {"dfkd": version("dfkd"), "python": platform.python_version(), **packages},
            "created": time.time(),
        }
        self.folder.write_json(SWEEP, {**fresh, **(there or {}), **facts, "state": "running"})

    def note(self, **facts: Any) -> None:
        """Add facts to sweep.json."""
        self.folder.write_json(SWEEP, {**self.facts(), **facts})

    def surroundings(self) -> Surroundings:
        """What a trial of this run needs beside its spec."""
        definition = self.facts()["definition"]
        task = task_from_definition(definition)
        weights = self.folder.read(TEACHER)
        if weights is None:
            raise DfkdError(f"{self.folder.uri_of(TEACHER)} is missing; start the sweep again")
        return Surroundings(
            task=task,
            teacher=teacher_from_bytes(weights),
            score=SCORES[definition["select"]],
            evaluation=load_data(task, "test", definition["data"]),
            controls=self.controls(),
        )

    def controls(self) -> tuple[ProbePool, ...]:
        """The control pools; none if students are chosen by accuracy."""
        data = self.folder.read(CONTROLS)
        return () if data is None else tuple(pools_from_bytes(data))

    def trial_folder(self, id: str) -> Folder:
        return self.folder.child("trials", id)

    def propose(self, spec: TrialSpec) -> None:
        """Record a trial before it runs, so that an interrupted sweep knows of it."""
        self.trial_folder(spec.id).write_json(RECIPE, trial_as_json(spec))

    def trial_spec(self, id: str) -> TrialSpec:
        """The recorded trial called `id`."""
        tree = self.trial_folder(id).read_json(RECIPE)
        if tree is None:
            raise DfkdError(f"{self.trial_folder(id).uri_of(RECIPE)} is missing")
        return TrialSpec.from_json(tree)

    def history(self, id: str) -> list[Row]:
        """The rows of a trial up to its last checkpoint."""
        rows: list[Row] = self.trial_folder(id).read_json(HISTORY) or []
        return rows

    def end_trial(self, record: TrialRecord) -> None:
        """Record how a trial ended, with all its rows; of one that was stopped the pool goes."""
        facts = {"outcome": record.outcome, "reason": record.reason, "rows": record.rows}
        folder = self.trial_folder(record.spec.id)
        folder.write_json(RESULT, facts)
        if record.outcome == "stopped":
            checkpoints.discard(folder)

    def records(self) -> list[TrialRecord]:
        """Every trial proposed so far, by id."""
        ids = self.folder.child("trials").folders()
        with ThreadPoolExecutor(READERS) as readers:  # of remote storage each answer takes its time
            return [record for record in readers.map(self._record, ids) if record is not None]

    def _record(self, id: str) -> TrialRecord | None:
        """What a trial's folder tells; None where it was not proposed."""
        folder = self.trial_folder(id)
        tree = folder.read_json(RECIPE)
        if tree is None:
            return None
        record = TrialRecord(spec=TrialSpec.from_json(tree))
        result = folder.read_json(RESULT)
        if result is None:
            return replace(record, rows=tuple(self.history(id)))
        rows, outcome, reason = tuple(result["rows"]), result["outcome"], result["reason"]
        return replace(record, rows=rows, outcome=outcome, reason=reason)

    def write_results(self, records: Sequence[TrialRecord]) -> None:
        """Write results.parquet: one row per trial and epoch, with its recipe beside it."""
        rows = [
            {**row, **{f"recipe.{key}": value for key, value in record.spec.recipe.items()}}
            for record in records
            for row in record.rows
        ]
        if not rows:
            return
        columns = dict.fromkeys(key for row in rows for key in row)
        table = pa.table({key: pa.array([row.get(key) for row in rows]) for key in columns})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.folder.write(RESULTS, buffer.getvalue())

    def write_verdicts(self, verdicts: Mapping[str, Verdict], **facts: Any) -> None:
        """Keep the jury's verdict on each trial, and facts about them all."""
        trials = {id: verdict.as_json() for id, verdict in verdicts.items()}
        self.folder.write_json(JURY, {"trials": trials, **facts})

    def verdicts(self) -> dict[str, Verdict]:
        """The jury's verdict on each trial; empty before the sweep has ended."""
        kept = (self.folder.read_json(JURY) or {"trials": {}})["trials"]
        return {
            id: Verdict(**{key: tree[key] for key in ("divergences", "agreements", "fidelity")})
            for id, tree in kept.items()
        }

    def jury_against_accuracy(self) -> dict[str, Any] | None:
        """What `write_verdicts` kept of how well the jury ranked; None where nothing is known."""
        found: dict[str, Any] | None = (self.folder.read_json(JURY) or {}).get("against_accuracy")
        return found

    def sureness(self) -> float | None:
        """Share of resampled juries that chose as the jury did; None where there was one trial."""
        found: float | None = (self.folder.read_json(JURY) or {}).get("sureness")
        return found

    @contextmanager
    def lock(self, say: Callable[[str], None] = lambda text: None) -> Iterator[Run]:
        """This run for one driver alone, and guarded on storage without locks: use what it gives.

        Refuses a second driver with ConfigError. A local lock ends with the process, however that
        ends; of a remote lease (leases.py) `say` is told when it has to be waited for.
        """
        if self.folder.local is None:
            with held(self.folder, say) as lease:
                yield replace(self, folder=replace(self.folder, guard=lease))
            return
        self.folder.local.mkdir(parents=True, exist_ok=True)
        with open(self.folder.local / ".lock", "w") as file:
            for _ in range(LOCK_ATTEMPTS):  # `dfkd status` holds it for a moment to look
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
            else:
                raise ConfigError(
                    f"sweep {self.name} is running already in {self.folder.uri}; watch it with "
                    f"`dfkd status {self.name}`, or choose another --name"
                ) from None
            yield self

    def is_running(self) -> bool:
        """Whether a driver holds the lock, or the lease, now."""
        if self.folder.local is None:
            return holder(self.folder) is not None
        if not (self.folder.local / ".lock").is_file():
            return False
        with open(self.folder.local / ".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def find_runs(storage: Folder) -> list[Run]:
    """All runs below a storage folder, by name."""
    children = [storage.child(name) for name in storage.folders()]
    return [Run(child) for child in children if child.exists(SWEEP)]
