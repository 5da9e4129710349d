"""Ray clusters of real processes, node by node, to be killed like machines that lose their power.

In a namespace of the network a node is also cut off, and joined again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ray_sweeps import plain_python

QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 4,
}
"""Ray holds a node for dead after two seconds, or eight if it is cut off."""

START = ["-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
UNTIL = ["sh", "-c", 'until "$@"; do sleep 1; done', "sh"]  # `ray start` gives up after 30 s
STORE = 100_000_000  # bytes of a node's object store


@dataclass
class Raylet:
    """One node: `ray start --block`, and all that it started."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """All of its processes at once, without a warning; those of others stay."""
        for _ in range(3):  # what was just being started, too
            for pid in (self.process.pid, *below(self.process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


@dataclass
class Cluster:
    """A head and nodes. `inside` is what a command is prefixed with to run on the head."""

    address: str
    folder: Path
    head: Raylet
    nodes: list[Raylet] = field(default_factory=list)
    inside: Sequence[str] = ()

    def wait_for_head(self, timeout: float = 120) -> None:
        """Until its GCS takes connections."""
        reach = "import socket, sys; socket.create_connection(sys.argv[1].split(':'))"
        probe = [sys.executable, "-c", reach, self.address]
        deadline = time.monotonic() + timeout
        while subprocess.run([*self.inside, *probe], capture_output=True).returncode:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)

    def said(self) -> str:
        """What `ray start` printed."""
        return (self.folder / "said.txt").read_text()

    def add(self, cpus: float, ip: str = "127.0.0.1", inside: Sequence[str] = ()) -> Raylet:
        """Start a node; returns before it has joined."""
        where = ["--address", self.address, "--node-ip-address", ip]
        node = started(
            self.folder, [*UNTIL, *inside, plain_python(self.folder), *START, *where, *size(cpus)]
        )
        self.nodes.append(node)
        return node

    def end(self) -> None:
        """Kill what is left."""
        for node in (*self.nodes, self.head):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def cluster(
    cpus: float = 0, ip: str = "127.0.0.1", inside: Sequence[str] = ()
) -> Iterator[Cluster]:
    """A head without a dashboard, in a folder of its own, so that no other Ray here sees it."""
    folder = Path(tempfile.mkdtemp(prefix="dfkd-", dir="/tmp"))  # its sockets need short names
    port = free_port() if not inside else 6399
    head = ["--head", "--port", str(port), "--node-ip-address", ip, "--include-dashboard=false"]
    settings = ["--system-config", json.dumps(QUICK_TO_NOTICE), "--temp-dir", str(folder)]
    ray = started(folder, [*inside, plain_python(folder), *START, *head, *settings, *size(cpus)])
    found = Cluster(f"{ip}:{port}", folder, ray, inside=inside)
    try:
        yield found
    finally:
        found.end()


def started(folder: Path, command: Sequence[str]) -> Raylet:
    """A node that is being started; what it says goes to a file."""
    with (folder / "said.txt").open("ab") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
    return Raylet(process)


def size(cpus: float) -> list[str]:
    return [f"--num-cpus={cpus:g}", "--num-gpus=0", f"--object-store-memory={STORE}"]


def wait_for(nodes: int, timeout: float = 120) -> None:
    """Until so many nodes are alive in the cluster that this process has joined."""
    import ray

    deadline = time.monotonic() + timeout
    while sum(node["Alive"] for node in ray.nodes()) != nodes:
        assert time.monotonic() < deadline, f"not {nodes} nodes within {timeout:.0f} s"
        time.sleep(0.05)


def below(pid: int) -> list[int]:
    """The processes that `pid` started, and those that these did, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                )
    found: list[int] = []
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        waiting += (children := [child for child, parent in parents.items() if parent == above])
        found += children
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
