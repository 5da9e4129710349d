"""A task's label-text embeddings: those that ship, a file, or an encoder's, computed once and kept.

    minilm, onehot, random            see methods/embeddings.py
    mine.safetensors                  a file, as `dfkd embed` writes it
    open_clip:ViT-B-32/openai         an encoder of open_clip, downloaded at first use
    encoders/all-MiniLM-L6-v2         a folder that sentence-transformers wrote (with a slash)

The last two may be followed by `@` and a template of the prompt (search_spaces/prompts.py):
`open_clip:ViT-B-32/openai@nayer`. What they gave is kept in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from dfkd.methods.embeddings import SOURCES, LabelEmbeddings, load_label_embeddings
from dfkd.methods.errors import ConfigError, unknown
from dfkd.search_spaces.files import cache_folder, write_atomically
from dfkd.search_spaces.prompts import Prompts, find_prompts
from dfkd.search_spaces.text_encoders import Encode, folder_encoder, open_clip_encoder

VERSION = 1  # raise it when vectors are computed otherwise: those in caches are then made anew
CLIP, FILE = "open_clip:", ".safetensors"


def label_embeddings(source: str, classes: Sequence[str], seed: int = 0) -> LabelEmbeddings:
    """One vector for each class, in their order; raises ConfigError where `source` has none."""
    where, template = split_template(source)
    if not is_encoder(where):
        if template:
            raise ConfigError(f"label embeddings '{source}': {where} reads no prompts; leave out @")
        if where not in SOURCES and not where.endswith(FILE):
            raise ConfigError(
                f"{unknown('label embeddings', source, SOURCES)}; or open_clip:ARCHITECTURE/TAG, "
                "the path of a folder of sentence-transformers (with a slash), or of a "
                ".safetensors file"
            )
        return load_label_embeddings(source, classes, seed)
    prompts = find_prompts(template)
    kept = cache_folder() / "embeddings" / f"{_key(where, prompts, classes)}.safetensors"
    with contextlib.suppress(ConfigError):  # an unreadable cache is a missing one
        found = load_label_embeddings(str(kept), classes)
        return LabelEmbeddings(found.vectors, found.classes, source)
    vectors = encoded(_encoder(where), prompts, classes)
    with contextlib.suppress(OSError):  # then it is computed again next time
        write_atomically(kept, safetensors.torch.save({"embeddings": vectors}))
    return LabelEmbeddings(vectors, tuple(classes), source)


def split_template(source: str) -> tuple[str, str]:
    """What is before and behind the `@`; a file or folder may have one in its name.

    >>> split_template("open_clip:ViT-B-32/openai@nayer"), split_template("me@work/x.safetensors")
    (('open_clip:ViT-B-32/openai', 'nayer'), ('me@work/x.safetensors', ''))
    """
    if source.endswith(FILE) or os.path.isdir(source):
        return source, ""
    where, _, template = source.rpartition("@") if "@" in source else (source, "", "")
    return where, template


def is_encoder(where: str) -> bool:
    """Whether this names an encoder, which reads prompts, rather than vectors."""
    return where.startswith(CLIP) or ("/" in where and not where.endswith(FILE))


def encoded(encode: Encode, prompts: Prompts, classes: Sequence[str]) -> Tensor:
    """Vectors [classes, D]: of one template as the encoder gives them, else a mean of unit ones."""
    rows = []
    for name in classes:
        vectors = encode(prompts.of(name))
        if len(vectors) > 1:
            vectors = F.normalize(vectors, dim=1).mean(0, keepdim=True)
        rows.append(vectors[0])
    found = torch.stack(rows).contiguous()
    if not found.isfinite().all():
        raise ConfigError("label embeddings: the encoder gave numbers that are not finite")
    return found


def _encoder(where: str) -> Encode:
    if where.startswith(CLIP):
        return open_clip_encoder(where.removeprefix(CLIP))
    folder = Path(where).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"label embeddings '{where}': no such folder; give one that sentence-transformers "
            "wrote, or a .safetensors file"
        )
    return folder_encoder(folder)


def _key(where: str, prompts: Prompts, classes: Sequence[str]) -> str:
    """A hash of all that the vectors depend on: of files, by size and time."""
    file = Path(where.partition("/")[2] if where.startswith(CLIP) else where).expanduser()
    files = [file] if file.is_file() else sorted(file.glob("*")) if file.is_dir() else []
    states = [(path.name, *_state(path)) for path in files]
    texts = [prompts.of(name) for name in classes]
    facts = json.dumps([VERSION, where, states, texts])
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    facts = os.stat(path)
    return facts.st_size, facts.st_mtime_ns
