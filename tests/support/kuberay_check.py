"""What is wrong with a RayJob: by KubeRay's schema, by its operator, and by our own rules."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parent / "kuberay" / "rayjob.schema.json"
SIZES = {"Gi": 2**30, "Mi": 2**20, "": 1}


@functools.cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text()))


def problems_of(made: dict[str, Any]) -> list[str]:
    """Everything that is wrong with an object that dfkd made."""
    if made["kind"] != "RayJob":
        return [] if made["metadata"]["name"] and made["data"] else ["an empty ConfigMap"]
    schema = (
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator().iter_errors(made)
    )
    return [*schema, *operators(made), *ours(made["spec"])]


def groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = spec["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pod_specs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    templates = [group["template"] for group in groups(spec)]
    return [template["spec"] for template in (*templates, spec["submitterPodTemplate"])]


def operators(made: dict[str, Any]) -> Iterator[str]:
    """What the operator and Kueue refuse, and no schema states."""
    name, spec = made["metadata"]["name"], made["spec"]
    cluster, shuts_down = spec["rayClusterSpec"], spec["shutdownAfterJobFinishes"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 47:
        yield f"the name {name!r}"
    if spec["submissionMode"] not in {"K8sJobMode", "HTTPMode", "SidecarMode"}:
        yield "submissionMode"
    if (spec["ttlSecondsAfterFinished"] or spec.get("suspend")) and not shuts_down:
        yield "a TTL, or suspended, without shutdown"
    if "kueue.x-k8s.io/queue-name" in made["metadata"].get("labels", {}):
        if not spec.get("suspend"):
            yield "a queue without suspend"
        if cluster["enableInTreeAutoscaling"]:
            yield "a queue with an autoscaler"
    if cluster["authOptions"]["mode"] == "token" and not cluster["rayVersion"]:
        yield "tokens without rayVersion"
    for group in groups(spec):
        yield from of_group(group)


def of_group(group: dict[str, Any]) -> Iterator[str]:
    """What the operator refuses of the head or of workers."""
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 1)
    if not least <= group.get("replicas", least) <= most:
        yield f"replicas of {group.get('groupName')}"
    if not all(isinstance(value, str) for value in group["rayStartParams"].values()):
        yield "a rayStartParam that is no text"
    if group["template"]["spec"].get("restartPolicy") not in (None, "Never"):
        yield "restartPolicy with autoscaler v2"


def ours(spec: dict[str, Any]) -> Iterator[str]:
    """What docs/security.md and docs/kubernetes.md promise."""
    if spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] != "0":
        yield "trials on the head"
    scaler = spec["rayClusterSpec"].get("autoscalerOptions")
    if scaler and not is_restricted(scaler["securityContext"]):
        yield "the autoscaler is not restricted"
    for group in groups(spec):
        yield from memory_problems(group)
    for pod in pod_specs(spec):
        (box,) = pod["containers"]
        if box["resources"]["requests"] != box["resources"]["limits"]:
            yield f"{box['name']} requests less than its limits"
        if not is_restricted(box["securityContext"]) or not pod["securityContext"]["runAsUser"]:
            yield f"{box['name']} is not restricted"
        named = {volume["name"] for volume in pod["volumes"]}
        mounted = [mount["name"] for mount in box["volumeMounts"]]
        paths = [mount["mountPath"] for mount in box["volumeMounts"]]
        if named != set(mounted) or len(named) != len(pod["volumes"]):
            yield f"{box['name']} mounts {mounted} of {named}"
        if len(set(paths)) != len(paths):
            yield f"{box['name']} mounts two volumes at one path"


def memory_problems(group: dict[str, Any]) -> Iterator[str]:
    pod = group["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")["emptyDir"]
    store = int(group["rayStartParams"]["object-store-memory"])
    if not store <= in_bytes(shm["sizeLimit"]) < in_bytes(limits["memory"]):
        yield f"object store {store}, /dev/shm {shm}, memory {limits['memory']}"


def is_restricted(context: dict[str, Any]) -> bool:
    return context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def in_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi|)", quantity).groups()
    return int(number) * SIZES[unit]
