"""From params.yaml to rows: axes expand, names are made, references are followed."""

from __future__ import annotations

import json
import math
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from perflow.config import rows
from perflow.config.axis import TIMESTEPS, equal_edges, window_axis
from perflow.config.bases import add_latents, origin, resolve_adapters, resolve_bases
from perflow.config.chains import check_chains, link
from perflow.config.load import checked, known, load_params
from perflow.config.method import method_row
from perflow.config.splits import add_prompts, add_splits, check_negative
from perflow.config.study import Skipped, Study
from perflow.config.told import check_perceptual, check_within, taught_range, told_guidance
from perflow.config.transfers import add_transfers
from perflow.core import BEST, RK45, SDE, SOLVER_CALLS, SPACINGS, WINDOW
from perflow.core.grid import each_window, lay, stretches
from perflow.datasets import DATASETS, POINTS
from perflow.errors import PerflowError
from perflow.metrics import CLASSIFIER, CLASSIFYING, CLIP, COORDINATES, EXTRACTORS, LPIPS, METRICS, NEEDS
from perflow.models import SCHEDULERS

TEACHER, TEACHER_TWO = "teacher", "teacher-2"
"""Names of the reference trials of a base: common noise, and independent noise."""


def load(path: str | Path) -> Study:
    """Read and resolve a study; PerflowError with one line for any mistake."""
    params, text = load_params(path)
    try:
        return _resolve(params, text)
    except PerflowError as error:
        raise PerflowError(f"{path}: {error}") from None
    except ValidationError as error:  # a name made of several names
        raise PerflowError(f"{path}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _resolve(params: rows.Params, text: str) -> Study:
    for name, dataset in params.datasets.items():
        known("dataset source", f"datasets.{name}.source", dataset.source, DATASETS)
        if dataset.source in POINTS and dataset.style is not None:
            raise PerflowError(f"datasets.{name}.style: images have one, points have none; got {dataset.style!r}")
    bases = resolve_bases(params)
    adapters = resolve_adapters(params, bases)
    for name, extractor in params.extractors.items():
        known("kind", f"extractors.{name}.kind", extractor.kind, EXTRACTORS)
        if extractor.standardise is not None:
            of_images = [entry for entry, row in params.datasets.items() if row.source not in POINTS]
            known("dataset of images", f"extractors.{name}.standardise", extractor.standardise, of_images)
        if extractor.dataset is not None:
            known("dataset", f"extractors.{name}.dataset", extractor.dataset, params.datasets)
            if extractor.kind == COORDINATES:
                of_points = [entry for entry, row in params.datasets.items() if row.source in POINTS]
                known("dataset of points", f"extractors.{name}.dataset", extractor.dataset, of_points)
            if "extractor" not in params.datasets[extractor.dataset].counts:
                others = ", ".join(kind for kind in EXTRACTORS if kind != CLASSIFIER)
                raise PerflowError(
                    f"extractors.{name}.dataset: a {CLASSIFIER} learns attributes, which '{extractor.dataset}' does not"
                    f" name; use a kind that others trained: {others}"
                )
    for name, recipe in params.pairs.items():
        windowed = recipe.teacher or any(isinstance(base, rows.Flow) for base in params.bases.values())
        for solver in each_window(recipe.solver, 1) if recipe.solver else []:
            known("solver", f"pairs.{name}.solver", solver, (*SOLVER_CALLS, *([WINDOW] if windowed else [])))
    with_features = [name for name, row in params.extractors.items() if row.kind != LPIPS]
    known("extractor", "evaluation.extractor", params.evaluation.extractor, with_features)
    _check_beside(params)
    _check_real(params)
    for metric in params.evaluation.metrics:
        known("metric", "evaluation.metrics", metric, METRICS)
        kind = params.extractors[params.evaluation.extractor].kind
        if "attributes" in NEEDS.get(metric, ()) and kind != CLASSIFIER:
            raise PerflowError(
                f"evaluation.metrics: {metric} needs an extractor of kind {CLASSIFIER};"
                f" '{params.evaluation.extractor}' ({kind}) reads no attributes"
            )
        if "classes" in NEEDS.get(metric, ()) and kind not in CLASSIFYING:
            raise PerflowError(
                f"evaluation.metrics: {metric} needs an extractor that tells classes ({', '.join(CLASSIFYING)});"
                f" '{params.evaluation.extractor}' ({kind}) tells none"
            )
        if "paths" in NEEDS.get(metric, ()) and not all(isinstance(base, rows.Flow) for base in params.bases.values()):
            raise PerflowError(f"evaluation.metrics: {metric} is of points; a base of images has no paths on the plane")
        if "prompts" in NEEDS.get(metric, ()) and params.sampling.prompts == 1:
            raise PerflowError(f"evaluation.metrics: {metric} needs several prompts; sampling.prompts is 1")
    for base in params.bases.values():
        on_flow = isinstance(base, rows.Flow)
        known("solver", "sampling.teacher.solver", params.sampling.teacher.solver, [WINDOW] if on_flow else SCHEDULERS)
        known("solver", "sampling.flow.solver", params.sampling.flow.solver, [RK45] if on_flow else SOLVER_CALLS)
        for solver in params.baselines.solvers:
            known("solver", "baselines.solvers", solver, (WINDOW, RK45, SDE) if on_flow else SCHEDULERS)

    check_chains(params)
    study = Study(
        params.study, params.seed, params, text,
        dict(params.datasets), bases, dict(params.extractors), {}, {}, {}, {}, {}, adapters=adapters,
    )  # fmt: skip
    add_splits(study)
    for name in bases:
        _add_samples(study, name, name, _baseline_trials(study, name), windowed=False)
    for entry, recipe in params.students.items():
        _add_students(study, entry, recipe)
    for name in study.students:
        check_negative(study, name)
    add_latents(study)
    add_transfers(study)
    return study


def _check_beside(params: rows.Params) -> None:
    """Refuse networks beside the extractor that are of another kind, missing, or there for nothing."""
    for kind in (CLIP, LPIPS):
        name, place = getattr(params.evaluation, kind), f"evaluation.{kind}"
        asking = [metric for metric in params.evaluation.metrics if kind in NEEDS.get(metric, ())]
        there = [entry for entry, row in params.extractors.items() if row.kind == kind]
        if name is not None:
            known(f"extractor of kind {kind}", place, name, there)
        if asking and name is None:
            entries = f"; there are {', '.join(there)}" if there else ""
            raise PerflowError(
                f"{place}: missing; {asking[0]} needs it, an entry of extractors of kind {kind}{entries}"
            )
        if name is not None and not asking:
            metric = next(metric for metric, needs in NEEDS.items() if kind in needs)
            raise PerflowError(f"{place}: '{name}' is for {metric}, which evaluation.metrics does not name")
        if asking and any(isinstance(base, rows.Flow) for base in params.bases.values()):
            raise PerflowError(f"evaluation.metrics: {asking[0]} is of images; a base of points has none")


def _check_real(params: rows.Params) -> None:
    """Refuse features of real images that are of no data set, of another network, or of points."""
    for name, real in params.evaluation.real.items():
        place = f"evaluation.real.{name}"
        known("dataset", place, name, params.datasets)
        if params.datasets[name].source in POINTS:
            raise PerflowError(f"{place}: features are of images; '{name}' is of points")
        if real.made_by not in (None, params.evaluation.extractor):
            raise PerflowError(
                f"{place}.made_by: everything is measured by evaluation.extractor, '{params.evaluation.extractor}';"
                f" got '{real.made_by}'"
            )


def _add_students(study: Study, entry: str, recipe: rows.StudentRecipe) -> None:
    params, place, source = study.params, f"students.{entry}", recipe.source
    if source is None:
        known("pairs", f"{place}.pairs", recipe.pairs, params.pairs)
    for solver in recipe.trials.solvers:
        known("solver", f"{place}.trials.solvers", solver, (WINDOW, *SCHEDULERS, RK45))
        if recipe.prediction == "velocity" and solver in SCHEDULERS:
            raise PerflowError(
                f"{place}.trials.solvers: {solver} reads what a base says, which a velocity student does not; got"
                f" {recipe.trials.solvers}, valid: [{WINDOW}, {RK45}]"
            )
        if recipe.prediction != "velocity" and solver == RK45:
            raise PerflowError(f"{place}.trials.solvers: {RK45} reads a velocity; got prediction {recipe.prediction!r}")
    method = None if source else method_row(place, recipe)
    training = None if source else _training(place, params.training, recipe.training)
    axis = window_axis(place, recipe.windows)
    if isinstance(recipe.seeds, dict):
        for windows in recipe.seeds:
            known("number of windows", f"{place}.seeds", windows, sorted({len(edges) - 1 for _, edges in axis}))
    for base in recipe.bases if recipe.bases is not None else params.bases:
        known("base", f"{place}.bases", base, params.bases)
        if isinstance(params.bases[base], rows.Flow) and (recipe.path, recipe.prediction) != ("straight", "velocity"):
            raise PerflowError(
                f"{place}: a student of '{base}', a flow, has path straight and prediction velocity; got {recipe.path}"
                f" and {recipe.prediction}"
            )
        if RK45 in recipe.trials.solvers and recipe.path != "straight":
            raise PerflowError(
                f"{place}.trials.solvers: {RK45} reads dx/dt, which a velocity is on the straight path; got path"
                f" {recipe.path!r}"
            )
        for label, edges in axis:
            pairs = None if source else _add_pairs(study, base, recipe.pairs, label, edges)
            start = _start(params, place, recipe, base, label)
            told = told_guidance(params, place, recipe, study.bases[base].family)
            for seed in range(_seeds(recipe.seeds, len(edges) - 1)):
                name = f"{base}-{entry}-{label}-s{seed}"
                if name in study.samples:
                    raise PerflowError(f"{place}: two rows with one name, '{name}'; rename one of them")
                study.entries[name] = entry
                study.students[name] = rows.Student(
                    base=base, family=study.bases[base].family, start=start, pairs=pairs, edges=edges,
                    path=recipe.path, prediction=recipe.prediction, method=method, training=training, seed=seed,
                    rank=recipe.rank, told=told, source=source,
                )  # fmt: skip
                check_perceptual(params, place, base, study.students[name])
                trials = _student_trials(study, name, recipe.trials, edges, told)
                windowed = recipe.trials.windowed
                own = _own(trials, len(edges) - 1, told is not None)
                study.deltas[name] = rows.Delta(student=name, base=base, windowed=windowed, trial=own)
                _add_samples(study, name, base, trials, windowed, pairs)


def _start(params: rows.Params, place: str, recipe: rows.StudentRecipe, base: str, label: str) -> str | None:
    """The student whose weights a row starts from; its output must mean the same."""
    if recipe.start is None:
        return None
    found = link(params, f"{place}.start", recipe.start, base, label)
    if found.recipe.prediction != recipe.prediction:
        raise PerflowError(
            f"{place}.prediction: it starts from '{recipe.start}', which says {found.recipe.prediction};"
            f" got {recipe.prediction!r}"
        )
    if recipe.guidance_embedding is None and found.recipe.source and found.recipe.source.guidance:
        raise PerflowError(
            f"{place}.guidance_embedding: missing; it starts from '{recipe.start}', whose network is told its guidance"
        )
    if found.recipe.guidance_embedding not in (None, recipe.guidance_embedding):
        raise PerflowError(
            f"{place}.guidance_embedding: it starts from '{recipe.start}', which has"
            f" {found.recipe.guidance_embedding}; got {recipe.guidance_embedding}"
        )
    return found.row


def _add_pairs(study: Study, base: str, recipe: str, label: str, edges: list[float]) -> str:
    name = f"{base}-{recipe}-{label}"
    source = study.params.pairs[recipe]
    windows, place = len(edges) - 1, f"pairs.{recipe}"
    for field in ("solver", "steps"):
        given = getattr(source, field)
        if isinstance(given, list) and len(given) != windows:
            raise PerflowError(f"{place}.{field}: {given} is for {len(given)} windows; '{name}' has {windows}")
    teacher, window_steps = _asked(study.params, place, source, base, label, edges)
    row = rows.Pairs(
        **source.model_dump(exclude={"teacher", "student"}), teacher=teacher, base=base,
        student=_walker(study.params, place, source, base, label, edges),
        dataset=study.bases[base].dataset, edges=edges, window_steps=window_steps,
    )  # fmt: skip
    if study.pairs.setdefault(name, row) != row:
        raise PerflowError(f"pairs.{recipe}: two rows with one name, '{name}'; rename one of them")
    return name


def _asked(
    params: rows.Params, place: str, source: rows.PairsRecipe, base: str, label: str, edges: list[float]
) -> tuple[str | None, int | list[int] | None]:
    """The student that makes pairs, None for the base, and its steps a window; none where the ends are data."""
    if source.ends == "data":
        return None, None
    if source.teacher is not None:
        return _taught_pairs(params, place, source, base, label, edges)
    if isinstance(params.bases[base], rows.Flow):
        known("solver", f"{place}.solver", source.solver, [WINDOW])
        return None, _dealt(place, equal_edges(1), source.steps, edges)
    windows = len(edges) - 1
    for solver in each_window(source.solver, windows):
        known("solver", f"{place}.solver", solver, SOLVER_CALLS)
    return None, _window_steps(source, windows)


def _window_steps(source: rows.PairsRecipe, windows: int) -> int | list[int]:
    """Teacher steps of a window, one number where all have as many."""
    return source.steps if isinstance(source.steps, list) else math.ceil(source.steps / windows)


def _walker(
    params: rows.Params, place: str, source: rows.PairsRecipe, base: str, label: str, edges: list[float]
) -> str | None:
    """The student at whose own states windows start; one step a window takes it from one to the next."""
    if source.student is None:
        return None
    found = link(params, f"{place}.student", source.student, base, label)
    if not found.recipe.trials.windowed:
        raise PerflowError(f"{place}.student: '{source.student}' is not sampled on its windows, so it has no states")
    try:
        stretches(found.edges, len(found.edges) - 1, edges)
    except PerflowError as error:
        raise PerflowError(f"{place}.student: {error}") from None
    return found.row


def _taught_pairs(
    params: rows.Params, place: str, source: rows.PairsRecipe, base: str, label: str, edges: list[float]
) -> tuple[str, int | list[int]]:
    """The student that makes pairs, and its steps a window: on its own windows if it is sampled on them."""
    found = link(params, f"{place}.teacher", source.teacher, base, label)
    windowed = found.recipe.trials.windowed
    if (taught := taught_range(params, found.recipe)) is not None:
        check_within(f"{place}.guidance", source.guidance, source.teacher, taught)
    if windowed != (source.solver == WINDOW) or (not windowed and WINDOW in each_window(source.solver, 1)):
        valid = f"is sampled on its windows: {WINDOW}" if windowed else f"is not: one of {', '.join(SOLVER_CALLS)}"
        raise PerflowError(f"{place}.solver: the teacher '{source.teacher}' {valid}; got {source.solver!r}")
    if not windowed:
        return found.row, _window_steps(source, len(edges) - 1)
    return found.row, _dealt(place, found.edges, source.steps, edges)


def _dealt(place: str, own: list[float], steps: int | list[int], edges: list[float]) -> int:
    """Steps that a teacher with the windows ``own`` takes in each window of ``edges``."""
    if isinstance(steps, list):
        raise PerflowError(f"{place}.steps: a teacher on its own windows takes one number, got {steps}")
    try:
        return len(stretches(own, steps, edges)[0])
    except PerflowError as error:
        raise PerflowError(f"{place}.{error}") from None


def _add_samples(
    study: Study, model: str, base: str, trials: list[rows.Trial], windowed: bool, pairs: str | None = None
) -> None:
    params = study.params
    if model in study.samples:
        raise PerflowError(f"students: two rows with one name, '{model}'; rename one of them")
    family, dataset = study.bases[base].family, study.bases[base].dataset
    searched = any(trial.spacing == BEST for trial in trials)
    if searched and isinstance(params.bases[base], rows.Flow):
        raise PerflowError(f"spacings: {BEST} is searched for among images, and '{model}' draws points")
    if searched and params.sampling.search is None:
        raise PerflowError(f"sampling.search: missing; '{model}' has trials of spacing {BEST}")
    for each in params.sampling.datasets:
        known("dataset", "sampling.datasets", each, params.datasets)
    study.samples[model] = rows.Samples(
        model=model, base=base, family=family, dataset=dataset, prompts=add_prompts(study, dataset),
        sampling=params.sampling.of(dataset), trials=trials, windowed=windowed,
        extractor=params.evaluation.extractor if searched else None,
        pairs=pairs if windowed and params.sampling.flow.starts else None,
    )  # fmt: skip
    study.evaluations[model] = rows.Evaluation.of(params.evaluation, model, base, dataset)


Guidance = float | list[float]
Spacing = str | list[float]


def nfe(solver: str, steps: int, guidance: Guidance) -> int:
    """Network evaluations of one sample: guidance other than 1 doubles them, window by window if it is given so.

    0 for a solver that decides as it goes.
    """
    if solver == RK45:
        return 0
    if isinstance(guidance, list):
        return sum(1 if guidance[step.k] == 1 else 2 for step in lay(len(guidance), steps))
    calls = SCHEDULERS[solver].evaluations(steps) if solver in SCHEDULERS else steps
    return calls * (1 if guidance == 1 else 2)


def scheduler_of(solver: str, windows: int | None = None, spacing: Spacing = "trailing") -> dict[str, Any] | None:
    """What a trial row says of its diffusers scheduler; None for a student's windows.

    ``windows`` is their number, for a scheduler that steps on the edges its student was taught on.
    """
    if solver not in SCHEDULERS:
        return None
    found = SCHEDULERS[solver]
    grid = {found.grid: windows} if found.grid and windows else {}
    name, options = (found.scheduler, found.options) if spacing == "trailing" else found.placed or found[:2]
    return {"class": name} | options | grid


def _guidance(params: rows.Params, trials: rows.TrialRecipe) -> Guidance:
    return params.sampling.teacher.guidance if trials.guidance is None else trials.guidance


def _trial(
    solver: str, steps: int, guidance: Guidance, name: str = "", stream: int = 0, windows: int | None = None,
    spacing: Spacing = "trailing", teacher: float | None = None, told: bool = False,
) -> rows.Trial:  # fmt: skip
    own = "" if spacing == "trailing" else f"-{spacing}" if isinstance(spacing, str) else _called(spacing)
    return rows.Trial(
        name=name or (f"{solver}-{steps}{own}" if steps else solver) + ("" if teacher is None else f"-w{teacher:g}"),
        solver=solver, steps=steps, guidance=guidance, nfe=nfe(solver, steps, 1 if told else guidance), stream=stream,
        scheduler=scheduler_of(solver, windows, spacing), spacing=spacing, teacher=teacher,
    )  # fmt: skip


def _called(times: list[float]) -> str:
    """Steps at given times in a trial's name: a name of a hundred times has an end."""
    return "-at" + sha256(json.dumps(times).encode()).hexdigest()[:6]


def reference(recipe: rows.TeacherRecipe, teacher: float | None, stream: int = 0) -> rows.Trial:
    """A base's trial that stands for the teacher of a guidance (None: its own): with common noise, or with other."""
    guidance, own = (recipe.guidance, "") if teacher is None else (teacher, f"-w{teacher:g}")
    name = (TEACHER, TEACHER_TWO)[stream] + own
    return _trial(recipe.solver, recipe.steps, guidance, name, stream, teacher=teacher)


def _baseline_trials(study: Study, name: str) -> list[rows.Trial]:
    params, base = study.params, study.params.bases[name]
    recipe = params.baselines
    if isinstance(recipe.guidance, list):
        raise PerflowError(f"baselines.guidance: a base has no windows; give one number, got {recipe.guidance}")
    from_here = {name, origin(study.bases, name)}  # whose students are held against this base
    drawn = [one for one in params.students.values() if one.bases is None or from_here & {*one.bases}]
    recipes = [recipe, *(student.trials for student in drawn)]
    every = list(dict.fromkeys(teacher for one in recipes for teacher in _teachers(params, one)))
    wanted = [None, *(teacher for teacher in every if teacher is not None)]
    references = [reference(params.sampling.teacher, teacher, stream) for teacher in wanted for stream in (0, 1)]
    trials = _trials("baselines", params, recipe)
    if SDE in recipe.solvers and not (isinstance(base, rows.Flow) and base.diffusion):
        study.skipped.append(Skipped(f"{name} {SDE}", "its path is no diffusion's: there is no reverse SDE"))
        trials = [trial for trial in trials if trial.solver != SDE]
    return references + trials


def _teachers(params: rows.Params, recipe: rows.TrialRecipe) -> list[float | None]:
    """Guidances of the teachers of a recipe; None is the study's own."""
    return [None if each == params.sampling.teacher.guidance else each for each in recipe.teachers or [None]]


def _trials(
    place: str, params: rows.Params, recipe: rows.TrialRecipe, windows: int | None = None, told: bool = False
) -> list[rows.Trial]:
    """Every teacher, solver, number of steps and spacing, each trial once; a solver that decides as it goes has 0
    steps."""
    found: dict[str, rows.Trial] = {}
    for teacher, solver, spacing in product(_teachers(params, recipe), recipe.solvers, recipe.spacings):
        places_own = solver in (RK45, SDE) or (solver in SCHEDULERS and SCHEDULERS[solver].grid)
        if spacing != "trailing" and places_own:
            raise PerflowError(f"{place}.spacings: {solver} steps on its own grid; got {spacing!r}, valid: trailing")
        if solver == WINDOW and spacing in SPACINGS[1:]:
            raise PerflowError(f"{place}.spacings: on windows steps are trailing, {BEST} or times; got {spacing!r}")
        guidance = recipe.guidance
        if guidance is None:
            guidance = params.sampling.teacher.guidance if teacher is None else teacher
        paid = 1.0 if told else guidance
        counts = [0] if solver == RK45 else recipe.steps or _affordable(solver, recipe.evaluations or [], paid)
        for steps in counts:
            if isinstance(spacing, list) and len(spacing) != steps:
                raise PerflowError(f"{place}.spacings: {len(spacing)} times for {steps} steps: {spacing}")
            trial = _trial(solver, steps, guidance, windows=windows, spacing=spacing, teacher=teacher, told=told)
            found.setdefault(trial.name, trial)
    return list(found.values())


def _affordable(solver: str, budgets: list[int], guidance: Guidance) -> list[int]:
    """The most steps of a solver within each number of network evaluations; none where it does not buy one."""
    least = len(guidance) if isinstance(guidance, list) else 1
    most = [max((n for n in range(least, each + 1) if nfe(solver, n, guidance) <= each), default=0) for each in budgets]
    return [steps for steps in most if steps]


def _student_trials(
    study: Study, name: str, recipe: rows.TrialRecipe, edges: list[float], told: rows.ToldGuidance | None
) -> list[rows.Trial]:
    """Every trial of the recipe that can be on these windows; the others are noted as skipped."""
    guidance, windows, trials = _guidance(study.params, recipe), len(edges) - 1, []
    if isinstance(guidance, list) and (len(guidance) != windows or recipe.solvers != [WINDOW]):
        raise PerflowError(
            f"students: '{name}' has {windows} windows and the solvers {recipe.solvers}; guidance {guidance} is for"
            f" {len(guidance)} windows and [{WINDOW}]"
        )
    for trial in _trials(f"students: '{name}' trials", study.params, recipe, windows, told is not None):
        solver, steps = trial.solver, trial.steps
        if told is not None:
            check_within(f"students: '{name}' trials.guidance", trial.guidance, name, [told.least, told.most])
        on_grid = solver in SCHEDULERS and SCHEDULERS[solver].grid
        if on_grid and (edges != equal_edges(windows) or TIMESTEPS % windows):
            raise PerflowError(
                f"students: '{name}' cannot be sampled with {solver}, which steps on the edges of equal windows;"
                f" their number must divide {TIMESTEPS}, as 50 does"
            )
        if solver == WINDOW and steps < windows:
            study.skipped.append(Skipped(f"{name} {trial.name}", f"{steps} steps cannot cross {windows} windows"))
        elif on_grid and steps > windows:
            study.skipped.append(Skipped(f"{name} {trial.name}", f"{steps} steps on a grid of {windows} windows"))
        else:
            trials.append(trial)
    if not trials:
        given = f"steps {recipe.steps}" if recipe.steps else f"evaluations {recipe.evaluations}"
        raise PerflowError(
            f"students: '{name}' has no trial left: no number in {given} goes with its {windows} windows"
        )
    return trials


def _own(trials: list[rows.Trial], windows: int, told: bool) -> rows.Trial:
    """How a student is meant to be sampled: with its first solver, in one step a window, or, where that does not run
    on windows, in the most steps it is tried with."""
    first = trials[0]
    if first.solver == WINDOW:
        return _trial(WINDOW, windows, first.guidance, teacher=first.teacher, told=told)
    most = max((trial for trial in trials if trial.solver == first.solver), key=lambda trial: trial.steps)
    return _trial(most.solver, most.steps, most.guidance, windows=windows, teacher=most.teacher, told=told)


def _training(place: str, common: rows.Optim, own: dict[str, Any]) -> rows.Optim:
    return checked(rows.Optim, common.model_dump() | own, f"{place}.training")


def _seeds(seeds: int | dict[int, int], windows: int) -> int:
    return seeds if isinstance(seeds, int) else seeds.get(windows, 1)
