import io
import json
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file
from small_tasks import EPOCHS, STRIPES

from dfkd.methods.errors import ConfigError, DfkdError
from dfkd.methods.networks import Normalized, build_network, parameters
from dfkd.orchestrator.catalog import export_again
from dfkd.orchestrator.export import FORMATS, export_best, export_student
from dfkd.orchestrator.model_card import model_card
from dfkd.orchestrator.programs import load_program
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.storage import Folder
from dfkd.search_spaces.data import load_data

pytest_plugins = ["small_task_fixtures"]

LOAD_WITH_TORCH_ALONE = """
import sys
sys.modules["dfkd"] = sys.modules["ray"] = None  # importing either is an error
import torch
student = torch.export.load(sys.argv[1] + "/student.pt2").module()
images = torch.load(sys.argv[2], weights_only=True)
torch.save(student(images), sys.argv[3])
"""


@pytest.fixture(scope="module")
def best(done):
    """The exported folder of the finished run."""
    return done.exported.local


@pytest.fixture(scope="module")
def images(stripes_task):
    return load_data(stripes_task, "test").images.float() / 255


@pytest.fixture(scope="module")
def logits(done, stripes_task, images):
    """What the student says, rebuilt from the weights its trial left."""
    trial = done.run.trial_folder(done.best.spec.id).local
    network = build_network(done.best.spec.student, 1, 3)
    network.load_state_dict(load_file(trial / "student.safetensors"))
    with torch.no_grad():
        return Normalized(network, stripes_task.mean, stripes_task.std).eval()(images)


@pytest.fixture(scope="module")
def metrics(best):
    return json.loads((best / "metrics.json").read_text())


# The files


def test_a_finished_run_has_all_files_of_its_best_student(best):
    assert {path.name for path in best.iterdir()} == {
        "model.safetensors",
        "student.pt2",
        "model_card.md",
        "metrics.json",
    }


def test_the_student_loads_where_neither_dfkd_nor_ray_can_be_imported(
    best, images, logits, tmp_path
):
    torch.save(images, tmp_path / "images.pt")
    paths = [str(path) for path in (best, tmp_path / "images.pt", tmp_path / "logits.pt")]
    subprocess.run([sys.executable, "-c", LOAD_WITH_TORCH_ALONE, *paths], check=True, cwd="/")
    assert torch.allclose(torch.load(tmp_path / "logits.pt"), logits, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_the_program_takes_any_number_of_images(best, images, logits, count):
    program = load_program(str(best / "student.pt2"))
    assert torch.allclose(program(images[:count]), logits[:count], atol=1e-5)


def answers(folder, format, task, images):
    """What the student in a file says."""
    path = folder / FORMATS[format][0]
    if format == "pt2":
        return load_program(str(path))(images)
    state = load_file(path) if format == "safetensors" else torch.load(path, weights_only=True)
    network = build_network(STRIPES["student"], 1, 3)
    network.load_state_dict(state)
    with torch.no_grad():
        return Normalized(network, task.mean, task.std).eval()(images)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_holds_the_same_student(done, stripes_task, images, logits, tmp_path, format):
    storage = str(done.run.folder.local.parent)
    export_again("done", storage, str(tmp_path), None, [format])
    told = answers(tmp_path, format, stripes_task, images)
    assert torch.allclose(told, logits, atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_formats_asked_for_are_written(done, stripes_storage, tmp_path, format):
    folder = export_again("done", stripes_storage, str(tmp_path), None, [format])
    assert set(folder.files()) == {FORMATS[format][0], "model_card.md", "metrics.json"}


# The figures


def test_the_figures_are_those_of_the_best_epoch(metrics, done):
    assert [metrics[key] for key in ("score", "accuracy", "epoch")] == [
        done.best.best[key] for key in ("score", "accuracy", "epoch")
    ]


def test_the_figures_say_on_how_many_images(metrics):
    assert metrics["evaluation_images"] == 60


def test_the_figures_hold_the_recipe(metrics, done):
    assert metrics["recipe"] == dict(done.best.spec.recipe)


def test_the_figures_count_the_parameters(metrics):
    networks = [build_network(metrics[who], 1, 3) for who in ("student", "teacher")]
    counted = [metrics["student_parameters"], metrics["teacher_parameters"]]
    assert counted == [parameters(network) for network in networks]


def test_the_figures_name_the_teacher_that_was_used(metrics, stripes_teacher):
    assert metrics["teacher_fingerprint"] == stripes_teacher.fingerprint


def test_an_export_again_has_the_same_figures(done, stripes_storage, tmp_path, metrics):
    folder = export_again("done", stripes_storage, str(tmp_path), None, ["safetensors"])
    again = folder.read_json("metrics.json")
    listed = {name: metrics["files"][name] for name in ("model.safetensors", "model_card.md")}
    assert again == metrics | {"files": listed}


@pytest.fixture(scope="module")
def card(best):
    return (best / "model_card.md").read_text()


@pytest.mark.parametrize("key", ["accuracy", "teacher_accuracy"])
def test_the_card_shows_accuracies_in_percent(card, metrics, key):
    assert f"{100 * metrics[key]:.2f} %" in card


@pytest.mark.parametrize("key", ["task", "student", "teacher", "method", "trial", "sweep"])
def test_the_card_says_what_it_is_about(card, metrics, key):
    assert metrics[key] in card


def test_the_card_shows_the_whole_recipe(card, metrics):
    assert all(f"| {key} | {value} |" in card for key, value in metrics["recipe"].items())


def test_the_card_says_how_many_images_the_accuracies_are_on(card):
    assert "n = 60" in card


def test_the_card_says_that_no_label_chose_the_student(card):
    assert "by fidelity, without real data" in card


def test_the_card_says_what_the_jury_found(card, metrics):
    assert f"{metrics['verdict']['agreement']:.2%} of them" in card
    assert f"images of {len(metrics['verdict']['divergences'])} pools" in card


def test_the_card_says_if_labels_chose_the_student(metrics):
    card = model_card({**metrics, "selected_by": "accuracy", "verdict": None})
    assert "by accuracy on real labeled images" in card
    assert "pools" not in card


def test_the_card_names_the_classes_in_order(card):
    assert "top, middle, bottom" in card


def test_the_card_says_what_was_not_measured(card, metrics):
    assert metrics["noise_control_accuracy"] is None
    assert "| not measured |" in card


def test_the_way_to_load_that_the_card_shows_works(card, best, images, logits, monkeypatch):
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(best)
    names = {"images": images}
    exec(code, names)
    assert torch.allclose(names["logits"], logits, atol=1e-5)


# Which student


def refused(storage, *, name="done", trial=None, formats=("safetensors",), to="/nowhere"):
    with pytest.raises(ConfigError) as refusal:
        export_again(name, storage, to, trial, formats)
    return refusal.value.problems


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"name": "don"}, "no sweep 'don'. Did you mean 'done'?"),
        ({"trial": "t00"}, "no trial 't00'. Did you mean 't000'?"),
        ({"formats": ["safetensor"]}, "no format 'safetensor'. Did you mean 'safetensors'?"),
    ],
)
def test_an_unknown_name_gets_the_nearest_known_one(done, stripes_storage, asked, told):
    (problem,) = refused(stripes_storage, **asked)
    assert told in problem


def test_all_mistakes_are_told_at_once(done, stripes_storage):
    assert len(refused(stripes_storage, trial="t9", formats=["onnx", "pt3"])) == 3


@pytest.fixture
def unfinished(tmp_path, done):
    """A run whose only trial has begun, but not ended."""
    run = Run(Folder.of(str(tmp_path / "storage" / "unfinished")))
    run.folder.write("sweep.json", done.run.folder.read("sweep.json"))
    run.folder.write("teacher.safetensors", done.run.folder.read("teacher.safetensors"))
    run.note(best=None, state="running", name="unfinished")
    run.propose(done.best.spec)
    trial = run.trial_folder(done.best.spec.id)
    trial.write_json("history.json", done.best.rows[:2])
    return run


def test_an_unfinished_run_has_no_best_student_but_trials(unfinished, tmp_path):
    (problem,) = refused(str(tmp_path / "storage"), name="unfinished")
    assert "not finished; name a --trial of: t000" in problem


def test_a_trial_of_an_unfinished_run_can_be_exported(unfinished, done, tmp_path):
    student = done.run.trial_folder("t000").read("student.safetensors")
    unfinished.trial_folder("t000").write("student.safetensors", student)
    to = str(tmp_path / "to")
    folder = export_again("unfinished", str(tmp_path / "storage"), to, "t000", ["safetensors"])
    assert folder.read("model.safetensors")


def test_a_trial_that_left_no_student_says_so(unfinished, tmp_path):
    (record,) = unfinished.records()
    with pytest.raises(DfkdError, match="t000 of unfinished left no student"):
        export_student(unfinished, record, Folder.of(str(tmp_path / "to")))


def test_the_best_student_of_a_run_goes_to_its_best_folder(unfinished, done):
    student = done.run.trial_folder("t000").read("student.safetensors")
    unfinished.trial_folder("t000").write("student.safetensors", student)
    (record,) = unfinished.records()
    assert export_best(unfinished, record, None, None) == unfinished.folder.child("best")
    assert record.best["epoch"] <= EPOCHS


def test_a_folder_that_cannot_be_written_is_the_users_mistake(done, stripes_storage, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in refused(stripes_storage, to=str(tmp_path / "file" / "to"))[0]


# Programs from elsewhere


@pytest.mark.parametrize("data", [b"", b"student", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_no_program_is_refused(tmp_path, data):
    (tmp_path / "student.pt2").write_bytes(data)
    with pytest.raises(ConfigError, match=r"student\.pt2 cannot be read"):
        load_program(str(tmp_path / "student.pt2"))


class Trap:
    """Unpickled with code allowed, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_program_with_code_in_its_pickles_does_not_run_it(best, tmp_path):
    trap = io.BytesIO()
    torch.save({"inputs": Trap(tmp_path / "ran")}, trap)
    with (
        zipfile.ZipFile(best / "student.pt2") as program,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil,
    ):
        for name in program.namelist():
            inputs = "sample_inputs" in name
            evil.writestr(name, trap.getvalue() if inputs else program.read(name))
    with pytest.raises(ConfigError):
        load_program(str(tmp_path / "evil.pt2"))
    assert not (tmp_path / "ran").exists()
