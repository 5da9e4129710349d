"""The sweep's verdict: every trial's student, judged by the probes of everybody else.

While trials run, their students are judged by the control pools alone: the same pools at every
epoch of every trial, whoever else has ended by then. Once all have ended, each student is judged
again, by the control pools and by the probes of every trial that ran to its end, but its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dfkd.methods.jury import Jury, Verdict, sureness, together
from dfkd.methods.teacher import Teacher
from dfkd.orchestrator.export import rebuild
from dfkd.orchestrator.places import Place
from dfkd.orchestrator.probes import pools_from_bytes
from dfkd.orchestrator.runs import Run, TrialRecord
from dfkd.orchestrator.specs import CONTROL_ID
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import PROBE_FILE, STUDENT

TOGETHER = 16  # students that one place judges


def give_verdicts(run: Run, records: Sequence[TrialRecord], place: Place) -> dict[str, Verdict]:
    """Judge the students of all trials that left one, and keep what was found in jury.json.

    Each is judged by itself, on workers; here the pools' consensus on all of them is found.
    """
    ids = sorted(r.spec.id for r in records if r.outcome in ("finished", "stopped") and r.best)
    parts = [ids[start : start + TOGETHER] for start in range(0, len(ids), TOGETHER)]
    found: dict[str, Verdict] = {}
    for verdicts in place(judge, [(run.folder.uri, part, place.device) for part in parts]):
        found |= verdicts
    makers = makers_of(run)
    found = together(found, makers)
    candidates = found.keys() - {CONTROL_ID}
    run.write_verdicts(
        found,
        sureness=sureness(found, makers, candidates) if len(candidates) > 1 else None,
        against_accuracy=how_well(found, {record.spec.id: record for record in records}),
    )
    return found


def judge(uri: str, ids: Sequence[str], device: str) -> dict[str, Verdict]:
    """The verdicts on some trials of the run in the folder `uri`."""
    run = Run(Folder(uri))
    around = run.surroundings()
    jury = jury_of(run, around.teacher.build(around.task).to(torch.device(device)))
    found = {}
    for id in ids:
        weights = run.trial_folder(id).read(STUDENT)
        if weights is not None:
            student = rebuild(around.task, run.trial_spec(id).student, weights).to(device)
            verdict = jury.judge(student, without={id})
            if verdict is not None:
                found[id] = verdict
    return found


def jury_of(run: Run, teacher: Teacher) -> Jury:
    """The control pools, and the probes of every trial that ran to its end but the control's."""
    pools = list(run.controls())
    for id in run.folder.child("trials").folders():
        data = run.trial_folder(id).read(PROBE_FILE)
        if data is not None and id != CONTROL_ID:
            pools += pools_from_bytes(data)
    return Jury(teacher, pools)


def makers_of(run: Run) -> dict[str, str]:
    """The method that made each pool of the run; a control pool's is its name's first word."""
    controls = {pool.name: pool.name.split()[0] for pool in run.controls()}
    return controls | {record.spec.id: record.spec.method for record in run.records()}


def how_well(
    verdicts: Mapping[str, Verdict], records: Mapping[str, TrialRecord]
) -> dict[str, Any] | None:
    """How well fidelity ranked the sweep's students, told by the accuracy that it never saw.

    `spearman` is the rank correlation over `trials` (None below three); `regret` is the accuracy
    lost by the choice, in [0, 1]. None where no accuracy was measured. The noise control counts in
    neither.
    """
    pairs = [
        (verdict.fidelity, best["accuracy"])
        for id, verdict in verdicts.items()
        if id != CONTROL_ID and (best := records[id].best) and "accuracy" in best
    ]
    if not pairs:
        return None
    fidelity, accuracy = zip(*pairs, strict=True)
    correlation = spearman(fidelity, accuracy)
    regret = max(accuracy) - max(pairs)[1]
    return {"trials": len(pairs), "spearman": correlation, "regret": regret}


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1], ties at their mean rank.

    None for fewer than three pairs, or where one side does not vary.

    >>> round(spearman([1, 2, 3, 4], [10, 20, 40, 30]), 2)
    0.8
    """
    if len(one) < 3:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        found = float(np.corrcoef(ranks(one), ranks(other))[0, 1])
    return None if math.isnan(found) else found


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, equal values sharing their mean rank.

    >>> ranks([30, 10, 30])
    [2.5, 1.0, 2.5]
    """
    array = np.asarray(values)
    below = (array[:, None] > array).sum(1)
    equal = (array[:, None] == array).sum(1)
    return [float(rank) for rank in below + (equal + 1) / 2]
