"""Published weights of torchvision's and timm's networks: `torchvision/resnet34:IMAGENET1K_V1`."""

from __future__ import annotations

import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError
from dfkd.search_spaces.weight_files import WeightFile, first_line

LIBRARY_NETWORK = re.compile(r"(torchvision|timm)/([\w.]+)")
DEFAULT = "pretrained"  # the tag that stands for a library's own choice
SAME = 0.01  # normalizations nearer than this are one; timm and torchvision round to three digits


@dataclass(frozen=True, slots=True)
class Published:
    """Weights from a hub, and the normalization that they were trained with."""

    file: WeightFile
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def remark(self, mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
        """A warning unless a task's normalization is that of these weights."""
        own, tasks = (*self.mean, *self.std), (*mean, *std)
        if len(own) == len(tasks) and all(
            abs(a - b) < SAME for a, b in zip(own, tasks, strict=True)
        ):
            return None
        return (
            f"was trained with images normalized by mean {list(self.mean)} and std "
            f"{list(self.std)}, but the task has mean {list(mean)} and std {list(std)}"
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one network's weights with one tag come from."""

    fetch: Callable[[], Mapping[str, Tensor]]
    address: str
    mean: Any
    std: Any
    cached: Callable[[], bool]
    megabytes: float | None = None


def fetch(network: str, tag: str) -> Published:
    """The weights that a library publishes for `network` as `tag`, or as `pretrained`.

    They are downloaded at first use and kept where torch and huggingface_hub keep theirs. Raises
    ConfigError for an unknown tag, and where the hub cannot be reached.
    """
    library, own = network.split("/", 1)
    source = {"torchvision": _torchvision, "timm": _timm}[library](own, network, tag)
    try:
        state = source.fetch()
    except Exception as error:  # each hub has many ways to fail, and names none of them
        raise ConfigError(
            f"teacher {network}:{tag} cannot be fetched: {first_line(error)}; fetch "
            f"{source.address} where there is a network and give it as --teacher {network}:FILE"
        ) from None
    return Published(
        WeightFile(state, network, ordered=True), tuple(source.mean), tuple(source.std)
    )


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where published weights are."""

    address: str
    cached: bool
    """Whether they were downloaded before."""
    megabytes: float | None
    """Their size, where the library says it."""


def whereabouts(network: str, tag: str) -> Whereabouts:
    """Where `fetch` would find these weights; asks no network. Raises ConfigError as it does."""
    library, own = network.split("/", 1)
    source = {"torchvision": _torchvision, "timm": _timm}[library](own, network, tag)
    return Whereabouts(source.address, source.cached(), source.megabytes)


def known_tags(network: str) -> list[str]:
    """The tags of a library's network; empty where there is none, or no such network."""
    library, own = network.split("/", 1)
    return _torchvision_tags(own) if library == "torchvision" else _timm_tags(own)


def _torchvision(own: str, network: str, tag: str) -> _Source:
    from torchvision import models

    tags = _torchvision_tags(own)
    _require_known(network, tag, tags)
    choices = models.get_model_weights(own)
    weights = choices.DEFAULT if tag == DEFAULT else choices[tag]
    seen = weights.transforms()
    how: dict[str, Any] = {"progress": False, "check_hash": True}
    how |= {"map_location": "cpu", "weights_only": True}
    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    return _Source(
        lambda: weights.get_state_dict(**how),
        weights.url,
        seen.mean,
        seen.std,
        file.is_file,
        weights.meta.get("_file_size"),
    )


def _torchvision_tags(own: str) -> list[str]:
    from torchvision import models

    if own not in models.list_models(module=models):
        return []
    return [weights.name for weights in models.get_model_weights(own)]


def _timm(own: str, network: str, tag: str) -> _Source:
    import timm

    tags = _timm_tags(own)
    _require_known(network, tag, tags)
    name = own if tag == DEFAULT else f"{own.partition('.')[0]}.{tag}"
    facts: Any = timm.get_pretrained_cfg(name)
    address = f"https://huggingface.co/{facts.hf_hub_id}" if facts.hf_hub_id else str(facts.url)

    def download() -> Mapping[str, Tensor]:
        where = _in_cache(facts.hf_hub_id)
        if where is None:
            _require_hub()
        overlay = None if where is None else {"file": where}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()

    cached = lambda: _in_cache(facts.hf_hub_id) is not None  # noqa: E731
    return _Source(download, address, facts.mean, facts.std, cached)


def _in_cache(hub_id: str | None) -> str | None:
    """The file of a network's weights where huggingface_hub keeps it, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    where = try_to_load_from_cache(hub_id, "model.safetensors") if hub_id else None
    return where if isinstance(where, str) else None


def _require_hub() -> None:
    """Raise OSError at once if the hub cannot be reached: its own client tries for a minute."""
    if "https" in urllib.request.getproxies():
        return  # then nobody but the proxy can tell
    hub = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    with socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5):
        pass


def _timm_tags(own: str) -> list[str]:
    import timm

    base = own.partition(".")[0]
    return [name.partition(".")[2] for name in timm.list_models(f"{base}.*", pretrained=True)]


def _require_known(network: str, tag: str, tags: list[str]) -> None:
    if not tags:
        raise ConfigError(
            f"no weights are published for {network}; give a file with --teacher {network}:FILE"
        )
    if tag not in (*tags, DEFAULT):
        raise ConfigError(
            f"'{tag}' is neither a file nor weights of {network}; it has {', '.join(tags)}, and "
            f"{DEFAULT} for the library's choice"
        )
