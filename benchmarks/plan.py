"""Does `dfkd sweep --dry-run` tell the truth? Plans beside trials that were run to their end.

    python benchmarks/plan.py    about five minutes on a core
    python benchmarks/plan.py --case "digits, nayer"    one of them

Each trial runs in a process of its own that imports what a Ray worker imports, without Ray. Its
memory is the highest resident size of that process, its time that of its one thread from the first
epoch to the last, all saving included: so what else the machine does changes little. Teachers are
untrained, which changes neither. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from provenance import commit, machine

LARGE: dict[str, Any] = {
    "task": "large",
    "summary": "noise of 3x112x112 in ten classes, for small networks",
    "classes": [f"class {number}" for number in range(10)],
    "image": {"channels": 3, "height": 112, "width": 112},
    "normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "data": "large.npz",
    "teacher": {"network": "convnet-8-16-32-64"},
    "student": "convnet-8-8-16-32",
    "embeddings": "onehot",
    "epochs": 8,
    "recipe": {
        "warmup": 2,
        "warmup_rounds": 3,
        "rounds": 1,
        "batch_size": 64,
        "synthesis_steps": 6,
        "kd_steps": 12,
        "kd_batch_size": 32,
        "generator_width": 8,
        "noisy_width": 64,
    },
}
TEST_IMAGES = 400  # of the large task


@dataclass(frozen=True)
class Case:
    """A trial to plan and to run."""

    task: str
    method: str
    seconds: float = 30.0
    """For measuring."""
    told: str = ""

    @property
    def name(self) -> str:
        return f"{self.task}, {self.method}{self.told}"


CASES = (
    Case("digits", "nayer"),
    Case("digits", "dafl"),
    Case("digits", "deepinversion"),
    Case("fashion_mnist", "nayer"),
    Case("large", "nayer"),
    Case("large", "nayer", seconds=4.0, told=", batches extrapolated"),
)


def main() -> None:
    """Plan and run every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=[case.name for case in CASES])
    parser.add_argument("--truth", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.truth:
        print(json.dumps(truth(*options.truth)))
        return
    chosen = [case for case in CASES if options.case in (None, case.name)]
    print(f"{machine()}, commit {commit()}; one trial each\n", flush=True)
    print("| trial | batches measured | memory, plan | truth | off | time, plan | truth | off |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for case in chosen:
        with tempfile.TemporaryDirectory(prefix="dfkd-bench-") as folder:
            print(row(case, Path(folder)), flush=True)


def row(case: Case, folder: Path) -> str:
    """One line of the table."""
    from dfkd.orchestrator.inventory import free_memory, this_machine
    from dfkd.orchestrator.meters import Meter
    from dfkd.orchestrator.planning import plan_of
    from dfkd.orchestrator.requests import SweepRequest, plan_sweep
    from dfkd.orchestrator.runs import Run
    from dfkd.orchestrator.storage import Folder

    task = write_large(folder) if case.task == "large" else case.task
    request = SweepRequest(task=task, methods=(case.method,), select="accuracy", trials=1)
    spec = replace(plan_sweep(request), control=False)
    with Meter() as meter:

        def measure(sweep: Any, trial: Any, need: Any, seconds: float) -> Any:
            return meter.measure(sweep, trial, need, case.seconds, free_memory() // 2)

        plan = plan_of(request, spec, this_machine(), measure, lambda text: None)
    (planned,) = plan.methods
    run = Run(Folder(str(folder / "run")))
    run.create(spec)
    run.propose(spec.trial("t000", case.method, {}))
    command = [sys.executable, __file__, "--truth", run.folder.uri, "t000"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(answer.splitlines()[-1])
    assert planned.measured is not None and planned.host is not None and planned.time is not None
    batches = [str(point.images["synthesis"]) for point in planned.measured.points]
    whole = planned.recipe["batch_size"]
    memory = compared(planned.host.total / 1e6, found["memory"] / 1e6, "MB")
    seconds = compared(planned.time.trial, found["seconds"], "s")
    return f"| {case.name} | {', '.join(batches)} of {whole} | {memory} | {seconds} |"


def compared(plan: float, truth: float, unit: str) -> str:
    """Three cells."""
    return f"{plan:,.0f} {unit} | {truth:,.0f} {unit} | {100 * (plan / truth - 1):+.0f} %"


def write_large(folder: Path) -> str:
    """The path of the large task's YAML file, its images beside it."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (TEST_IMAGES, 112, 112, 3), dtype=np.uint8)
    np.savez(folder / "large.npz", images=images, labels=np.arange(TEST_IMAGES) % 10)
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(LARGE))
    return str(path)


def truth(folder: str, trial: str) -> dict[str, float]:
    """Run a trial of a run folder, as its Ray worker would; its peak and the time of its epochs."""
    import torch

    from dfkd.orchestrator import trial_actor
    from dfkd.orchestrator.gauges import peak
    from dfkd.orchestrator.quick_start import spare_the_compiler
    from dfkd.orchestrator.runs import Run
    from dfkd.orchestrator.storage import Folder
    from dfkd.orchestrator.trials import run_trial

    assert trial_actor.TrialActor  # a worker has imported it
    spare_the_compiler()
    torch.set_num_threads(1)
    run = Run(Folder(folder))
    spec = run.trial_spec(trial)
    around, began = run.surroundings(), time.process_time()
    run_trial(spec, around, run.trial_folder(trial))
    return {"memory": peak(), "seconds": time.process_time() - began}


if __name__ == "__main__":
    main()
