"""Kubernetes through its official Python client (the extra `kubernetes`)."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.kube_objects import NO_CLUSTER, Manifest, Unreachable, refused

client: Any = importlib.import_module("kubernetes.client")  # no two releases agree on its types
config: Any = importlib.import_module("kubernetes.config")

TIMEOUT = (5.0, 30.0)  # seconds to connect, and for an answer
SILENCE = (5.0, 300.0)  # the same for a log, in which nothing may happen for a while
RAY_JOBS = ("ray.io", "v1")
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubeClient:
    """As kubectl would: by $KUBECONFIG or ~/.kube/config, or from inside a pod."""

    def __init__(self, namespace: str) -> None:
        try:
            config.load_config(**where())
        except config.ConfigException as error:
            raise ConfigError(f"{NO_CLUSTER}: {error}") from None
        self.namespace = namespace or default_namespace()
        settings = client.Configuration.get_default_copy()
        settings.retries = 1
        self._core = client.CoreV1Api(client.ApiClient(settings))
        self._custom = client.CustomObjectsApi(client.ApiClient(settings))

    def create(self, made: Manifest) -> Manifest:
        """Strictly: a KubeRay too old to know a field must not leave it out, say the tokens'."""
        with explained():
            if made["kind"] == "ConfigMap":
                answer = self._core.create_namespaced_config_map(
                    self.namespace, made, _preload_content=False, _request_timeout=TIMEOUT
                )
                return as_json(answer)
            found: Manifest = self._custom.create_namespaced_custom_object(
                *RAY_JOBS,
                self.namespace,
                "rayjobs",
                made,
                field_validation="Strict",
                _request_timeout=TIMEOUT,
            )
            return found

    def ray_job(self, name: str) -> Manifest | None:
        with explained():
            try:
                found: Manifest = self._custom.get_namespaced_custom_object(
                    *RAY_JOBS, self.namespace, "rayjobs", name, _request_timeout=TIMEOUT
                )
            except client.ApiException as error:
                if error.status == 404:
                    return None
                raise
            return found

    def delete(self, kind: str, name: str) -> None:
        with explained():
            try:
                if kind == "ConfigMap":
                    self._core.delete_namespaced_config_map(
                        name, self.namespace, _request_timeout=TIMEOUT
                    )
                else:
                    self._custom.delete_namespaced_custom_object(
                        *RAY_JOBS,
                        self.namespace,
                        "rayjobs",
                        name,
                        propagation_policy="Foreground",
                        _request_timeout=TIMEOUT,
                    )
            except client.ApiException as error:
                if error.status != 404:
                    raise

    def pods(self, selector: str) -> list[Manifest]:
        with explained():
            answer = self._core.list_namespaced_pod(
                self.namespace,
                label_selector=selector,
                _preload_content=False,
                _request_timeout=TIMEOUT,
            )
            items: list[Manifest] = as_json(answer)["items"]
            return items

    def log(self, pod: str, container: str) -> Iterator[bytes]:
        with explained():
            try:
                answer = self._core.read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    container=container,
                    follow=True,
                    timestamps=True,
                    _preload_content=False,
                    _request_timeout=SILENCE,
                )
            except client.ApiException as error:
                if error.status in (400, 404):  # not begun, or gone
                    return
                raise
            try:
                yield from answer.stream(65536)
            finally:
                answer.close()


@contextmanager
def explained() -> Iterator[None]:
    """The client's errors as dfkd's."""
    try:
        yield
    except client.ApiException as error:
        raise refused(error.status or 500, message_in(error)) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unreachable(f"the Kubernetes cluster does not answer: {error}") from None


def message_in(error: Any) -> str:
    """What the cluster says, which is JSON if it comes from the cluster itself."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason or error.status)


def as_json(answer: Any) -> Manifest:
    found: Manifest = json.loads(answer.data)
    return found


def where() -> dict[str, str]:
    """$KUBECONFIG as it is now; the client itself looks at it once, when it is imported."""
    chosen = os.environ.get("KUBECONFIG")
    return {"config_file": chosen} if chosen else {}


def default_namespace() -> str:
    """That of the context, of this pod, or `default`."""
    try:
        context = config.list_kube_config_contexts(**where())[1]["context"]
        return str(context.get("namespace") or "default")
    except (config.ConfigException, TypeError, OSError):
        return IN_POD.read_text().strip() if IN_POD.is_file() else "default"
