"""Read params.yaml: one line for every mistake, naming the place and what is valid."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from perflow.config.rows import ANY_BASE, ANY_DATASET, Params, Row
from perflow.errors import PerflowError


class _Loader(yaml.SafeLoader):
    """YAML with the floats of YAML 1.2 (``1e-05`` is a number) and no key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.MarkedYAMLError(
                    problem=f"a key must be a name, not {key!r}", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key}' stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases expand to more than {_MOST_VALUES:,} values")
        return node


_MOST_VALUES = 100_000


def _values(node: yaml.Node, known: dict[int, float]) -> float:
    """Values below a node with every alias written out; infinite for a node that holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        inside = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in pairs for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in inside)
    return known[id(node)]


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, regexp)
        for tag, regexp in resolvers
        if tag not in ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_yaml(path: str | Path) -> tuple[dict[str, Any], str]:
    """The mapping a YAML file holds, and its text; PerflowError with the line of a mistake."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise PerflowError(f"{path}: cannot be read ({reason})") from None
    try:
        content = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PerflowError(f"{path}{where}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PerflowError(f"{path}: not valid YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(content, dict):
        raise PerflowError(f"{path}: must hold a mapping with the keys {', '.join(Params.model_fields)}")
    return content, text


def known(table: str, place: str, name: Any, valid: Any) -> Any:
    """``name`` if it is one of ``valid``; PerflowError naming the place and those there are."""
    if name not in valid:
        there = ", ".join(map(str, valid))
        raise PerflowError(f"{place}: no {table} '{name}'; there {'is' if len(valid) == 1 else 'are'} {there}")
    return name


def checked(kind: type[Row], data: Any, where: str) -> Any:
    """``data`` as a ``kind``; PerflowError with the first mistake in one line."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise PerflowError(f"{where}: {_one_line(kind, error)}") from None


_UNION = re.compile(r"\[key\]$|constrained-|(dict|list|literal|function|union)\b.*[\[\]-]")
"""Parts of pydantic's location that name a type, not a place."""


def _one_line(kind: type[Row], error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if not _UNION.match(str(part)))
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key; known here: {', '.join(_fields_at(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"{place}: missing"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}" + ("" if "got" in message else f"; got {shown(first['input'])}")


def shown(value: Any) -> str:
    """A value as messages show it, cut short."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print whole numbers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) < 80 else text[:77] + "..."


def _fields_at(kind: Any, location: tuple) -> list[str]:
    """The keys valid at ``location`` inside ``kind``: follows fields, and dict values."""
    for part in location:
        fields = getattr(kind, "model_fields", {})
        kind = (ANY_BASE | ANY_DATASET).get(part) or (fields[part].annotation if part in fields else kind)
        arguments = [a for a in getattr(kind, "__args__", ()) if a is not type(None)]
        if arguments:
            kind = arguments[-1]
    return list(getattr(kind, "model_fields", {}))


def load_params(path: str | Path) -> tuple[Params, str]:
    """params.yaml checked for form (types, keys, ranges), and its text."""
    content, text = read_yaml(path)
    return checked(Params, content, str(path)), text
