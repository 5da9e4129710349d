"""What has to be done for a teacher before a sweep can start, told without doing it."""

from __future__ import annotations

from dfkd.search_spaces.pretrained import whereabouts
from dfkd.search_spaces.task import Task
from dfkd.search_spaces.teachers import cached_teacher, published_teacher, with_teacher


def preparation(task: Task, reference: str | None = None) -> str:
    """One sentence: downloaded, trained, or at hand; `reference` as `find_teacher` takes it."""
    published = published_teacher(task, reference)
    if published is not None:
        network, tag = published
        place = whereabouts(network, tag)
        if place.cached:
            return f"teacher {network}:{tag} is at hand, downloaded before"
        size = "" if place.megabytes is None else f" ({place.megabytes:.0f} MB)"
        return f"teacher {network}:{tag} would be downloaded first, from {place.address}{size}"
    if reference is not None and reference not in task.teachers:
        return f"teacher {reference} is at hand"
    spec = with_teacher(task, reference).teacher
    if spec.weights:
        return f"teacher {spec.network}:{spec.weights} is at hand"
    if cached_teacher(task, reference).is_file():
        return f"teacher {spec.network} is at hand, trained before"
    return (
        f"teacher {spec.network} would be trained first, for {spec.epochs} epochs on the task's "
        "images, which is not in the estimate"
    )
