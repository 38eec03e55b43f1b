"""Rows that learn from a student: by its weights (``start``), by pairs it makes (``teacher``) or by
states it passes (``student``).

A reference is an entry of ``students``. Of an entry with several windows it means those of the row that refers to
it, unless windows are named too, as in ``reflow-k4``. It always means training seed 0.
"""

from __future__ import annotations

from typing import NamedTuple

from perflow.config import rows
from perflow.config.axis import window_axis
from perflow.config.load import known
from perflow.errors import PerflowError


class Link(NamedTuple):
    """The student a reference means: its row's name, the entry it comes from, its window edges."""

    row: str
    recipe: rows.StudentRecipe
    edges: list[float]


def link(params: rows.Params, place: str, reference: str, base: str, label: str) -> Link:
    """What ``reference`` means for a row on ``base`` with the windows ``label``; PerflowError if it means none."""
    entry, named = _parts(params, place, reference)
    recipe = params.students[entry]
    bases = recipe.bases if recipe.bases is not None else params.bases
    if base not in bases:
        raise PerflowError(f"{place}: '{entry}' is not taught on the base '{base}', only on {', '.join(bases)}")
    axis = dict(window_axis(f"students.{entry}", recipe.windows))
    chosen = named or (label if label in axis else next(iter(axis)))
    if not named and label not in axis and len(axis) > 1:
        raise PerflowError(
            f"{place}: '{entry}' has several windows and not {label}; say which of"
            f" {', '.join(f'{entry}-{own}' for own in axis)}"
        )
    return Link(f"{base}-{entry}-{chosen}-s0", recipe, axis[chosen])


def check_chains(params: rows.Params) -> None:
    """PerflowError for a reference to no student, and for entries that learn from themselves."""
    for name, recipe in params.pairs.items():
        for role in ("teacher", "student"):
            if (other := getattr(recipe, role)) is not None:
                _parts(params, f"pairs.{name}.{role}", other)
    for entry in params.students:
        _walk(params, entry, [])


def _walk(params: rows.Params, entry: str, behind: list[str]) -> None:
    if entry in behind:
        circle = " from ".join([*behind[behind.index(entry) :], entry])
        raise PerflowError(f"students.{entry}: learns from itself ({circle}); a chain must begin at a base")
    recipe, needed = params.students[entry], set()
    if recipe.start is not None:
        needed.add(_parts(params, f"students.{entry}.start", recipe.start)[0])
    for role in ("teacher", "student") if recipe.pairs in params.pairs else ():
        if (other := getattr(params.pairs[recipe.pairs], role)) is not None:
            needed.add(_parts(params, f"pairs.{recipe.pairs}.{role}", other)[0])
    for other in sorted(needed):
        _walk(params, other, [*behind, entry])


def _parts(params: rows.Params, place: str, reference: str) -> tuple[str, str]:
    """``reflow`` -> (reflow, ""), ``reflow-k4`` -> (reflow, k4); an entry of that very name goes first."""
    if reference in params.students:
        return reference, ""
    whole = {
        f"{entry}-{label}": (entry, label)
        for entry, recipe in params.students.items()
        for label, _ in window_axis(f"students.{entry}", recipe.windows)
    }
    return whole[known("student", place, reference, [*params.students, *whole])]
