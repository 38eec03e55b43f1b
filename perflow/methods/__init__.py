"""How a student learns from window pairs: one frozen dataclass a method, which is its configuration.

A method's module is importable without torch, so that parsing a study needs none. It has one function,
``loss(student, target, pairs, rng) -> scalar tensor``; see :class:`perflow.methods.method.Method`.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

METHODS = {
    "piecewise_reflow": "perflow.methods.piecewise_reflow:PiecewiseReflow",
    "consistency": "perflow.methods.consistency:Consistency",
    "distill": "perflow.methods.distill:Distill",
}


def configuration(name: str) -> type:
    """The dataclass of a method; its fields are the options a study may give."""
    return resolve_name(METHODS[name])


def make(options: dict[str, Any]) -> Any:
    """A method from a row's ``{"name": …, **options}``."""
    return configuration(options["name"])(**{key: value for key, value in options.items() if key != "name"})
