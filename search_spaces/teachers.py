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
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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
from dfkd.search_spaces.layouts import Fitted, Misfit, fit, misfits
from dfkd.search_spaces.pretrained import LIBRARY_NETWORK, fetch, known_tags, whereabouts
from dfkd.search_spaces.programs import PROGRAM, load_program, packed, unpacked
from dfkd.search_spaces.task import TEACHER_NAME, Task
from dfkd.search_spaces.teacher_checks import examine
from dfkd.search_spaces.weight_files import WeightFile, read_weights

TRAINING_VERSION = 1  # raise it when `train_teacher` changes: cached teachers are then made anew
LOOK_EVERY = 20  # steps between two looks at the loss: a GPU waits at each
NO_LAYERS = (
    "a program is a black box that takes images in [0, 1] of the task's size only: methods that "
    "need its BatchNorm layers (BN), features or maps cannot use it; `dfkd methods` lists the needs"
)

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
        """The teacher as methods use it, frozen, on the CPU; a program normalizes by itself."""
        if self.network == PROGRAM:
            channels = task.shape.channels
            black_box = unpacked(self.state, f"teacher {self.origin}")
            return Teacher(black_box, (0.0,) * channels, (1.0,) * channels)
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

    `reference` is one of the task's `teachers`; or `[NETWORK:]FILE`: weights as safetensors or as
    torch saves a state dict, of the task's teacher network unless NETWORK (such as
    convnet-24-48-64) says otherwise, or a .pt2 program; or `NETWORK:TAG`: weights that torchvision
    or timm publishes. A file called as a teacher is `./NAME`. `say` is told when training starts
    and how far it is, and what a teacher that is given is. Raises ConfigError when there is no such
    teacher or it does not fit, TeacherFailed when it cannot be trained.
    """
    if reference is not None and _is_file(task, reference):
        return load_teacher(task, reference, say)
    task = with_teacher(task, reference)
    if task.teacher.weights:
        return load_teacher(task, f"{task.teacher.network}:{task.teacher.weights}", say)
    names = _names(task, reference)
    data = _training_data(task)
    cached = _kept_at(task, reference, data)
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


def _names(task: Task, reference: str | None) -> list[str]:
    return [task.name] if reference is None else [task.name, reference]


def _kept_at(task: Task, reference: str | None, data: LabeledImages) -> Path:
    file = "-".join([*_names(task, reference), teacher_key(task, data)]) + ".safetensors"
    return cache_folder() / "teachers" / file


def cached_teacher(task: Task, reference: str | None = None) -> Path:
    """Where a teacher lies that was trained once for the task, or will."""
    task, name = with_teacher(task, reference), reference
    return _kept_at(task, name, _training_data(task))


def published_teacher(task: Task, reference: str | None = None) -> tuple[str, str] | None:
    """Network and tag, if `find_teacher` would take a library's published weights."""
    if reference is None or not _is_file(task, reference):
        spec = with_teacher(task, reference).teacher
        reference = f"{spec.network}:{spec.weights}"
        if not spec.weights:
            return None
    name, path = _split(reference)
    if path.endswith(".pt2") or os.path.isfile(path) or not LIBRARY_NETWORK.fullmatch(name):
        return None
    return name, path


def planned_teacher(task: Task, reference: str | None = None) -> TeacherWeights:
    """As `find_teacher`, with fresh weights where it would download or train them: to plan with."""
    published = published_teacher(task, reference)
    if published is not None:
        network, tag = published
        whereabouts(network, tag)  # refuses an unknown tag
        fresh = build_network(network, task.shape.channels, len(task.classes))
        weights = TeacherWeights(network, fresh.state_dict(), "not downloaded yet")
        examine(task, weights.build(task), f"teacher {network}:{tag} ({network})")
        return weights
    if reference is not None and _is_file(task, reference):
        return load_teacher(task, reference)
    task = with_teacher(task, reference)
    if task.teacher.weights:
        return load_teacher(task, f"{task.teacher.network}:{task.teacher.weights}")
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
    spec = asdict(task.teacher)
    del spec["weights"]  # it is trained
    facts = [TRAINING_VERSION, spec, task.mean, task.std, len(task.classes)]
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


def load_teacher(
    task: Task, reference: str, say: Callable[[str], None] = lambda text: None
) -> TeacherWeights:
    """The weights that `[NETWORK:]FILE` or `NETWORK:TAG` means, checked against the task.

    `say` is told what they are. Raises ConfigError with every problem.
    """
    name, path = _split(reference)
    title = f"teacher {reference}"
    remarks: list[str | None]
    if path.endswith(".pt2"):
        weights, remarks = _program(path), [NO_LAYERS]
    elif os.path.isfile(path) or not LIBRARY_NETWORK.fullmatch(name):
        file = read_weights(path)
        network = name or file.network or task.teacher.network
        fitted = _fitted(task, file, network, f"teacher file {path}")
        weights, remarks = TeacherWeights(network, fitted.state, path), [fitted.remark]
    else:
        published = fetch(name, path)
        fitted = _fitted(task, published.file, name, title)
        weights = TeacherWeights(name, fitted.state, reference)
        remarks = [fitted.remark, published.remark(task.mean, task.std)]
    say(examine(task, weights.build(task), f"{title} ({weights.network})"))
    for remark in filter(None, remarks):
        say(f"{title}: {remark}")
    return weights


def _split(reference: str) -> tuple[str, str]:
    """The network's name, or "", and the file or tag; a file's own name may have colons too."""
    name, _, path = reference.partition(":")
    if os.path.isfile(reference):
        return "", reference
    if os.path.isfile(path):
        return name, path
    if LIBRARY_NETWORK.fullmatch(name):
        if not path:
            known = ", ".join(known_tags(name)) or "none"
            raise ConfigError(
                f"teacher {name} needs weights: --teacher {name}:TAG, published tags are {known}; "
                f"or --teacher {name}:FILE"
            )
        return name, path
    return "", reference


def _fitted(task: Task, file: WeightFile, network: str, title: str) -> Fitted:
    """The weights under the network's own names, checked against the task."""
    wanted = build_network(network, task.shape.channels, len(task.classes)).state_dict()
    try:
        fitted = fit(file, wanted)
    except Misfit as reason:
        raise ConfigError(
            f"{title} is not a {network}: {reason}; name its network with --teacher NETWORK:FILE"
        ) from None
    problems = misfits(fitted.state, wanted, network, task.name)
    if problems:
        raise ConfigError(*(f"{title} {problem}" for problem in problems))
    return fitted


def _program(path: str) -> TeacherWeights:
    """A torch.export program as a teacher."""
    load_program(path, "teacher")  # refused before it is kept
    return TeacherWeights(PROGRAM, packed(path), path)
