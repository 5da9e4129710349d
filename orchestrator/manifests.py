"""A sweep as Kubernetes objects: a RayJob, and a ConfigMap for a task of the user's own."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.annotated_yaml import annotated
from dfkd.orchestrator.carried import Carried, carry
from dfkd.orchestrator.cluster_options import ClusterOptions, Need
from dfkd.orchestrator.jobs import Job
from dfkd.orchestrator.manifest_notes import NOTES
from dfkd.orchestrator.pods import (
    HEAD_STORE,
    SPILL,
    SWEEP_LABEL,
    Manifest,
    autoscaler_security,
    config_map,
    head,
    submitter,
    worker,
)
from dfkd.orchestrator.quantities import parse_bytes
from dfkd.orchestrator.shell_words import entrypoint

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
IDLE = 300  # seconds until a worker pod without a trial is given back
OWN_WORDS = ("--name", "--storage", "--address", "--json")


def manifests(job: Job, options: ClusterOptions, resources: Need) -> list[Manifest]:
    """The objects to create, the RayJob first; `resources` is what one trial takes.

    Raises ConfigError with everything that is wrong with the options, the job or both together.
    """
    carried = carry(job.arguments, options)
    problems = [*options.problems(job, resources), *carried.problems]
    given = [word for word in job.arguments if word.partition("=")[0] in OWN_WORDS]
    problems += [f"{word} is dfkd's to set on a cluster" for word in given]
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    objects = [ray_job(job, options, resources, carried)]
    if carried.task is not None:
        objects.append(config_map(job.name, carried.task))
    for made in objects:
        if options.namespace:
            made["metadata"]["namespace"] = options.namespace
    return objects


def as_yaml(objects: list[Manifest]) -> str:
    """The objects as a file for `kubectl apply`, with comments for whoever reads it."""
    return "---\n".join(annotated(made, NOTES) for made in objects)


def ray_job(job: Job, options: ClusterOptions, need: Need, carried: Carried) -> Manifest:
    """A cluster, and `dfkd sweep` on its head."""
    labels = {SWEEP_LABEL: job.name} | ({QUEUE_LABEL: options.queue} if options.queue else {})
    spec: dict[str, Any] = {
        "entrypoint": entrypoint(command(job, carried)),
        "submissionMode": "K8sJobMode",
        "backoffLimit": options.backoff,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": options.ttl,
    }
    if options.queue:
        spec["suspend"] = True
    spec["rayClusterSpec"] = ray_cluster(job.name, options, need, carried.task is not None)
    spec["submitterPodTemplate"] = submitter(job.name, options)
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": job.name, "labels": labels},
        "spec": spec,
    }


def command(job: Job, carried: Carried) -> list[str]:
    """What runs on the head; RayJob's retries run the same, which resumes the sweep."""
    own = ["--name", job.name, "--storage", job.storage, "--address", "auto", "--json"]
    return ["dfkd", "sweep", *carried.arguments, *own]


def ray_cluster(name: str, options: ClusterOptions, need: Need, has_task: bool) -> Manifest:
    """The cluster; its Ray is the version that is installed here, as in the image."""
    head_store = parse_bytes(options.head_memory, "--head-memory") // HEAD_STORE // 8 * 7
    spec: Manifest = {
        "rayVersion": version("ray"),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": options.autoscale,
    }
    if options.autoscale:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": IDLE,
            **autoscaler_security(),
        }
    if options.redis:
        spec["gcsFaultToleranceOptions"] = fault_tolerance(options)
    spec["headGroupSpec"] = {
        "rayStartParams": {"num-cpus": "0", **start_parameters(head_store)},
        "template": head(name, options, has_task),
    }
    least = options.least_pods(need)
    group: Manifest = {
        "groupName": "workers",
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": options.workers_max,
        "rayStartParams": start_parameters(options.store_bytes()),
        "template": worker(name, options, need),
    }
    spec["workerGroupSpecs"] = [group]
    return spec


def start_parameters(store: int) -> dict[str, str]:
    """What `ray start` is told on every pod; the object store in bytes."""
    return {"object-store-memory": str(store), "object-spilling-directory": SPILL}


def fault_tolerance(options: ClusterOptions) -> Manifest:
    """The control store's state in a Redis; its password by reference."""
    found: Manifest = {"redisAddress": options.redis}
    if options.redis_secret:
        name, _, key = options.redis_secret.partition("/")
        reference = {"name": name, "key": key}
        found["redisPassword"] = {"valueFrom": {"secretKeyRef": reference}}
    return found
