"""Distillation methods in plain PyTorch: one short file per method, over shared parts.

To add one: write its file, name it here, give it a test class and a row in docs/methods.md. The
table holds import paths, so that listing methods does not import torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from dfkd.methods.errors import ConfigError, unknown

if TYPE_CHECKING:
    from dfkd.methods.method import Method


@dataclass(frozen=True, slots=True)
class Listed:
    """A method as `dfkd methods` lists it."""

    where: str
    """The class, as module:name."""
    summary: str
    paper: str
    """Authors, venue and arXiv number."""
    year: int
    needs: tuple[str, ...] = ()
    """BN: BatchNorm layers of the teacher; features: its linear head; maps: its feature maps; text:
    names of the task's classes. What a setting can do without is in parentheses."""
    status: str = "runs"
    """runs; runs, partly reconstructed; ranks as published; or matches the paper within x."""


BN = "(BN)"
FEATURES = "(features)"
MAPS = "(maps)"
TEXT = "text"
RECONSTRUCTED = "runs, partly reconstructed"

METHODS = {
    "nayer": Listed(
        "dfkd.methods.nayer:Nayer",
        "noisy layers over label-text embeddings",
        "Tran et al., CVPR 2024, arXiv 2310.00258",
        2024,
        (BN, TEXT),
    ),
    "muse": Listed(
        "dfkd.methods.muse:Muse",
        "NAYER at several resolutions, with class activation maps and embedding diversity",
        "Tran et al., 2024, arXiv 2411.17046",
        2024,
        (BN, TEXT, MAPS),
        RECONSTRUCTED,
    ),
    "pre_dfkd": Listed(
        "dfkd.methods.pre_dfkd:PreDfkd",
        "a variational autoencoder replays what the generator made before",
        "Binici et al., AAAI 2022, arXiv 2201.03019",
        2022,
        (FEATURES,),
    ),
    "fast": Listed(
        "dfkd.methods.fast:Fast",
        "a meta-learned generator inverts in a few steps (FOMAML, Reptile)",
        "Fang et al., AAAI 2022, arXiv 2112.06253",
        2022,
        (BN,),
    ),
    "deepinversion": Listed(
        "dfkd.methods.deepinversion:Deepinversion",
        "pixels optimized towards the teacher's feature statistics",
        "Yin et al., CVPR 2020, arXiv 1912.08795",
        2020,
        (BN,),
    ),
    "adi": Listed(
        "dfkd.methods.adi:Adi",
        "DeepInversion that also seeks the student's disagreement",
        "Yin et al., CVPR 2020, arXiv 1912.08795",
        2020,
        (BN,),
    ),
    "cmi": Listed(
        "dfkd.methods.cmi:Cmi",
        "inversion with a contrastive term against everything made before",
        "Fang et al., IJCAI 2021, arXiv 2105.08584",
        2021,
        (BN,),
    ),
    "ssd_kd": Listed(
        "dfkd.methods.ssd_kd:SsdKd",
        "a small pool, balanced by class and difficulty, sampled by priority",
        "Liu et al., CVPR 2024, arXiv 2406.07876",
        2024,
        (BN,),
        RECONSTRUCTED,
    ),
    "dafl": Listed(
        "dfkd.methods.dafl:Dafl",
        "a generator of confident, active, class-balanced images",
        "Chen et al., ICCV 2019, arXiv 1904.01186",
        2019,
        (FEATURES,),
    ),
    "dfq": Listed(
        "dfkd.methods.dfq:Dfq",
        "an adversarial generator under entropy and BatchNorm constraints",
        "Choi et al., CVPR Workshops 2020, arXiv 2005.04136",
        2020,
        (BN,),
    ),
    "zskt": Listed(
        "dfkd.methods.zskt:Zskt",
        "a pure adversary, and attention transfer",
        "Micaelli and Storkey, NeurIPS 2019, arXiv 1905.09768",
        2019,
        (MAPS,),
    ),
    "dfad": Listed(
        "dfkd.methods.dfad:Dfad",
        "a pure adversary by the L1 distance of logits",
        "Fang et al., 2019, arXiv 1912.11006",
        2019,
    ),
    "ddad": Listed(
        "dfkd.methods.ddad:Ddad",
        "DFAD whose generator also matches the teacher's statistics",
        "Zhao et al., 2021, arXiv 2104.05382",
        2021,
        (BN,),
        RECONSTRUCTED,
    ),
    "cgdd": Listed(
        "dfkd.methods.cgdd:Cgdd",
        "a generator told its class, and attention transfer",
        "Yu et al., 2021, arXiv 2112.15358",
        2021,
        (MAPS,),
        RECONSTRUCTED,
    ),
    "actreg_vi": Listed(
        "dfkd.methods.actreg_vi:ActregVi",
        "DFAD with an activation regularizer and virtual interpolation",
        "Qu et al., ICASSP 2021, arXiv 2102.11638",
        2021,
        (FEATURES,),
        RECONSTRUCTED,
    ),
    "mad": Listed(
        "dfkd.methods.mad:Mad",
        "an averaged copy of the generator replays",
        "Do et al., NeurIPS 2022, arXiv 2209.10359",
        2022,
        (BN,),
        RECONSTRUCTED,
    ),
    "dfkd_mb": Listed(
        "dfkd.methods.dfkd_mb:DfkdMb",
        "a memory bank replays",
        "Binici et al., WACV 2022, arXiv 2108.05698",
        2022,
        (FEATURES,),
        RECONSTRUCTED,
    ),
    "noise": Listed(
        "dfkd.methods.noise:Noise",
        "the control: uniform noise instead of synthesis",
        "",
        0,
    ),
}
CONTROL = "noise"


def load_method(name: str) -> type[Method]:
    """The class of the method called `name`; raises ConfigError for an unknown one."""
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    module, _, attribute = METHODS[name].where.partition(":")
    return cast("type[Method]", getattr(importlib.import_module(module), attribute))
