"""The tables: what the study names, read from its artifacts, checked against their rows, written as csv.

Rows are listed from the study and never found by globbing, so a row that was dropped from params.yaml
vanishes from every table although its files still lie there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas

from perflow import artifacts, record
from perflow.core import WINDOW
from perflow.errors import PerflowError
from perflow.report import reading, transfers
from perflow.report.study import METRICS, Arm, arms, features, leading, metric_name, model_key, read_study

TABLES = ("main", "ablation", "windows", "curves", "costs", "comparisons", "rows", "compatibility")
SUMMARY = ("fd_teacher", "kid_teacher", "prompt_accuracy", "teacher_mse")
"""What results/metrics.json holds of each method; of a study without any of these, its leading metric."""

_ARM = (
    "base", "key", "label", "kind", "entry", "windows", "windowed", "method", "path", "prediction", "starts",
    "guidance_mode", "trial", "solver", "steps", "nfe", "guidance", "stream",
)  # fmt: skip
_COST = ("seconds", "cpu_seconds", "peak_mib", "bytes", "teacher_evaluations", "student_passes", "resumed")
_CURVE = ("loss", "lr", "grad_norm")
_FLOW = ("straightness", "teacher_straightness", "endpoint_error")
_STARTS = ("start_gap",)
"""Only of studies that compare starts."""
_WINDOWS = (
    "base", "key", "model", "entry", "seed", "windows", "window", "start", "end",
    *(f"{name}{bound}" for name in _FLOW for bound in ("", "_low", "_high")),
)  # fmt: skip


def collect(study_spec: str | Path, results_dir: str | Path, published: str | Path) -> None:
    """Write ``results_dir``/tables/*.csv, ``results_dir``/metrics.json, and last their record.

    ``published`` is the file of published figures and orderings (see :mod:`perflow.report.reading`).
    PerflowError for an artifact that is missing, was made for another spec, or was measured with
    another extractor than its neighbours.
    """
    study, results = read_study(study_spec), Path(results_dir)
    measured = {model["name"]: _measured(model, study, results) for model in study["models"]}
    elsewhere = {transfer["name"]: _measured(transfer, study, results) for transfer in study["transfers"]}
    _one_extractor(measured | elsewhere, study, results)
    methods = [_as_run(arm, measured) for arm in arms(study, results / "specs")]
    main = [row for arm in methods for row in _main(arm, measured, features(study))]
    orderings = artifacts.read_json(published)["orderings"]
    confidence = study["settings"].get("evaluation", {}).get("confidence", 0.95)
    tables = {
        "main": main,
        "ablation": _ablation(main),
        "windows": [row for model in study["models"] for row in _windows(model, measured[model["name"]])],
        "curves": _curves(study, results),
        "costs": _costs(study, results),
        "comparisons": reading.compare_all(orderings, methods, measured, 1 - confidence),
        "rows": [row for arm in methods for row in _seeds(arm, measured, study)],
        "compatibility": transfers.rows(study, measured | elsewhere, 1 - confidence),
    }
    starts = any("start_gap" in row for row in tables["windows"])
    more = [f"{name}{bound}" for name in _STARTS for bound in ("", "_low", "_high")] if starts else []
    columns = {
        "comparisons": reading.COLUMNS,
        "compatibility": transfers.COLUMNS,
        "windows": (*_WINDOWS, *more),
        "ablation": (*main[0], "one_step_a_window"),
    }
    for name, rows in tables.items():
        frame = pandas.DataFrame(rows, columns=columns.get(name))
        artifacts.write_text(results / "tables" / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    artifacts.write_json(results / "metrics.json", _summary(main))
    read = [results / "metrics" / f"{name}.json" for name in measured | elsewhere] + [Path(published)]
    made = [results / "tables" / f"{name}.csv" for name in tables] + [results / "metrics.json"]
    inputs = {path.as_posix(): artifacts.sha256_file(path) for path in read}
    record.write(results / "tables" / "record.json", artifacts.sha256_file(study_spec), inputs, made)


def samples_manifest(model: dict[str, Any], results: Path) -> dict[str, Any]:
    """The samples manifest of a model or transfer of the study; PerflowError if it belongs to another spec."""
    return _of_spec(samples_folder(model, results) / "manifest.json", model["samples_spec"])


def samples_folder(model: dict[str, Any], results: Path) -> Path:
    """Where the samples of a model, or of a transfer, lie."""
    return results / ("transfers" if "setting" in model else "samples") / model["name"]


def _of_spec(path: Path, spec: str) -> dict[str, Any]:
    content = artifacts.read_object(path, "an artifact of this study", trials=dict)
    if content.get("spec") != spec:
        raise PerflowError(
            f"{path}: made for spec {str(content.get('spec'))[:12]}, the study's row has {spec[:12]}; "
            "run the workflow again"
        )
    return content


def _measured(model: dict[str, Any], study: dict[str, Any], results: Path) -> dict[str, Any]:
    path = results / "metrics" / f"{model['name']}.json"
    content = _of_spec(path, model["spec"])
    absent = [trial["name"] for trial in model["trials"] if trial["name"] not in content["trials"]]
    if absent:
        raise PerflowError(f"{path}: no trial {', '.join(absent)}; there are {', '.join(content['trials'])}")
    return content


def _as_run(arm: Arm, measured: dict[str, dict]) -> Arm:
    """With the evaluations that a solver which decides as it goes took, of the first training seed."""
    if arm.nfe:
        return arm
    return dataclasses.replace(arm, nfe=measured[arm.models[0]]["trials"][arm.trial]["nfe"])


def _one_extractor(measured: dict[str, dict], study: dict[str, Any], results: Path) -> None:
    """Distances in different features cannot stand in one table."""
    expected = None
    for name, content in measured.items():
        extractor = content["extractor"]["name"], content["extractor"]["sha256"]
        expected = expected or (study["extractor"], extractor[1])
        if extractor != expected:
            raise PerflowError(
                f"{results / 'metrics' / name}.json: measured with extractor {extractor[0]} ({extractor[1][:12]}), "
                f"others with {expected[0]} ({expected[1][:12]}); run the workflow again"
            )


def _described(arm: Arm) -> dict[str, Any]:
    """What describes an arm; ``ends`` only where they are data, so that other studies have no such column."""
    return {name: getattr(arm, name) for name in _ARM} | ({} if arm.ends is None else {"ends": arm.ends})


def _metrics_of(arm: Arm, measured: dict[str, dict]) -> list[str]:
    """Metrics at least one training seed has: where one is undefined, evaluate leaves it out."""
    found = {metric for model in arm.models for metric in measured[model]["trials"][arm.trial]["metrics"]}
    return [name for name in METRICS if name in found] + sorted(set(found) - set(METRICS))


def _main(arm: Arm, measured: dict[str, dict], extractor: str) -> list[dict[str, Any]]:
    """A line for each metric: the first training seed with its interval, and mean and spread over the seeds."""
    rows = []
    for metric in _metrics_of(arm, measured):
        trials = [measured[model]["trials"][arm.trial]["metrics"] for model in arm.models]
        seeds = [metrics[metric] for metrics in trials if metric in metrics]
        values = [seed["value"] for seed in seeds]
        rows.append(
            _described(arm)
            | {"metric": metric, "metric_name": metric_name(metric, extractor)}
            | {bound: seeds[0][bound] for bound in ("value", "low", "high")}
            | {
                "seed_mean": mean(values),
                "seed_std": stdev(values) if len(values) > 1 else None,
                "n_seeds": len(values),
            }
        )
    return rows


def _ablation(main: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of entries that stand with more than one number of windows, sampled on their windows."""
    counts: dict[tuple, set] = {}
    for row in main:
        if row["solver"] == WINDOW:
            counts.setdefault((row["base"], row["entry"]), set()).add(row["key"])
    return [
        row | {"one_step_a_window": row["steps"] == row["windows"]}
        for row in main
        if row["solver"] == WINDOW and len(counts[row["base"], row["entry"]]) > 1
    ]


def _windows(model: dict[str, Any], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each window of a model: straightness on its own path, the teacher's there, end-point error."""
    flow = measured["flow"]
    if flow is None:
        return []
    rows = []
    for k, (start, end) in enumerate(zip(flow["edges"], flow["edges"][1:], strict=False)):
        row = {"base": model["base"], "key": model_key(model), "model": model["name"], "entry": model["entry"]}
        row |= {"seed": model["seed"], "windows": model["windows"], "window": k, "start": start, "end": end}
        for name in (*_FLOW, *_STARTS) if "start_gap" in flow else _FLOW:
            row |= {name: flow[name][k]["value"]}
            row |= {f"{name}_{bound}": flow[name][k][bound] for bound in ("low", "high")}
        rows.append(row)
    return rows


def _seeds(arm: Arm, measured: dict[str, dict], study: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each model and trial, every training seed by itself."""
    models = {model["name"]: model for model in study["models"]}
    rows = []
    for name in arm.models:
        row = {"model": name, "seed": models[name]["seed"]} | _described(arm)
        for metric, estimate in measured[name]["trials"][arm.trial]["metrics"].items():
            row |= {metric: estimate["value"], f"{metric}_low": estimate["low"], f"{metric}_high": estimate["high"]}
        rows.append(row | {"spec": models[name]["spec"]})
    return rows


def trained(study: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(table, row, folder below results) of everything that was trained."""
    students = [model["name"] for model in study["models"] if model["kind"] == "student"]
    return [
        *(("bases", base["name"], f"bases/{base['name']}") for base in study["bases"]),
        *(("extractors", row["name"], f"extractors/{row['name']}") for row in study["extractors"]),
        *(("adapters", row["name"], f"adapters/{row['name']}") for row in study["adapters"]),
        *(("students", name, f"students/{name}") for name in students),
    ]


def _curves(study: dict[str, Any], results: Path) -> list[dict[str, Any]]:
    keys = {model["name"]: model for model in study["models"]}
    rows = []
    for table, name, folder in trained(study):
        model = keys.get(name) if table == "students" else None
        key, label = (model_key(model), model["label"]) if model else (name, name)
        for step in artifacts.read_jsonl(results / folder / "curve.jsonl"):
            where = {"table": table, "row": name, "key": key, "label": label, "phase": step["phase"]}
            rows.append(where | {"step": step["step"]} | {name_: step.get(name_) for name_ in _CURVE})
    return rows


def _costs(study: dict[str, Any], results: Path) -> list[dict[str, Any]]:
    files = [(table, name, f"{folder}/cost.json") for table, name, folder in trained(study)]
    files += [("pairs", row["name"], f"pairs/{row['name']}/cost.json") for row in study["pairs"]]
    for model in study["models"]:
        files.append(("samples", model["name"], f"samples/{model['name']}/cost.json"))
        files.append(("evaluations", model["name"], f"metrics/{model['name']}.cost.json"))
    for transfer in study["transfers"]:
        files.append(("transfers", transfer["name"], f"transfers/{transfer['name']}/cost.json"))
        files.append(("evaluations", transfer["name"], f"metrics/{transfer['name']}.cost.json"))
    rows = []
    for table, name, file in files:
        cost = artifacts.read_object(results / file, "a record")
        rows.append({"table": table, "row": name} | {column: cost.get(column) for column in _COST})
    return rows


def _summary(main: list[dict[str, Any]]) -> dict[str, float]:
    """Flat, small, stable names, so that ``dvc metrics diff`` reads well: the mean over training seeds."""
    measured = {row["metric"] for row in main}
    held = measured & set(SUMMARY) or {leading(measured)}
    return {
        f"{row['key']}/{row['trial']}/{row['metric']}": float(f"{row['seed_mean']:.6g}")
        for row in main
        if row["metric"] in held
    }
