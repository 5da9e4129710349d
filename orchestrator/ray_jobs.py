"""Sweeps as jobs on a running Ray cluster, by Ray's Jobs API (`dfkd submit --address`)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import shlex
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dfkd import __version__
from dfkd.methods.errors import ConfigError, DfkdError, unknown
from dfkd.orchestrator.jobs import Job, JobState, Status, farewell
from dfkd.orchestrator.shipping import Parcel, pack, unreachable
from dfkd.orchestrator.wheels import unpack

ANSWER = 10.0  # seconds in which a dashboard must say that it is there
REQUEST = 60.0  # and answer any other request
STOPPING = 60  # seconds that a stopped driver has to save its state
SILENCE = 300.0  # after which a log's connection is made anew, in case it was lost unnoticed
RECONNECTION = 2.0  # seconds before a log that broke off is read again,
RECONNECTIONS = 30  # and how often in a row
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SWEEP = "dfkd_sweep"  # the name by which a job's metadata knows its sweep
PYTHON = "DFKD_CLUSTER_PYTHON"
OF_RAY = re.compile(r"Running entrypoint for job |\d{4}-\d\d-\d\d .*INFO \S+\.py:\d+ -- ")
"""Lines of a log that Ray wrote about itself."""
BEFOREHAND = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # files are found from where a process starts: shipping.py
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING),
}
CHATTY = (
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
)
STATUSES: Mapping[str, Status] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


@dataclass(frozen=True, kw_only=True)
class RayJobs:
    """A jobs.Backend: the Ray cluster whose dashboard is at `address`, as http://HEAD:8265."""

    address: str
    python: str = field(default_factory=lambda: os.environ.get(PYTHON, "python"))
    """The interpreter on the cluster's head; default: $DFKD_CLUSTER_PYTHON, or what PATH has."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the job; its processes see them, and so does the dashboard."""

    def submit(self, job: Job) -> None:
        """Send the sweep, with dfkd itself and the files that its arguments name.

        Raises ConfigError for a name in use, files that cannot travel, and a cluster that is not
        there or not fit.
        """
        parcel = _packed(job)
        with self._talking() as client, tempfile.TemporaryDirectory(prefix="dfkd-job-") as scratch:
            id = self._free_id(client.list_jobs(), job.name)
            given: dict[str, Any] = {"env_vars": {**self.variables, **BEFOREHAND}}
            if parcel.files:
                folder = Path(scratch, "files")
                parcel.unpack(folder)
                given["working_dir"] = str(folder)
            given["py_modules"] = [str(part) for part in unpack(Path(scratch, "dfkd"))]
            with _environment(RAY_RUNTIME_ENV_IGNORE_GITIGNORE="1"):  # else it leaves data behind
                client.submit_job(
                    entrypoint=_command(job, parcel, self.python),
                    submission_id=id,
                    runtime_env=given,
                    metadata={SWEEP: job.name, "dfkd_storage": job.storage},
                )

    def state(self, name: str) -> JobState:
        with self._talking() as client:
            found = self._latest(client, name)
        status = STATUSES[found.status.value]
        told = found.message or ""
        return JobState(status, told=self._why(found) if status == "failed" else told)

    def logs(self, name: str) -> Iterator[str]:
        with self._talking() as client:
            id = self._latest(client, name).submission_id
            passed = 0
            for line in _tail(client, id):
                passed += 1
                if not OF_RAY.match(line):
                    yield line
            with suppress(OSError, RuntimeError):  # what follows the last newline, if anything
                yield from filter(None, client.get_job_logs(id).split("\n")[passed:])

    def stop(self, name: str) -> None:
        """End the job, and wait until it has ended, at most a minute and a half."""
        with self._talking() as client:
            id = self._latest(client, name).submission_id
            client.stop_job(id)
            deadline = time.monotonic() + STOPPING + 30
            while not client.get_job_info(id).status.is_terminal():
                if time.monotonic() > deadline:
                    raise DfkdError(f"{name} was told to stop and is still running")
                time.sleep(0.5)

    def leave(self, name: str) -> str:
        return farewell(name, ("--address", self.address))

    @cached_property
    def _client(self) -> Any:
        """Ray's client, which looks at once whether somebody answers."""
        _require_packages()
        _require_dashboard(self.address)
        with _environment(RAY_ADDRESS=None, RAY_API_SERVER_ADDRESS=None):  # they would go first
            return _bounded_client(self.address)

    @contextmanager
    def _talking(self) -> Iterator[Any]:
        """The client; what goes wrong with it becomes an error that says what to do."""
        _require_packages()
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield self._client
        except AuthenticationError:
            raise ConfigError(
                f"the cluster at {self.address} does not take the token, or got none; set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (docs/clusters.md)"
            ) from None
        except (requests.RequestException, ConnectionError) as error:
            raise DfkdError(f"the cluster at {self.address} does not answer: {error}") from None
        except RuntimeError as error:  # what the Jobs API refuses
            raise DfkdError(f"the cluster at {self.address} refuses: {error}") from None

    def _latest(self, client: Any, name: str) -> Any:
        """The details of the last job sent for the sweep `name`."""
        jobs = client.list_jobs()
        mine = [job for job in jobs if (job.metadata or {}).get(SWEEP) == name]
        if not mine:
            names = {str(job.metadata[SWEEP]) for job in jobs if SWEEP in (job.metadata or {})}
            raise ConfigError(f"{unknown('job', name, names)} (on {self.address})")
        return max(mine, key=lambda job: _number(job.submission_id, name))

    def _free_id(self, jobs: list[Any], name: str) -> str:
        """The id of the sweep's next job: its name, then NAME-2 and so on, as ids serve once."""
        mine = [job for job in jobs if (job.metadata or {}).get(SWEEP) == name]
        for job in mine:
            if not job.status.is_terminal():
                raise ConfigError(
                    f"sweep {name} is running already on {self.address}; watch it: dfkd status "
                    f"{name} --watch --address {self.address}; or choose another --name"
                )
        number = max((_number(job.submission_id, name) for job in mine), default=0) + 1
        taken = {job.submission_id for job in jobs}
        while (id := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        return id

    def _why(self, found: Any) -> str:
        """Why a job failed: Ray's message without our own events, and a hint where we know one."""
        lines = [line for line in (found.message or "").splitlines() if not line.startswith('{"')]
        told = "\n".join(lines)[-2000:].strip() or "no reason is known"
        if found.driver_exit_code == 127 or "No module named" in told:
            told += (
                f"\n`{self.python}` on the cluster's head is not the interpreter that has Ray and "
                f"torch; name that one by its path in {PYTHON}"
            )
        return told


def preview(job: Job, python: str | None = None) -> str:
    """What `submit` would send, to read; raises ConfigError for what it would refuse unasked."""
    parcel = _packed(job)
    sizes = {place: file.stat().st_size for place, file in parcel.files.items()}
    total = sum(sizes.values())
    lines = [
        "# the job's command, on the head of the cluster",
        _command(job, parcel, python or os.environ.get(PYTHON, "python")),
        f"# with it travel dfkd {__version__} and {len(sizes)} files, {total:,} bytes",
        *(f"{parcel.files[place]} -> {place}" for place in sorted(sizes)),
    ]
    return "\n".join(lines) + "\n"


def _packed(job: Job) -> Parcel:
    """What travels with the job; raises ConfigError if its name, storage or files are not fit."""
    problems: list[str] = []
    if not NAME.fullmatch(job.name):
        problems.append(
            f"name '{job.name}' cannot be a job's: letters, digits, dots, dashes and underscores "
            "only, the first a letter or a digit"
        )
    parcel = None
    problems += unreachable("--storage", job.storage)
    try:
        parcel = pack(job.arguments)
    except ConfigError as error:
        problems += error.problems
    if problems or parcel is None:
        raise ConfigError(*problems)
    return parcel


def _command(job: Job, parcel: Parcel, python: str) -> str:
    words = [python, "-m", "dfkd.cli", "sweep", *parcel.arguments]
    return shlex.join([*words, "--name", job.name, "--storage", job.storage, "--json"])


def _number(id: str, name: str) -> int:
    """Which job of its sweep this is.

    >>> _number("mine", "mine"), _number("mine-12", "mine")
    (1, 12)
    """
    rest = id.removeprefix(f"{name}-")
    return int(rest) if rest.isdigit() else 1


def _require_packages() -> None:
    for package in ("aiohttp", "requests"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"Ray's Jobs API needs {package}, which is missing: pip install 'dfkd[jobs]'"
            )


def _require_dashboard(address: str) -> None:
    """Raise ConfigError within seconds unless a dashboard of our own Ray's version is there."""
    example = "give the dashboard's, as http://HEAD:8265"
    if not re.match(r"https?://[^/]", address):
        raise ConfigError(f"address {address} is not a Ray dashboard's; {example}")
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER) as found:
            theirs = str(json.load(found)["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return  # it is there, and wants a token
        raise ConfigError(
            f"{address} is not a Ray dashboard (HTTP {error.code}); {example}"
        ) from None
    except (KeyError, ValueError, TypeError):
        raise ConfigError(f"{address} is not a Ray dashboard; {example}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"no Ray dashboard answers at {address}: {reason}; is the cluster up, and its port "
            "8265 reachable from here? (kubectl port-forward, ssh -L)"
        ) from None
    ours = version("ray")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ConfigError(
            f"the cluster at {address} runs Ray {theirs}, and this dfkd needs {ours}; start a "
            f"cluster of rayproject/ray:{ours}, or of an image made with deploy/Dockerfile"
        )


@contextmanager
def _environment(**variables: str | None) -> Iterator[None]:
    """Set environment variables for the block, or unset those that are None."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        for name, value in variables.items():
            _set(name, value)
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _bounded_client(address: str) -> Any:
    """Ray's client, with a limit to how long a request may take, by a private hook."""
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)

    class Bounded(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": REQUEST, **given})

    return Bounded(address)


def _tail(client: Any, id: str) -> Iterator[str]:
    """A job's whole lines until it ends, each once, over connections that may break off."""
    import aiohttp

    passed, breaks = 0, 0
    while True:
        reason = "it was closed"
        try:
            for number, line in enumerate(_lines(client.tail_job_logs(id)), 1):
                if number > passed:
                    passed, breaks = number, 0
                    yield line
            if client.get_job_info(id).status.is_terminal():
                return
        except TimeoutError:
            breaks = -1  # a quiet job is no broken connection, but may look like one
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # of requests' too
            reason = str(error)
        breaks += 1
        if breaks > RECONNECTIONS:
            raise DfkdError(f"the log of job {id} breaks off again and again: {reason}")
        time.sleep(RECONNECTION)


def _lines(chunks: AsyncGenerator[str, None]) -> Iterator[str]:
    """Whole lines out of pieces of text; raises TimeoutError if none comes for a while."""
    loop = asyncio.new_event_loop()
    rest = ""
    try:
        while True:
            try:
                chunk = loop.run_until_complete(asyncio.wait_for(anext(chunks), SILENCE))
            except StopAsyncIteration:
                return
            *whole, rest = (rest + chunk).split("\n")
            yield from whole
    finally:
        loop.run_until_complete(chunks.aclose())
        loop.close()
