"""What a student's network is told, its guidance, and whom its loss asks: which rows go together with that."""

from __future__ import annotations

from perflow.config import rows
from perflow.config.load import known
from perflow.errors import PerflowError
from perflow.metrics import PERCEIVING
from perflow.models import TELLING


def told_guidance(params: rows.Params, place: str, recipe: rows.StudentRecipe, family: str) -> rows.ToldGuidance | None:
    """How a student's network is told its guidance; PerflowError unless that goes with its pairs and its family."""
    if recipe.source is not None and recipe.source.guidance is not None:
        known("family", f"{place}.source.guidance: its family", family, TELLING)
        least, most = recipe.source.guidance
        return rows.ToldGuidance(size=None, least=least, most=most)
    guidance, size = params.pairs[recipe.pairs].guidance if recipe.pairs else 1.0, recipe.guidance_embedding
    if isinstance(guidance, list) != (size is not None):
        raise PerflowError(
            f"{place}.guidance_embedding: goes with pairs of a range of guidance, such as [2, 8]; got"
            f" {size} and pairs.{recipe.pairs}.guidance {guidance}"
        )
    if size is None:
        return None
    known("family", f"{place}.guidance_embedding: its family", family, TELLING)
    return rows.ToldGuidance(size=size, least=guidance[0], most=guidance[1])


def taught_range(params: rows.Params, recipe: rows.StudentRecipe) -> list[float] | None:
    """The range of guidance that a student's network is told, here or elsewhere; None if it is told none."""
    if recipe.source is not None:
        return recipe.source.guidance
    pairs = params.pairs.get(recipe.pairs or "")
    return pairs.guidance if recipe.guidance_embedding is not None and pairs is not None else None


def check_within(place: str, guidance: float | list[float], model: str, taught: list[float]) -> None:
    """PerflowError for a guidance (or some of several) that a model which is told it was not taught at."""
    least, most = taught
    if not all(least <= each <= most for each in (guidance if isinstance(guidance, list) else [guidance])):
        raise PerflowError(f"{place}: '{model}' is told its guidance, from {least:g} to {most:g}; got {guidance}")


def check_perceptual(params: rows.Params, place: str, base: str, student: rows.Student) -> None:
    """Refuse a loss that asks a network which cannot tell, or which judges, and one of windows that end at noise."""
    name, place = student.perceptual, f"{place}.method.perceptual"
    if name is None:
        return
    there = [entry for entry, row in params.extractors.items() if row.kind in PERCEIVING]
    known(f"extractor of kind {' or '.join(PERCEIVING)}", place, name, there)
    if params.extractors[name].standardise is not None:
        raise PerflowError(
            f"{place}: '{name}' standardises its features, which no loss asks for; name an entry without"
        )
    if name == params.evaluation.extractor:
        raise PerflowError(f"{place}: '{name}' is evaluation.extractor, and what teaches cannot judge; name another")
    if isinstance(params.bases[base], rows.Flow):
        raise PerflowError(f"{place}: compares images; '{base}' draws points")
    if len(student.edges) != 2:
        raise PerflowError(
            f"{place}: compares images, at which only one window ends; got {len(student.edges) - 1} windows"
        )
