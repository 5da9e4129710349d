"""Tasks: those that ship, those that users write, and what their files say."""

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from networks_by_name import needs_networks
from small_tasks import STRIPES, tree, without, write_task

from dfkd.methods import METHODS, load_method
from dfkd.methods.embeddings import load_label_embeddings
from dfkd.methods.errors import ConfigError
from dfkd.methods.networks import build_network, parameters
from dfkd.methods.settings import problems
from dfkd.search_spaces.dimensions import Choice, Real, Whole, ends
from dfkd.search_spaces.task import load_task, parse_task, shipped_tasks

each_shipped_task = pytest.mark.parametrize("name", sorted(shipped_tasks()))


def parse(changes=None):
    return parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")


# What ships


def test_the_embedded_task_ships():
    assert "digits" in shipped_tasks()


@each_shipped_task
def test_a_shipped_task_is_called_as_its_file(name):
    assert load_task(name).name == name


@each_shipped_task
def test_a_shipped_task_says_what_it_is(name):
    assert load_task(name).summary


@each_shipped_task
@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_recipe_holds_settings_that_the_method_allows(name, method):
    recipe = load_task(name).space(method).recipe
    assert not problems(load_method(method).settings_class, recipe, name)


@each_shipped_task
@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_search_ends_within_what_the_method_allows(name, method):
    settings = load_method(method).settings_class
    for key, dimension in load_task(name).space(method).search.items():
        for end in ends(dimension):
            assert not problems(settings, {key: end}, name)


@each_shipped_task
@pytest.mark.parametrize("method", METHODS)
def test_a_shipped_recipe_lies_where_its_search_looks(name, method):
    space = load_task(name).space(method)
    for key in space.recipe.keys() & space.search.keys():
        dimension, value = space.search[key], space.recipe[key]
        if isinstance(dimension, Choice):
            assert value in dimension.options
        else:
            assert dimension.low <= value <= dimension.high


@each_shipped_task
def test_the_label_embeddings_of_a_shipped_task_are_there(name):
    task = load_task(name)
    found = load_label_embeddings(task.embeddings, task.classes)
    assert found.classes == task.classes


@each_shipped_task
def test_the_student_of_a_shipped_task_is_smaller_than_its_teacher(name):
    task = load_task(name)
    networks = (task.student, task.teacher.network)
    needs_networks(*networks)
    sizes = [
        parameters(build_network(network, task.shape.channels, len(task.classes)))
        for network in networks
    ]
    assert sizes[0] < sizes[1]


def test_reading_shipped_tasks_imports_neither_torch_nor_ray():
    code = (
        "import sys\n"
        "from dfkd.search_spaces.task import load_task, shipped_tasks\n"
        "assert [load_task(name) for name in shipped_tasks()]\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


# Which task


def test_an_unknown_task_gets_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"'digit'.*Did you mean 'digits'"):
        load_task("digit")


def test_an_unknown_task_is_told_of_yaml_files():
    with pytest.raises(ConfigError, match=r"\.yaml"):
        load_task("mine")


def test_a_task_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"mine.yaml: No such file"):
        load_task(str(tmp_path / "mine.yaml"))


def test_a_folder_called_like_a_task_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="directory"):
        (tmp_path / "mine.yml").mkdir()
        load_task(str(tmp_path / "mine.yml"))


def test_a_task_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"mine.yaml"):
        load_task(str(tmp_path / "mine.yaml"))


def test_a_users_data_lies_beside_the_users_file(tmp_path, monkeypatch):
    path = write_task(tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    assert load_task(path).data == str(tmp_path / "tasks" / "stripes.npz")


def test_a_users_data_may_lie_anywhere(tmp_path):
    path = write_task(tmp_path, {"data": "/elsewhere/images.npz"})
    assert load_task(path).data == "/elsewhere/images.npz"


def test_a_users_data_is_found_from_other_folders_too(tmp_path, monkeypatch):
    write_task(tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    task = load_task("tasks/stripes.yaml")
    monkeypatch.chdir("/")
    assert task.data == str(tmp_path / "tasks" / "stripes.npz")


def test_a_users_label_embeddings_lie_beside_the_users_file(tmp_path, monkeypatch):
    write_task(tmp_path / "tasks", {"embeddings": "mine.safetensors"})
    monkeypatch.chdir(tmp_path)
    embeddings = load_task("tasks/stripes.yaml").embeddings
    assert embeddings == str(tmp_path / "tasks" / "mine.safetensors")


# What a file says


def test_a_task_is_read_back_from_its_own_text():
    task = parse()
    assert parse_task(task.text, "again") == task


def test_data_may_be_left_out():
    assert parse_task(yaml.safe_dump(without("data")), "mine.yaml").data is None


def test_what_a_method_sets_goes_before_what_all_share():
    task = parse({"methods.nayer.recipe.kd_steps": 7})
    assert task.space("nayer").recipe["kd_steps"] == 7


def test_what_a_method_searches_goes_before_what_all_share():
    task = parse({"methods.nayer.search.temperature": [3.0]})
    assert task.space("nayer").search["temperature"] == Choice((3.0,))


def test_a_method_that_the_task_does_not_name_has_what_all_share():
    space = parse().space("noise")
    assert (space.recipe, set(space.search)) == (STRIPES["recipe"], {"student_lr", "temperature"})


def test_every_kind_of_dimension_can_be_declared():
    kinds = {type(dimension) for dimension in parse().space("nayer").search.values()}
    assert kinds == {Real, Whole, Choice}


def test_a_task_may_have_one_teacher_only():
    assert parse().teachers == {}


def test_a_further_teacher_differs_from_the_default_one_where_it_says_so():
    task = parse({"teachers.plain": {"shift": 0, "network": "convnet-5-5"}})
    assert task.teachers == {"plain": replace(task.teacher, shift=0, network="convnet-5-5")}


def test_the_default_teacher_is_not_changed_by_the_others():
    assert parse({"teachers.plain": {"shift": 0}}).teacher == parse().teacher


@each_shipped_task
def test_a_shipped_task_has_teachers_to_compare_that_differ(name):
    task = load_task(name)
    specs = [task.teacher, *task.teachers.values()]
    assert len(set(specs)) == len(specs) > 1


def test_numbers_of_the_teacher_may_be_whole():
    assert parse({"teacher.learning_rate": 1}).teacher.learning_rate == 1.0


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"teacher.weight_decay": "5e-4"}, lambda task: task.teacher.weight_decay == 0.0005),
        ({"teachers.mine.flip": "true"}, lambda task: task.teachers["mine"].flip is True),
        ({"normalize.mean": ["4e-1"]}, lambda task: task.mean == (0.4,)),
        ({"epochs": "7"}, lambda task: task.epochs == 7),
        ({"image.width": 6.0}, lambda task: task.shape.width == 6),
    ],
    ids=["teacher", "teachers", "normalize", "epochs", "image"],
)
def test_numbers_that_yaml_reads_as_text_are_numbers(changes, read):
    assert read(parse(changes))


# A teacher's weights


def test_a_teachers_file_lies_beside_the_tasks(tmp_path):
    changes = {"teacher.weights": "mine.pt", "teachers.other.weights": "other.pt"}
    task = load_task(write_task(tmp_path / "task", changes))
    files = [task.teacher.weights, task.teachers["other"].weights]
    assert files == [str(tmp_path / "task" / name) for name in ("mine.pt", "other.pt")]


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "/elsewhere/mine.pt"])
def test_a_tag_and_an_absolute_path_stay_as_they_are(tmp_path, weights):
    task = load_task(write_task(tmp_path, {"teacher.weights": weights}))
    assert task.teacher.weights == weights


def test_another_teacher_does_not_take_over_the_weights():
    task = parse({"teacher.weights": "IMAGENET1K_V1", "teachers.plain": {"shift": 0}})
    assert task.teachers["plain"].weights == ""
