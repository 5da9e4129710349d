"""A Kubernetes API server on loopback that knows RayJobs, ConfigMaps and pods, and can misbehave.

It has what kubectl asks before it does anything (which kinds there are), so that the real kubectl
works with it too.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

RESOURCES = {
    "/api/v1": [
        {"name": "configmaps", "kind": "ConfigMap", "verbs": ["create", "delete", "get"]},
        {"name": "pods", "kind": "Pod", "verbs": ["get", "list"]},
    ],
    "/apis/ray.io/v1": [
        {"name": "rayjobs", "kind": "RayJob", "verbs": ["create", "delete", "get", "list"]},
    ],
}


@dataclass
class FakeCluster:
    """What is in the cluster; tests look at it and change it."""

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """RayJobs and ConfigMaps, by (rayjobs, name) and so on."""
    pods: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, list[bytes]] = field(default_factory=dict)
    """Of a pod by name; each request for it gets the next one, the last one again and again."""
    answers: list[int | None] = field(default_factory=list)
    """Statuses for the next requests in their place, 0 for silence; None lets one through."""
    requests: list[str] = field(default_factory=list)
    uids: int = 0
    port: int = 0

    def now(self) -> str:
        """A minute after the last time that it was asked."""
        self.uids += 1
        return f"2026-11-22T02:{self.uids:02}:00Z"

    def add_pod(self, name: str, phase: str, *logs: bytes, **labels: str) -> dict[str, Any]:
        """`labels` with - as _; a log that does not end in a line break is torn off there."""
        made = self.now()
        facts = {
            "name": name,
            "namespace": "team",
            "uid": f"p{self.uids}",
            "creationTimestamp": made,
        }
        facts["labels"] = {key.replace("_", "-"): value for key, value in labels.items()}
        spec = {"containers": [{"name": "ray-job-submitter"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": facts, "spec": spec}
        pod["status"] = {"phase": phase}
        self.pods.append(pod)
        self.logs[name] = list(logs)
        return pod

    def status(self, name: str, **facts: str) -> None:
        """Set a RayJob's status, as KubeRay's operator does."""
        self.objects["rayjobs", name]["status"] = facts


def with_times(*lines: str, since: int = 0) -> bytes:
    """Lines of a log as they come with their times."""
    stamps = (f"2026-11-22T02:00:{since + number:02}.5Z" for number in range(len(lines)))
    return "".join(f"{at} {line}\n" for at, line in zip(stamps, lines, strict=True)).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def cluster(self) -> FakeCluster:
        return self.server.cluster

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, reason: str, message: str) -> None:
        facts = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        self.answer(status, {**facts, "reason": reason, "message": message})

    def stream(self, data: bytes) -> None:
        """Chunk by chunk; without an end where the log is torn."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(data), 7):
            piece = data[start : start + 7]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if data.endswith(b"\n") or not data:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def misbehaves(self) -> bool:
        self.cluster.requests.append(f"{self.command} {self.path}")
        if not self.cluster.answers or "namespaces" not in self.path:
            return False
        status = self.cluster.answers.pop(0)
        if status is None:
            return False
        if status == 0:  # says nothing at all
            self.close_connection = True
        else:
            self.refuse(status, {403: "Forbidden"}.get(status, "InternalError"), "because")
        return True

    def do_GET(self) -> None:
        if self.misbehaves():
            return
        where = urlsplit(self.path)
        path = where.path.rstrip("/")
        if path in RESOURCES or path in ("/api", "/apis") or path.startswith("/openapi/v3"):
            self.answer(200, discovery(path))
            return
        _, _, parts = path.partition("/namespaces/team/")
        kind, _, name = parts.partition("/")
        if name.endswith("/log"):
            logs = self.cluster.logs[name.removesuffix("/log")]
            self.stream(logs.pop(0) if len(logs) > 1 else logs[0])
        elif kind == "pods" and name:
            named = [pod for pod in self.cluster.pods if pod["metadata"]["name"] == name]
            self.answer(200, named[0])
        elif kind == "pods":
            label, _, value = parse_qs(where.query)["labelSelector"][0].partition("=")
            labels = ((pod, pod["metadata"]["labels"]) for pod in self.cluster.pods)
            items = [pod for pod, has in labels if has.get(label) == value]
            self.answer(
                200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
            )
        elif found := self.cluster.objects.get((kind, name)):
            self.answer(200, found)
        else:
            self.refuse(404, "NotFound", f'{kind} "{name}" not found')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.misbehaves():
            return
        kind = urlsplit(self.path).path.rpartition("/")[2]
        name = body["metadata"]["name"]
        if (kind, name) in self.cluster.objects:
            self.refuse(409, "AlreadyExists", f'{kind} "{name}" already exists')
            return
        facts = {"creationTimestamp": self.cluster.now(), "namespace": "team"}
        body["metadata"] |= {**facts, "uid": f"u{self.cluster.uids}"}
        self.cluster.objects[kind, name] = body
        self.answer(201, body)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.misbehaves():
            return
        kind, name = urlsplit(self.path).path.split("/")[-2:]
        if self.cluster.objects.pop((kind, name), None) is None:
            self.refuse(404, "NotFound", f'{kind} "{name}" not found')
        else:
            self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def discovery(path: str) -> dict[str, Any]:
    """Which kinds there are, as kubectl asks."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/openapi/v3":
        known = (name.removeprefix("/") for name in RESOURCES)
        return {"paths": {name: {"serverRelativeURL": f"{path}/{name}"} for name in known}}
    if path.startswith("/openapi/v3/"):
        return strictness(path.removeprefix("/openapi/v3"))
    version = {"groupVersion": "ray.io/v1", "version": "v1"}
    if path == "/apis":
        group = {"name": "ray.io", "versions": [version], "preferredVersion": version}
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
    listed = [{"singularName": "", "namespaced": True, **known} for known in RESOURCES[path]]
    group_version = path.removeprefix("/apis/").removeprefix("/api/")
    return {"kind": "APIResourceList", "groupVersion": group_version, "resources": listed}


def strictness(root: str) -> dict[str, Any]:
    """That the server itself refuses unknown fields; else kubectl wants every schema."""
    group, _, version = root.removeprefix("/apis/").removeprefix("/api/").rpartition("/")
    paths = {}
    for known in RESOURCES[root]:
        gvk = {"group": group, "version": version, "kind": known["kind"]}
        query = [{"name": "fieldValidation", "in": "query"}]
        patch = {"parameters": query, "x-kubernetes-group-version-kind": gvk}
        paths[f"{root}/namespaces/{{namespace}}/{known['name']}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}


@contextmanager
def fake_cluster() -> Iterator[FakeCluster]:
    """Serve one on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.cluster = FakeCluster(port=server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_kubeconfig(path: Path, cluster: FakeCluster) -> Path:
    """A kubeconfig with the fake cluster and namespace `team`."""
    named = {"name": "fake"}
    context = {"cluster": "fake", "user": "fake", "namespace": "team"}
    facts = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**named, "cluster": {"server": f"http://127.0.0.1:{cluster.port}"}}],
        "users": [{**named, "user": {}}],
        "contexts": [{**named, "context": context}],
        "current-context": "fake",
    }
    path.write_text(json.dumps(facts))
    return path


KUBECTL = '''#!{python} -IS
"""A kubectl that can do what dfkd asks of one, for machines without."""
import json, os, sys, urllib.error, urllib.request

base = json.load(open(os.environ["KUBECONFIG"]))["clusters"][0]["cluster"]["server"]
words = [word for word in sys.argv[1:] if not word.startswith(("--namespace", "--request"))]

def call(method, kind, rest="", data=None):
    root = "/apis/ray.io/v1" if kind == "rayjobs" else "/api/v1"
    url = base + root + "/namespaces/team/" + kind + rest
    return urllib.request.urlopen(urllib.request.Request(url, data, method=method))

try:
    if words[0] == "create":
        assert words[1:] == ["-f", "-", "-o", "json"]
        made = json.load(sys.stdin)
        kind = {{"RayJob": "rayjobs", "ConfigMap": "configmaps"}}[made["kind"]]
        print(call("POST", kind, "", json.dumps(made).encode()).read().decode())
    elif words[0] == "config":
        print("team")
    elif words[0] == "get" and words[1] == "pods":
        print(call("GET", "pods", "?labelSelector=" + words[3].replace("=", "%3D")).read().decode())
    elif words[0] == "logs":
        answer = call("GET", "pods", f"/{{words[1]}}/log")
        while piece := answer.read1(65536):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    else:
        method = {{"get": "GET", "delete": "DELETE"}}[words[0]]
        print(call(method, words[1].partition(".")[0], "/" + words[2]).read().decode())
except urllib.error.HTTPError as error:
    told = json.load(error)
    if told["reason"] != "NotFound" or "--ignore-not-found" not in words:
        sys.exit(f"Error from server ({{told['reason']}}): {{told['message']}}")
except Exception as error:
    sys.exit(f"unexpected EOF: {{error}}")
'''


def write_kubectl(path: Path, python: str) -> Path:
    """A stand-in for kubectl that speaks to the cluster in $KUBECONFIG."""
    path.write_text(KUBECTL.format(python=python))
    path.chmod(0o755)
    return path
