"""What `dfkd sweep` can be asked: each field is an option, and says what it is.

The command line makes its options from these fields, and a sweep that is sent to a cluster is
turned back into words by them, so that there is one list of what can be asked. Imports nothing
heavy: `dfkd --help` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

DEFAULT_STORAGE = "dfkd-runs"


def option(default: Any, help: str, *, flags: str = "", metavar: str = "") -> Any:
    """A dataclass's field that is an option of a command.

    `flags` names it where the field's own name with dashes will not do, as --on/--off for a bool
    that is on by default; `metavar` stands for its value in the help.
    """
    about = {"help": help, "flags": flags, "metavar": metavar}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The options of `dfkd sweep`."""

    trials: int = option(16, "How many recipes to try.")
    methods: tuple[str, ...] = option(
        ("nayer",), "Repeat to compare, or `all`; trials are dealt out.", flags="--method"
    )
    epochs: int | None = option(None, "Epochs per trial; default: the task's.")
    workers: int = option(1, "Ray Train workers per trial.")
    gpus_per_worker: float = option(0.0, "GPUs of each worker; 0.5 shares one.")
    cpus_per_worker: float = option(1.0, "CPU cores, and threads, of each worker.")
    concurrent: int | None = option(None, "Trials at once; default: as many as fit.")
    scheduler: str = option("asha", "asha, median or fifo: who is stopped.")
    search: str = option("optuna", "optuna (TPE) or random.")
    select: str = option(
        "fidelity", "What ranks students: fidelity (no data), or accuracy, an oracle."
    )
    share_pools: str = option(
        "exact",
        "exact: what several trials would make alike is made once, with the same results. "
        "teacher: trials also learn from each other's images, and make fewer. off.",
    )
    pool_budget: str | None = option(None, "For shared images, per node, as 2GiB.", metavar="SIZE")
    """None: 30 % of a node's object store."""
    pool_policy: str = option("ring", "Who leaves a full pool: ring, append, reservoir, priority.")
    """As keepers.Store has them."""
    keep_pool: bool = option(False, "Keep the images: `dfkd pool --help`.", flags="--keep-pool")
    """Every shard is written to the run folder too, as Arrow files."""
    from_pool: str | None = option(
        None, "Learn from a kept pool: a sweep, folder or URI.", metavar="NAME"
    )
    settings: Mapping[str, Any] = option(
        {}, "Fix a setting; `dfkd methods M` lists them.", flags="--set", metavar="KEY=VALUE"
    )
    """For all trials, `preset` included; what is set is not searched."""
    teacher: str | None = option(
        None, "[NETWORK:]FILE, a URI too, NETWORK:TAG, or one of the task's `teachers`."
    )
    student: str | None = option(None, "As resnet18, wrn-16-1.", metavar="NETWORK")
    data: str | None = option(None, "Labeled images to measure with.", metavar="PATH")
    """An .npz file or a folder."""
    seed: int = option(0, "Equal seeds give equal results.")
    control: bool = option(
        True, "Also run the noise control, at the same budget.", flags="--control/--no-control"
    )
    name: str | None = option(None, "The run folder's name; default: TASK-DATE-TIME.")
    storage: str = option(DEFAULT_STORAGE, "Where run folders lie: a path, s3://, gs://.")
    address: str | None = option(None, "A Ray cluster; default: $RAY_ADDRESS, or one started here.")
    export_dir: str | None = option(None, "Copy the student here too.")
    track: tuple[str, ...] = option((), "Also to tensorboard, mlflow, wandb; repeat.")
    """Trackers to tell of every trial (tracking.TRACKERS)."""


def flags(one: Field[Any]) -> str:
    """How an option is written, as --set or --control/--no-control."""
    return str(one.metadata.get("flags") or "--" + one.name.replace("_", "-"))


def default(one: Field[Any]) -> Any:
    """What an option is when nobody says anything."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def as_words(given: SweepOptions) -> tuple[str, ...]:
    """The words of a command line that mean the same; what is as by default needs none.

    >>> as_words(SweepOptions(trials=8, methods=("nayer", "muse"), control=False))
    ('--trials', '8', '--method', 'nayer', '--method', 'muse', '--no-control')
    """
    words: list[str] = []
    for one in fields(SweepOptions):
        value = getattr(given, one.name)
        if value == default(one):
            continue
        yes, _, no = flags(one).partition("/")
        if isinstance(value, bool):
            words.append(yes if value else no)
        elif isinstance(value, tuple):
            words += [word for each in value for word in (yes, str(each))]
        elif isinstance(value, Mapping):
            words += [word for key, each in value.items() for word in (yes, f"{key}={each}")]
        else:
            words += [yes, str(value)]
    return tuple(words)
