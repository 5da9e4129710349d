"""Ray itself: start one here or join one, and what a trial takes of it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray._private.worker

from dfkd.methods.errors import ConfigError, SweepFailed
from dfkd.orchestrator.quick_start import use_running_workers

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how often a Train worker's report is looked for
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",  # without an answer from a worker
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: see sweeps.py
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # see TuneSearch.suggest
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # told by the bookkeeper
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1e9",  # see tuning.py
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one trial takes: `workers` times these."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if self.workers < 1:
            problems.append(f"workers must be at least 1, got {self.workers}")
        if self.cpus_per_worker <= 0:
            problems.append(f"cpus_per_worker must be above 0, got {self.cpus_per_worker:g}")
        if self.gpus_per_worker < 0:
            problems.append(f"gpus_per_worker must be at least 0, got {self.gpus_per_worker:g}")
        if problems:
            raise ConfigError(*problems)

    @property
    def per_worker(self) -> dict[str, float]:
        """In Ray's names."""
        need = {"CPU": self.cpus_per_worker}
        return need | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.per_worker.items())
        return each if self.workers == 1 else f"{self.workers} times {each}"

    def fitting(self, nodes: Sequence[Mapping[str, float]] | None = None) -> int:
        """How many trials run at once on nodes with these resources; each worker on one node.

        By default: all that the nodes of the cluster have, whoever takes it now.
        """
        if nodes is None:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        need = self.per_worker.items()
        slots = (
            int(min(node.get(name, 0.0) / amount + 1e-6 for name, amount in need)) for node in nodes
        )
        return sum(slots) // self.workers


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Ray, running: the cluster at `address` (or $RAY_ADDRESS), or one of our own on this machine.

    What was started here is ended here.
    """
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    if ray.is_initialized():  # the caller's own
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if address == "local" and " " in sys.executable:  # Ray starts workers by an unquoted command
        own["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
    on_request = signal.getsignal(signal.SIGTERM)
    ray._private.worker.print_to_stdstream = _silent
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SweepFailed(f"Ray cannot be reached at {address}: {error}") from None
    _answer_sigterm(on_request)  # Ray's own answer ends in an abort, after all was saved
    if address == "local":
        use_running_workers()
    try:
        yield
    finally:
        ray.shutdown()
        _answer_sigterm(on_request)  # Ray has left none: the export would just be killed


def _answer_sigterm(handler: Any) -> None:
    """Set the handler again; only a main thread may have one."""
    if threading.current_thread() is threading.main_thread() and callable(handler):
        signal.signal(signal.SIGTERM, handler)


def _silent(*lines: Any, **options: Any) -> None:
    """Instead of what prints pages from a lost node's log on standard output, which is ours."""
