"""What a base's family cannot do, said before anything runs: be trained here, be told classes, be guided."""

from __future__ import annotations

from perflow.config import rows
from perflow.errors import PerflowError
from perflow.models import OPTIONS, TRAINABLE

_ALL_OPTIONS = sorted({option for options in OPTIONS.values() for option in options})


def check_family(params: rows.Params, name: str, base: rows.AnyBase, root: rows.AnyBase) -> None:
    """PerflowError naming the value, of the base or of what is asked of it, that its family does not have.

    ``root`` is the base that a fine-tune descends from, which says its classes; any other base is its own.
    """
    place, options = f"bases.{name}", OPTIONS.get(base.family, {})
    if isinstance(base, rows.Base):
        if base.family not in TRAINABLE:
            raise PerflowError(
                f"{place}.family: a {base.family} base is taken from a source; trained here is {', '.join(TRAINABLE)}"
            )
        return
    if isinstance(base, rows.Flow):
        _check_unguided(params, name, base, "a flow on the plane, which is told nothing")
        return
    for option in _ALL_OPTIONS if base is root else ():
        if getattr(base, option) is not None and option not in options:
            raise PerflowError(f"{place}.{option}: the family {base.family} reads captions, not classes")
    if "null_class" in options and root.null_class is None:
        _check_unguided(params, name, base, "which has no null_class")


def _check_unguided(params: rows.Params, name: str, base: rows.AnyBase, why: str) -> None:
    """Refuse what needs a condition of no prompt: guidance other than 1, dropped captions."""
    taught = {
        entry: recipe for entry, recipe in params.students.items() if recipe.bases is None or name in recipe.bases
    }
    pairs = {recipe.pairs: params.pairs[recipe.pairs] for recipe in taught.values() if recipe.pairs in params.pairs}
    tried = {"baselines": params.baselines, **{f"students.{entry}.trials": r.trials for entry, r in taught.items()}}
    said = {
        "sampling.teacher.guidance": (params.sampling.teacher.guidance, 1),
        **{
            f"{place}.{key}": (getattr(recipe, key), 1)
            for place, recipe in tried.items()
            for key in ("guidance", "teachers")
        },
        **{f"pairs.{key}.guidance": (recipe.guidance, 1) for key, recipe in pairs.items()},
        **{f"pairs.{key}.drop": (recipe.drop, 0) for key, recipe in pairs.items()},
        **({f"bases.{name}.drop": (base.drop, 0)} if isinstance(base, rows.Tuned) else {}),
    }
    for where, (value, valid) in said.items():
        values = value if isinstance(value, list) else [valid if value is None else value]
        if any(each != valid for each in values):
            raise PerflowError(f"{where}: must be {valid} for '{name}', {why}; got {value}")
