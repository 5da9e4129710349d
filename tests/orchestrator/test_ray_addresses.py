"""What `dfkd submit --address` says of an address, before anything is sent; no Ray is started."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ray_sweeps import write_task

from dfkd.methods.errors import ConfigError
from dfkd.orchestrator import ray_jobs
from dfkd.orchestrator.jobs import Job
from dfkd.orchestrator.ray_jobs import RayJobs


@pytest.fixture
def server():
    """Start a server on loopback that answers every request with a status and a text."""
    running = []

    def start(status, text):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format, *args):
                return

        one = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        running.append(one)
        return f"http://127.0.0.1:{one.server_port}"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def complaint(address, **job):
    with pytest.raises(ConfigError) as refused:
        sent = {"name": "s", "storage": "s3://b/runs", "arguments": ("digits",), **job}
        RayJobs(address=address).submit(Job(**sent))
    return str(refused.value)


def test_nobody_there_is_said_at_once():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{one.getsockname()[1]}"
    assert f"no Ray dashboard answers at {address}" in complaint(address)


def test_somebody_who_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(ray_jobs, "ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        start = time.monotonic()
        assert "no Ray dashboard answers" in complaint(f"http://127.0.0.1:{mute.getsockname()[1]}")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "auto", "http://"])
def test_another_address_of_ray_is_told_apart(address):
    assert "http://HEAD:8265" in complaint(address)


@pytest.mark.parametrize(("status", "text"), [(404, "lost"), (200, "hello"), (200, "[1]")])
def test_another_server_is_no_dashboard(server, status, text):
    assert "is not a Ray dashboard" in complaint(server(status, text))


def test_a_cluster_of_another_ray_is_refused(server):
    told = complaint(server(200, json.dumps({"ray_version": "2.9.1"})))
    assert "2.9.1" in told
    assert "rayproject/ray:2.60" in told


@pytest.mark.parametrize("status", [401, 403])
def test_a_cluster_that_wants_a_token_says_where_to_put_it(server, status):
    assert "RAY_AUTH_TOKEN" in complaint(server(status, "who are you?"))


def test_without_the_jobs_api_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "aiohttp" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    assert "pip install 'dfkd[jobs]'" in complaint("http://127.0.0.1:1")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "a?b", "é"])
def test_a_name_that_no_job_can_have_is_refused(name):
    assert f"name '{name}'" in complaint("http://127.0.0.1:1", name=name)


def test_mistakes_of_a_job_are_told_at_once():
    told = complaint("http://127.0.0.1:1", name="a b", storage="dfkd-runs", arguments=("no.yaml",))
    assert all(word in told for word in ("name 'a b'", "--storage dfkd-runs", "no.yaml"))


def test_what_would_be_sent_can_be_read(tmp_path):
    job = Job(name="s", storage="s3://b/runs", arguments=(write_task(tmp_path), "--trials", "4"))
    shown = ray_jobs.preview(job, "/opt/python")
    command = "/opt/python -m dfkd.cli sweep /proc/self/cwd/task/tiny.yaml --trials 4 --name s"
    assert f"{command} --storage s3://b/runs --json\n" in shown
    assert f"{tmp_path}/tiny.npz -> task/tiny.npz\n" in shown


def test_a_ray_address_in_the_environment_does_not_go_before_the_one_given(server, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    address = server(200, json.dumps({"ray_version": ray_jobs.version("ray")}))
    assert RayJobs(address=address)._client.get_address() == address
