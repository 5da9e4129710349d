"""Kubernetes through the `kubectl` on PATH, where its Python client is not installed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import IO

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.kube_objects import (
    NO_CLUSTER,
    NO_KUBERAY,
    Exists,
    Manifest,
    Unreachable,
    refused,
)

TIMEOUT = 60.0  # seconds for a command, deletion included
KINDS = {"RayJob": "rayjobs.ray.io", "ConfigMap": "configmaps"}
UNREACHABLE = re.compile(
    r"Unable to connect|refused|timed? ?out|TLS handshake|no route to host|ServiceUnavailable"
    r"|InternalError|unexpected EOF|i/o timeout",
    re.IGNORECASE,
)


class Kubectl:
    """Every call is a process."""

    def __init__(self, namespace: str) -> None:
        self._command = ["kubectl"]
        self.namespace = namespace or self._of_context()
        self._command.append(f"--namespace={self.namespace}")

    def create(self, made: Manifest) -> Manifest:
        found: Manifest = json.loads(self._run(["create", "-f", "-", "-o", "json"], made))
        return found

    def ray_job(self, name: str) -> Manifest | None:
        words = ["get", KINDS["RayJob"], name, "-o", "json", "--ignore-not-found"]
        text = self._run(words)
        return json.loads(text) if text.strip() else None

    def delete(self, kind: str, name: str) -> None:
        how = ["--ignore-not-found", "--wait=false", "--cascade=foreground"]
        self._run(["delete", KINDS[kind], name, *how])

    def pods(self, selector: str) -> list[Manifest]:
        items: list[Manifest] = json.loads(
            self._run(["get", "pods", "-l", selector, "-o", "json"])
        )["items"]
        return items

    def log(self, pod: str, container: str) -> Iterator[bytes]:
        words = ["logs", pod, "-c", container, "--follow", "--timestamps"]
        process = subprocess.Popen(
            [*self._command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        try:
            yield from process.stdout
            if process.wait(TIMEOUT) != 0:
                told = tail(process.stderr)
                if "(NotFound)" not in told and "(BadRequest)" not in told:  # gone, or not begun
                    raise explained(told)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()

    def _of_context(self) -> str:
        """The namespace that the context has, or `default`."""
        words = ["config", "view", "--minify", "-o", "jsonpath={..namespace}"]
        return self._run(words).strip() or "default"

    def _run(self, words: list[str], made: Manifest | None = None) -> str:
        given = None if made is None else json.dumps(made)
        try:
            done = subprocess.run(
                [*self._command, "--request-timeout=30s", *words],
                input=given,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(f"kubectl {words[0]} did not end within {TIMEOUT:.0f} s") from None
        if done.returncode != 0:
            raise explained(done.stderr.strip())
        return done.stdout


def tail(stream: IO[bytes]) -> str:
    return stream.read().decode(errors="replace").strip()[-2000:]


def explained(told: str) -> Exception:
    """The error for what kubectl wrote to standard error.

    >>> type(explained('Error from server (AlreadyExists): rayjobs.ray.io "a" already exists'))
    <class 'dfkd.orchestrator.kube_objects.Exists'>
    """
    if "(AlreadyExists)" in told:
        return Exists(told)
    if "current-context must exist" in told:
        return ConfigError(NO_CLUSTER)
    if "no matches for kind" in told or "doesn't have a resource type" in told:
        return ConfigError(NO_KUBERAY)
    if "(Forbidden)" in told or "(Unauthorized)" in told or "must be logged in" in told:
        return refused(403, told)
    if UNREACHABLE.search(told):
        return Unreachable(f"kubectl: {told}")
    return ConfigError(f"kubectl: {told or 'failed, and says nothing'}")
