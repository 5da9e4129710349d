"""ImageNet's thousand classes and a real teacher, through the whole path in small, without Ray."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from dfkd.methods import jury
from dfkd.orchestrator import control_recipes, distill
from dfkd.orchestrator.evaluation import evaluate

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location(
    "real_teachers_to_distill", ROOT / "benchmarks" / "real_teachers.py"
)
real_teachers = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = real_teachers
spec.loader.exec_module(real_teachers)

SETTINGS = {
    "batch_size": 8,
    "synthesis_steps": 4,
    "warmup": 1,
    "warmup_rounds": 2,
    "rounds": 1,
    "kd_steps": 2,
    "kd_batch_size": 8,
    "resolutions": "0.5 1",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The teacher's weights and twenty labeled photos."""
    try:
        return real_teachers.write("imagenet", tmp_path_factory.mktemp("teachers"))
    except real_teachers.MissingPackage as missing:
        pytest.skip(str(missing))


@pytest.fixture
def task(tmp_path):
    """docs/imagenet-small.yaml with photos of 64 pixels."""
    tree = yaml.safe_load((ROOT / "docs" / "imagenet-small.yaml").read_text())
    tree["image"] |= {"height": 64, "width": 64, "resize": 72}
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.mark.slow
def test_a_real_imagenet_teacher_is_distilled_judged_exported_and_evaluated(
    task, files, tmp_path, dfkd_cache, monkeypatch
):
    for name, least in (("BUDGET", 1e9), ("FEWEST", 8), ("ROUND", 8)):
        monkeypatch.setattr(control_recipes, name, least)
    monkeypatch.setattr(jury, "LEAST_CONFIDENCE", 0.0)  # nobody is sure of 8 images of 64 pixels
    teacher, photos = map(str, files)
    result = distill(
        task,
        methods=("muse",),
        epochs=2,
        settings=SETTINGS,
        teacher=teacher,
        data=photos,
        keep_pool=True,
        storage=str(tmp_path),
        name="small",
    )
    assert result.best.outcome == "finished" and len(result.run.controls()) == 3
    assert len(result.best.rows) == 2
    found = evaluate("small", str(tmp_path))
    assert found.images == 20 and found.teacher_accuracy > 0.05
    assert found.pools >= 1 and found.fidelity < 0
