"""What `dfkd submit` can be asked of a Kubernetes cluster, and which wishes cannot be granted.

The fields are the options of the command line, made from their metadata. Imports nothing heavy: the
command line reads this file to print its help.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.jobs import Job
from dfkd.orchestrator.options import option
from dfkd.orchestrator.quantities import bytes_as_text, parse_bytes

GIB = 2**30
LEAST_HEAP = GIB  # for Ray's own processes and one Python beside the object store
LEAST_HEAD = 4 * GIB
LONGEST_NAME = 47  # KubeRay's limit: it appends to the names of what it makes
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
OBJECT = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")  # DNS-1123, as most of Kubernetes' names
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TELLING = {"key", "token", "secret", "password", "passwd", "credential", "credentials"}
LONGEST_LABEL = 63
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?")
LABEL_KEY = re.compile(
    r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?"
)
OURS = {"HOME", "FQ_RAY_IP", "RAY_IP", "RAY_PORT", "RAY_ADDRESS", "RAY_CLUSTER_NAME"}
OURS |= {"RAY_AUTH_MODE", "RAY_REDIS_ADDRESS", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}
TAKEN = ("/tmp", "/home/dfkd", "/dev/shm", "/spill", "/etc/dfkd")  # where pods mount their own


class Need(Protocol):
    """What one trial takes: `workers` times these (clusters.Resources)."""

    @property
    def workers(self) -> int: ...
    @property
    def cpus_per_worker(self) -> float: ...
    @property
    def gpus_per_worker(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """A KubeRay cluster that is made for one sweep, and goes with it."""

    image: str = option(
        "", "The image with dfkd in it; deploy/Dockerfile builds one.", metavar="IMAGE"
    )
    gpus: int | None = option(
        None, "GPUs of each worker pod; default: what a worker takes.", metavar="N"
    )
    gpu_type: str = option(
        "", "Only on nodes of this nvidia.com/gpu.product, or LABEL=VALUE.", metavar="TYPE"
    )
    workers_min: int | None = option(
        None, "Worker pods kept; default: those of one trial.", metavar="N"
    )
    workers_max: int = option(4, "Worker pods at most.", metavar="N")
    autoscale: bool = option(
        True,
        "Pods come and go with the trials, or --workers-max all along.",
        flags="--autoscale/--fixed",
    )
    worker_cpus: int = option(8, "CPU cores of each worker pod.", metavar="N")
    worker_memory: str = option(
        "32Gi", "Memory of each worker pod, /dev/shm included.", metavar="SIZE"
    )
    shm: str = option("8Gi", "/dev/shm of each worker pod: object store, NCCL.", metavar="SIZE")
    object_store: str = option(
        "", "Ray's object store in it; default: 7/8 of --shm.", metavar="SIZE"
    )
    spill: str = option(
        "20Gi", "Disk for what the object store cannot hold, or a claim's name.", metavar="SIZE"
    )
    head_cpus: int = option(
        4, "CPU cores of the head pod, where the sweep's driver runs.", metavar="N"
    )
    head_memory: str = option(
        "16Gi", "Its memory, for Ray's own services and the driver.", metavar="SIZE"
    )
    secret: tuple[str, ...] = option(
        (), "A Secret whose keys become environment variables, for storage; repeat.", metavar="NAME"
    )
    var: tuple[str, ...] = option(
        (), "An environment variable, nothing secret; repeat.", metavar="KEY=VALUE"
    )
    claim: tuple[str, ...] = option(
        (), "Mount a PersistentVolumeClaim, for data or storage; repeat.", metavar="NAME:/PATH"
    )
    service_account: str = option("", "Who the pods are, for storage without keys.", metavar="NAME")
    namespace: str = option("", "Default: that of kubectl's context.", metavar="NAME")
    queue: str = option("", "Wait in this Kueue LocalQueue; needs --fixed.", metavar="NAME")
    ttl: int = option(600, "Seconds that the cluster stays up after the sweep.", metavar="SECONDS")
    backoff: int = option(2, "New clusters after failures; each resumes the sweep.", metavar="N")
    redis: str = option(
        "", "Keep the cluster's state there (GCS fault tolerance).", metavar="HOST:PORT"
    )
    redis_secret: str = option("", "The key of a Secret with its password.", metavar="NAME/KEY")

    def problems(self, job: Job, need: Need) -> list[str]:
        """Everything that is wrong with them for this job, whose trials need that."""
        rules = [self._names, self._claims, self._memory, self._counts, self._pods]
        rules += [self._outside, self._words]
        return [problem for rule in rules for problem in rule(job, need)]

    def gpus_per_pod(self, need: Need) -> int:
        return math.ceil(need.gpus_per_worker) if self.gpus is None else self.gpus

    def workers_per_pod(self, need: Need) -> int:
        """How many of a trial's workers a worker pod holds."""
        fitting = int(self.worker_cpus / need.cpus_per_worker + 1e-6)
        if need.gpus_per_worker:
            fitting = min(fitting, int(self.gpus_per_pod(need) / need.gpus_per_worker + 1e-6))
        return max(fitting, 0)

    def pods_per_trial(self, need: Need) -> int:
        return math.ceil(need.workers / max(self.workers_per_pod(need), 1))

    def least_pods(self, need: Need) -> int:
        """Worker pods that there are at any time."""
        if not self.autoscale:
            return self.workers_max
        return self.pods_per_trial(need) if self.workers_min is None else self.workers_min

    def store_bytes(self) -> int:
        """Ray's object store on a worker."""
        if self.object_store:
            return parse_bytes(self.object_store, "--object-store")
        return parse_bytes(self.shm, "--shm") // 8 * 7

    def spill_bytes(self) -> int | None:
        """Of a volume that lives as long as its pod; None: `spill` is a claim's name."""
        try:
            return parse_bytes(self.spill, "--spill")
        except ConfigError:
            return None

    def mounts(self) -> dict[str, str]:
        """Claims by the paths that they are mounted at."""
        split = (text.partition(":") for text in self.claim)
        return {path.rstrip("/"): name for name, _, path in split}

    def variables(self) -> dict[str, str]:
        split = (text.partition("=") for text in self.var)
        return {key: value for key, _, value in split}

    def is_mounted(self, path: str) -> bool:
        """Whether a path of the pods lies on a claim."""
        return any(path == mount or path.startswith(f"{mount}/") for mount in self.mounts())

    def _names(self, job: Job, need: Need) -> Iterator[str]:
        if not LABEL.fullmatch(job.name) or len(job.name) > LONGEST_NAME:
            yield (
                f"--name on Kubernetes has small letters, digits and dashes, begins with a letter "
                f"and has at most {LONGEST_NAME} characters, got '{job.name}' ({len(job.name)})"
            )
        if not self.image or re.search(r"\s", self.image):
            yield (
                f"--image is the address of an image with dfkd in it, got '{self.image}'; build "
                "and push one with deploy/Dockerfile"
            )
        given = {"--service-account": self.service_account, "--queue": self.queue}
        given["--namespace"] = self.namespace
        if self.spill_bytes() is None:
            given["--spill, where it is no size,"] = self.spill
        for flag, name in given.items():
            if name and not (OBJECT.fullmatch(name) and len(name) <= LONGEST_LABEL):
                yield f"{flag} is the name of an object in the cluster, got '{name}'"
        for name in self.secret:
            if not OBJECT.fullmatch(name):  # it may be the secret itself: not printed
                yield "--secret is a Secret's name and never its content; see docs/security.md"
        label, _, value = self.gpu_type.rpartition("=")
        is_label = LABEL_VALUE.fullmatch(value) and len(value) <= LONGEST_LABEL
        if self.gpu_type and not (is_label and (not label or LABEL_KEY.fullmatch(label))):
            yield f"--gpu-type is a label's value, or LABEL=VALUE, got '{self.gpu_type}'"

    def _claims(self, job: Job, need: Need) -> Iterator[str]:
        paths: set[str] = set()
        for text in self.claim:
            name, _, path = text.partition(":")
            path = path.rstrip("/")
            if not OBJECT.fullmatch(name) or not re.fullmatch(r"(/[^/:\s]+)+", path):
                yield f"--claim must be NAME:/PATH, got '{text}'"
            elif any(mine == path or mine.startswith(f"{path}/") for mine in TAKEN):
                yield f"--claim {text} would hide what pods keep in {', '.join(TAKEN)}"
            elif path in paths:
                yield f"--claim {text}: another claim is mounted there"
            paths.add(path)

    def _memory(self, job: Job, need: Need) -> Iterator[str]:
        sizes: dict[str, int] = {}
        for flag in ("--worker-memory", "--head-memory", "--shm", "--object-store"):
            text = getattr(self, flag[2:].replace("-", "_"))
            try:
                sizes[flag] = parse_bytes(text, flag) if text else 0
            except ConfigError as error:
                yield from error.problems
        if not sizes.keys() >= {"--worker-memory", "--head-memory", "--shm", "--object-store"}:
            return
        memory, shm, store = (sizes[f] for f in ("--worker-memory", "--shm", "--object-store"))
        if shm > memory - LEAST_HEAP:
            yield (
                f"--shm {self.shm} is part of --worker-memory {self.worker_memory} and must leave "
                f"{bytes_as_text(LEAST_HEAP)} of it; lower the one or raise the other"
            )
        if store > memory:
            yield f"--object-store {self.object_store} exceeds --worker-memory {self.worker_memory}"
        elif store > shm:
            yield f"--object-store {self.object_store} lies in --shm and is larger: {self.shm}"
        if sizes["--head-memory"] < LEAST_HEAD:
            yield f"--head-memory must be at least 4Gi, got {self.head_memory}"

    def _counts(self, job: Job, need: Need) -> Iterator[str]:
        least = {"workers_max": 1, "worker_cpus": 1, "head_cpus": 1, "ttl": 0, "backoff": 0}
        least |= {} if self.gpus is None else {"gpus": 0}
        least |= {} if self.workers_min is None else {"workers_min": 0}
        for key, bound in least.items():
            if (value := getattr(self, key)) < bound:
                yield f"--{key.replace('_', '-')} must be at least {bound}, got {value}"
        if self.workers_min is not None and self.workers_min > self.workers_max:
            yield f"--workers-min {self.workers_min} is above --workers-max {self.workers_max}"
        elif not self.autoscale and self.workers_min not in (None, self.workers_max):
            yield (
                f"--fixed means --workers-max {self.workers_max} pods all along; leave out "
                f"--workers-min {self.workers_min}"
            )
        if self.queue and self.autoscale:
            yield "--queue needs --fixed: Kueue admits a cluster whole, and only one of fixed size"

    def _pods(self, job: Job, need: Need) -> Iterator[str]:
        gpus = self.gpus_per_pod(need)
        if self.gpu_type and not need.gpus_per_worker:
            yield f"--gpu-type {self.gpu_type} and trials that use no GPU: add --gpus-per-worker"
        if need.gpus_per_worker and not gpus:
            yield (
                f"trials ask for --gpus-per-worker {need.gpus_per_worker:g} and worker pods have "
                "no GPU: give them some with --gpus"
            )
        elif gpus and not need.gpus_per_worker:
            yield f"--gpus {gpus} would idle: let trials use them with --gpus-per-worker"
        elif not self.workers_per_pod(need):
            yield (
                f"a trial's worker takes {need.cpus_per_worker:g} CPU and "
                f"{need.gpus_per_worker:g} GPU, and no worker pod of {self.worker_cpus} CPU and "
                f"{gpus} GPU holds it; raise --worker-cpus or --gpus"
            )
        elif (pods := self.pods_per_trial(need)) > self.workers_max:
            yield f"a trial takes {pods} worker pods, and --workers-max is {self.workers_max}"

    def _outside(self, job: Job, need: Need) -> Iterator[str]:
        path = job.storage.removeprefix("file://")
        is_path = "://" not in path
        if is_path and not (path.startswith("/") and self.is_mounted(path)):
            yield (
                f"--storage {job.storage} would go with its pod: give an s3:// or gs:// URI, or a "
                "path below a claim's (--claim runs:/runs --storage /runs)"
            )
        if self.redis and not re.fullmatch(r"[^\s@/]+:\d+", self.redis):
            yield "--redis must be HOST:PORT; its password comes by --redis-secret NAME/KEY"
        name, _, key = self.redis_secret.partition("/")
        if self.redis_secret and not (OBJECT.fullmatch(name) and re.fullmatch(r"[-._\w]+", key)):
            yield "--redis-secret must be NAME/KEY: a Secret's name and one of its keys"
        if self.redis_secret and not self.redis:
            yield "--redis-secret without --redis HOST:PORT"

    def _words(self, job: Job, need: Need) -> Iterator[str]:
        """Manifests are printed, kept in git, and read by many: nothing secret may be in one."""
        for text in self.var:
            key, equals, value = text.partition("=")
            if not equals or not VARIABLE.fullmatch(key):
                yield f"--var must be KEY=VALUE, got '{key}'"
            elif key in OURS:
                yield f"--var {key} is for dfkd and KubeRay to set"
            elif is_telling(key) or holds_a_password(value):
                yield (
                    f"--var {key} looks like a secret, and manifests are no place for one: put it "
                    f"into a Secret (kubectl create secret generic NAME --from-literal={key}=...) "
                    "and give its name with --secret"
                )
        for text in (job.storage, *job.arguments):
            if holds_a_password(text):
                yield (
                    "a URI holds a password: put the keys into a Secret and give its name with "
                    "--secret; see docs/security.md"
                )


def is_telling(key: str) -> bool:
    """Whether an environment variable, by its name, holds a secret.

    >>> is_telling("AWS_SECRET_ACCESS_KEY"), is_telling("TOKENIZERS_PARALLELISM")
    (True, False)
    """
    words = key.lower().split("_")
    return bool(TELLING & set(words)) and words[-1] not in ("file", "path")


def holds_a_password(text: str) -> bool:
    """Whether there is a URI as s3://user:password@host in it."""
    return re.search(r"://[^/@\s]*:[^/@\s]*@", text) is not None
