"""Bases that come from bases, and what is trained beside one: what each has from where it comes from."""

from __future__ import annotations

from perflow.config import rows
from perflow.config.families import check_family
from perflow.config.load import known
from perflow.config.study import Study
from perflow.errors import PerflowError
from perflow.models import FAMILIES, READING, TASKS


def resolve_bases(params: rows.Params) -> dict[str, rows.AnyBase]:
    """Every base as a row; PerflowError for one that comes from nowhere, or from itself."""
    found: dict[str, rows.AnyBase] = {}
    for name in params.bases:
        _resolve(params, name, [], found)
    for name, row in found.items():
        check_family(params, name, row, found[root(found, name)])
    return {name: found[name] for name in params.bases}


def _resolve(params: rows.Params, name: str, behind: list[str], found: dict[str, rows.AnyBase]) -> rows.AnyBase:
    if name in found:
        return found[name]
    recipe, place = params.bases[name], f"bases.{name}"
    if name in behind:
        circle = " from ".join([*behind[behind.index(name) :], name])
        raise PerflowError(f"{place}: comes from itself ({circle}); a base must begin at one that is trained or taken")
    if isinstance(recipe, rows.ScaledRecipe):
        known("base", f"{place}.scaled", recipe.scaled, params.bases)
        tuned = _resolve(params, recipe.scaled, [*behind, name], found)
        if not isinstance(tuned, rows.Tuned):
            raise PerflowError(f"{place}.scaled: '{recipe.scaled}' is no fine-tune; it has no fine_tune")
        found[name] = rows.Scaled(
            **recipe.model_dump(), base=tuned.fine_tune, dataset=tuned.dataset, family=tuned.family,
            prediction=tuned.prediction,
        )  # fmt: skip
        return found[name]
    known("dataset", f"{place}.dataset", recipe.dataset, params.datasets)
    if isinstance(recipe, rows.TuneRecipe):
        known("base", f"{place}.fine_tune", recipe.fine_tune, params.bases)
        start = _resolve(params, recipe.fine_tune, [*behind, name], found)
        if isinstance(start, rows.Flow):
            raise PerflowError(f"{place}.fine_tune: '{recipe.fine_tune}' is a flow on the plane, and none is tuned")
        size, own = (params.datasets[row.dataset].resolution for row in (start, recipe))
        if size != own:
            raise PerflowError(f"{place}.dataset: images of {own} pixels, the base '{recipe.fine_tune}' draws {size}")
        found[name] = rows.Tuned(**recipe.model_dump(), family=start.family, prediction=start.prediction)
    else:
        known("family", f"{place}.family", recipe.family, FAMILIES)
        if isinstance(recipe, rows.Pretrained) and recipe.tuned_from is not None:
            _check_tuned_from(params, place, recipe, behind, found)
        found[name] = recipe
    return found[name]


def _check_tuned_from(
    params: rows.Params, place: str, recipe: rows.Pretrained, behind: list[str], found: dict[str, rows.AnyBase]
) -> None:
    """PerflowError unless the base it was tuned from is one of the same kind."""
    known("base", f"{place}.tuned_from", recipe.tuned_from, params.bases)
    origin = _resolve(params, recipe.tuned_from, [*behind, place.removeprefix("bases.")], found)
    said, own = ((row.family, row.prediction) for row in (origin, recipe))
    if said != own:
        raise PerflowError(f"{place}.tuned_from: '{recipe.tuned_from}' is {' that says '.join(said)}; got {own}")


def root(bases: dict[str, rows.AnyBase], name: str) -> str:
    """The base that a fine-tune, or a fine-tune of one, descends from; a base that is none is its own."""
    row = bases[name]
    if isinstance(row, rows.Tuned):
        return root(bases, row.fine_tune)
    return root(bases, row.base) if isinstance(row, rows.Scaled) else name


def origin(bases: dict[str, rows.AnyBase], name: str) -> str:
    """The base whose deltas go into this one: where it descends from, here or elsewhere."""
    found = root(bases, name)
    before = getattr(bases[found], "tuned_from", None)
    return origin(bases, before) if before else found


def resolve_adapters(params: rows.Params, bases: dict[str, rows.AnyBase]) -> dict[str, rows.Adapter]:
    """Every adapter as a row."""
    found = {}
    for name, recipe in params.adapters.items():
        place = f"adapters.{name}"
        base = bases[known("base", f"{place}.base", recipe.base, bases)]
        dataset = known("dataset", f"{place}.dataset", recipe.dataset or base.dataset, params.datasets)
        adapted = [family for family, tasks in TASKS.items() if "controlnet" in tasks]
        known("family", f"{place}.base: its family", base.family, adapted)
        found[name] = rows.Adapter(**recipe.model_dump(exclude={"dataset"}), dataset=dataset, family=base.family)
    return found


def add_latents(study: Study) -> None:
    """A row for every data set that a base sees: of its pairs, of a fine-tune that starts from it, of its adapters."""
    seen = [
        *((row.base, row.dataset) for row in study.pairs.values()),
        *((row.fine_tune, row.dataset) for row in study.bases.values() if isinstance(row, rows.Tuned)),
        *((row.base, row.dataset) for row in study.adapters.values()),
    ]
    encoding = study.params.encoding
    for base, dataset in dict.fromkeys(seen):
        if encoding.captions == "recomputed" and study.bases[base].family not in READING:
            raise PerflowError(
                f"encoding.captions: recomputed is for families with a text model, {', '.join(READING)}; '{base}' is"
                f" {study.bases[base].family}, and what it is told is small: stored"
            )
        study.latents[latents_row(study.bases, base, dataset)] = rows.Latents(
            base=base, family=study.bases[base].family, dataset=dataset, **encoding.model_dump()
        )


def latents_row(bases: dict[str, rows.AnyBase], base: str, dataset: str) -> str:
    """The name of the row of a data set as a base sees it."""
    return base if bases[base].dataset == dataset else f"{base}.{dataset}"
