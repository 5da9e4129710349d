"""Encoders of label text: those of open_clip, and folders of sentence-transformers."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dfkd.methods.errors import ConfigError, unknown

Encode = Callable[[Sequence[str]], Tensor]
"""Prompts to vectors [prompts, D], float32."""
INSTEAD = "use minilm, onehot or random, or a file that `dfkd embed` made where it works"
NEEDED = ("config.json", "tokenizer.json")  # of a folder


def open_clip_encoder(name: str) -> Encode:
    """The text tower of `ARCHITECTURE/WEIGHTS`: a published tag, downloaded once, or a file.

    Its vectors are as the tower gives them, not scaled. Raises ConfigError for an unknown name,
    and where the weights cannot be had.
    """
    import open_clip

    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise ConfigError(_told(name, unknown("architecture of open_clip", architecture, known)))
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and not os.path.isfile(tag):
        told = unknown(f"weights of {architecture}", tag, tags)
        raise ConfigError(_told(name, f"{told}; or a file of its weights"))
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            model = open_clip.create_model(architecture, pretrained=tag, weights_only=True).eval()
            tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:  # of networks and of files, there are a dozen kinds
        reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise ConfigError(
            _told(name, f"its weights cannot be had: {reason}; go online once, or {INSTEAD}")
        ) from None

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Tensor:
        vectors: Tensor = model.encode_text(tokenizer(list(prompts)))
        return vectors.float()

    return encode


def folder_encoder(folder: Path) -> Encode:
    """The encoder in a folder that sentence-transformers wrote, by `transformers` alone.

    Its pooling (the mean over tokens, or the first) and its normalization are those that the
    folder names. Nothing is downloaded, and no code of the folder's is run.
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise ConfigError(_told(str(folder), f"it lacks {' and '.join(missing)}; {INSTEAD}"))
    steps = _steps(folder)
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError:
        told = f"needs transformers: pip install 'dfkd[embed]'; or {INSTEAD}"
        raise ConfigError(_told(str(folder), told)) from None
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **local).eval()
    except Exception as error:  # of damaged files, there are a dozen kinds
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(_told(str(folder), f"cannot be loaded: {reason}; {INSTEAD}")) from None

    @torch.no_grad()
    def encode(prompts: Sequence[str]) -> Tensor:
        rows = []
        for prompt in prompts:  # one at a time: padding would move the last bits
            tokens = tokenizer(prompt, return_tensors="pt", truncation=True)
            hidden = model(**tokens).last_hidden_state[0]  # [tokens, D]
            pooled = hidden[0] if "first" in steps else hidden.mean(0)
            rows.append(F.normalize(pooled, dim=0) if "normalize" in steps else pooled)
        return torch.stack(rows).float()

    return encode


def _steps(folder: Path) -> set[str]:
    """What comes after the network: `mean` or `first`, and `normalize`."""
    steps = set()
    listed = _read(folder / "modules.json", [])
    for module in listed:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Normalize":
            steps.add("normalize")
        elif kind == "Pooling":
            steps.add(_pooling(folder / str(module.get("path", "")) / "config.json"))
        elif kind != "Transformer":
            told = f"its module {kind} is not known here; {INSTEAD}"
            raise ConfigError(_told(str(folder), told))
    return steps or {"mean", "normalize"}


def _pooling(path: Path) -> str:
    facts = _read(path, {})
    modes = {key.removeprefix("pooling_mode_") for key, value in facts.items() if value is True}
    modes |= {str(facts["pooling_mode"])} if isinstance(facts.get("pooling_mode"), str) else set()
    modes -= {"include_prompt"}
    if modes <= {"mean_tokens", "mean"}:
        return "mean"
    if modes <= {"cls_token", "cls"}:
        return "first"
    raise ConfigError(f"{path}: pooling by {', '.join(sorted(modes))} is not known here; {INSTEAD}")


def _read(path: Path, otherwise: Any) -> Any:
    if not path.is_file():
        return otherwise
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}; copy the folder again") from None
    if not isinstance(found, type(otherwise)):
        raise ConfigError(f"{path} holds no {type(otherwise).__name__}; copy the folder again")
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries log while they try again; the error that ends it says enough."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _told(source: str, reason: str) -> str:
    return f"label embeddings '{source}': {reason}"
