"""How one worker of a trial is connected with others, from what its run folder and sweep say."""

from __future__ import annotations

from dfkd.methods.commons import Commons, NoCommons
from dfkd.methods.shelf import NoShelf, Shelf
from dfkd.methods.team import Alone, Team
from dfkd.orchestrator.commons import Both, KeepingShards, KeptShards, OthersShards
from dfkd.orchestrator.pool_files import POOLS, Provenance
from dfkd.orchestrator.pool_service import Address, Keepers
from dfkd.orchestrator.runs import Run
from dfkd.orchestrator.shelves import RayShelf
from dfkd.orchestrator.specs import TrialSpec, fingerprint
from dfkd.orchestrator.storage import Folder
from dfkd.orchestrator.trials import Links, Surroundings


def connect(
    run: Run, spec: TrialSpec, around: Surroundings, address: Address | None, team: Team | None
) -> Links:
    """The links of a worker; `address` is where its sweep's keepers are found, if it has any."""
    team = team or Alone()
    facts = run.facts()
    shelf: Shelf = NoShelf()
    commons: Commons = NoCommons()
    if address is not None and address.mode == "teacher":
        commons = OthersShards(Keepers(address), spec.id, team.rank)
    elif address is not None:
        shelf = RayShelf(Keepers(address), f"{spec.id}/{team.rank}")
    if start := facts["definition"].get("from_pool"):
        commons = Both(KeptShards(Folder(start), team), commons)
    if facts["request"].get("keep_pool"):
        about = provenance(spec, around, team)
        commons = KeepingShards(commons, run.folder.child(POOLS), about)
    return Links(team=team, shelf=shelf, commons=commons)


def provenance(spec: TrialSpec, around: Surroundings, team: Team) -> Provenance:
    """Where the worker's shards come from; in epoch 0."""
    return Provenance(
        task=around.task.name,
        teacher=around.teacher.fingerprint,
        method=spec.method,
        recipe=fingerprint(spec.recipe),
        trial=spec.id,
        epoch=0,
        worker=team.rank,
        seed=spec.seed,
        classes=tuple(around.task.classes),
    )
