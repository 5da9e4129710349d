"""Teachers: loaded from a user's weights, or trained once where a task has data, then cached.

A teacher travels as a safetensors file whose metadata names its network, so that a run folder can
be read without the task it came from.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfkd.methods.augment import Augmentation
from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import Normalized, build_network
from dfkd.methods.random_streams import global_stream, stream
from dfkd.methods.teacher import Teacher
from dfkd.search_spaces.data import LabeledImages, load_data
from dfkd.search_spaces.files import cache_folder, write_atomically
from dfkd.search_spaces.task import Task

TRAINING_VERSION = 1  # raise it when `train_teacher` changes: cached teachers are then made anew


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
            digest.update(self.state[name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def build(self, task: Task) -> Teacher:
        """The teacher as methods use it, frozen, on the CPU."""
        network = build_network(self.network, task.shape.channels, len(task.classes))
        network.load_state_dict(dict(self.state))
        return Teacher(network, task.mean, task.std)

    def to_bytes(self) -> bytes:
        """A safetensors file; its metadata holds the network's name and the origin."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state.items()}
        return safetensors.torch.save(tensors, {"network": self.network, "origin": self.origin})


def teacher_from_bytes(data: bytes) -> TeacherWeights:
    """Read back what `TeacherWeights.to_bytes` wrote."""
    size = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    return TeacherWeights(metadata["network"], safetensors.torch.load(data), metadata["origin"])


def find_teacher(
    task: Task, reference: str | None = None, say: Callable[[str], None] = lambda text: None
) -> TeacherWeights:
    """The teacher that `reference` names, or the task's own, trained and cached if need be.

    `reference` is `[NETWORK:]FILE`: weights as safetensors or as torch saves a state dict, of the
    task's teacher network unless NETWORK (such as convnet-24-48-64) says otherwise. `say` is told
    when training starts. Raises ConfigError when there is no such teacher or it does not fit.
    """
    if reference is not None:
        return load_teacher(task, reference)
    data = load_data(task, "train")
    if data is None:
        raise ConfigError(f"task {task.name} brings no teacher; give one with --teacher FILE")
    cached = cache_folder() / "teachers" / f"{task.name}-{teacher_key(task, data)}.safetensors"
    if cached.is_file():
        try:
            return teacher_from_bytes(cached.read_bytes())
        except (safetensors.SafetensorError, ValueError, KeyError):
            cached.unlink()  # an unreadable cache is a missing one
    say(f"training the {task.name} teacher once; it is kept in {cached.parent}")
    network = train_teacher(task, data)
    weights = TeacherWeights(task.teacher.network, network.state_dict(), f"trained on {task.name}")
    write_atomically(cached, weights.to_bytes())
    return weights


def teacher_key(task: Task, data: LabeledImages) -> str:
    """A hash of all that determines the trained teacher."""
    pixels = hashlib.blake2b(data.images.numpy().tobytes() + data.labels.numpy().tobytes())
    facts = [TRAINING_VERSION, asdict(task.teacher), task.mean, task.std, pixels.hexdigest()]
    facts += [torch.__version__]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def train_teacher(task: Task, data: LabeledImages) -> nn.Module:
    """Supervised training with SGD, Nesterov momentum, a one-cycle schedule and random shifts.

    Small images and networks only: everything is on the CPU. Deterministic for a torch version.
    """
    spec = task.teacher
    rng = stream("cpu", "teacher", spec.seed)
    augment = Augmentation(spec.shift)
    images, labels = data.images.float() / 255, data.labels
    steps = max(1, len(labels) // spec.batch_size) * spec.epochs
    with global_stream("cpu", "teacher weights", spec.seed):
        network = build_network(spec.network, task.shape.channels, len(task.classes))
    model = Normalized(network, task.mean, task.std).train()
    sgd = torch.optim.SGD(
        model.parameters(), spec.learning_rate, 0.9, weight_decay=spec.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, spec.learning_rate, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(labels), (spec.batch_size,), generator=rng)
        loss = F.cross_entropy(model(augment(images[batch], rng)), labels[batch])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
    return network


def load_teacher(task: Task, reference: str) -> TeacherWeights:
    """The weights that `[NETWORK:]FILE` names, checked against the task."""
    name, _, path = reference.rpartition(":")
    state, network = read_weights(path)
    network = name or network or task.teacher.network
    problems = misfits(state, network, task, path)
    if problems:
        raise ConfigError(*problems)
    return TeacherWeights(network, state, path)


def read_weights(path: str) -> tuple[dict[str, Tensor], str | None]:
    """A state dict, and its network's name where the file says it. Never runs a pickle's code."""
    advice = "expected safetensors, or a state dict saved by torch.save"
    if not Path(path).is_file():
        raise ConfigError(f"teacher file {path} does not exist; {advice}")
    try:
        if path.endswith(".safetensors"):
            with safetensors.safe_open(path, framework="pt") as file:
                network = (file.metadata() or {}).get("network")
                return {key: file.get_tensor(key) for key in file.keys()}, network  # noqa: SIM118
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" not in str(error):
            raise ConfigError(f"teacher file {path} cannot be read: {error}; {advice}") from None
        raise ConfigError(
            f"teacher file {path} holds more than weights and was refused, its code not run; save "
            "the weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"teacher file {path} cannot be read: {reason}; {advice}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ConfigError(f"teacher file {path} holds no state dict; {advice}")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}, None


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
    if state[head].shape != wanted[head].shape:
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
    if any(not tensor.isfinite().all() for tensor in state.values()):
        problems.append(f"teacher file {path} holds weights that are not finite")
    return problems
