"""How one worker of a trial is connected with others, from what its run folder and sweep say."""

from __future__ import annotations

from dfkd.methods.team import Alone, Team
from dfkd.orchestrator.commons import OthersShards
from dfkd.orchestrator.pool_service import Address, Keepers
from dfkd.orchestrator.shelves import RayShelf
from dfkd.orchestrator.trials import Links


def connect(trial: str, address: Address | None, team: Team | None = None) -> Links:
    """The links of a trial's worker; `address` is that of its sweep's keepers, if it has any."""
    team = team or Alone()
    if address is None:
        return Links(team=team)
    keepers = Keepers(address)
    if address.mode == "teacher":
        return Links(team=team, commons=OthersShards(keepers, trial))
    return Links(team=team, shelf=RayShelf(keepers, f"{trial}/{team.rank}"))
