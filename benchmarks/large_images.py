"""A task of images of 3x112x112 that cost next to nothing: it is the pool that is looked at.

DeepInversion's first noise, kept as it is: all terms of its loss are off, so that the teacher is
never asked. Labeled images are random too, so no student learns anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

METHOD = "deepinversion"
SIDE = 112
IMAGE = 3 * SIDE * SIDE  # bytes
BATCH = 100
CLASSES = ["a", "b", "c", "d"]
CHEAP: dict[str, Any] = {
    "batch_size": BATCH,
    "synthesis_steps": 1,
    "bn_weight": 0.0,
    "one_hot_weight": 0.0,
    "adversarial_weight": 0.0,
    "tv_weight": 0.0,
    "l2_weight": 0.0,
    "jitter": 0.0,
    "kd_steps": 2,
    "kd_batch_size": 16,
    "temperature": 2.0,
    "shift": 0,
    "flip": False,
}


def write_task(folder: str) -> str:
    """The path of the task's YAML file, its labeled images beside it."""
    images = np.random.default_rng(0).integers(0, 256, (16, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(Path(folder) / "images.npz", images=images, labels=np.arange(16) % len(CLASSES))
    task = {
        "task": "large_images",
        "summary": "random images, to fill pools with",
        "classes": CLASSES,
        "image": {"channels": 3, "height": SIDE, "width": SIDE},
        "normalize": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "data": "images.npz",
        "teacher": {"network": "convnet-2-4", "epochs": 1, "batch_size": 8},
        "student": "convnet-2-2",
        "embeddings": "onehot",
        "epochs": 8,
        "methods": {
            METHOD: {
                "recipe": CHEAP,
                "search": {"student_lr": {"low": 0.05, "high": 0.5, "log": True}},
            }
        },
    }
    path = Path(folder) / "large_images.yaml"
    path.write_text(yaml.safe_dump(task))
    return str(path)
