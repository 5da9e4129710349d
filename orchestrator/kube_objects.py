"""What dfkd does with objects in a Kubernetes cluster, whoever talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from dfkd.methods.errors import ConfigError, DfkdError

Manifest = dict[str, Any]

NO_KUBERAY = "the cluster knows no RayJobs: install KubeRay, as docs/kubernetes.md says"

NO_CLUSTER = (
    "no Kubernetes cluster is configured; set $KUBECONFIG or log in as your cluster's manual says, "
    "until `kubectl get pods` works"
)


class Unreachable(DfkdError):
    """The cluster does not answer, for now."""


class Exists(DfkdError):
    """There is an object of that kind and name."""


class KubeObjects(Protocol):
    """RayJobs, ConfigMaps and pods of one namespace. All are bounded in time but `log`.

    Raises Unreachable where trying again may help, and ConfigError where it cannot.
    """

    namespace: str

    def create(self, made: Manifest) -> Manifest:
        """Create a RayJob or a ConfigMap; returns it with its uid. Raises Exists."""
        ...

    def ray_job(self, name: str) -> Manifest | None:
        """A RayJob; None where there is none."""
        ...

    def delete(self, kind: str, name: str) -> None:
        """Delete a RayJob or a ConfigMap if it is there; it stays until what it owns has gone."""
        ...

    def pods(self, selector: str) -> list[Manifest]:
        """Pods by their labels, as `key=value`."""
        ...

    def log(self, pod: str, container: str) -> Iterator[bytes]:
        """What a container has printed and prints, each line after its time, in any pieces."""
        ...


def lines_of(pieces: Iterator[bytes]) -> Iterator[str]:
    """The lines in bytes that come in any pieces; the last one only if it is whole."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole)


def refused(status: int, message: str) -> DfkdError:
    """The error for what a cluster answered, by its HTTP status."""
    if status in (401, 403):
        return ConfigError(f"the cluster does not let you do that: {message}")
    if status == 409:
        return Exists(message)
    if status == 404:
        return ConfigError(NO_KUBERAY)
    if status == 429 or status >= 500:
        return Unreachable(f"the cluster answers {status}: {message}")
    return ConfigError(f"the cluster refuses it (KubeRay 1.6 or later is needed): {message}")
