"""Sending a sweep to where the machines are: what is looked at here first, and who takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.cluster_options import ClusterOptions
from dfkd.orchestrator.jobs import Backend, Job, fresh_name
from dfkd.orchestrator.options import DEFAULT_STORAGE, as_words, flags
from dfkd.orchestrator.requests import SweepRequest, plan_sweep

ANYWHERE = ("var",)  # cluster options that a running Ray can do with too


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """A sweep, ready to be sent."""

    job: Job
    request: SweepRequest
    cluster: ClusterOptions
    address: str | None
    """A running Ray's dashboard; None: Kubernetes."""
    python: str | None

    def backend(self) -> Backend:
        """Who takes it; raises ConfigError where there is nobody."""
        if self.address is None:
            from dfkd.orchestrator.kubernetes import Kubernetes

            return Kubernetes(self.cluster, self.request.resources())
        return running_ray(self.address, self.python, self.cluster.variables())

    def shown(self) -> str:
        """What would be sent, to read: manifests as YAML, or a command and the files with it."""
        if self.address is None:
            from dfkd.orchestrator.manifests import as_yaml, manifests

            return as_yaml(manifests(self.job, self.cluster, self.request.resources()))
        from dfkd.orchestrator.ray_jobs import preview

        return preview(self.job, self.python)


def prepare(
    request: SweepRequest, cluster: ClusterOptions, address: str | None, python: str | None
) -> Sending:
    """Look for every mistake that can be found on this machine, and name the job.

    What only the cluster can see is taken on trust: a task on storage or on a claim, files of
    --teacher and --data that are not here. Raises ConfigError with all problems.
    """
    problems = list(_misplaced(cluster, python, address))
    if "://" not in request.task and not cluster.is_mounted(request.task):
        try:
            plan_sweep(_as_it_is_here(request))
        except ConfigError as error:
            problems += error.problems
    name = request.name or fresh_name(request.task)
    words = as_words(replace(request, name=None, storage=DEFAULT_STORAGE, address=None))
    job = Job(name=name, storage=request.storage, arguments=(request.task, *words))
    sending = Sending(job=job, request=request, cluster=cluster, address=address, python=python)
    try:
        sending.shown()
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return sending


def find_backend(address: str | None, namespace: str | None) -> Backend:
    """Where a job was sent to: a running Ray by its address, or a namespace of Kubernetes."""
    if address is not None and namespace is not None:
        raise ConfigError(f"--address {address} and --namespace {namespace}: give one of them")
    if address is not None:
        return running_ray(address)
    if namespace is None:
        raise ConfigError(
            "where does it run? give --address http://HEAD:8265 or --namespace NAME; a sweep in a "
            "terminal is ended by Ctrl-C there"
        )
    from dfkd.orchestrator.kubernetes import Kubernetes

    return Kubernetes(ClusterOptions(namespace=namespace))


def running_ray(
    address: str, python: str | None = None, variables: Mapping[str, str] | None = None
) -> Backend:
    """The Ray cluster whose dashboard is at `address`."""
    from dfkd.orchestrator.ray_jobs import RayJobs

    chosen: dict[str, Any] = {} if python is None else {"python": python}
    return RayJobs(address=address, variables=variables or {}, **chosen)


def _misplaced(cluster: ClusterOptions, python: str | None, address: str | None) -> list[str]:
    """Options of the one kind of cluster that were given for the other."""
    if address is None:
        return [] if python is None else ["--python is for --address; an image has its own"]
    plain = ClusterOptions()
    changed = [f for f in fields(cluster) if getattr(cluster, f.name) != getattr(plain, f.name)]
    wrong = [flags(one) for one in changed if one.name not in ANYWHERE]
    if not wrong:
        return []
    return [f"{', '.join(wrong)}: for Kubernetes; the cluster at {address} is as it is"]


def _as_it_is_here(request: SweepRequest) -> SweepRequest:
    """The request without what is only on the cluster."""
    elsewhere: dict[str, Any] = {"from_pool": None}
    if _is_elsewhere(request.teacher):
        elsewhere["teacher"] = None
    if _is_elsewhere(request.data):
        elsewhere |= {"data": None, "select": "fidelity"}
    return replace(request, **elsewhere)


def _is_elsewhere(value: str | None) -> bool:
    """Whether an option names a file that is not here."""
    if value is None:
        return False
    path = value.rpartition(":")[2]
    return "://" in value or (path.startswith("/") and not Path(path).exists())
