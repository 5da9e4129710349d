"""A student of each family of networks, distilled and exported through the public functions."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from small_tasks import write_task

from dfkd.orchestrator import distill
from dfkd.orchestrator.export import rebuild
from dfkd.search_spaces.data import load_data
from dfkd.search_spaces.task import load_task

pytestmark = pytest.mark.slow

STUDENTS = [
    *("resnet-8", "resnet-8-b", "wrn-10-1", "resnet18", "vgg11-pool3"),
    *("torchvision/shufflenet_v2_x0_5", "timm/mobilenetv3_small_050"),
]
QUICK = {"kd_steps": 2, "kd_batch_size": 4, "batch_size": 4, "synthesis_steps": 2, "warmup": 0}
LOAD_WITH_TORCH_ALONE = """
import sys
for missing in ("dfkd", "ray", "torchvision", "timm"):
    sys.modules[missing] = None  # importing any is an error
import torch
images, logits, *programs = sys.argv[1:]
images = torch.load(images, weights_only=True)
torch.save([torch.export.load(program).module()(images) for program in programs], logits)
"""


@pytest.fixture(scope="module")
def task_file(tmp_path_factory, dfkd_cache):
    """The small task at 16x16 in color."""
    folder = tmp_path_factory.mktemp("color")
    changes = {
        "image": {"channels": 3, "height": 16, "width": 16},
        "normalize": {"mean": [0.4] * 3, "std": [0.3] * 3},
        "teacher.network": "resnet-8",
        "teacher.epochs": 2,
        "recipe": {},
        "search": {},
        "methods": {},
    }
    path = write_task(folder, changes)
    labels = np.arange(30) % 3
    images = np.random.default_rng(0).integers(0, 60, (30, 16, 16, 3))
    for image, label in zip(images, labels, strict=True):
        image[5 * label : 5 * label + 4] += 150
    np.savez(folder / "stripes.npz", images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return tmp_path_factory.mktemp("students")


@pytest.fixture(scope="module")
def distilled(task_file, storage):
    """The results of one epoch, by student."""
    settings = {**QUICK, "generator_width": 4, "noisy_width": 8, "rounds": 1}
    how = {"epochs": 1, "settings": settings, "select": "accuracy", "storage": str(storage)}
    return {
        student: distill(task_file, student=student, name=f"run{i}", **how)
        for i, student in enumerate(STUDENTS)
    }


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_of_each_family_learns(distilled, student):
    result = distilled[student]
    assert result.best.spec.student == student
    assert result.best.rows[0]["kd_loss"] > 0


def test_students_of_all_families_load_with_torch_alone(task_file, distilled, storage):
    task = load_task(task_file)
    images = load_data(task, "test").images[:5].float() / 255
    torch.save(images, storage / "images.pt")
    folders = [result.exported.local for result in distilled.values()]
    paths = [storage / "images.pt", storage / "logits.pt", *(f / "student.pt2" for f in folders)]
    subprocess.run([sys.executable, "-c", LOAD_WITH_TORCH_ALONE, *paths], check=True, cwd="/")
    answers = torch.load(storage / "logits.pt")
    for student, folder, told in zip(distilled, folders, answers, strict=True):
        weights = (folder / "model.safetensors").read_bytes()
        with torch.no_grad():
            assert torch.allclose(told, rebuild(task, student, weights)(images), atol=1e-4)
