"""What a delta is worth in settings: the lines of compatibility.csv.

In every setting three things are drawn from the same noise, prompts and pictures: the teacher of the setting (the base
in it, with many steps), the base in it with few steps, and the base with a delta in it. What was taught on the base of
the setting itself stands beside, where the setting is nothing but another base.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from perflow.metrics import intervals
from perflow.report.reading import HIGHER_IS_BETTER, NOISE, difference
from perflow.report.study import features, is_reference, label, metric_name

CLOSER, FARTHER = "better", "worse"
COLUMNS = (
    "setting", "setting_label", "scene", "base", "scale", "task", "adapter", "strength", "rank", "role", "model",
    "entry", "method", "trial", "solver", "steps", "nfe", "guidance", "metric", "metric_name", "value", "low", "high",
    "against", "difference", "difference_low", "difference_high", "p", "p_holm", "verdict",
)  # fmt: skip


def rows(study: dict[str, Any], measured: dict[str, dict], alpha: float) -> list[dict[str, Any]]:
    """A line for each metric of each trial in each setting, with :data:`COLUMNS`.

    ``measured`` holds the metrics of models and of transfers by name. Whoever has a delta is compared with the base in
    the same setting at as many steps, with the solver that is best there; verdicts are Holm-corrected by metric, and
    ``alpha`` is the error allowed to all of a metric's verdicts together.
    """
    found = [row for scene in _scenes(study) for row in _scene(study, scene, measured, alpha)]
    for metric in dict.fromkeys(row["metric"] for row in found):
        compared = [row for row in found if row["metric"] == metric and row["p"] is not None]
        adjusted = intervals.holm([row["p"] for row in compared]) if compared else []
        for row, p in zip(compared, adjusted, strict=True):
            better = row["difference"] > 0 if metric in HIGHER_IS_BETTER else row["difference"] < 0
            row |= {"p_holm": float(p), "verdict": NOISE if p >= alpha else CLOSER if better else FARTHER}
    return found


def _scenes(study: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The transfers of each setting on each base."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for transfer in study["transfers"]:
        grouped.setdefault((transfer["setting"], transfer["base"]), []).append(transfer)
    return list(grouped.values())


class Drawn(NamedTuple):
    """A model in a setting."""

    role: str
    """base, delta, or own: taught on the setting's base itself."""
    model: dict[str, Any]
    """The model, as the study describes it."""
    place: dict[str, Any]
    """The transfer or the model whose samples and metrics they are."""


def drawn_in(study: dict[str, Any], transfers: list[dict[str, Any]]) -> list[Drawn]:
    """What is compared in a setting on one base, whose ``transfers`` these are: the base first."""
    models = {model["name"]: model for model in study["models"]}
    first = transfers[0]
    base = models[first["base"]]
    plain = first["reference"] == first["base"]
    found = [Drawn("base", base, base)] if plain else []
    if plain and first["rank"] is None:
        own = [m for m in study["models"] if m["kind"] == "student" and m["base"] == first["base"] and not m["seed"]]
        away = {transfer["model"] for transfer in transfers}
        found += [Drawn("own", model, model) for model in own if model["name"] not in away]
    for transfer in transfers:
        model = models[transfer["model"]]
        found.append(Drawn("base" if model["kind"] == "base" else "delta", model, transfer))
    return found


def _scene(
    study: dict[str, Any], transfers: list[dict[str, Any]], measured: dict[str, dict], alpha: float
) -> list[dict[str, Any]]:
    first = transfers[0]
    where = {name: first[name] for name in ("setting", "base", "scale", "task", "adapter", "strength", "rank")}
    where |= {"setting_label": first["label"], "scene": f"{first['setting']}-{first['base']}"}
    found: list[dict[str, Any]] = []
    few: dict[tuple[str, int], list[tuple[dict, dict]]] = {}
    for role, model, place in drawn_in(study, transfers):
        for trial in place["trials"]:
            kind = "teacher" if role == "base" and is_reference("base", trial["name"]) else role
            ran = measured[place["name"]]["trials"][trial["name"]]
            for metric, estimate in ran["metrics"].items():
                if kind == "base":
                    few.setdefault((metric, trial["steps"]), []).append((trial, estimate))
                row = where | {name: trial[name] for name in ("solver", "steps", "nfe", "guidance")}
                row["nfe"] = trial["nfe"] or ran["nfe"]  # of a solver that decides as it goes
                row |= {"role": kind, "model": model["name"], "entry": model["entry"], "trial": trial["name"]}
                row |= {"method": label(model, trial, False), "metric": metric}
                row |= {"metric_name": metric_name(metric, features(study))}
                row |= {bound: estimate[bound] for bound in ("value", "low", "high")}
                others = few.get((metric, trial["steps"]), []) if kind in ("delta", "own") else []
                row |= _against(metric, estimate, others, alpha)
                found.append(row | {"p_holm": None, "verdict": None})
    return found


def _against(metric: str, estimate: dict[str, Any], few: list[tuple[dict, dict]], alpha: float) -> dict[str, Any]:
    """The paired difference to the best of the base's trials at as many steps."""
    if not few:
        return dict.fromkeys(("against", "difference", "difference_low", "difference_high", "p"))
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    trial, best = min(few, key=lambda pair: sign * pair[1]["value"])
    apart = difference([estimate], [best], alpha)
    return {
        "against": trial["name"], "difference": apart["difference"], "difference_low": apart["low"],
        "difference_high": apart["high"], "p": apart["p"],
    }  # fmt: skip
