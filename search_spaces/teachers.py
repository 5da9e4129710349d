"""Teachers: loaded from a user's weights, or trained once where a task has data, then cached.

A teacher travels as a safetensors file whose metadata names its network, so that a run folder can
be read without the task it came from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfkd.methods.augment import Augmentation
from dfkd.methods.errors import ConfigError, DfkdError, unknown
from dfkd.methods.networks import Normalized, build_network
from dfkd.methods.random_streams import global_stream, stream
from dfkd.methods.teacher import Teacher
from dfkd.search_spaces.data import LabeledImages, load_data
from dfkd.search_spaces.files import cache_folder, write_atomically
from dfkd.search_spaces.task import TEACHER_NAME, Task

TRAINING_VERSION = 1  # raise it when `train_teacher` changes: cached teachers are then made anew
LOOK_EVERY = 20  # steps between two looks at the loss: a GPU waits at each

Progress = Callable[[int, int], None]
"""Is told now and then how many steps are done, and of how many."""


class TeacherFailed(DfkdError):
    """A teacher's training cannot go on."""


@dataclass(frozen=True, slots=True)
class TeacherWeights:
    """A trained network by name, with its weights on the CPU."""

    network: str
    state: Mapping[str, Tensor]
    origin: str
    """Where it came from, for people to read."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any weight or with the network."""
        digest = hashlib.blake2b(self.network.encode(), digest_size=8)
        for name in sorted(self.state):
            digest.update(name.encode())
            digest.update(_bytes(self.state[name]))
        return digest.hexdigest()

    def build(self, task: Task) -> Teacher:
        """The teacher as methods use it, frozen, on the CPU."""
        network = build_network(self.network, task.shape.channels, len(task.classes))
        network.load_state_dict(dict(self.state))
        return Teacher(network, task.mean, task.std)

    def to_bytes(self) -> bytes:
        """A safetensors file; its metadata holds the network's name and the origin.

        The same bytes every time: safetensors itself writes metadata in any order.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self.state.items()}
        data = safetensors.torch.save(tensors, {"network": self.network, "origin": self.origin})
        body = 8 + int.from_bytes(data[:8], "little")
        header = json.dumps(json.loads(data[8:body]), sort_keys=True).encode()
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + data[body:]


def _bytes(tensor: Tensor) -> bytes:
    """A tensor's memory; numpy knows no bfloat16."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def teacher_from_bytes(data: bytes) -> TeacherWeights:
    """Read back what `TeacherWeights.to_bytes` wrote."""
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    return TeacherWeights(metadata["network"], safetensors.torch.load(data), metadata["origin"])


def find_teacher(
    task: Task, reference: str | None = None, say: Callable[[str], None] = lambda text: None
) -> TeacherWeights:
    """The teacher that `reference` names, or the task's own, trained and cached if need be.

    `reference` is one of the task's `teachers`, or `[NETWORK:]FILE`: weights as safetensors or as
    torch saves a state dict, of the task's teacher network unless NETWORK (such as
    convnet-24-48-64) says otherwise. A file called as a teacher is `./NAME`. `say` is told when
    training starts and how far it is. Raises ConfigError when there is no such teacher or it does
    not fit, TeacherFailed when it cannot be trained.
    """
    if reference is not None and _is_file(task, reference):
        return load_teacher(task, reference)
    task = with_teacher(task, reference)
    names = [task.name] if reference is None else [task.name, reference]
    data = _training_data(task)
    file = "-".join([*names, teacher_key(task, data)]) + ".safetensors"
    cached = cache_folder() / "teachers" / file
    with contextlib.suppress(OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return teacher_from_bytes(cached.read_bytes())  # an unreadable cache is a missing one
    title = " ".join([*names, "teacher"])
    say(f"training the {title} once; it is kept in {cached.parent}")
    network = train_teacher(task, data, on_progress=every_quarter(title, say))
    weights = TeacherWeights(
        task.teacher.network, network.state_dict(), f"trained on {', '.join(names)}"
    )
    try:
        write_atomically(cached, weights.to_bytes())
    except OSError as error:
        say(
            f"the teacher is not kept, {cached.parent} cannot be written: "
            f"{error.strerror or error}; set DFKD_CACHE to another folder"
        )
    return weights


def planned_teacher(task: Task, reference: str | None = None) -> TeacherWeights:
    """As `find_teacher`, but what the task itself would train stays untrained: to plan with."""
    if reference is not None and _is_file(task, reference):
        return load_teacher(task, reference)
    task = with_teacher(task, reference)
    _training_data(task)
    return TeacherWeights(task.teacher.network, _fresh(task).state_dict(), "not trained yet")


def with_teacher(task: Task, name: str | None) -> Task:
    """The task with its teacher called `name` as its default one; None leaves it as it is."""
    if name is None:
        return task
    if name not in task.teachers:
        raise ConfigError(unknown(f"{task.name} teacher", name, task.teachers))
    return replace(task, teacher=task.teachers[name])


def _is_file(task: Task, reference: str) -> bool:
    """Whether this means a file; raises ConfigError for a word that is neither file nor name."""
    if reference in task.teachers:
        return False
    if re.fullmatch(TEACHER_NAME, reference) and not os.path.exists(reference):
        sentence = unknown(f"{task.name} teacher", reference, task.teachers)
        raise ConfigError(f"{sentence}; or give its weights as [NETWORK:]FILE")
    return True


def _training_data(task: Task) -> LabeledImages:
    data = load_data(task, "train")
    if data is None:
        raise ConfigError(
            f"task {task.name} brings no teacher; give one with --teacher FILE, which `dfkd "
            "teacher` can make from labeled images"
        )
    return data


def _fresh(task: Task) -> nn.Module:
    """The teacher's network with its first weights."""
    with global_stream("cpu", "teacher weights", task.teacher.seed):
        return build_network(task.teacher.network, task.shape.channels, len(task.classes))


def teacher_key(task: Task, data: LabeledImages) -> str:
    """A hash of all that determines the trained teacher."""
    pixels = hashlib.blake2b(data.images.numpy().tobytes() + data.labels.numpy().tobytes())
    facts = [TRAINING_VERSION, asdict(task.teacher), task.mean, task.std, len(task.classes)]
    facts += [list(data.images.shape), pixels.hexdigest(), torch.__version__]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def train_teacher(
    task: Task,
    data: LabeledImages,
    device: torch.device | str = "cpu",
    on_progress: Progress = lambda done, total: None,
) -> nn.Module:
    """Supervised training with SGD, Nesterov momentum, a one-cycle schedule and augmentation.

    Batches are drawn and augmented on the CPU, so they are the same on every `device`; the images
    stay uint8 until their batch is drawn. Deterministic for a torch version and a number of
    threads. Returns the network on the CPU; raises TeacherFailed when its loss is not finite.
    """
    spec = task.teacher
    rng = stream("cpu", "teacher", spec.seed)
    augment = Augmentation(spec.shift, spec.flip)
    steps = max(1, len(data) // spec.batch_size) * spec.epochs
    network = _fresh(task)
    model = Normalized(network, task.mean, task.std).to(device).train()
    sgd = torch.optim.SGD(
        model.parameters(), spec.learning_rate, 0.9, weight_decay=spec.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, spec.learning_rate, total_steps=steps)
    with global_stream(device, "teacher layers", spec.seed):  # such as dropout
        for step in range(1, steps + 1):
            batch = torch.randint(len(data), (spec.batch_size,), generator=rng)
            images = augment(data.images[batch].float() / 255, rng).to(device)
            loss = F.cross_entropy(model(images), data.labels[batch].to(device))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
            if step % LOOK_EVERY == 0 or step == steps:
                _require_finite(loss, spec.learning_rate, f"step {step} of {steps}")
                on_progress(step, steps)
    for tensor in network.state_dict().values():
        _require_finite(tensor, spec.learning_rate, "the end")
    return network.cpu()


def _require_finite(tensor: Tensor, learning_rate: float, where: str) -> None:
    if not tensor.isfinite().all():
        raise TeacherFailed(
            f"the teacher's training diverged: its loss or weights are not finite at {where}; "
            f"try a learning_rate below {learning_rate:g}"
        )


def every_quarter(title: str, say: Callable[[str], None], did: str = "trained") -> Progress:
    """Turns steps into three sentences: at a quarter, at half, at three quarters."""
    began, told = time.monotonic(), 0

    def on_progress(done: int, total: int) -> None:
        nonlocal told
        quarter = 4 * done // total
        if told < quarter < 4:
            told = quarter
            left = math.ceil((time.monotonic() - began) * (total - done) / done)
            say(f"{title}: {25 * quarter} % {did}, about {left} s to go")

    return on_progress


def load_teacher(task: Task, reference: str) -> TeacherWeights:
    """The weights that `[NETWORK:]FILE` names, checked against the task."""
    name, path = _split(reference)
    state, network = read_weights(path)
    network = name or network or task.teacher.network
    problems = misfits(state, network, task, path)
    if problems:
        raise ConfigError(*problems)
    return TeacherWeights(network, state, path)


def _split(reference: str) -> tuple[str, str]:
    """The network's name, or "", and the file of `[NETWORK:]FILE`; a file may have colons too."""
    name, _, path = reference.partition(":")
    if os.path.isfile(path) and not os.path.isfile(reference):
        return name, path
    return "", reference


def read_weights(path: str) -> tuple[dict[str, Tensor], str | None]:
    """A state dict, and its network's name where the file says it. Never runs a pickle's code."""
    advice = "expected safetensors, or a state dict saved by torch.save"
    if not os.path.isfile(path):
        raise ConfigError(f"teacher file {path} does not exist; {advice}")
    network = None
    try:
        if path.endswith(".safetensors"):
            with safetensors.safe_open(path, framework="pt") as file:
                network = (file.metadata() or {}).get("network")
                state: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no pickle, torch's unpickler may raise anything
        if isinstance(error, pickle.UnpicklingError) and " GLOBAL " in str(error):
            raise ConfigError(
                f"teacher file {path} holds more than weights and was refused, its code not run; "
                "save the weights alone: torch.save(model.state_dict(), FILE)"
            ) from None
        wrapped = str(error).startswith("Weights only load failed")  # in long advice to us
        reason = "it is damaged, or something else than weights" if wrapped else _first_line(error)
        raise ConfigError(f"teacher file {path} cannot be read: {reason}; {advice}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(map(_is_weight, state, state.values())):
        raise ConfigError(f"teacher file {path} holds no state dict; {advice}")
    return {
        key.removeprefix("module."): tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }, network


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _is_weight(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )


def misfits(state: Mapping[str, Tensor], network: str, task: Task, path: str) -> list[str]:
    """Why these weights are not those of `network` with the task's classes; empty if they are."""
    wanted = build_network(network, task.shape.channels, len(task.classes)).state_dict()
    missing = [
        key for key in wanted if key not in state and not key.endswith("num_batches_tracked")
    ]
    extra = [key for key in state if key not in wanted]
    if missing or extra:
        return [
            f"teacher file {path} is not a {network}: "
            f"{len(missing)} weights missing ({', '.join(missing[:3]) or 'none'}), "
            f"{len(extra)} unknown ({', '.join(extra[:3]) or 'none'}); "
            "name its network with --teacher NETWORK:FILE"
        ]
    problems = []
    head = [key for key in wanted if wanted[key].ndim == 1][-1]
    if state[head].ndim == 1 and state[head].shape != wanted[head].shape:
        problems.append(
            f"teacher file {path} has {len(state[head])} classes, "
            f"task {task.name} has {len(task.classes)}"
        )
    wrong = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if wrong and not problems:
        problems.append(f"teacher file {path} is not a {network}: {wrong[0]}")
    if any(not tensor.float().isfinite().all() for tensor in state.values()):
        problems.append(f"teacher file {path} holds weights that are not finite")
    return problems
