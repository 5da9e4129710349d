"""How a sweep ended, for people, from the facts that `--json` prints; so from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dfkd.orchestrator.model_card import brief, over_epochs, percent
from dfkd.orchestrator.robustness import LAST, Robustness

Facts = Mapping[str, Any]
"""What catalog.outcome gives."""

ORACLE = (
    "selected by accuracy on real labels: an oracle that a user without data has not; the figure "
    "above is the best of many looks at the same test images"
)


def outcome(facts: Facts) -> Iterator[RenderableType]:
    """The summary under the leaderboard."""
    control = facts["control"]
    judged = ("fidelity", "agreement") if facts["judged"] else ()
    table = Table("", *judged, "accuracy")
    if facts["teacher_accuracy"] is not None:
        perfect = ("0", percent(1.0)) if judged else ()
        table.add_row("teacher", *perfect, percent(facts["teacher_accuracy"]))
    mine = verdict(facts["verdict"]) if judged else ()
    table.add_row(f"best student ({facts['best']})", *mine, percent(facts["accuracy"]))
    if control is not None:
        its = verdict(control["verdict"]) if judged else ()
        accuracy = percent(facts["noise_control_accuracy"])
        table.add_row("noise control, same budget", *its, accuracy)
    yield table
    if facts["selected_by"] == "accuracy":
        yield ORACLE
    else:
        yield from jury(facts)
    yield from steadiness(facts)
    recipe = " ".join(f"{key}={brief(facts['recipe'][key])}" for key in facts["searched"])
    yield f"best recipe: {facts['method']} {recipe or 'as the task has it'}"
    for id, reason in facts["failed"].items():
        yield Text(f"trial {id} failed: {reason}", style="red")
    yield f"the student is in {facts['exported']} (see model_card.md there)"
    yield f"the sweep took {facts['seconds']:.0f} s"


def verdict(found: Facts | None) -> tuple[str, str]:
    """A trial's fidelity and its spread between pools, and its agreement."""
    if found is None:
        return "not judged", ""
    return f"{found['fidelity']:.4f} ± {found['spread']:.4f}", percent(found["agreement"])


def jury(facts: Facts) -> Iterator[str]:
    """Who chose, and how well, as far as real data can tell."""
    found = facts["verdict"]
    if found is None:
        return
    yield (
        "chosen without real data, by fidelity: minus KL(teacher || student), in nats, on images "
        f"of {len(found['divergences'])} pools that it was not taught from; ± between pools"
    )
    sureness = facts["sureness"]
    if sureness is not None:
        share = f"{100 * sureness:.0f} %"
        yield f"juries drawn again from these pools choose the same student in {share}"
    told = facts["jury_against_accuracy"]
    if told is not None and told["trials"] > 1:
        rank = "" if told["spearman"] is None else f"Spearman {told['spearman']:.2f}, "
        yield (
            f"against the accuracy, which chose nothing: {rank}{told['trials']} trials; the choice "
            f"cost {100 * told['regret']:.2f} points"
        )


def steadiness(facts: Facts) -> Iterator[RenderableType]:
    """Accuracy over all epochs, beside that of the best one; nothing where none was measured."""
    if facts["robustness"] is None:
        return
    table = Table("accuracy over epochs", "epochs", "mean", f"last {LAST}", "best - last")
    rows = [("best student", facts["outcome"], facts["robustness"])]
    if facts["control"] is not None:
        outcome = facts["control"]["outcome"]
        rows.append(("noise control", outcome, facts["noise_control_robustness"]))
    for name, outcome, figures in rows:
        early = "" if outcome == "finished" else f" ({outcome or 'not ended'})"
        steady = None if figures is None else Robustness(**figures)
        table.add_row(name + early, *over_epochs(steady))
    yield table
    yield (
        "± is one standard deviation over the epochs in which the student learned; without labels "
        f"nobody can tell the best epoch: then the mean and the last {LAST} say what to expect"
    )
