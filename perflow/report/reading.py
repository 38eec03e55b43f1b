"""Published orderings, checked: which are seen here, which are not, which drown in the noise.

An ordering is data (workflow/report/published.json): ``better`` and ``worse`` say which arms are meant,
``same`` in what the two must agree. Values in the two selectors are plain values, a list of them, or
``"@field"`` for the value of another field; dots reach into the recipe. ``recipe`` in ``same`` compares
how two entries were made but for the fields in which the selectors differ, so that nothing else differs.
``best: true`` keeps, of the arms on the ``worse`` side, the best one; ``next: field`` the one that comes
right below in that field; ``note`` is said with every comparison.

Two arms are compared by the difference of their metric under common noise and prompts: leaving out one
group of prompts moves both, so the delete-group jackknife of the difference is paired. Where an arm has
several training seeds their variance is added. All comparisons of a study are corrected together (Holm).
"""

from __future__ import annotations

import json
import math
from statistics import mean, variance
from typing import Any, NamedTuple

import numpy
from scipy import stats

from perflow.errors import PerflowError
from perflow.metrics import METRICS, intervals
from perflow.report.study import Arm

COLUMNS = (
    "ordering", "claim", "source", "base", "metric", "better", "better_key", "better_trial", "better_steps",
    "better_nfe", "better_value", "better_seeds", "worse", "worse_key", "worse_trial", "worse_steps", "worse_nfe",
    "worse_value", "worse_seeds", "difference", "low", "high", "error", "p", "p_holm", "verdict", "note",
)  # fmt: skip
SEEN, NOT_SEEN, NOISE = "seen", "not seen", "within noise"
HIGHER_IS_BETTER = (
    "precision", "recall", "density", "coverage", "inception_score", "prompt_accuracy", "clip_score",
)  # fmt: skip


class Claim(NamedTuple):
    """One comparison an ordering asks for."""

    ordering: dict[str, Any]
    better: Arm
    worse: Arm
    chosen: int
    """Of how many arms ``worse`` is the best; 1 where nothing was chosen."""


def compare_all(
    orderings: list[dict[str, Any]], arms: list[Arm], measured: dict[str, dict], alpha: float = 0.05
) -> list[dict[str, Any]]:
    """A line for each comparison of each ordering, with :data:`COLUMNS`.

    ``measured`` maps a model's name to its metrics file; ``alpha`` is the error allowed to all of the
    verdicts together. An ordering this study has no arms for, or whose metric it does not evaluate, gives no line.
    """
    _check_metrics(orderings, measured)
    claims = [claim for ordering in orderings for claim in claims_of(ordering, arms, measured)]
    compared = [_compared(claim, measured, alpha) for claim in claims]
    adjusted = intervals.holm([row["p"] for row in compared]) if compared else []
    for row, p in zip(compared, adjusted, strict=True):
        row["p_holm"] = float(p)
        improves = row["difference"] > 0 if row["metric"] in HIGHER_IS_BETTER else row["difference"] < 0
        row["verdict"] = NOISE if row["p_holm"] >= alpha else SEEN if improves else NOT_SEEN
    return compared


def claims_of(ordering: dict[str, Any], arms: list[Arm], measured: dict[str, dict]) -> list[Claim]:
    """The comparisons an ordering asks for among ``arms``."""
    claims = []
    arms = [arm for arm in arms if _measured(arm, ordering["metric"], measured)]
    for better in arms:
        if not _matches(better, ordering["better"]):
            continue
        worse = [
            arm
            for arm in arms
            if arm is not better and _matches(arm, ordering["worse"]) and _same(better, arm, ordering)
        ]
        if field := ordering.get("next"):
            worse = [arm for arm in worse if getattr(arm, field) < getattr(better, field)]
            worse = [arm for arm in worse if getattr(arm, field) == max(getattr(other, field) for other in worse)]
        chosen = 1
        if ordering.get("best") and worse:
            # A tie between entries is broken by the order of the study.
            chosen = len(worse)
            worse = [min(worse, key=lambda arm: _rank(ordering["metric"], _values(arm, ordering["metric"], measured)))]
        claims += [Claim(ordering, better, arm, chosen) for arm in worse]
    return claims


def _rank(metric: str, values: list[float]) -> float:
    return -mean(values) if metric in HIGHER_IS_BETTER else mean(values)


def _matches(arm: Arm, selector: dict[str, Any]) -> bool:
    return all(_allowed(_get(arm, field), wanted, arm) for field, wanted in selector.items())


def _allowed(value: Any, wanted: Any, arm: Arm) -> bool:
    if isinstance(wanted, list):
        return value in wanted
    if isinstance(wanted, str) and wanted.startswith("@"):
        return value == _get(arm, wanted[1:])
    return value == wanted


def _get(arm: Arm, field: str) -> Any:
    """A field of an arm, or with dots a value inside its recipe (None where there is none)."""
    first, *rest = field.split(".")
    if not hasattr(arm, first):
        raise PerflowError(f"orderings: no field '{first}'; there are {', '.join(arm.__dataclass_fields__)}")
    value = getattr(arm, first)
    for part in rest:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _same(better: Arm, worse: Arm, ordering: dict[str, Any]) -> bool:
    one, other = ordering["better"], ordering["worse"]
    varied = {field for field in {*one, *other} if one.get(field) != other.get(field)}
    return better.teacher == worse.teacher and all(
        _without(better.recipe, varied) == _without(worse.recipe, varied)
        if field == "recipe"
        else _get(better, field) == _get(worse, field)
        for field in ordering["same"]
    )


def _without(recipe: dict[str, Any], varied: set[str]) -> str:
    return json.dumps({name: value for name, value in recipe.items() if name not in varied}, sort_keys=True)


def _check_metrics(orderings: list[dict[str, Any]], measured: dict[str, dict]) -> None:
    """PerflowError for a name that is no metric at all; one the study does not evaluate is no mistake."""
    trials = [trial for content in measured.values() for trial in content["trials"].values()]
    known = sorted({*METRICS, *(metric for trial in trials for metric in trial["metrics"])})
    for ordering in orderings:
        if ordering["metric"] not in known:
            raise PerflowError(
                f"ordering '{ordering['name']}': no metric '{ordering['metric']}'; there are {', '.join(known)}"
            )


def _measured(arm: Arm, metric: str, measured: dict[str, dict]) -> bool:
    """Whether every training seed has the metric: where it is undefined, evaluate leaves it out."""
    return all(metric in measured[model]["trials"][arm.trial]["metrics"] for model in arm.models)


def _estimates(arm: Arm, metric: str, measured: dict[str, dict]) -> list[dict[str, Any]]:
    """One estimate a training seed."""
    return [measured[model]["trials"][arm.trial]["metrics"][metric] for model in arm.models]


def _values(arm: Arm, metric: str, measured: dict[str, dict]) -> list[float]:
    return _each(_estimates(arm, metric, measured))


def _each(estimates: list[dict[str, Any]]) -> list[float]:
    return [estimate["value"] for estimate in estimates]


def _compared(claim: Claim, measured: dict[str, dict], alpha: float) -> dict[str, Any]:
    ordering, better, worse, chosen = claim
    metric = ordering["metric"]
    sides = [_estimates(arm, metric, measured) for arm in (better, worse)]
    try:
        found = difference(*sides, alpha)
    except PerflowError as error:
        raise PerflowError(f"{better.models[0]} and {worse.models[0]}: {error}") from None
    row = {"ordering": ordering["name"], "claim": ordering["claim"], "source": ordering["source"]}
    row |= {"base": better.base, "metric": metric}
    for name, arm, side in (("better", better, sides[0]), ("worse", worse, sides[1])):
        row |= {name: arm.label, f"{name}_key": arm.key, f"{name}_trial": arm.trial, f"{name}_steps": arm.steps}
        row |= {f"{name}_nfe": arm.nfe, f"{name}_value": mean(_each(side)), f"{name}_seeds": len(side)}
    return row | found | {"note": _note(ordering, better, worse, chosen)}


def difference(one: list[dict[str, Any]], other: list[dict[str, Any]], alpha: float) -> dict[str, float]:
    """``one`` minus ``other``, each an estimate a training seed: difference, low, high, error and p.

    What noise and prompts have in common cancels, since both are left without the same groups of prompts.
    """
    values = [_each(side) for side in (one, other)]
    replicates = [numpy.mean([estimate["replicates"] for estimate in side], axis=0) for side in (one, other)]
    if replicates[0].shape != replicates[1].shape:
        raise PerflowError(
            f"{len(replicates[0])} and {len(replicates[1])} groups of prompts in the jackknife; "
            "rows can be compared only over the same groups"
        )
    parts = [(intervals.standard_error(replicates[0] - replicates[1]) ** 2, len(replicates[0]) - 1)]
    parts += [(variance(side) / len(side), len(side) - 1) for side in values if len(side) > 1]
    total = sum(part for part, _ in parts)
    # Welch-Satterthwaite: degrees of freedom of a sum of variances, each with its own.
    freedom = total**2 / sum(part**2 / own for part, own in parts) if total else parts[0][1]
    apart, error = mean(values[0]) - mean(values[1]), math.sqrt(total)
    reach = float(stats.t.ppf(1 - alpha / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(apart) / error, freedom)) if error else float(apart == 0)
    return {"difference": apart, "low": apart - reach, "high": apart + reach, "error": error, "p": p}


def _note(ordering: dict[str, Any], better: Arm, worse: Arm, chosen: int) -> str:
    notes = [ordering["note"]] if ordering.get("note") else []
    if chosen > 1:
        side = "the training-free side" if worse.kind == "base" else "that side"
        notes.append(f"choosing the best of {chosen} solvers on the samples shown favours {side}")
    single = [arm for arm in (better, worse) if arm.kind == "student" and len(arm.models) == 1]
    if single:
        notes.append("where a row has one training seed, the spread over seeds is not in the interval")
    return "; ".join(notes)
