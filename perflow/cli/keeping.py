"""The verbs that keep a study: verify what is there, and clean away what nothing names."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from perflow.cli.group import FILE, main
from perflow.errors import PerflowError

_params = click.argument("params", type=FILE, default="params.yaml")
_home = click.option(
    "--home", type=FILE, help="Where the study lies [default: . for ./params.yaml, studies/<file name>/ for another]."
)


def _study(params: Path, home: Path | None) -> tuple[Any, Path]:
    """The study, and its home relative to the working directory where it is below it."""
    from perflow import config

    found = config.home(params).relative_to(Path.cwd()) if home is None else home
    return config.load(params), found


def _first(rows: Iterable[Any], good: tuple[str, ...]) -> None:
    """Print nothing; PerflowError with the first line of what is not ``good``, in the order of making."""
    found = list(rows)
    bad = [row for row in found if row.state not in good]
    if bad:
        raise PerflowError(f"{bad[0].lines[0]} ({len(bad)} of {len(found)} artifacts; perflow verify lists them)")


def _list(rows: Iterable[Any], states: tuple[str, ...], good: tuple[str, ...]) -> None:
    """Print rows as they come, then their number by state; ends with status 1 if one is not ``good``."""
    count: Counter[str] = Counter()
    for row in rows:
        count[row.state] += 1
        click.echo(f"{row.state:<8} {row.artifact}")
        for line in row.lines:
            click.echo(f"{'':<8}   {line}")
    numbers = ", ".join(f"{count[state]} {state}" for state in states if count[state] or state == states[0])
    click.echo(f"{count.total()} artifacts: {numbers}")
    if count.total() > sum(count[state] for state in good):
        sys.exit(1)


@main.command()
@_params
@_home
@click.option("--against", type=FILE, metavar="OTHER", help="Compare with another results folder instead.")
@click.option(
    "--tolerance", type=click.FloatRange(0), default=None,
    help="With --against: how far a metric may differ, in half widths of its interval [default: 1].",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="Say nothing of what is ok, and only the first thing that is not.")
def verify(params: Path, home: Path | None, against: Path | None, tolerance: float | None, quiet: bool) -> None:
    """Compute every hash of a study again: is each artifact ok, stale, altered or missing?

    With --against: has another clone or machine the same specs and the same bytes, and if not bytes, how far
    are tensors and metrics apart? Ends with status 1 if anything is not ok, or differs beyond the tolerance.
    """
    from perflow import keeping

    study, place = _study(params, home)
    if against is None:
        found, states, good = keeping.verify(study, place), keeping.STATES, ("ok",)
    else:
        found = keeping.compare(study, place, against, keeping.TOLERANCE if tolerance is None else tolerance)
        states, good = keeping.DIFFERENCES, ("same", "differs", "near")
    if quiet:
        _first(found, good)
    else:
        _list(found, states, good)


@main.command()
@_params
@_home
@click.option("--yes", is_flag=True, help="Remove what is listed.")
def clean(params: Path, home: Path | None, yes: bool) -> None:
    """List what lies in a study's folders and no row names any more; remove it with --yes.

    Rows dropped from PARAMS, what earlier specs left, and the state of stopped jobs that no run resumes.
    Nothing that the study names, that a process works on, or that belongs to another study.
    """
    from perflow import keeping

    study, place = _study(params, home)
    found = keeping.leftovers(study, place)
    for path, size, why in found:
        click.echo(f"{size / 2**20:10.2f} MiB  {path}  ({why})")
    total = f"{len(found)} left over, {sum(item.size for item in found) / 2**20:.2f} MiB"
    if yes and found:
        keeping.remove(place, found)
        click.echo(f"{total}: removed")
    else:
        click.echo(f"{total}; perflow clean --yes removes them" if found else "nothing is left over")
