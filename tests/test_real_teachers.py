"""Teachers that were trained by others on real images, from packages; skipped without these."""

import copy
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_tasks import tree
from torchvision.transforms import v2

from dfkd.methods.jury import Jury
from dfkd.methods.losses import layer_gaps
from dfkd.methods.networks import parameters
from dfkd.orchestrator import control_recipes
from dfkd.orchestrator.controls import make_controls
from dfkd.orchestrator.probes import pools_from_bytes
from dfkd.search_spaces.fit import Fit
from dfkd.search_spaces.pictures import as_array, as_picture
from dfkd.search_spaces.resampling import fitted_together
from dfkd.search_spaces.task import parse_task
from dfkd.search_spaces.teachers import load_teacher

PATH = Path(__file__).parents[1] / "benchmarks" / "real_teachers.py"
spec = importlib.util.spec_from_file_location("real_teachers", PATH)
real_teachers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = real_teachers
spec.loader.exec_module(real_teachers)


def or_skip(make, *given):
    """What `make` makes; the test is skipped where a package is missing."""
    try:
        return make(*given)
    except real_teachers.MissingPackage as missing:
        pytest.skip(str(missing))


def task_of(classes, size, mean, std):
    """A task of `classes` classes and color images of `size` pixels, without images."""
    changes = {
        "classes": [f"class {i}" for i in range(classes)],
        "image": {"channels": 3, "height": size, "width": size},
        "normalize": {"mean": [mean] * 3, "std": [std] * 3},
    }
    return parse_task(yaml.safe_dump(tree(changes)), "test")


def images_and_labels(data_set, transform):
    found = or_skip(real_teachers.samples, data_set)
    assert len(found) == 20
    whole = [transform(v2.functional.pil_to_tensor(image)) for image, _ in found]
    return torch.stack(whole).float() / 255, torch.tensor([label for _, label in found])


@pytest.fixture(scope="module")
def imagenet():
    return task_of(1000, 224, 0.5, 0.5)


@pytest.fixture(scope="module")
def imagenet_samples():
    resize = v2.Resize(256, v2.InterpolationMode.BICUBIC)
    return images_and_labels("imagenet", v2.Compose([resize, v2.CenterCrop(224)]))


@pytest.fixture(scope="module")
def cifar10():
    return task_of(10, 32, 0.0, 1 / 255)


def test_the_packages_efficientnet_is_timms_by_order_and_shape(imagenet):
    path = or_skip(real_teachers.efficientnet_file)
    said = []
    teacher = load_teacher(imagenet, f"{real_teachers.EFFICIENTNET}:{path}", said.append)
    assert "49 BatchNorm layers" in said[0] and "order and shape" in said[1]
    assert teacher.fingerprint == real_teachers.efficientnet().fingerprint


@torch.no_grad()
def test_the_imagenet_teacher_is_right_about_18_of_20_images(imagenet, imagenet_samples):
    images, labels = imagenet_samples
    teacher = or_skip(real_teachers.efficientnet).build(imagenet)
    assert int((teacher.logits(images).argmax(1) == labels).sum()) == 18


@torch.no_grad()
def test_the_imagenet_teacher_decides_alike_wherever_images_are_resized(imagenet):
    images = [image for image, _ in or_skip(real_teachers.samples, "imagenet")]
    shape, way = imagenet.shape, Fit(256, "bicubic")
    by_pil = torch.from_numpy(np.stack([as_array(image, shape, way) for image in images]))
    pictures = [as_picture(image, shape, way) for image in images]
    together = fitted_together(pictures, shape, way, torch.device("cpu"))
    assert (by_pil.int() - together.int()).abs().max() <= 1
    teacher = or_skip(real_teachers.efficientnet).build(imagenet)
    one, other = (teacher.logits(found.float() / 255) for found in (by_pil, together))
    assert torch.equal(one.argmax(1), other.argmax(1))
    assert torch.allclose(one, other, atol=0.05)


@torch.no_grad()
def test_another_normalization_makes_the_imagenet_teacher_worse(imagenet_samples):
    images, labels = imagenet_samples
    wrong = task_of(1000, 224, 0.0, 1 / 255)
    teacher = or_skip(real_teachers.efficientnet).build(wrong)
    assert int((teacher.logits(images).argmax(1) == labels).sum()) <= 2


@torch.no_grad()
def test_the_cifar10_teacher_is_right_about_all_20_images(cifar10):
    images, labels = images_and_labels("cifar10", lambda image: image)
    teacher = or_skip(real_teachers.keras_cifar10).build(cifar10)
    assert parameters(teacher.network) == 968_394
    assert torch.equal(teacher.logits(images).argmax(1), labels)


@torch.no_grad()
def test_what_the_cifar10_teachers_batch_norms_remember_is_nearer_to_real_images_than_to_noise(
    cifar10,
):
    """So the statistics are the right ones of the right layers."""
    images, _ = images_and_labels("cifar10", lambda image: image)
    teacher = or_skip(real_teachers.keras_cifar10).build(cifar10)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    real, random = (
        layer_gaps(teacher.look(batch).moments, teacher.running) for batch in (images, noise)
    )
    assert teacher.batch_norms == 6 and (real < random).all()


def test_a_teachers_file_carries_its_networks_name(cifar10, tmp_path):
    weights = or_skip(real_teachers.keras_cifar10)
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(weights.to_bytes())
    assert load_teacher(cifar10, str(path)).network == "keras-cifar10"


def disturbed(network, share):
    """A copy whose weights have noise of this share of each tensor's standard deviation."""
    copied, draws = copy.deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in copied.parameters():
            p += share * p.std(correction=0) * torch.randn(p.shape, generator=draws)
    return copied


@pytest.mark.slow
def test_dear_control_pools_rank_copies_of_a_real_teacher_by_what_was_done_to_them(
    cifar10, monkeypatch
):
    monkeypatch.setattr(control_recipes, "BUDGET", 1.0)
    monkeypatch.setattr(control_recipes, "FEWEST", 32)
    weights = or_skip(real_teachers.keras_cifar10)
    teacher = weights.build(cifar10)
    jury = Jury(teacher, pools_from_bytes(make_controls(cifar10, weights)))
    assert not jury.left_out and len(jury.pools) == 3
    shares = (0.0, 0.03, 0.1, 0.3)
    verdicts = [jury.judge(disturbed(teacher.network, share)) for share in shares]
    fidelities = [verdict.fidelity for verdict in verdicts]
    agreements = [verdict.agreement for verdict in verdicts]
    assert fidelities == sorted(fidelities, reverse=True) and fidelities[0] == 0
    assert agreements == sorted(agreements, reverse=True) and agreements[0] == 1 > agreements[-1]
