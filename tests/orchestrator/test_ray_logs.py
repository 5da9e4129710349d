"""The log of a job over connections that break off; no Ray is started."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dfkd.methods.errors import DfkdError
from dfkd.orchestrator import ray_jobs
from dfkd.orchestrator.ray_jobs import RayJobs

LOG = (
    "2026-11-22 02:15:54,993INFO job_manager.py:581 -- Runtime env is setting up.\n"
    "Running entrypoint for job s: python\none\ntwo\nthree\nlast"
)


class Client:
    """Ray's client, of one job whose log comes in the given pieces, a list for each connection."""

    def __init__(self, *connections):
        self.connections = list(connections)

    def list_jobs(self):
        return [SimpleNamespace(submission_id="s", metadata={ray_jobs.SWEEP: "s"})]

    async def tail_job_logs(self, id):
        for piece in self.connections.pop(0):
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def get_job_info(self, id):
        over = not self.connections
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: over))

    def get_job_logs(self, id):
        return LOG


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(ray_jobs, "RECONNECTION", 0.0)


def log_over(*connections):
    jobs = RayJobs(address="http://nowhere")
    jobs.__dict__["_client"] = Client(*connections)
    return list(jobs.logs("s"))


def test_the_log_comes_line_by_line_without_rays_own():
    assert log_over([LOG]) == ["one", "two", "three", "last"]


def test_lines_that_arrive_in_pieces_are_put_together():
    assert log_over(list(LOG)) == ["one", "two", "three", "last"]


@pytest.mark.parametrize("at", range(0, len(LOG), 7))
@pytest.mark.parametrize("error", [RuntimeError("closed"), OSError("reset"), TimeoutError()])
def test_a_connection_that_breaks_off_loses_and_repeats_nothing(at, error):
    assert log_over([LOG[:at], error], [LOG]) == ["one", "two", "three", "last"]


def test_a_connection_that_is_closed_too_early_is_made_again():
    assert log_over([LOG[:120]], [LOG]) == ["one", "two", "three", "last"]


def test_what_the_connection_left_out_is_read_at_the_end():
    assert log_over([LOG[:122]]) == ["one", "two", "three", "last"]


def test_a_log_that_always_breaks_off_is_given_up(monkeypatch):
    monkeypatch.setattr(ray_jobs, "RECONNECTIONS", 3)
    broken = [[OSError("reset")] for _ in range(9)]
    with pytest.raises(DfkdError, match="breaks off again and again: reset"):
        log_over(*broken)
