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

REQUIRED = [
    key for key in STRIPES if key not in {"data", "recipe", "search", "methods", "teachers"}
]

each_shipped_task = pytest.mark.parametrize("name", sorted(shipped_tasks()))


def parse(changes=None):
    return parse_task(yaml.safe_dump(tree(changes)), "mine.yaml")


def problems_of(changes):
    with pytest.raises(ConfigError) as refusal:
        parse(changes)
    return refusal.value.problems


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


# Mistakes in a file


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        parse_task(yaml.safe_dump(without(key)), "mine.yaml")


@pytest.mark.parametrize("key", STRIPES)
def test_a_value_of_the_wrong_kind_is_shown_with_its_key(key):
    (problem,) = problems_of({key: 1.5})
    assert key in problem
    assert "1.5" in problem


@pytest.mark.parametrize(
    ("changes", "key", "nearest"),
    [
        ({"sumary": "x"}, "sumary", "summary"),
        ({"image.widht": 8}, "widht", "width"),
        ({"teacher.epoch": 8}, "epoch", "epochs"),
        ({"teachers.plain.shfit": 8}, "shfit", "shift"),
        ({"teachrs": {}}, "teachrs", "teachers"),
        ({"methods.nayr": {}}, "nayr", "nayer"),
        ({"normalize.sdt": [1.0]}, "sdt", "std"),
        ({"methods.nayer.recipes": {}}, "recipes", "recipe"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(changes, key, nearest):
    (problem,) = problems_of(changes)
    assert f"'{key}'" in problem
    assert f"Did you mean '{nearest}'" in problem


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": ["one"]}, "classes must be at least two"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"image": {"channels": 1, "height": 6}}, "image.width is missing"),
        ({"image.width": 0}, "image.width must be at least 1, got 0"),
        ({"image.width": 6.5}, "image.width must be a whole number, got 6.5"),
        ({"normalize.mean": [0.1, 0.2]}, "normalize.mean must list one number per channel"),
        ({"normalize.std": [0.0]}, "normalize.std must be above 0, got [0.0]"),
        ({"normalize.std": ["much"]}, "normalize.std"),
        ({"normalize.std": []}, "normalize.std"),
        ({"teacher.epochs": "many"}, "teacher: epochs must be a number, got 'many'"),
        ({"teacher": {"epochs": 1}}, "teacher.network is missing"),
        ({"teachers": ["plain"]}, "teachers must be a mapping"),
        ({"teachers.plain": None}, "teachers.plain must be a mapping of keys, got None"),
        ({"teachers.plain.epochs": 0}, "teachers.plain: epochs must be at least 1, got 0"),
        ({"teachers.plain.seed": None}, "teachers.plain: seed needs a value"),
        ({"teachers": {7: {}}}, "a teacher's name must be a plain word without dots, got 7"),
        ({"methods.nayer": ["recipe"]}, "methods.nayer holds recipe and search"),
        ({"search.student_lr": {"low": 1}}, "search.student_lr must"),
        ({"methods.nayer.search.rounds": {}}, "methods.nayer.search.rounds must"),
    ],
)
def test_a_wrong_value_is_refused(changes, told):
    (problem,) = problems_of(changes)
    assert problem.startswith(f"mine.yaml: {told}")


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": True},
        {"image.channels": True},
        {"teacher.epochs": True},
        {"teacher.epochs": 0},
        {"teacher.batch_size": 0},
        {"teacher.shift": -1},
        {"teacher.learning_rate": -0.1},
        {"teachers": {"../plain": {}}},
        {"teachers": {"plain.pt": {}}},
        {"teachers": {"resnet:plain": {}}},
        {"teachers": {"": {}}},
        {"teachers.plain.flip": 1},
        {"normalize.std": [float("nan")]},
        {"normalize.mean": [float("inf")]},
        {"classes": [True, False]},  # what YAML makes of [yes, no]
        {"methods.nayer.recipe": [1]},
        {"task": "../mine"},
        {"task": ".mine"},
        {"normalize.mean": [True]},
        {"normalize.mean": "5"},
        {"search.temperature": {"low": 1, "high": float("inf")}},
        {"search.temperature": {"low": 1, "high": 2, "log": "no"}},
        {"search.temperature": [float("nan")]},
        {"recipe": {True: 1}},
    ],
    ids=str,
)
def test_a_value_that_cannot_work_is_refused_at_once(changes):
    with pytest.raises(ConfigError):
        parse(changes)


def test_a_methods_search_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="search"):
        parse({"methods.nayer.search": ["student_lr"]})


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "!!python/object:os.system {}", "\t- x"])
def test_a_file_that_is_not_yaml_is_refused(text):
    with pytest.raises(ConfigError, match=r"mine.yaml: not YAML"):
        parse_task(text, "mine.yaml")


def test_a_date_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"mine.yaml"):
        parse_task("summary: 2024-13-45", "mine.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_file_without_keys_is_refused(text):
    with pytest.raises(ConfigError, match="mapping"):
        parse_task(text, "mine.yaml")


def test_all_missing_and_unknown_keys_are_told_at_once():
    text = yaml.safe_dump({"colour": "red", "shape": "round"})
    with pytest.raises(ConfigError) as refusal:
        parse_task(text, "mine.yaml")
    assert len(refusal.value.problems) == len(REQUIRED) + 2


def test_all_wrong_values_are_told_at_once():
    wrong = {
        "epochs": 0,
        "image.width": 0,
        "normalize.std": [],
        "teacher.seed": "x",
        "teachers.plain.seed": "x",
        "teachers.other.shift": -1,
        "search.student_lr": 3,
        "methods.nayr": {},
        "classes": [],
    }
    assert len(problems_of(wrong)) == len(wrong)


def test_class_names_that_yaml_misreads_are_to_be_quoted():
    with pytest.raises(ConfigError, match=r"got True, False; quote them"):
        parse_task(yaml.safe_dump(tree({"classes": []})).replace("[]", "[yes, no]"), "mine.yaml")


def test_unknown_keys_and_wrong_values_are_told_at_once():
    assert len(problems_of({"colour": "red", "epochs": 0})) == 2


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
