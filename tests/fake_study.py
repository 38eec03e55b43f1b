"""A small study tree with made-up numbers, for the report's and the tracker's tests.

Only the form is real. Values come from a formula, so that tests can turn an ordering around by changing it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from perflow import artifacts

GROUPS = 20
PROMPTS = [
    {"text": "a handwritten seven", "digit": 7, "colour": None},
    {"text": "a red handwritten three", "digit": 3, "colour": "red"},
    {"text": "a handwritten digit", "digit": None, "colour": None},
    {"text": "a blue handwritten zero", "digit": 0, "colour": "blue"},
]
PER_PROMPT = 3
OPTIM = {"steps": 60, "batch": 8, "lr": 0.0015, "ema": 0.99}
ENTRIES = {
    "perflow-sdxl": ("PeRFlow (SDXL recipe)", "fixed", [1, 2, 4, 8], "straight", "ddim_eps", {4: 2}),
    "perflow-sd15": ("PeRFlow (SD 1.5 recipe)", "sync", [4], "straight", "diff_eps", 1),
    "rectified-diffusion": ("Rectified diffusion, phased", "fixed", [4], "diffusion", "ddim_eps", 1),
}
CONTROL = "guidance-distilled"
QUALITY = {"training-free": 4.0, "perflow-sdxl": 1.2, "perflow-sd15": 3.0, "rectified-diffusion": 0.8, CONTROL: 2.0}

Distance = Callable[[dict[str, Any], dict[str, Any]], float]


def distance(model: dict[str, Any], trial: dict[str, Any]) -> float:
    """A made-up distance to the teacher: falls with the steps, better for some entries than for others."""
    if trial["name"].startswith("teacher"):
        return 0.15
    solver = {"ddim": 1.5, "dpmpp_2m": 1.0, "unipc": 1.2}.get(trial["solver"], 1.0)
    few = 1.0 if model["windows"] is None or not model["windowed"] else 1.0 + 1.0 / model["windows"]
    return 0.2 + QUALITY.get(model["entry"], 1.0) * solver * few / (trial["steps"] or 50) ** 1.5 + 0.01 * model["seed"]


def study(name: str = "synthetic") -> dict[str, Any]:
    """results/specs/study.json of the made-up study."""
    students = {
        entry: {
            "label": label, "bases": None, "pairs": pairs, "windows": windows, "path": path, "prediction": prediction,
            "method": {"name": "piecewise_reflow", "positions": "uniform", "weighting": "uniform",
                       "power": 1.0, "penalty": "mse"}, "seeds": seeds,
            "training": {}, "trials": {"solvers": ["window"], "steps": [1, 2, 4, 8], "guidance": 1.0},
        }
        for entry, (label, pairs, windows, path, prediction, seeds) in ENTRIES.items()
    }  # fmt: skip
    students[CONTROL] = {
        "label": "Guidance distilled", "bases": None, "pairs": "fixed", "windows": 20, "path": "diffusion",
        "prediction": "ddim_eps", "method": {"name": "distill"}, "seeds": 1, "training": {},
        "trials": {"solvers": ["ddim", "dpmpp_2m", "unipc"], "steps": [4, 8], "guidance": 1.0},
    }  # fmt: skip
    settings = {
        "study": name,
        "seed": 0,
        "datasets": {"digits": {"source": "digits", "resolution": 8, "counts": {"base": 9}}},
        "bases": {"digits": {"family": "stable_diffusion", "dataset": "digits", "network": OPTIM}},
        "extractors": {"digits-cnn": {"dataset": "digits", "training": OPTIM}},
        "pairs": {
            "fixed": {"starts": "data", "guidance": 4.5, "drop": 0.0, "solver": "ddim", "steps": 32, "count": 64},
            "sync": {"starts": "data", "guidance": 1.0, "drop": 0.1, "solver": "ddim", "steps": 32, "count": 64},
        },
        "training": OPTIM,
        "students": students,
        "baselines": {"solvers": ["ddim", "dpmpp_2m", "unipc"], "steps": [2, 4, 8], "guidance": None},
        "sampling": {
            "prompts": len(PROMPTS), "per_prompt": PER_PROMPT, "flow": {"items": 8, "solver": "heun"},
            "teacher": {"solver": "dpmpp_2m", "steps": 32, "guidance": 4.5},
        },
        "evaluation": {"extractor": "digits-cnn", "groups": GROUPS, "confidence": 0.95, "metrics": ["fd_teacher"]},
    }  # fmt: skip
    models = [_base()]
    for entry, recipe in students.items():
        axis = recipe["windows"] if isinstance(recipe["windows"], list) else [recipe["windows"]]
        for windows in axis:
            seeds = recipe["seeds"].get(windows, 1) if isinstance(recipe["seeds"], dict) else recipe["seeds"]
            models += [_student(entry, recipe, windows, seed) for seed in range(seeds)]
    pairs = sorted({model["pairs"] for model in models if model["pairs"]})
    return {
        "name": name, "seed": 0, "home": ".", "settings": settings,
        "params_text": f"study: {name}\nseed: 0  # made-up numbers\n",
        "extractor": "digits-cnn", "teacher": settings["sampling"]["teacher"], "models": models,
        "pairs": [{"name": pair, "base": "digits", "spec": f"pairs-{pair}"} for pair in pairs],
        "bases": [{"name": "digits", "spec": "base-0"}],
        "transfers": [], "adapters": [],
        "extractors": [{"name": "digits-cnn", "spec": "extractor-0"}],
        "skipped": [{"row": "digits-perflow-sdxl-k8-s0 window-4", "why": "4 steps cannot cross 8 windows"}],
        "fingerprint": "0",
    }  # fmt: skip


def _trial(solver: str, steps: int, guidance: float, name: str = "", stream: int = 0) -> dict[str, Any]:
    nfe = steps * (1 if guidance == 1 else 2)
    return {
        "name": name or f"{solver}-{steps}", "solver": solver, "steps": steps, "nfe": nfe,
        "guidance": guidance, "stream": stream, "scheduler": None,
    }  # fmt: skip


def _specs(name: str) -> dict[str, str]:
    return {"spec": f"evaluation-{name}", "samples_spec": f"samples-{name}", "model_spec": f"model-{name}"}


def _base() -> dict[str, Any]:
    trials = [_trial("dpmpp_2m", 32, 4.5, name, stream) for stream, name in enumerate(("teacher", "teacher-2"))]
    trials += [_trial(solver, steps, 4.5) for solver in ("ddim", "dpmpp_2m", "unipc") for steps in (2, 4, 8)]
    return {
        "name": "digits", "kind": "base", "entry": "training-free", "label": "training-free", "base": "digits",
        "windows": None, "edges": None, "seed": 0, "pairs": None, "method": None, "path": None, "starts": None,
        "prediction": "epsilon", "guidance_mode": None, "windowed": False, "trials": trials, "links": [],
    } | _specs("digits")  # fmt: skip


def _student(entry: str, recipe: dict[str, Any], windows: int, seed: int) -> dict[str, Any]:
    name = f"digits-{entry}-k{windows}-s{seed}"
    windowed = "window" in recipe["trials"]["solvers"]
    trials = [
        _trial(solver, steps, 1.0)
        for solver in recipe["trials"]["solvers"]
        for steps in recipe["trials"]["steps"]
        if not (windowed and steps < windows)
    ]
    return {
        "name": name, "kind": "student", "entry": entry, "label": recipe["label"], "base": "digits",
        "windows": windows, "edges": [1 - k / windows for k in range(windows)] + [0.0], "seed": seed,
        "pairs": f"digits-{recipe['pairs']}-k{windows}", "method": recipe["method"]["name"], "path": recipe["path"],
        "prediction": recipe["prediction"], "starts": "data", "windowed": windowed, "trials": trials,
        "guidance_mode": "CFG-sync" if recipe["pairs"] == "sync" else "CFG-fixed",
        "links": [],
    } | _specs(name)  # fmt: skip


def in_setting(content: dict[str, Any], setting: str, model: str, **more: Any) -> dict[str, Any]:
    """A student of the study in a setting, as a row of ``transfers``."""
    own = next(row for row in content["models"] if row["name"] == model)
    row = {
        "name": f"{setting}-digits.{model}", "setting": setting, "label": setting, "model": model, "base": "digits",
        "scale": 0.0, "task": "text", "adapter": None, "strength": 1.0, "rank": None, "reference": "digits",
        "trials": own["trials"], "spec": f"evaluation-{setting}-{model}", "samples_spec": f"transfer-{setting}-{model}",
    }  # fmt: skip
    return row | more


def write(home: Path, content: dict[str, Any] | None = None, distance: Distance = distance) -> Path:
    """Write the whole tree below ``home``; returns the path of study.json."""
    content = content or study()
    results = home / "results"
    artifacts.write_json(results / "specs" / "study.json", content)
    _row_specs(results / "specs", content)
    for base in content["bases"]:
        _trained(results / "bases" / base["name"], 1.0)
    for extractor in content["extractors"]:
        _trained(results / "extractors" / extractor["name"], 2.0)
    recipes = content["settings"]["pairs"]
    entries = {model["pairs"]: content["settings"]["students"].get(model["entry"]) for model in content["models"]}
    for pairs in content["pairs"]:
        folder = results / "pairs" / pairs["name"]
        artifacts.write_json(folder / "manifest.json", {"spec": pairs["spec"]})
        _cost(folder / "cost.json", 20.0, 64 * recipes[entries[pairs["name"]]["pairs"]]["count"])
    for model in content["models"]:
        if model["kind"] == "student":
            _trained(results / "students" / model["name"], 0.1 + 0.05 * model["seed"])
        _metrics(results, model, content, distance)
        _samples(results, model)
    for row in content["transfers"]:
        own = next(model for model in content["models"] if model["name"] == row["model"])
        _metrics(results, own | row | {"windowed": False}, content, distance)
        _samples(results, row)
    return results / "specs" / "study.json"


def _row_specs(folder: Path, content: dict[str, Any]) -> None:
    """What of a row's spec is read besides study.json: how the row is made."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name in ("bases", "extractors"):
        rows |= {(name, row["name"]): {"training": OPTIM} for row in content[name]}
    for model in content["models"]:
        if model["kind"] == "student":
            recipe = content["settings"]["students"][model["entry"]]
            row = {name: recipe[name] for name in ("path", "prediction", "method")}
            row |= {
                "pairs": model["pairs"],
                "edges": model["edges"],
                "training": OPTIM | recipe["training"],
                "start": None,
            }
            rows["students", model["name"]] = row
            rows["pairs", model["pairs"]] = content["settings"]["pairs"][recipe["pairs"]]
    for (table, name), row in rows.items():
        spec = {"table": table, "name": name, "seed": 0, "row": row, "fingerprint": "0"}
        artifacts.write_json(folder / table / f"{name}.json", spec)


def _trained(folder: Path, level: float) -> None:
    rng = numpy.random.default_rng(7)
    steps = range(1, 61)
    curve = [
        {"phase": "train", "step": step, "loss": level * (1 + 3 / step) * float(1 + 0.1 * rng.standard_normal()),
         "lr": 0.0015, "grad_norm": 1 / step}
        for step in steps
    ]  # fmt: skip
    artifacts.write_jsonl(folder / "curve.jsonl", curve)
    _cost(folder / "cost.json", 45.0, 0)


def _cost(path: Path, seconds: float, evaluations: int) -> None:
    cost = {
        "seconds": seconds, "cpu_seconds": seconds * 0.9, "peak_mib": 512, "bytes": 1000,
        "teacher_evaluations": evaluations, "student_passes": 480, "resumed": False,
    }  # fmt: skip
    artifacts.write_json(path, cost)


def _noise(*labels: object) -> numpy.random.Generator:
    return numpy.random.default_rng(list(json.dumps([str(label) for label in labels]).encode()))


def _estimate(value: float, *labels: object) -> dict[str, Any]:
    """``replicates`` move together over all models (common prompts), and a little by themselves."""
    common = _noise("groups").standard_normal(GROUPS)
    own = _noise(*labels).standard_normal(GROUPS)
    replicates = value + value * (0.004 * common + 0.002 * own)
    error = numpy.sqrt((GROUPS - 1) / GROUPS * numpy.square(replicates - replicates.mean()).sum())
    return {
        "value": value, "low": value - 2.09 * error, "high": value + 2.09 * error, "replicates": replicates.tolist(),
    }  # fmt: skip


def _metrics(results: Path, model: dict[str, Any], content: dict[str, Any], distance: Distance) -> None:
    trials = {}
    for trial in model["trials"]:
        fd = distance(model, trial)
        values = {
            "fd_teacher": fd, "fd_real": 1.2 + fd, "kid_teacher": fd / 300, "kid_real": 0.004 + fd / 300,
            "precision": 1 / (1 + fd / 4), "recall": 1 / (1 + fd / 3), "diversity": 1 - fd / 20,
            "prompt_accuracy": 1 / (1 + fd / 20), "teacher_mse": fd / 10,
        }  # fmt: skip
        metrics = {name: _estimate(value, model["name"], trial["name"], name) for name, value in values.items()}
        trials[trial["name"]] = {key: trial[key] for key in ("solver", "steps", "nfe", "guidance")} | {
            "metrics": metrics
        }
    flow = None
    if model["windowed"]:
        around = range(model["windows"])
        flow = {"edges": model["edges"]}
        for name, scale in (("straightness", 0.05), ("teacher_straightness", 0.2), ("endpoint_error", 0.1)):
            flow[name] = [_estimate(scale / (1 + k + 0.2 * model["windows"]), model["name"], name, k) for k in around]
    artifacts.write_json(
        results / "metrics" / f"{model['name']}.json",
        {
            "spec": model["spec"],
            "model": model["name"],
            "extractor": {"name": content["extractor"], "sha256": "ab" * 32, "accuracy": 0.98},
            "trials": trials,
            "flow": flow,
        },
    )
    _cost(results / "metrics" / f"{model['name']}.cost.json", 6.0, 0)


def _png(pixels: numpy.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def _samples(results: Path, model: dict[str, Any]) -> None:
    folder = results / ("transfers" if "setting" in model else "samples") / model["name"]
    trials = {}
    for trial in model["trials"]:
        rng = _noise("images", trial["stream"])
        pixels = rng.integers(0, 255, (len(PROMPTS) * PER_PROMPT, 8, 8, 3), dtype=numpy.uint8)
        pixels[:, :2] = len(trials) * 20 % 256  # a mark of the trial
        files = {}
        archive, grid = f"{trial['name']}.zip", f"{trial['name']}.png"
        artifacts.write_archive(folder / archive, {f"{i:05d}.png": _png(image) for i, image in enumerate(pixels)})
        (folder / grid).write_bytes(_png(numpy.hstack(list(pixels[:6]))))
        for kind, file in (("images", archive), ("grid", grid)):
            files[kind] = {"file": file, "sha256": artifacts.sha256_file(folder / file)}
        trials[trial["name"]] = {key: trial[key] for key in ("solver", "steps", "nfe", "guidance", "stream")} | files
    artifacts.write_json(
        folder / "manifest.json",
        {
            "spec": model["samples_spec"],
            "model": model["name"],
            "base": model["base"],
            "prompts": PROMPTS,
            "per_prompt": PER_PROMPT,
            "trials": trials,
            "flow": None,
        },
    )
    _cost(folder / "cost.json", 8.0, 640)
