"""From params.yaml to rows: axes expand, names are made, references are followed, specs are written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from perflow import artifacts
from perflow.config import rows
from perflow.config.load import checked, load_params
from perflow.core import SOLVER_CALLS
from perflow.datasets import DATASETS
from perflow.errors import PerflowError
from perflow.fingerprint import fingerprint
from perflow.methods import METHODS, configuration
from perflow.metrics import EXTRACTOR, METRICS
from perflow.models import FAMILIES, SCHEDULERS

WINDOW = "window"
"""The solver of a student on its own windows."""
TEACHER, TEACHER_TWO = "teacher", "teacher-2"
"""Names of the reference trials of a base: common noise, and independent noise."""


class Skipped(NamedTuple):
    """A combination an axis names that cannot be."""

    row: str
    why: str


@dataclass(frozen=True)
class Study:
    """A resolved study: tables of named rows. A row that names another row is an edge of the DAG."""

    name: str
    seed: int
    params: rows.Params
    text: str
    datasets: dict[str, rows.Dataset]
    bases: dict[str, rows.Base]
    extractors: dict[str, rows.Extractor]
    pairs: dict[str, rows.Pairs]
    students: dict[str, rows.Student]
    deltas: dict[str, rows.Delta]
    samples: dict[str, rows.Samples]
    evaluations: dict[str, rows.Evaluation]
    entries: dict[str, str] = field(default_factory=dict)
    """Student -> the entry of params.yaml it comes from."""
    skipped: list[Skipped] = field(default_factory=list)

    def spec(self, table: str, name: str) -> dict[str, Any]:
        """The spec of one row: the row, the seed, a fingerprint of the code that will read it."""
        row = getattr(self, table)[name]
        return {
            "table": table,
            "name": name,
            "seed": self.seed,
            "row": row.model_dump(mode="json"),
            "fingerprint": fingerprint(*_readers(self, table, row)),
        }


TABLES = ("datasets", "bases", "extractors", "pairs", "students", "deltas", "samples", "evaluations")


def load(path: str | Path) -> Study:
    """Read and resolve a study; PerflowError with one line for any mistake."""
    params, text = load_params(path)
    try:
        return _resolve(params, text)
    except PerflowError as error:
        raise PerflowError(f"{path}: {error}") from None
    except ValidationError as error:  # a name made of several names
        raise PerflowError(f"{path}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def write_specs(study: Study, home: str | Path = ".", label: str = ".") -> None:
    """Write results/specs/ below ``home``; a file whose content is unchanged is not touched.

    ``label`` is what the study's home is called in MLflow: "." for the repository's own study.
    """
    root = Path(home) / "results" / "specs"
    for table in TABLES:
        for name in getattr(study, table):
            _write_changed(root / table / f"{name}.json", study.spec(table, name))
    _write_changed(root / "study.json", summary(study, label))


def _write_changed(path: Path, content: Any) -> None:
    text = artifacts.dumps(content)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        artifacts.write_text(path, text)


def _known(table: str, place: str, name: Any, valid: Any) -> Any:
    if name not in valid:
        there = ", ".join(map(str, valid))
        raise PerflowError(f"{place}: no {table} '{name}'; there {'is' if len(valid) == 1 else 'are'} {there}")
    return name


def _resolve(params: rows.Params, text: str) -> Study:
    for name, dataset in params.datasets.items():
        _known("dataset source", f"datasets.{name}.source", dataset.source, DATASETS)
    for name, base in params.bases.items():
        _known("family", f"bases.{name}.family", base.family, FAMILIES)
        _known("dataset", f"bases.{name}.dataset", base.dataset, params.datasets)
    for name, extractor in params.extractors.items():
        _known("dataset", f"extractors.{name}.dataset", extractor.dataset, params.datasets)
    for name, recipe in params.pairs.items():
        _known("solver", f"pairs.{name}.solver", recipe.solver, SOLVER_CALLS)
    _known("extractor", "evaluation.extractor", params.evaluation.extractor, params.extractors)
    for metric in params.evaluation.metrics:
        _known("metric", "evaluation.metrics", metric, METRICS)
    _known("solver", "sampling.teacher.solver", params.sampling.teacher.solver, SCHEDULERS)
    _known("solver", "sampling.flow.solver", params.sampling.flow.solver, SOLVER_CALLS)
    for solver in params.baselines.solvers:
        _known("solver", "baselines.solvers", solver, SCHEDULERS)

    study = Study(
        params.study, params.seed, params, text,
        dict(params.datasets), dict(params.bases), dict(params.extractors), {}, {}, {}, {}, {},
    )  # fmt: skip
    for name in params.bases:
        _add_samples(study, name, name, _baseline_trials(params), windowed=False)
    for entry, recipe in params.students.items():
        _add_students(study, entry, recipe)
    return study


def _add_students(study: Study, entry: str, recipe: rows.StudentRecipe) -> None:
    params, place = study.params, f"students.{entry}"
    _known("pairs", f"{place}.pairs", recipe.pairs, params.pairs)
    for solver in recipe.trials.solvers:
        _known("solver", f"{place}.trials.solvers", solver, (WINDOW, *SCHEDULERS))
    method = _method(place, recipe.method)
    training = _training(place, params.training, recipe.training)
    axis = _window_axis(place, recipe.windows)
    if isinstance(recipe.seeds, dict):
        for windows in recipe.seeds:
            _known("number of windows", f"{place}.seeds", windows, sorted({len(edges) - 1 for _, edges in axis}))
    for base in recipe.bases if recipe.bases is not None else params.bases:
        _known("base", f"{place}.bases", base, params.bases)
        for label, edges in axis:
            pairs = _add_pairs(study, base, recipe.pairs, label, edges)
            for seed in range(_seeds(recipe.seeds, len(edges) - 1)):
                name = f"{base}-{entry}-{label}-s{seed}"
                if name in study.samples:
                    raise PerflowError(f"{place}: two rows with one name, '{name}'; rename one of them")
                study.entries[name] = entry
                study.students[name] = rows.Student(
                    base=base, family=params.bases[base].family, pairs=pairs, edges=edges, path=recipe.path,
                    prediction=recipe.prediction, method=method, training=training, seed=seed,
                )  # fmt: skip
                trials = _student_trials(study, name, recipe.trials, len(edges) - 1)
                windowed = WINDOW in recipe.trials.solvers
                study.deltas[name] = rows.Delta(
                    student=name, base=base, windowed=windowed, guidance=_guidance(params, recipe.trials)
                )
                _add_samples(study, name, base, trials, windowed)


def _add_pairs(study: Study, base: str, recipe: str, label: str, edges: list[float]) -> str:
    name = f"{base}-{recipe}-{label}"
    source = study.params.pairs[recipe]
    row = rows.Pairs(
        **source.model_dump(), base=base, dataset=study.params.bases[base].dataset, edges=edges,
        window_steps=math.ceil(source.steps / (len(edges) - 1)),
    )  # fmt: skip
    if study.pairs.setdefault(name, row) != row:
        raise PerflowError(f"pairs.{recipe}: two rows with one name, '{name}'; rename one of them")
    return name


def _add_samples(study: Study, model: str, base: str, trials: list[rows.Trial], windowed: bool) -> None:
    params = study.params
    if model in study.samples:
        raise PerflowError(f"students: two rows with one name, '{model}'; rename one of them")
    family, dataset = params.bases[base].family, params.bases[base].dataset
    study.samples[model] = rows.Samples(
        model=model, base=base, family=family, dataset=dataset, sampling=params.sampling, trials=trials,
        windowed=windowed,
    )  # fmt: skip
    study.evaluations[model] = rows.Evaluation(
        **params.evaluation.model_dump(), model=model, base=base, dataset=dataset
    )


def nfe(solver: str, steps: int, guidance: float) -> int:
    """Network evaluations of one sample: guidance other than 1 doubles them."""
    calls = SCHEDULERS[solver].evaluations(steps) if solver in SCHEDULERS else steps
    return calls * (1 if guidance == 1 else 2)


def scheduler_of(solver: str) -> dict[str, Any] | None:
    """What a trial row says of its diffusers scheduler; None for a student's windows."""
    if solver not in SCHEDULERS:
        return None
    return {"class": SCHEDULERS[solver].scheduler} | SCHEDULERS[solver].options


def _guidance(params: rows.Params, trials: rows.TrialRecipe) -> float:
    return params.sampling.teacher.guidance if trials.guidance is None else trials.guidance


def _trial(solver: str, steps: int, guidance: float, name: str = "", stream: int = 0) -> rows.Trial:
    return rows.Trial(
        name=name or f"{solver}-{steps}", solver=solver, steps=steps, guidance=guidance,
        nfe=nfe(solver, steps, guidance), stream=stream, scheduler=scheduler_of(solver),
    )  # fmt: skip


def _baseline_trials(params: rows.Params) -> list[rows.Trial]:
    teacher, baselines = params.sampling.teacher, params.baselines
    guidance = _guidance(params, baselines)
    references = [
        _trial(teacher.solver, teacher.steps, teacher.guidance, name, stream)
        for stream, name in enumerate((TEACHER, TEACHER_TWO))
    ]
    return references + [_trial(solver, n, guidance) for solver, n in product(baselines.solvers, baselines.steps)]


def _student_trials(study: Study, name: str, recipe: rows.TrialRecipe, windows: int) -> list[rows.Trial]:
    guidance = _guidance(study.params, recipe)
    trials = []
    for solver, steps in product(recipe.solvers, recipe.steps):
        if solver == WINDOW and steps < windows:
            study.skipped.append(Skipped(f"{name} {solver}-{steps}", f"{steps} steps cannot cross {windows} windows"))
        else:
            trials.append(_trial(solver, steps, guidance))
    if not trials:
        raise PerflowError(
            f"students: '{name}' has no trial left: every number in steps {recipe.steps} is below its {windows} windows"
        )
    return trials


def _method(place: str, given: dict[str, Any]) -> dict[str, Any]:
    """The method with every option written out; PerflowError naming the known methods and options."""
    options = dict(given)
    name = _known("method", f"{place}.method", str(options.pop("name", "(none)")), METHODS)
    kind = configuration(name)
    known = kind.__dataclass_fields__
    for option in options:
        if option not in known:
            raise PerflowError(
                f"{place}.method.{option}: unknown option of {name}; known: {', '.join(known) or 'none'}"
            )
    try:
        made = TypeAdapter(kind, config=None).validate_python(options, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("", *first["loc"]))
        raise PerflowError(f"{place}.method{where}: {first['msg'].removeprefix('Value error, ')}") from None
    return {"name": name} | {option: getattr(made, option) for option in known}


def _training(place: str, common: rows.Optim, own: dict[str, Any]) -> rows.Optim:
    return checked(rows.Optim, common.model_dump() | own, f"{place}.training")


def _seeds(seeds: int | dict[int, int], windows: int) -> int:
    return seeds if isinstance(seeds, int) else seeds.get(windows, 1)


def _window_axis(place: str, given: Any) -> list[tuple[str, list[float]]]:
    """``4``, ``[1, 2, 4]``, ``[1, 0.5, 0]`` or a list of these -> (label, edges), one for each value."""
    is_edges = isinstance(given, list) and len(given) > 2 and given[-1] == 0 and not isinstance(given[-1], bool)
    values = given if isinstance(given, list) and not is_edges else [given]
    if not values:
        raise PerflowError(f"{place}.windows: empty; give a number such as 4, or edges such as [1, 0.5, 0]")
    axis = [_window_value(f"{place}.windows", value) for value in values]
    if len({label for label, _ in axis}) < len(axis):
        raise PerflowError(f"{place}.windows: the same windows stand twice in {given}")
    return axis


def _window_value(place: str, value: Any) -> tuple[str, list[float]]:
    if isinstance(value, list):
        if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in value):
            raise PerflowError(f"{place}: edges must be numbers; got {value}")
        try:
            edges = [float(edge) for edge in rows.check_edges(value)]
        except ValueError as error:
            raise PerflowError(f"{place}: {error}") from None
        return "e" + "_".join(f"{edge:g}" for edge in edges[1:-1]), edges
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise PerflowError(
            f"{place}: windows are a whole number from 1 to 1000, or edges such as [1, 0.5, 0]; got {value!r}"
        )
    return f"k{value}", [(value - k) / value for k in range(value + 1)]


def _readers(study: Study, table: str, row: Any) -> tuple[str, ...]:
    """The modules that will read a row: its stage and the plug-ins it names."""
    match table:
        case "datasets":
            return "perflow.stages.fetch", DATASETS[row.source]
        case "bases":
            return "perflow.stages.base", FAMILIES[row.family], DATASETS[study.datasets[row.dataset].source]
        case "extractors":
            return "perflow.stages.extractor", EXTRACTOR, DATASETS[study.datasets[row.dataset].source]
        case "pairs":
            return "perflow.stages.cache", FAMILIES[study.bases[row.base].family]
        case "students":
            return "perflow.stages.train", FAMILIES[row.family], METHODS[row.method["name"]]
        case "deltas":
            return ("perflow.stages.export",)
        case "samples":
            return "perflow.stages.sample", FAMILIES[row.family]
        case "evaluations":
            return "perflow.stages.evaluate", EXTRACTOR, *(METRICS[metric] for metric in row.metrics)
    raise KeyError(table)


def summary(study: Study, label: str = ".") -> dict[str, Any]:
    """results/specs/study.json: what the report and the tracker list, and nothing they would have to guess."""
    params = study.params
    hashes = {
        table: {name: artifacts.spec_hash(study.spec(table, name)) for name in getattr(study, table)}
        for table in TABLES
    }
    return {
        "name": study.name,
        "seed": study.seed,
        "home": label,
        "settings": params.model_dump(mode="json"),
        "params_text": study.text,
        "extractor": params.evaluation.extractor,
        "teacher": params.sampling.teacher.model_dump(),
        "models": [_model_summary(study, name, hashes) for name in study.samples],
        "pairs": [{"name": n, "base": row.base, "spec": hashes["pairs"][n]} for n, row in study.pairs.items()],
        "bases": [{"name": n, "spec": hashes["bases"][n]} for n in study.bases],
        "extractors": [{"name": n, "spec": hashes["extractors"][n]} for n in study.extractors],
        "skipped": [item._asdict() for item in study.skipped],
        "fingerprint": fingerprint("perflow.tracking", *_report_modules()),
    }


def _report_modules() -> list[str]:
    return [f"perflow.report.{path.stem}" for path in sorted((Path(__file__).parents[1] / "report").glob("*.py"))]


def _model_summary(study: Study, name: str, hashes: dict[str, dict[str, str]]) -> dict[str, Any]:
    samples = study.samples[name]
    common = {
        "name": name,
        "base": samples.base,
        "trials": [trial.model_dump() for trial in samples.trials],
        "windowed": samples.windowed,
        "spec": hashes["evaluations"][name],
        "samples_spec": hashes["samples"][name],
    }
    if name in study.bases:
        return common | {
            "kind": "base", "entry": "training-free", "label": "training-free", "windows": None, "edges": None,
            "seed": 0, "pairs": None, "method": None, "path": None, "prediction": study.bases[name].prediction,
            "starts": None, "guidance_mode": None, "model_spec": hashes["bases"][name],
        }  # fmt: skip
    student, entry = study.students[name], study.entries[name]
    pairs = study.pairs[student.pairs]
    return common | {
        "kind": "student", "entry": entry, "label": study.params.students[entry].label,
        "windows": len(student.edges) - 1, "edges": student.edges, "seed": student.seed, "pairs": student.pairs,
        "method": student.method["name"], "path": student.path, "prediction": student.prediction,
        "starts": pairs.starts, "guidance_mode": "CFG-sync" if pairs.guidance == 1 else "CFG-fixed",
        "model_spec": hashes["students"][name],
    }  # fmt: skip
