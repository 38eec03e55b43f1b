"""Settings: what deltas are put into, as rows. A model in a setting is drawn and measured as a model alone is."""

from __future__ import annotations

from perflow.config import rows
from perflow.config.bases import origin
from perflow.config.load import known
from perflow.config.splits import add_prompts
from perflow.config.study import Skipped, Study
from perflow.core import RK45
from perflow.errors import PerflowError
from perflow.models import SCHEDULERS, TASKS

_OWN = ("text", "image", "inpaint")
"""Tasks that a setting names; a ControlNet's pipeline follows from the adapter."""


def add_transfers(study: Study) -> None:
    """The transfers of every setting, and how each is measured."""
    for name, setting in study.params.settings.items():
        place = f"settings.{name}"
        if setting.adapter is not None:
            known("adapter", f"{place}.adapter", setting.adapter, study.adapters)
        if setting.task == "image" and setting.strength == 1:
            raise PerflowError(f"{place}.strength: image to image needs one below 1; at 1 the picture is not seen")
        for entry in setting.students:
            known("student", f"{place}.students", entry, study.params.students)
        for base in setting.bases:
            known("base", f"{place}.bases", base, study.bases)
            _add(study, name, setting, base)


def _add(study: Study, name: str, setting: rows.SettingRecipe, base: str) -> None:
    place, row, own_origin = f"settings.{name}", study.bases[base], origin(study.bases, base)
    adapter = study.adapters[setting.adapter] if setting.adapter else None
    known("family", f"{place}.bases: its family", row.family, TASKS)
    known(f"task of {row.family}", f"{place}.task", setting.task, [task for task in TASKS[row.family] if task in _OWN])
    if adapter and setting.task != "text":
        raise PerflowError(f"{place}.task: an adapter is tried with text; got '{setting.task}'")
    if adapter and origin(study.bases, adapter.base) != own_origin:
        raise PerflowError(f"{place}.adapter: '{setting.adapter}' is trained on '{adapter.base}', not on '{base}'")
    dataset = adapter.dataset if adapter else row.dataset
    sampling = study.params.sampling.of(dataset)
    shows = setting.task != "text" or (adapter and adapter.kind == "controlnet")
    if shows and sampling.prompt_list is not None:
        raise PerflowError(f"{place}: shows a pipeline the prompts' own images, which a prompt_list has not")
    scene = f"{name}-{base}"
    plain = adapter is None and setting.task == "text"
    reference = base if plain else f"{scene}.{base}"
    deltas = [model for model in _students(study, setting) if study.students[model].base == own_origin]
    if not deltas:
        raise PerflowError(f"{place}.students: none of {', '.join(setting.students)} is taught on '{own_origin}'")
    for model in [*([] if plain else [base]), *deltas]:
        own = f"{scene}.{model}"
        told = model in study.students and study.students[model].told is not None
        if told and setting.rank is not None:
            raise PerflowError(f"{place}.rank: '{model}' is told its guidance, and no LoRA holds how; leave rank out")
        trials = _trials(study, own, setting, study.samples[model].trials, told)
        study.transfers[own] = rows.Transfer(
            setting=name, model=model, base=base, dataset=dataset, family=row.family, task=setting.task,
            adapter=setting.adapter, strength=setting.strength, rank=setting.rank, reference=reference,
            shows=bool(shows), split=sampling.split, prompts=add_prompts(study, dataset),
            per_prompt=sampling.per_prompt, trials=trials,
        )  # fmt: skip
        if own in study.evaluations:
            raise PerflowError(f"{place}: two rows with one name, '{own}'; rename one of them")
        study.evaluations[own] = rows.Evaluation.of(study.params.evaluation, own, reference, dataset)


def _students(study: Study, setting: rows.SettingRecipe) -> list[str]:
    return [name for name, row in study.students.items() if study.entries[name] in setting.students and row.seed == 0]


def _trials(
    study: Study, name: str, setting: rows.SettingRecipe, trials: list[rows.Trial], told: bool
) -> list[rows.Trial]:
    """The trials a model has anyway, with the steps that a strength leaves of them; what cannot be is skipped."""
    kept = []
    for trial in trials:
        taken = min(int(trial.steps * setting.strength), trial.steps)  # as diffusers' pipelines round
        if isinstance(trial.guidance, list):
            study.skipped.append(Skipped(f"{name} {trial.name}", "diffusers' pipelines take one guidance"))
        elif trial.solver == RK45:
            study.skipped.append(Skipped(f"{name} {trial.name}", "diffusers' pipelines have no such solver"))
        elif trial.spacing != "trailing":
            study.skipped.append(Skipped(f"{name} {trial.name}", "diffusers' pipelines space steps by themselves"))
        elif taken < 1:
            study.skipped.append(Skipped(f"{name} {trial.name}", f"strength {setting.strength:g} leaves no step"))
        else:
            calls = SCHEDULERS[trial.solver].evaluations(taken) if trial.solver in SCHEDULERS else taken
            kept.append(trial.model_copy(update={"nfe": calls * (1 if told or trial.guidance == 1 else 2)}))
    if not kept:
        raise PerflowError(f"settings: '{name}' has no trial left at strength {setting.strength:g}")
    return kept
