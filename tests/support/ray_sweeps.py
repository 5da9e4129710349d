"""A tiny task, sweeps of it here and as separate processes, and ways to hurt exactly those.

Most of what such a test takes is imports: six seconds of a core for each process with torch and
Ray. So what needs no process of its own runs here, and nothing starts more actors than it needs.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import dfkd

from dfkd.orchestrator.watching import Silent

TINY = """\
task: tiny
summary: two kinds of noise
classes: [cat, dog]
image: {{channels: 1, height: 8, width: 8}}
normalize: {{mean: [0.5], std: [0.3]}}
data: tiny.npz
teacher: {{network: convnet-4-4, epochs: 2, batch_size: 16}}
student: convnet-4-4
embeddings: minilm
epochs: {epochs}
recipe: {{warmup: 1, kd_steps: {kd_steps}, kd_batch_size: 8, temperature: 2.0, student_lr: 0.05,
         shift: 0, flip: false}}
search:
  student_lr: {{low: 1.0e-9, high: 0.1, log: true}}
methods:
  nayer:
    recipe: {{batch_size: 8, synthesis_steps: 2, warmup_rounds: 1, rounds: 2, generator_life: 3,
             generator_width: 2, noisy_width: 4, bn_weight: 1.0}}
"""


@contextmanager
def local_ray(cpus: int) -> Iterator[Any]:
    """A Ray in this process, without a dashboard, as a notebook would have it."""
    import ray

    environment = {}
    if " " in sys.executable:  # Ray starts workers by an unquoted command
        environment["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
    with quiet():
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            **environment,
        )
        yield ray
        ray.shutdown()


@contextmanager
def quiet() -> Iterator[None]:
    """The environment in which a sweep starts Ray, but with reports looked for more often.

    A Train worker waits for its last report to be taken, so that no epoch is shorter than that.
    """
    from dfkd.orchestrator.clusters import QUIET

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}.items():
            patch.setenv(name, value)
        yield


def plain_python(folder: Path) -> str:
    """This interpreter by a path without a blank: a Ray head starts workers by an unquoted command.

    `folder` is where a link may lie.
    """
    if " " not in sys.executable:
        return sys.executable
    link = folder / "venv"
    if not link.exists():
        link.symlink_to(sys.prefix)
    return str(link / "bin" / "python")


class Listener(Silent):
    """Keeps what is said; once, at a certain epoch of the sweep, it does something."""

    def __init__(self, epoch: int = 3, act: Callable[[], None] | None = None) -> None:
        self.said: list[str] = []
        self.rows = 0
        self._epoch = epoch
        self._act = act

    def say(self, text: str) -> None:
        self.said.append(text)

    def epoch_ended(self, spec: Any, row: Any) -> None:
        self.rows += 1
        if self._act and self.rows == self._epoch:
            self._act()


def write_task(folder: Path, epochs: int = 6, kd_steps: int = 2) -> str:
    """The path of a task that runs `epochs` epochs in a fraction of a second each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    images = rng.integers(0, 128, (64, 8, 8)) + 100 * labels[:, None, None]
    np.savez(folder / "tiny.npz", images=images.astype(np.uint8), labels=labels)
    task = folder / "tiny.yaml"
    task.write_text(TINY.format(epochs=epochs, kd_steps=kd_steps))
    return str(task)


def sweep_here(task: str, folder: Path, *options: str) -> tuple[int, str, str]:
    """`dfkd sweep` in this process, on its Ray; returns what `end` does."""
    result = dfkd("sweep", task, "--storage", folder / "runs", "--name", "s", *options)
    return result.exit_code, result.stdout, result.stderr


def start_sweep(
    task: str, folder: Path, *options: str, inside: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """`dfkd sweep` in a process of its own, which a test may kill or interrupt.

    `inside` is what the command is prefixed with, to run elsewhere.

    A shell's background jobs ignore SIGINT, and so does what they start, unless it is told not to.
    """
    command = [*inside, sys.executable, "-m", "dfkd.cli", "sweep", task]
    command += ["--storage", str(folder / "runs")]
    return subprocess.Popen(
        [*command, "--name", "s", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def end(process: subprocess.Popen[str], timeout: float = 150) -> tuple[int, str, str]:
    """Wait for a sweep; returns its exit status and what it printed."""
    try:
        printed, complained = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, complained = process.communicate()
        raise AssertionError(f"no end within {timeout} s:\n{printed}\n{complained}") from None
    return process.returncode, printed, complained


def wait_until(condition: Callable[[], bool], timeout: float = 120) -> None:
    """Poll until `condition` holds; fails the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {condition}"
        time.sleep(0.02)


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid`, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        for child, parent in parents.items():
            if parent == above and child not in found:
                found[child] = names[child]
                waiting.append(child)
    return found


def kill_one(pid: int, title: str) -> None:
    """kill -9 one descendant of `pid` whose command line starts with `title`."""
    victims = [child for child, name in descendants(pid).items() if name.startswith(title)]
    assert victims, f"no process called {title} among {sorted(descendants(pid).values())}"
    os.kill(victims[0], signal.SIGKILL)
