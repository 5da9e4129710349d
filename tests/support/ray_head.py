"""A Ray head with a dashboard, in processes of its own, as a running cluster would have it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_sweeps import descendants, plain_python, wait_until


@contextmanager
def ray_head(cpus: int) -> Iterator[str]:
    """The address of its dashboard, which listens on loopback; all ends with the block."""
    dashboard, gcs, agent, client = free_ports(4)
    folder = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it: its path must be short
    start = [plain_python(Path(folder)), "-m", "ray.scripts.scripts", "start"]
    command = [*start, "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--port={gcs}"]
    command += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
    command += [f"--num-cpus={cpus}", "--disable-usage-stats", "--object-store-memory=100000000"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with open(f"{folder}/printed", "w") as printed:
        head = subprocess.Popen(
            command, stdout=printed, stderr=printed, env=environment, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_until(lambda: answers(address) or head.poll() is not None)
        if head.poll() is not None:
            raise AssertionError(Path(folder, "printed").read_text())
        yield address
    finally:
        for pid in (head.pid, *descendants(head.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    """Whether a dashboard is there."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # that it wants a token
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
