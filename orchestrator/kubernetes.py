"""Sweeps as RayJobs: sent, looked at, listened to, ended. A Backend of jobs.py."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.orchestrator.cluster_options import ClusterOptions, Need
from dfkd.orchestrator.jobs import ENDED, Job, JobState, Status, farewell
from dfkd.orchestrator.kube_objects import Exists, KubeObjects, Manifest, Unreachable, lines_of
from dfkd.orchestrator.manifests import manifests
from dfkd.orchestrator.pods import SUBMITTER

PATIENCE = 120.0  # seconds in which a cluster that was there may fail to answer
GONE = 120.0  # seconds for an ended RayJob to make room for one of its name
PAUSE = 1.0  # seconds between two looks

COLOR = re.compile(r"\x1b\[[0-9;]*m")  # what `ray job logs` says itself is colored

OF_RAY = re.compile(  # how the submitter says that it has submitted
    r"(Running entrypoint for job |\d{4}-\d\d-\d\d [\d:,]+\t(INFO|SUCC) \S+\.py:\d+ -- |$)"
)

DEPLOYMENT: dict[str, Status] = {  # of a RayJob's status.jobDeploymentStatus; others: pending
    "Running": "running",
    "Complete": "succeeded",
    "Failed": "failed",
}
JOB: dict[str, Status] = {"FAILED": "failed", "STOPPED": "stopped"}  # of a complete one's jobStatus


class Kubernetes:
    """RayJobs in one namespace; the options and what a trial takes matter to `submit` only."""

    def __init__(self, options: ClusterOptions, resources: Need | None = None) -> None:
        self._options = options
        self._resources = resources
        self._objects = connected(options.namespace)
        self._known: set[str] = set()

    def submit(self, job: Job) -> None:
        """Create the RayJob; one of that name that has ended is replaced, and its sweep resumed."""
        if self._resources is None:
            raise ValueError("to submit a job, say what its trials take")
        first, *others = manifests(job, self._options, self._resources)
        self._make_room(job.name)
        try:
            made = self._objects.create(first)
        except Exists:
            raise runs_already(job.name, self._objects.namespace) from None
        try:
            for other in others:
                other["metadata"]["ownerReferences"] = [owner(made)]  # deleted with it
                self._replace(other)
        except DfkdError:
            self._objects.delete("RayJob", job.name)
            raise
        self._known.add(job.name)

    def state(self, name: str) -> JobState:
        found = self._objects.ray_job(name)
        if found is None and name in self._known:
            return JobState("stopped", "its RayJob was deleted")
        if found is None:
            raise nothing_called(name, self._objects.namespace)
        self._known.add(name)
        state = state_of(found)
        cluster = found.get("status", {}).get("rayClusterName")
        if state.status == "pending" and cluster:
            with contextlib.suppress(DfkdError):  # who may look at RayJobs may not at pods
                waiting = why_pods_wait(self._objects.pods(f"ray.io/cluster={cluster}"))
                return JobState("pending", f"{state.told}; {waiting}" if waiting else state.told)
        return state

    def logs(self, name: str) -> Iterator[str]:
        """The lines of its submitter's pods, which print what the driver prints.

        A stream that breaks is taken up where it broke; Unreachable after two minutes in which
        nothing worked.
        """
        read: set[str] = set()
        seen: dict[str, str] = {}
        failing = 0.0  # since when
        while True:
            began, before = time.monotonic(), dict(seen)
            try:
                if (yield from self._next_lines(name, read, seen)):
                    return
                failing = 0.0
            except Unreachable:
                now = time.monotonic()
                worked = seen != before or now - began > PATIENCE / 2  # it was only silent for long
                failing = now if worked else failing or began
                if now - failing > PATIENCE:
                    raise
            time.sleep(PAUSE)

    def stop(self, name: str) -> None:
        """Delete the RayJob, and with it the cluster; the sweep's storage stays."""
        if self._objects.ray_job(name) is None:
            raise nothing_called(name, self._objects.namespace)
        self._objects.delete("RayJob", name)
        self._known.add(name)

    def leave(self, name: str) -> str:
        return farewell(name, ("--namespace", self._objects.namespace))

    def _make_room(self, name: str) -> None:
        """Delete a RayJob that has ended, and wait until it is gone with all that it owned.

        Else KubeRay may take the old submitter, which has the same name, for that of the new job.
        """
        old = self._objects.ray_job(name)
        if old is None:
            return
        if state_of(old).status not in ENDED:
            raise runs_already(name, self._objects.namespace)
        self._objects.delete("RayJob", name)
        deadline = time.monotonic() + GONE
        while self._objects.ray_job(name) is not None:
            if time.monotonic() > deadline:
                raise DfkdError(
                    f"the ended RayJob {name} was deleted and is still there after {GONE:.0f} s; "
                    f"see `kubectl describe rayjob {name}`, or give another --name"
                )
            time.sleep(PAUSE)

    def _replace(self, made: Manifest) -> None:
        try:
            self._objects.create(made)
        except Exists:  # of an earlier job, not collected yet
            self._objects.delete(made["kind"], made["metadata"]["name"])
            self._objects.create(made)

    def _next_lines(
        self, name: str, read: set[str], seen: dict[str, str]
    ) -> Generator[str, None, bool]:
        """What is new of the next pod that was not read; returns whether there will be no more."""
        job = self._objects.ray_job(name)
        pod = next_pod(self._objects.pods(f"job-name={name}"), read, job)
        is_over = job is None or state_of(job).status in ENDED
        if pod is None:
            return is_over
        uid = pod["metadata"]["uid"]
        yield from self._lines(pod["metadata"]["name"], uid, seen)
        if is_over or pod["status"]["phase"] in ("Succeeded", "Failed"):
            read.add(uid)
        return False

    def _lines(self, pod: str, uid: str, seen: dict[str, str]) -> Iterator[str]:
        """What the driver printed, after the last line that was seen, by the lines' times."""
        after = seen.get(uid, "")
        for line in lines_of(self._objects.log(pod, SUBMITTER)):
            stamp, _, text = line.partition(" ")
            if comparable(stamp) > after:
                seen[uid] = comparable(stamp)
                if not OF_RAY.match(text := COLOR.sub("", text)):
                    yield text


def connected(namespace: str) -> KubeObjects:
    """By the official client if it is installed, else by kubectl. Raises ConfigError."""
    if importlib.util.find_spec("kubernetes") is not None:
        from dfkd.orchestrator.kube_client import KubeClient

        return KubeClient(namespace)
    if shutil.which("kubectl") is not None:
        from dfkd.orchestrator.kubectl import Kubectl

        return Kubectl(namespace)
    raise ConfigError(
        "there is nothing to talk to Kubernetes with: pip install 'dfkd[kubernetes]', or install "
        "kubectl; without either, apply what --dry-run prints from where there is one"
    )


def state_of(ray_job: Manifest) -> JobState:
    """How a RayJob is doing, by its status alone."""
    found: dict[str, Any] = ray_job.get("status") or {}
    deployed = str(found.get("jobDeploymentStatus") or "")
    job = str(found.get("jobStatus") or "")
    status = DEPLOYMENT.get(deployed, "pending")
    if status == "succeeded":
        status = JOB.get(job, "succeeded")
    if status == "running" and job not in ("RUNNING", "SUCCEEDED", "FAILED", "STOPPED"):
        status = "pending"
    why = ": ".join(str(found[key]) for key in ("reason", "message") if found.get(key))
    if status != "pending":
        return JobState(status, why)
    return JobState(status, told_of_pending(deployed, why))


def told_of_pending(deployed: str, why: str) -> str:
    """What a RayJob that does not run yet is waiting for."""
    known = {
        "": "KubeRay has not looked at it yet; is its operator running?",
        "Initializing": "its cluster is being made",
        "Running": "its cluster is up and the job is being handed over",
        "Suspended": "it is suspended; if it has a queue, until its turn has come",
        "Suspending": "it is being suspended, and will resume from its storage",
        "Retrying": "it failed and gets a new cluster, on which it resumes",
    }
    told = known.get(deployed, f"it is {deployed.lower()}")
    return f"{told} ({why})" if why else told


def why_pods_wait(pods: Sequence[Manifest]) -> str:
    """What keeps a cluster's pods from starting, in one line; empty if nothing does."""
    up = sum(pod["status"].get("phase") == "Running" for pod in pods)
    for pod in pods:
        name, status = pod["metadata"]["name"], pod["status"]
        for condition in status.get("conditions", ()):
            if condition.get("reason") == "Unschedulable":
                return f"{up} of {len(pods)} pods are up; {name}: {condition.get('message')}"
        boxes = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        for box in boxes:
            waiting = box.get("state", {}).get("waiting", {})
            if waiting.get("message"):
                return f"{up} of {len(pods)} pods are up; {name}: {waiting['message']}"
    return f"{up} of {len(pods)} pods are up" if pods else ""


def next_pod(pods: Sequence[Manifest], read: set[str], job: Manifest | None) -> Manifest | None:
    """The oldest pod that has begun, was not read to its end, and is none of an earlier job's."""
    since = "" if job is None else made_at(job)
    begun = [pod for pod in pods if pod["status"].get("phase") not in (None, "Pending", "Unknown")]
    left = [pod for pod in begun if pod["metadata"]["uid"] not in read and made_at(pod) >= since]
    return min(left, key=made_at, default=None)


def made_at(made: Manifest) -> str:
    return str(made["metadata"].get("creationTimestamp", ""))


def comparable(stamp: str) -> str:
    """A log's time, whose fraction has as many digits as it needs, for comparison as text.

    >>> comparable("2026-11-22T02:00:00.5Z") > comparable("2026-11-22T02:00:00.123456789Z")
    True
    """
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}"


def owner(made: Manifest) -> Manifest:
    """A reference to the RayJob that another object goes with."""
    facts = made["metadata"]
    return {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "name": facts["name"],
        "uid": facts["uid"],
    }


def nothing_called(name: str, namespace: str) -> ConfigError:
    return ConfigError(
        f"no RayJob '{name}' in namespace {namespace}; it was never submitted there, or was "
        "stopped: `dfkd submit` under the same --name and --storage resumes its sweep"
    )


def runs_already(name: str, namespace: str) -> ConfigError:
    return ConfigError(
        f"RayJob '{name}' runs already in namespace {namespace}: watch it, or stop it first, or "
        "give another --name"
    )
