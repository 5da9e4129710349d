"""Files of weights as others save them, read without running any code in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import torch
from torch import Tensor

from dfkd.methods.errors import ConfigError

ADVICE = "expected safetensors, or a state dict saved by torch.save"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # where scripts put the weights
COUNTERS = {"n_averaged"}  # beside the weights in torch's AveragedModel


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Weights by the names and, if `ordered`, in the order of the network that they were in."""

    state: Mapping[str, Tensor]
    network: str | None
    """Its name, where the file says it."""
    ordered: bool
    """False of safetensors, which sorts."""


def read_weights(path: str) -> WeightFile:
    """Read safetensors, or what torch.save wrote of a state dict, possibly within a checkpoint.

    Raises ConfigError for what is neither; a pickle that needs code to run is refused.
    """
    if not os.path.isfile(path):
        raise ConfigError(f"teacher file {path} does not exist; {ADVICE}")
    network = None
    try:
        if path.endswith(".safetensors"):
            with safetensors.safe_open(path, framework="pt") as file:
                network = (file.metadata() or {}).get("network")
                state: Any = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on bytes that are no pickle, torch's unpickler may raise anything
        raise ConfigError(_unreadable(path, error)) from None
    state = _unwrapped(state)
    if not isinstance(state, dict) or not all(map(_is_weight, state, state.values())):
        raise ConfigError(f"teacher file {path} holds no state dict; {ADVICE}")
    plain = {key: _plain(tensor) for key, tensor in state.items() if key not in COUNTERS}
    return WeightFile(plain, network, ordered=not path.endswith(".safetensors"))


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) and " GLOBAL " in str(error):
        return (
            f"teacher file {path} holds more than weights and was refused, its code not run; "
            "save the weights alone: torch.save(model.state_dict(), FILE)"
        )
    wrapped = str(error).startswith("Weights only load failed")  # in long advice to us
    reason = "it is damaged, or something else than weights" if wrapped else first_line(error)
    return f"teacher file {path} cannot be read: {reason}; {ADVICE}"


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__


def _unwrapped(thing: Any) -> Any:
    """The state dict within a checkpoint; anything else as it is."""
    while isinstance(thing, dict):
        inner = next((thing[key] for key in WRAPPERS if isinstance(thing.get(key), dict)), None)
        if inner is None:
            break
        thing = inner
    return thing


def _is_weight(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )


def _plain(tensor: Tensor) -> Tensor:
    """A copy that shares no memory and wants no gradient."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
