"""The text beside an exported student: what it is, how it was made and chosen, how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfkd.orchestrator.robustness import LAST, Robustness

CARD = """\
# {task}: {student}, distilled without data

A student of {student_parameters:,} parameters ({share:.0%} of its teacher's), distilled by dfkd
{dfkd} with the method {method}: it has seen synthetic images only. It was chosen {chosen}.
{verdict}
| | accuracy, n = {evaluation_images} |
|---|---|
| teacher ({teacher}) | {teacher_accuracy} |
| **this student** | {accuracy} |
| noise control (same budget, uniform noise instead of synthesis) | {noise_control_accuracy} |

| accuracy over epochs | epochs | mean | last {last} | best - last |
|---|---|---|---|---|
| **this student** | {over_epochs} |
| noise control | {control_over_epochs} |

Of this trial {epochs_run} of {epochs_planned} epochs ran; those of the warm-up, in which no student
learns, do not count above. ± is one standard deviation over epochs, not over seeds. Without labels
nobody can tell the best epoch: then the mean and the last {last} say what to expect.

## How to load it

```python
import torch

student = torch.export.load("student.pt2").module()
logits = student(images)  # float32 {input} in [0, 1]; normalization is inside
```

`model.safetensors` holds the bare network's weights. Classes, in order: {labels}.

## How it was made

Sweep {sweep}, trial {trial}, epoch {epoch}; torch {torch}, ray {ray}.

| setting | value |
|---|---|
{settings}
"""

BY_ACCURACY = (
    "by accuracy on real labeled images, so its accuracy below is the best of many looks at the "
    "same test images and slightly optimistic"
)
VERDICT = """
On the synthetic images of {pools} pools that it was not taught from, its KL divergence from its
teacher is {divergence:.4f} ± {spread:.4f} nats (± between pools), and it answers with the same
class to {agreement:.2%} of them. The divergence is a geometric mean, in which a pool weighs as much
as it tells the sweep's students apart in the way the other pools do.
"""
LABELS_SHOWN = 20


def model_card(metrics: Mapping[str, Any]) -> str:
    """The card for a student whose metrics.json holds `metrics`."""
    accuracies = ("teacher_accuracy", "accuracy", "noise_control_accuracy")
    classes = metrics["classes"]
    labels = ", ".join(classes[:LABELS_SHOWN]) + (" ..." if len(classes) > LABELS_SHOWN else "")
    selected = metrics["selected_by"]
    whose = ("robustness", "noise_control_robustness")
    steady = [Robustness(**metrics[key]) if metrics[key] else None for key in whose]
    facts = {
        **metrics,
        **{key: percent(metrics[key]) for key in accuracies},
        "last": LAST,
        "over_epochs": " | ".join(over_epochs(steady[0])),
        "control_over_epochs": " | ".join(over_epochs(steady[1])),
        "share": metrics["student_parameters"] / metrics["teacher_parameters"],
        "labels": labels,
        "input": f"[{', '.join(map(str, metrics['input']))}]",
        "chosen": BY_ACCURACY if selected == "accuracy" else f"by {selected}, without real data",
        "verdict": verdict(metrics["verdict"]),
        "settings": "\n".join(f"| {key} | {value} |" for key, value in metrics["recipe"].items()),
        **{package: metrics["versions"][package] for package in ("dfkd", "torch", "ray")},
    }
    return CARD.format(**facts)


def verdict(found: Mapping[str, Any] | None) -> str:
    """What the jury said of the student; nothing where there was none."""
    if found is None:
        return ""
    return VERDICT.format(pools=len(found["divergences"]), divergence=-found["fidelity"], **found)


def percent(value: float | None) -> str:
    """An accuracy for people.

    >>> percent(0.965), percent(None)
    ('96.50 %', 'not measured')
    """
    return "not measured" if value is None else f"{100 * value:.2f} %"


def over_epochs(found: Robustness | None) -> tuple[str, str, str, str]:
    """How many epochs, mean ± standard deviation, mean of the last few, best - last; for people."""
    if found is None:
        return "0", percent(None), percent(None), percent(None)
    few = f" (of {found.last_epochs})" * (found.last_epochs < LAST)
    mean = f"{100 * found.mean:.2f} ± {100 * found.deviation:.2f} %"
    gap = f"{100 * found.gap:.2f} points"
    return str(found.epochs), mean, percent(found.last_mean) + few, gap


def brief(value: object) -> str:
    """A setting's value in few characters.

    >>> brief(0.0123456), brief(4), brief("mean")
    ('0.0123', '4', 'mean')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)
