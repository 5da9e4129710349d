"""The tasks at scale start from what the papers did: counted, epoch by epoch, as they would run.

Published figures: the reference scripts of NAYER (tmtuan1307/nayer@c6bedcd, scripts/).
"""

from dataclasses import dataclass, field

import pytest
import torch
from networks_by_name import needs_networks
from small_tasks import plan

from dfkd.methods import METHODS, load_method
from dfkd.methods.embeddings import load_label_embeddings
from dfkd.methods.method import Workbench
from dfkd.methods.muse import Muse, shares
from dfkd.methods.nayer import Nayer
from dfkd.methods.networks import ConvNet, Normalized, build_network
from dfkd.methods.settings import build, describe
from dfkd.methods.shape import ImageShape
from dfkd.methods.student import Student
from dfkd.methods.teacher import Teacher
from dfkd.methods.team import Alone
from dfkd.orchestrator.specs import Choices, plan_methods
from dfkd.search_spaces.classes import find_classes
from dfkd.search_spaces.dimensions import Choice, Whole, ends
from dfkd.search_spaces.task import load_task

REAL = ("cifar10", "cifar100", "tiny_imagenet", "imagenette", "imagenet")
SHAPE = ImageShape(3, 8, 8)

each_task = pytest.mark.parametrize("name", REAL)


def settings_of(name, method="nayer"):
    """A method's settings as `dfkd distill NAME` has them."""
    kind = load_method(method)
    task = load_task(name)
    recipe = task.space(method, kind.presets.get(task.preset, {})).recipe
    return build(kind.settings_class, recipe, name)


# NAYER's schedule, run with everything counted and nothing computed


@dataclass
class Counts:
    """What a trial did."""

    images: list[int] = field(default_factory=list)  # per epoch
    generator_steps: int = 0
    generators: list[int] = field(default_factory=list)  # epochs in which one was made
    redraws: int = 0
    student_steps: list[int] = field(default_factory=list)  # per epoch
    student_images: int = 0
    adversarial: set[int] = field(default_factory=set)  # epochs
    rates: list[float] = field(default_factory=list)


@pytest.fixture
def run(monkeypatch):
    """Runs NAYER as a task has it, on pixels of nothing, and counts."""

    def count(name, epochs):
        task, settings, counts = load_task(name), settings_of(name), Counts()
        device = torch.device("cpu")
        network = ConvNet((2,), 3, len(task.classes))
        teacher = Teacher(network, (0.5,) * 3, (0.5,) * 3)
        small = Normalized(ConvNet((2,), 3, len(task.classes)), (0.5,) * 3, (0.5,) * 3)
        student = Student(small, settings, epochs, Alone())
        texts = torch.eye(len(task.classes))
        bench = Workbench(
            teacher=teacher,
            student=student,
            embeddings=texts,
            shape=SHAPE,
            classes=len(task.classes),
            seed=0,
            team=Alone(),
            device=device,
        )
        method = Nayer(settings, bench)

        def invert(target, *, adversarial, rng):
            method.begin(target, rng)
            counts.images[-1] += len(target)
            counts.generator_steps += settings.synthesis_steps
            if adversarial:
                counts.adversarial.add(method.present)
            return torch.zeros(len(target), 3, 8, 8), 0.0, True

        def learn(teacher, batch, rng, lesson=None):
            counts.student_steps[-1] += 1
            counts.student_images += len(batch.images)
            return torch.zeros(())

        def start_over(rng):
            counts.generators.append(method.present)
            method.rounds_made = 0
            method.generator = Redrawn(counts)

        monkeypatch.setattr(method, "invert", invert)
        monkeypatch.setattr(method, "start_over", start_over)
        monkeypatch.setattr(method, "begin", begin_of(method))
        monkeypatch.setattr(student, "learn", learn)
        monkeypatch.setattr(method.pool, "add", lambda shard, rng: None)
        sample = torch.zeros(settings.kd_batch_size, 3, 1, 1)
        monkeypatch.setattr(method.pool, "sample", lambda count, rng: Drawn(sample[:count]))
        rng = torch.Generator()
        for epoch in range(epochs):
            counts.images.append(0)
            counts.student_steps.append(0)
            method.epoch(epoch, rng)
            if epoch >= settings.warmup:
                counts.rates.append(student._optimizer.param_groups[0]["lr"])
        return counts

    return count


@dataclass
class Redrawn:
    """A generator of which only the redraws of its noisy layers are told."""

    counts: Counts

    @property
    def noisy(self):
        return self

    def redraw(self, rng):
        self.counts.redraws += 1

    def parameters(self):
        return [torch.zeros(1, requires_grad=True)]

    def state_dict(self):
        return {}


@dataclass
class Drawn:
    images: torch.Tensor


def begin_of(method):
    """NAYER's own beginning of a round."""
    return lambda target, rng: Nayer.begin(method, target, rng)


@pytest.mark.parametrize(
    ("name", "batch", "steps", "loops", "kd_steps", "kd_batch", "rate"),
    [
        ("cifar10", 400, 30, (10, 2), 400, 512, 0.2),
        ("cifar100", 400, 40, (10, 2), 400, 512, 0.2),
        ("tiny_imagenet", 200, 60, (20, 4), 1000, 256, 0.1),
    ],
)
@pytest.mark.parametrize(("epochs", "images"), [(120, 160_000), (220, 240_000), (320, 320_000)])
def test_nayer_does_what_its_scripts_do(  # noqa: PLR0913 - the table of the scripts
    run, name, batch, steps, loops, kd_steps, kd_batch, rate, epochs, images
):
    counts = run(name, epochs)
    learning = epochs - 20
    assert counts.images == [loops[0] * batch] * 20 + [loops[1] * batch] * learning
    assert sum(counts.images) == images
    rounds = images // batch
    assert counts.generator_steps == rounds * steps
    assert counts.redraws == rounds
    assert counts.generators == list(range(0, epochs, 10))
    assert counts.student_steps == [0] * 20 + [kd_steps] * learning
    assert counts.student_images == learning * kd_steps * kd_batch
    assert counts.adversarial == set(range(20, epochs))
    assert counts.rates[0] == pytest.approx(rate)
    assert counts.rates[learning // 2] == pytest.approx(0.5005 * rate)  # a cosine to rate / 1000
    assert 0.001 * rate < counts.rates[-1] < 0.003 * rate


@pytest.mark.parametrize(("name", "images"), [("imagenette", 28_000), ("imagenet", 128_000)])
def test_a_task_without_a_published_schedule_makes_as_many_images_as_it_says(run, name, images):
    task = load_task(name)
    assert sum(run(name, task.epochs).images) == images
    assert f"{images:,}" in task.text


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])
def test_nayer_weighs_its_losses_as_its_scripts_do(name):
    settings = settings_of(name)
    weights = (settings.bn_weight, settings.one_hot_weight, settings.adversarial_weight)
    assert (*weights, settings.bn_reduction, settings.bn_momentum) == (10.0, 0.5, 1.33, "sum", 0.9)
    assert (settings.temperature, settings.generator_lr, settings.noise_std) == (20.0, 4e-3, 1.0)
    assert (settings.weight_decay, settings.momentum, settings.clip_norm) == (1e-4, 0.9, 0.0)
    assert (settings.shift, settings.flip, settings.held_out) == (4, True, 0.0)


@pytest.mark.parametrize(("name", "layers"), [("cifar10", 40), ("cifar100", 4), ("imagenet", 1)])
def test_there_is_a_noisy_layer_for_each_image_of_a_class(name, layers):
    settings, classes = settings_of(name), len(load_task(name).classes)
    assert settings.noisy_layers == 0
    assert -(-settings.batch_size // classes) == layers


@each_task
def test_the_tasks_own_preset_said_aloud_is_the_tasks_own_recipe(name):
    task, student = load_task(name), "convnet-4"
    spoken = plan_methods(task, Choices(student=student, settings={"preset": "paper"}))["nayer"]
    silent = plan_methods(task, Choices(student=student))["nayer"]
    assert dict(spoken.recipe) == dict(silent.recipe)
    assert not set(spoken.recipe) & set(spoken.search)


# What else a task says


@pytest.mark.parametrize(
    ("name", "classes", "side"),
    [
        ("cifar10", 10, 32),
        ("cifar100", 100, 32),
        ("tiny_imagenet", 200, 64),
        ("imagenette", 10, 224),
        ("imagenet", 1000, 224),
    ],
)
def test_a_task_has_its_native_size_and_all_its_classes(name, classes, side):
    task = load_task(name)
    assert task.shape == ImageShape(3, side, side)
    assert len(task.classes) == classes


def test_tiny_imagenets_classes_are_numbered_as_imagefolder_numbers_its_folders():
    ids = load_task("tiny_imagenet").class_ids
    assert list(ids) == sorted(set(ids))
    assert "" not in ids
    assert len(set(load_task("tiny_imagenet").classes)) == 200


def test_imagenette_is_ten_of_imagenets_classes():
    task, whole = load_task("imagenette"), find_classes("imagenet")
    places = [whole.ids.index(id) for id in task.class_ids]
    assert places == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert task.classes == tuple(whole.names[place] for place in places)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny_imagenet"])
def test_a_papers_teacher_is_trained_as_the_reference_trains_it(name):
    task = load_task(name)
    for spec in (task.teacher, *([] if "plain" in task.teachers else task.teachers.values())):
        told = (spec.epochs, spec.batch_size, spec.learning_rate, spec.weight_decay)
        assert told == (200, 256, 0.1, 5e-4)
        assert (spec.shift, spec.flip) == (4, True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_papers_five_pairs_are_there(name):
    task = load_task(name)
    pairs = {(row.teacher, row.student) for row in task.published}
    wide = {("wrn-40-2", student) for student in ("wrn-16-1", "wrn-40-1", "wrn-16-2")}
    assert pairs == {("resnet34", "resnet18"), ("vgg11", "resnet18")} | wide


@each_task
def test_the_networks_of_a_task_can_be_built(name):
    task = load_task(name)
    specs = (task.teacher, *task.teachers.values())
    needs_networks(*(spec.network for spec in specs), task.student, *task.students)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_a_sweep_of_it_is_planned_with_a_teacher_from_a_file(name, tmp_path):
    task = load_task(name)
    network = task.teacher.network
    needs_networks(network, task.student)
    file = tmp_path / "teacher.pt"
    torch.save(build_network(network, 3, len(task.classes)).state_dict(), file)
    spec = plan(name, methods=("nayer", "muse"), teacher=f"{network}:{file}")
    assert (spec.student, spec.teacher.network) == (task.student, network)
    assert spec.methods["muse"].recipe["batch_size"] == settings_of(name, "muse").batch_size


@each_task
def test_the_minilm_texts_of_its_classes_ship(name):
    task = load_task(name)
    assert load_label_embeddings(task.embeddings, task.classes).vectors.shape[1] == 384


# What is searched

WANTED = {
    "nayer": {
        *("reinit_every", "noisy_layers", "generator_life", "bn_weight", "one_hot_weight"),
        *("adversarial_weight", "generator_lr", "student_lr", "temperature", "batch_size"),
        *("kd_batch_size", "pool_capacity"),
    },
    "muse": {
        *("resolutions", "resolution_schedule", "cam_weight", "student_diversity_weight"),
        *("generator_diversity_weight", "reinit_every", "generator_life", "pool_capacity"),
    },
    "pre_dfkd": {"replay_share", "generator_lr", "student_lr"},
    "mad": {"replay_share"},
    "dfkd_mb": {"replay_share", "bank_policy", "bank_capacity"},
    "ssd_kd": {"pool_capacity", "priority"},
}


@each_task
@pytest.mark.parametrize("method", WANTED)
def test_what_decides_is_searched(name, method):
    assert set(load_task(name).space(method).search) >= WANTED[method]


@each_task
@pytest.mark.parametrize("method", [m for m in METHODS if "paper" in load_method(m).presets])
def test_what_a_method_publishes_lies_where_its_search_looks(name, method):
    kind, task = load_method(method), load_task(name)
    space = task.space(method, kind.presets["paper"])
    for key in set(space.recipe) & set(space.search):
        low, *_, high = sorted(ends(space.search[key]), key=str if key == "js" else None)
        assert key in task.shared.recipe or low <= space.recipe[key] <= high, key


@each_task
@pytest.mark.parametrize("method", METHODS)
def test_no_dimension_is_dead(name, method):
    """Temperature softens KL alone, and a dimension of one value is none."""
    kind, space = load_method(method), load_task(name).space(method)
    uses_l1 = describe(kind.settings_class)["kd_loss"].default == "l1"
    assert not (uses_l1 and "temperature" in space.search)
    for dimension in space.search.values():
        assert not isinstance(dimension, Choice) or len(set(dimension.options)) > 1


@each_task
def test_every_resolution_can_be_rendered(name):
    space = load_task(name).space("muse", Muse.presets["paper"])
    side = load_task(name).shape.height
    options = [*space.search["resolutions"].options, space.recipe["resolutions"]]
    for sides in ([round(side * share) for share in shares(text)] for text in options):
        assert len(set(sides)) == len(sides)
        assert min(sides) >= 16


@each_task
def test_whole_numbers_are_searched_as_such(name):
    for method in METHODS:
        known = describe(load_method(method).settings_class)
        for key, dimension in load_task(name).space(method).search.items():
            if known[key].type is int:
                assert isinstance(dimension, Choice | Whole), (method, key)
