"""YAML that says, above a line, why it is there."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

COLUMNS = 98
BREAKS = set("\x85\u2028\u2029")
ENDLESS = 2**31  # no line of a value is broken


class _Dumper(yaml.SafeDumper):
    """As SafeDumper, with texts of several lines as they stand, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if set(text) & BREAKS:  # line breaks to YAML, which alters them outside of double quotes
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def annotated(value: Mapping[str, Any], notes: Mapping[str, str]) -> str:
    """`value` as YAML; each note is a comment above the first key that has its path.

    Paths are keys joined by dots; lists do not count. A path of one key stands above the whole.
    """
    text = yaml.dump(
        dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=ENDLESS
    )
    lines = text.split("\n")
    left = dict(notes)
    above: dict[int, list[str]] = {}
    for path, node in _keys(yaml.compose(text, Loader=yaml.SafeLoader), ""):
        if (note := left.pop(path, None)) is None:
            continue
        line = lines[node.start_mark.line]
        indent = line[: len(line) - len(line.lstrip(" "))]
        wrapped = textwrap.wrap(note, COLUMNS - len(indent) - 2)
        above[node.start_mark.line] = [f"{indent}# {part}" for part in wrapped]
    return "\n".join("\n".join([*above.get(n, []), line]) for n, line in enumerate(lines))


def _keys(node: yaml.Node | None, path: str) -> Iterator[tuple[str, yaml.Node]]:
    """Every key below a node, from the top down, with its path."""
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _keys(part, path)
    elif isinstance(node, yaml.MappingNode):
        for key, part in node.value:
            below = f"{path}.{key.value}".lstrip(".")
            yield below, key
            yield from _keys(part, below)
