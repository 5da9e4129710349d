"""An S3 server on loopback, moto's, behind a proxy that counts requests and makes some fail.

A pytest plugin: `pytest_plugins = ["s3_server"]` in a test file. Nothing here leaves the machine.
"""

from __future__ import annotations

import http.client
import itertools
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pyarrow.fs
import pytest

Failure = Literal["busy", "broken", "denied", "elsewhere", "reset", "cut", "slow", "lost reply"]
"""503 SlowDown; 500; 403; 301; the connection is closed before the request is looked at, amid
the answer's body, after a pause of SLOW seconds, or after the request was carried out.
"""
Judge = Callable[[str, str], Failure | None]
"""What happens to a request, by its method and path with query."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
REGION = "us-east-1"
SLOW = 8.0
ANSWERS = {
    "busy": (503, "SlowDown"),
    "broken": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
    "elsewhere": (301, "PermanentRedirect"),
}
ABOUT_THE_WAY = {"transfer-encoding", "expect"}
UNFORWARDED = {"connection", "transfer-encoding", "keep-alive", "server", "date", "content-length"}


@dataclass
class S3:
    """A bucket on the server, seen through the proxy."""

    port: int
    bucket: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path with query of each that came, as it came."""
    judge: Judge = lambda method, path: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def uri(self, path: str = "runs") -> str:
        """A folder in the bucket, with all that pyarrow needs to find it."""
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region={REGION}"
        return f"s3://{self.bucket}/{path}?{options}"

    @contextmanager
    def failing(self, judge: Judge) -> Iterator[None]:
        """Within the block requests fare as `judge` says."""
        self.judge = judge
        try:
            yield
        finally:
            self.judge = lambda method, path: None

    @contextmanager
    def counting(self) -> Iterator[list[tuple[str, str]]]:
        """The requests that come within the block."""
        found: list[tuple[str, str]] = []
        before = len(self.requests)
        yield found
        found += self.requests[before:]


def first(count: int, failure: Failure, method: str = "", part: str = "") -> Judge:
    """The first so many requests of a method whose path has a part fail."""
    left = itertools.count()

    def judge(asked: str, path: str) -> Failure | None:
        concerned = asked.startswith(method) and part in path
        return failure if concerned and next(left) < count else None

    return judge


def now_and_then(share: float, *failures: Failure, seed: int = 0) -> Judge:
    """Each request fails with this probability, in one of these ways."""
    rng = random.Random(seed)
    return lambda method, path: rng.choice(failures) if rng.random() < share else None


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on to moto's server, if the judge lets it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, *about: object) -> None:
        return

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # whoever asked has gone
            self.close_connection = True

    def pass_on(self) -> None:
        s3 = self.server.s3
        s3.requests.append((self.command, self.path))
        body = self.body()
        failure = s3.judge(self.command, self.path)
        if "Authorization" not in self.headers:  # which moto would not mind
            failure = "denied"
        if failure == "slow":
            time.sleep(SLOW)
        if failure in ("reset", "slow"):
            self.hang_up()
        elif failure in ANSWERS:
            status, code = ANSWERS[failure]
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
            self.answer(status, [("Content-Type", "application/xml")], text)
        else:
            status, headers, text = self.ask(body)
            if failure == "lost reply":
                self.hang_up()
                return
            self.answer(status, headers, text, cut=failure == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def body(self) -> bytes:
        """What was sent, of a length that was told or in chunks that tell theirs."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        told = {
            k: v
            for k, v in self.headers.items()
            if k.lower() not in ("transfer-encoding", "expect")
        }
        connection.request(self.command, self.path, body, told | {"Content-Length": str(len(body))})
        reply = connection.getresponse()
        found = reply.status, reply.getheaders(), reply.read()
        connection.close()
        return found

    def answer(
        self, status: int, headers: list[tuple[str, str]], text: bytes, cut: bool = False
    ) -> None:
        self.send_response(status)
        length = str(len(text))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in UNFORWARDED:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text[: len(text) // 2] if cut else text)
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def moto_server() -> Iterator[int]:
    """The port of an S3 server of its own process."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@contextmanager
def proxy_before(behind: int, s3: S3) -> Iterator[None]:
    """The proxy at `s3.port`, in a thread of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", s3.port), Proxy)
    server.daemon_threads = True
    server.s3, server.behind = s3, behind  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """The server, with one bucket, for all tests of the session."""
    with pytest.MonkeyPatch.context() as patch, moto_server() as behind:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else the lack of credentials is slow
        s3 = S3(free_port(), "bucket")
        with proxy_before(behind, s3):
            options = s3.uri("").partition("?")[2] + "&allow_bucket_creation=true"
            pyarrow.fs.FileSystem.from_uri(f"s3://bucket?{options}")[0].create_dir("bucket")
            yield s3


@pytest.fixture
def s3(s3_server: S3) -> S3:
    """The server, on which nothing fails yet."""
    s3_server.judge = lambda method, path: None
    return s3_server
