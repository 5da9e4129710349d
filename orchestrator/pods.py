"""The pods of a sweep's Ray cluster: one head, workers, and the one that submits the job.

All are what Kubernetes calls restricted: no root, no capabilities, a root filesystem that cannot be
written. What Ray and dfkd write goes to volumes that end with the pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfkd.orchestrator.carried import MOUNT, TASK
from dfkd.orchestrator.cluster_options import GIB, ClusterOptions, Need
from dfkd.orchestrator.quantities import parse_bytes

HOME = "/home/dfkd"
SPILL = "/spill"
USER = 1000  # of deploy/Dockerfile's image, and of those that Ray publishes
SCRATCH = 8 * GIB  # each for /tmp, where Ray keeps its logs, and for HOME with dfkd's cache
GPU = "nvidia.com/gpu"
GPU_LABEL = "nvidia.com/gpu.product"
SWEEP_LABEL = "dfkd/sweep"
SUBMITTER = "ray-job-submitter"
HEAD_STORE = 4  # the part of the head's memory that /dev/shm may take, as a divisor

Manifest = dict[str, Any]


def head(name: str, options: ClusterOptions, has_task: bool) -> Manifest:
    """The head's pod: Ray's services, the autoscaler (KubeRay adds it), the sweep's driver."""
    memory = parse_bytes(options.head_memory, "--head-memory")
    volumes = Volumes(options, memory // HEAD_STORE)
    if has_task:
        volumes.add("task", {"configMap": {"name": task_map(name)}}, MOUNT)
    limits = {"cpu": str(options.head_cpus), "memory": quantity(memory)}
    container = ray_container("ray-head", options, limits | volumes.disk(), volumes)
    ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
    container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
    spec = pod_spec(options, container, volumes)
    spec["automountServiceAccountToken"] = options.autoscale
    return {"metadata": {"labels": {SWEEP_LABEL: name}}, "spec": spec}


def worker(name: str, options: ClusterOptions, need: Need) -> Manifest:
    """A worker's pod, where trials run."""
    volumes = Volumes(options, parse_bytes(options.shm, "--shm"))
    memory = parse_bytes(options.worker_memory, "--worker-memory")
    limits = {"cpu": str(options.worker_cpus), "memory": quantity(memory)}
    gpus = options.gpus_per_pod(need)
    if gpus:
        limits[GPU] = str(gpus)
    container = ray_container("ray-worker", options, limits | volumes.disk(), volumes)
    spec = pod_spec(options, container, volumes)
    spec["automountServiceAccountToken"] = False
    if gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    if options.gpu_type:
        label, equals, value = options.gpu_type.partition("=")
        spec["nodeSelector"] = {label: value} if equals else {GPU_LABEL: options.gpu_type}
    return {"metadata": {"labels": {SWEEP_LABEL: name}}, "spec": spec}


def submitter(name: str, options: ClusterOptions) -> Manifest:
    """The pod that hands the job to the head and prints what its driver prints; no more."""
    volumes = Volumes(options, None)
    container = {
        "name": SUBMITTER,
        "image": options.image,
        "env": [{"name": "HOME", "value": HOME}],
        "resources": equal({"cpu": "500m", "memory": "1Gi"} | volumes.disk()),
        "securityContext": restricted(),
        "volumeMounts": volumes.mounts,
    }
    spec = pod_spec(options, container, volumes)
    spec["automountServiceAccountToken"] = False
    return {"metadata": {"labels": {SWEEP_LABEL: name}}, "spec": spec}


def autoscaler_security() -> Manifest:
    """For autoscalerOptions: the container that KubeRay adds to the head is restricted too."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": HOME}]
    return {
        "env": [{"name": "HOME", "value": HOME}],
        "securityContext": restricted(),
        "volumeMounts": mounts,
    }


class Volumes:
    """The volumes of one pod, and where its container mounts them.

    `shm` in bytes; None for a pod that runs no Ray.
    """

    def __init__(self, options: ClusterOptions, shm: int | None) -> None:
        self.volumes: list[Manifest] = []
        self.mounts: list[Manifest] = []
        each = GIB if shm is None else SCRATCH
        self._disk = 2 * each
        scratch = {"emptyDir": {"sizeLimit": quantity(each)}}
        self.add("tmp", scratch, "/tmp")
        self.add("home", scratch, HOME)
        if shm is None:
            return
        self.add("shm", {"emptyDir": {"medium": "Memory", "sizeLimit": quantity(shm)}}, "/dev/shm")
        spill = options.spill_bytes()
        if spill is None:
            self.add("spill", {"persistentVolumeClaim": {"claimName": options.spill}}, SPILL)
        else:
            self._disk += spill
            self.add("spill", {"emptyDir": {"sizeLimit": quantity(spill)}}, SPILL)
        for number, (path, claim) in enumerate(options.mounts().items()):
            source = {"persistentVolumeClaim": {"claimName": claim}}
            self.add(f"claim-{number}", source, path)

    def add(self, name: str, source: Manifest, path: str) -> None:
        self.volumes.append({"name": name, **source})
        self.mounts.append({"name": name, "mountPath": path})

    def disk(self) -> dict[str, str]:
        """As a container's resource: of its node's own disk, so that it is not promised twice."""
        return {"ephemeral-storage": quantity(self._disk)}


def ray_container(
    name: str, options: ClusterOptions, limits: Mapping[str, str], volumes: Volumes
) -> Manifest:
    """A container that runs Ray. KubeRay writes its command, from rayStartParams."""
    own = {"HOME": HOME, "PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    variables = own | options.variables()
    container: Manifest = {
        "name": name,
        "image": options.image,
        "env": [{"name": key, "value": value} for key, value in variables.items()],
    }
    if options.secret:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in options.secret]
    container |= {
        "resources": equal(limits),
        "securityContext": restricted(),
        "volumeMounts": volumes.mounts,
    }
    return container


def pod_spec(options: ClusterOptions, container: Manifest, volumes: Volumes) -> Manifest:
    identity: Manifest = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER}
    identity |= {"fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}}
    spec: Manifest = {"restartPolicy": "Never", "enableServiceLinks": False}
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    return {
        **spec,
        "securityContext": identity,
        "containers": [container],
        "volumes": volumes.volumes,
    }


def restricted() -> Manifest:
    """A container's security context."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def equal(limits: Mapping[str, str]) -> Manifest:
    return {"requests": dict(limits), "limits": dict(limits)}


def quantity(count: int) -> str:
    """Bytes as Kubernetes writes them.

    >>> quantity(2**35), quantity(3 * 2**20), quantity(1000)
    ('32Gi', '3Mi', '1000')
    """
    for unit, size in (("Gi", GIB), ("Mi", 2**20)):
        if count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def task_map(name: str) -> str:
    """The ConfigMap with a task's file."""
    return f"{name}-task"


def config_map(name: str, text: str) -> Manifest:
    """The task's file, for the head to mount."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": task_map(name), "labels": {SWEEP_LABEL: name}},
        "data": {TASK: text},
    }
