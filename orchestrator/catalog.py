"""Run folders as lists and summaries, for `runs`, `status` and machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dfkd.methods.errors import ConfigError, unknown
from dfkd.orchestrator.export import BEST, FORMATS, METRICS, export_student
from dfkd.orchestrator.requests import definition_name
from dfkd.orchestrator.robustness import as_json
from dfkd.orchestrator.runs import Run, TrialRecord, find_runs
from dfkd.orchestrator.specs import CONTROL_ID
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.sweeps import SweepResult


def find_run(name: str | None, storage: str) -> Run:
    """The run called `name`, or the latest one; raises ConfigError where there is none."""
    found = {run.name: run for run in find_runs(Folder.of(storage))}
    if not found:
        raise ConfigError(f"no sweeps in {Folder.of(storage).uri}; start one: dfkd sweep digits")
    if name is None:
        return max(found.values(), key=lambda run: run.facts()["created"])
    if name not in found:
        raise ConfigError(unknown("sweep", name, found))
    return found[name]


def state(run: Run) -> str:
    """`finished`, `failed`, `interrupted` or `running`; a killed driver counts as interrupted."""
    noted = str(run.facts()["state"])
    if noted == "running" and not run.is_running():
        return "interrupted"
    return noted


def summary(run: Run) -> dict[str, Any]:
    """A run, and each of its trials, as JSON values."""
    facts = run.facts()
    everyone = run.records()
    records = [record for record in everyone if record.spec.id != CONTROL_ID]
    scores = [r.best["score"] for r in records if r.best is not None and r.outcome != "failed"]
    return {
        "name": run.name,
        "task": definition_name(facts["definition"]),
        "state": state(run),
        "trials": facts["request"]["trials"],
        "ended": sum(record.outcome is not None for record in records),
        "score": max(scores, default=None),
        "select": facts["definition"]["select"],
        "folder": run.folder.uri,
        "shared": facts.get("shared"),
        "per_trial": [figures(record) for record in everyone],
    }


def figures(record: TrialRecord) -> dict[str, Any]:
    """A trial as JSON values: how many epochs ran, which was the best, and over all of them."""
    best = record.best or {}
    return {
        "trial": record.spec.id,
        "method": record.spec.method,
        "outcome": record.outcome,
        "epochs_run": record.rows[-1]["epoch"] if record.rows else 0,
        "best_epoch": best.get("epoch"),
        "score": best.get("score"),
        "fidelity": best.get("fidelity"),
        "agreement": best.get("agreement"),
        "accuracy": best.get("accuracy"),
        "robustness": as_json(record.robustness),
    }


def outcome(result: SweepResult) -> dict[str, Any]:
    """How a sweep ended, as JSON values; all that its summary for people says (outcomes.py)."""
    verdict = result.verdicts.get(result.best.spec.id)
    return {
        "name": result.run.name,
        "best": result.best.spec.id,
        "method": result.best.spec.method,
        "recipe": dict(result.best.spec.recipe),
        "searched": list(result.best.spec.searched),
        "outcome": result.best.outcome,
        "score": (result.best.best or {})["score"],
        "accuracy": (result.best.best or {}).get("accuracy"),
        "judged": bool(result.verdicts),
        "verdict": verdict.as_json() if verdict else None,
        "control": _control(result),
        "sureness": result.run.sureness(),
        "jury_against_accuracy": result.run.jury_against_accuracy(),
        "teacher_accuracy": result.teacher_accuracy,
        "noise_control_accuracy": (
            (result.control.best or {}).get("accuracy") if result.control else None
        ),
        "robustness": as_json(result.best.robustness),
        "noise_control_robustness": as_json(result.control.robustness if result.control else None),
        "selected_by": result.select,
        "shared": result.run.facts().get("shared"),
        "failed": {record.spec.id: record.reason for record in result.failed},
        "exported": result.exported.uri,
        "seconds": result.seconds,
    }


def _control(result: SweepResult) -> dict[str, Any] | None:
    if result.control is None:
        return None
    verdict = result.verdicts.get(result.control.spec.id)
    return {
        "outcome": result.control.outcome,
        "verdict": verdict.as_json() if verdict else None,
    }


def outcome_of(run: Run) -> dict[str, Any] | None:
    """How the sweep of a run folder ended, as `outcome` says it; None if it has not finished."""
    facts = run.facts()
    if facts["state"] != "finished":
        return None
    records = {record.spec.id: record for record in run.records()}
    metrics = run.folder.read_json(f"{BEST}/metrics.json") or {}
    result = SweepResult(
        run=run,
        records=list(records.values()),
        best=records[facts["best"]["trial"]],
        control=records.get(CONTROL_ID),
        exported=run.folder.child(BEST),
        teacher_accuracy=metrics.get("teacher_accuracy"),
        select=facts["definition"]["select"],
        verdicts=run.verdicts(),
        seconds=facts["seconds"],
    )
    return outcome(result)


def export_again(
    name: str, storage: str, to: str, trial: str | None, formats: Sequence[str]
) -> Folder:
    """Write a student of sweep `name` to the folder `to`: `trial`'s, or the best one's."""
    run = find_run(name, storage)
    records = {record.spec.id: record for record in run.records() if record.best is not None}
    best = run.facts().get("best")
    found = [unknown("format", format, FORMATS) for format in formats if format not in FORMATS]
    if trial is not None and trial not in records:
        found.append(unknown("trial", trial, records))
    if trial is None and best is None:
        found.append(f"sweep {name} is not finished; name a --trial of: {', '.join(records)}")
    if found:
        raise ConfigError(*found)
    Folder.of(to).require_writable("--to")
    record = records[trial or (best or {})["trial"]]
    facts = run.folder.child(BEST).read_json(METRICS) or {}
    return export_student(
        run,
        record,
        Folder.of(to),
        teacher_accuracy=facts.get("teacher_accuracy"),
        control=records.get(CONTROL_ID),
        formats=formats,
    )
