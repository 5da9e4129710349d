"""Small but complete surroundings of a method: a teacher, a student, a trial to run them."""

import copy
import io
from dataclasses import replace

import torch
import torch.nn.functional as F

from dfkd.methods.generators import ImageShape
from dfkd.methods.method import Workbench
from dfkd.methods.networks import build_network
from dfkd.methods.random_streams import global_stream, stream
from dfkd.methods.settings import build
from dfkd.methods.student import Student
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Alone
from dfkd.methods.view import View

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 8, 8)
EPOCHS = 8


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny_network(shape=SHAPE, classes=3, *, name="convnet-4-6", seed=0):
    with global_stream("cpu", "tiny network", seed):
        return build_network(name, shape.channels, classes)


def tiny_teacher(shape=SHAPE, classes=3, *, name="convnet-4-6"):
    """Random weights, but BatchNorm memories of random images, as a trained network has them."""
    network = tiny_network(shape, classes, name=name, seed="teacher")
    draws = rng(1)
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(32, shape.channels, shape.height, shape.width, generator=draws))
    return Teacher(network, (0.5,) * shape.channels, (0.25,) * shape.channels)


def softer(teacher, factor):
    """A student that decides as the teacher does, `factor` times as surely."""
    network = copy.deepcopy(teacher.network)
    for p in network.network.classifier.parameters():
        p.data *= factor
    return network


def train_digits_teacher():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    network = tiny_network(classes=10, name="convnet-8-16", seed="digits")
    adam = torch.optim.Adam(network.parameters(), lr=1e-2)
    draws = rng()
    for _ in range(4):
        for rows in torch.randperm(len(images), generator=draws).split(64):
            loss = F.cross_entropy(network((images[rows] - 0.3) / 0.4), labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    return Teacher(network, (0.3,), (0.4,))


class IdleStudent(Student):
    """A student that never learns, so that what synthesis does to it can be seen."""

    def learn(self, teacher, batch, rng, lesson=None):
        return torch.zeros(())


class Trial:
    """A method on its workbench, run and saved epoch by epoch as the orchestrator does it."""

    def __init__(self, method, values, *, shape=SHAPE, classes=3, **bench):
        """`bench` holds parts of the workbench that differ: teacher, team, student's network."""
        settings = build(method.settings_class, values, "test")
        network = bench.pop("network", None) or tiny_network(shape, classes, seed="student")
        team = bench.pop("team", Alone())
        student = bench.pop("student", Student)(network, settings, EPOCHS, team)
        self.bench = Workbench(
            teacher=bench.pop("teacher", None) or tiny_teacher(shape, classes),
            student=student,
            embeddings=F.normalize(torch.randn(classes, 5, generator=rng()), dim=1),
            shape=shape,
            classes=classes,
            seed=0,
            team=team,
            device=CPU,
        )
        self.bench = replace(self.bench, **bench)
        self.method = method(settings, self.bench)
        self.metrics = []  # of all epochs that were run

    def run(self, epochs, seed=0):
        """The metrics of each of `epochs`."""
        metrics = [self.method.epoch(e, stream("cpu", seed, "epoch", e)) for e in epochs]
        self.metrics += metrics
        return metrics

    def images(self, count=32):
        """Images from where the student gets its own, and the labels they have or None."""
        batch = self.method.source.sample(count, rng())
        return batch.images, batch.labels

    def view(self, images, target=None, *, adversarial=True, draws=None):
        """What the method's loss is given for `images`."""
        return View(self.bench, images, target, adversarial, draws or rng())

    def gradient(self, images, target=None, **view):
        """What the method's loss sends to the images."""
        images = images.detach().clone().requires_grad_()
        with self.bench.student.frozen():
            self.method.loss(self.view(images, target, **view)).backward()
        return images.grad

    def save(self):
        buffer = io.BytesIO()
        torch.save([self.method.state(), self.bench.student.state()], buffer)
        return buffer.getvalue()

    def load(self, saved):
        method, student = torch.load(io.BytesIO(saved), weights_only=True)
        self.method.restore(method)
        self.bench.student.restore(student)


def snapshot(network):
    """A copy of all weights and statistics, to compare with later."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a, b):
    """Whether two snapshots are equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tensor_bytes(state):
    """Memory behind all tensors in nested dicts, lists and tuples."""
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes()
    if isinstance(state, dict):
        return tensor_bytes(list(state.values()))
    return sum(map(tensor_bytes, state)) if isinstance(state, list | tuple) else 0
