"""Edits of nested values, for whatever reads what somebody else may have written."""

from __future__ import annotations

import copy
import math
from typing import Any

from hypothesis import strategies as st

NAMES = [
    "", " ", "a b", "a'b", 'a"b', "a;b", "a\nb", "../up", "/root", "$(touch x)", "`x`", "-rf", ".", "..", "a/b", "ü",
    "数", "\u2028", "\x1b[31m", "\ud800", "x" * 82, "x" * 100_000, "eps.cost", "~", "null", "1e-05", "*", "{wildcards}",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 3, 2**31, 2**63, -(2**70), 10**400, 10**4299, 0.5, 1e-400, 5e-324, 1e308, -0.0, 1e-5,
    math.nan, math.inf, -math.inf, True, False, None,
]  # fmt: skip
NESTED = [
    [], {}, [[]], [{}], [None], [1, 0.5, 0], [1, 0], [[1, 0.5, 0], 4], [0.5] * 3, list(range(2000)), {"name": None},
    {"name": "distill", "positions": []}, {1: 1}, {4: 10**9}, {None: 1}, {"a": {"b": {"c": [1, [2, [3]]]}}},
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(NUMBERS), st.sampled_from(NESTED), st.integers(), st.floats(),
    st.text(max_size=8), st.lists(st.one_of(st.integers(-2, 9), st.floats(0, 1), st.text(max_size=3)), max_size=4),
)  # fmt: skip


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a nested value, at any depth."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in inside for place in [(content, key), *places(value)]]


def mutate(content: Any, draw: Any) -> None:
    """One edit: a value replaced, removed, wrapped, or copied to another key or place; or a key renamed."""

    def place() -> tuple[Any, Any]:
        found = places(content)
        return found[draw(st.integers(0, len(found) - 1))]

    container, key = place()
    value = copy.deepcopy(draw(VALUES))
    match draw(st.sampled_from(["replace", "delete", "wrap", "move", "rename", "repeat"])):
        case "delete":
            del container[key]
        case "wrap":
            container[key] = [[container[key]], {"name": container[key]}, str(container[key])][draw(st.integers(0, 2))]
        case "move":
            other, there = place()
            other[there] = copy.deepcopy(container[key])
        case "rename" | "repeat" as edit if isinstance(container, dict):
            name = value if isinstance(value, str | int | float | None) else str(value)
            container[name] = copy.deepcopy(container[key])
            if edit == "rename":
                del container[key]
        case _:
            container[key] = value
