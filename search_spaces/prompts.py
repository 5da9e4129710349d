"""Prompts: what a text encoder reads for a class, `SOURCE@TEMPLATE` in a task's `embeddings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dfkd.methods.errors import ConfigError, unknown

PHOTO = "a photo of a {}"
NAYER = "a image of {}"  # as it stands in tmtuan1307/nayer@c6bedcd
NAMED = ("photo", "nayer", "simple", "imagenet")


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates of prompts. Of several, a class's vector is their mean, each at unit length."""

    name: str
    templates: tuple[Callable[[str], str], ...]

    def of(self, label: str) -> list[str]:
        """One prompt for each template."""
        return [template(label.replace("_", " ")) for template in self.templates]


def find_prompts(name: str) -> Prompts:
    """`photo` (also for no name), `nayer`, or a text with {} where the class goes.

    Also `simple` and `imagenet`, OpenAI's 7 and 80 templates for zero-shot ImageNet, which come
    with open_clip. Raises ConfigError for another name.

    >>> find_prompts("a drawing of {}").of("sweet_pepper")
    ['a drawing of sweet pepper']
    """
    if "{}" in name:
        return Prompts(name, (lambda label: name.replace("{}", label),))
    if name in ("", "photo"):
        return Prompts("photo", (PHOTO.format,))
    if name == "nayer":  # in which hyphens are spaces too
        return Prompts(name, (lambda label: NAYER.format(label.replace("-", " ")),))
    if name in ("simple", "imagenet"):
        from open_clip import zero_shot_metadata as known

        lists = {
            "simple": known.SIMPLE_IMAGENET_TEMPLATES,
            "imagenet": known.OPENAI_IMAGENET_TEMPLATES,
        }
        return Prompts(name, tuple(lists[name]))
    raise ConfigError(
        f"label embeddings: {unknown('template', name, NAMED)}; or a text with {{}} for the class"
    )
