"""A model card: what a delta, a LoRA or a merged checkpoint is, how it is used, and what was measured of it.

Every value comes from the file's header or from the study that made it; nothing is typed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perflow import artifacts
from perflow.core.grid import dashed, spread
from perflow.errors import PerflowError
from perflow.metrics.naming import called
from perflow.models import PIPELINES
from perflow.report import estimates, markup, ranks
from perflow.report.study import metric_name
from perflow.report.words import count, number

Header = Mapping[str, Any]
_LICENCE = (
    "A delta, and what is merged from it, derives from its base and from the data it was taught with: their licences "
    "hold for it. This card grants none."
)


class Measured(NamedTuple):
    """A student's numbers, and the rows of the study they come from."""

    metrics: dict[str, Any]
    """results/metrics/<student>.json."""
    evaluation: dict[str, Any]
    samples: dict[str, Any]
    pairs: dict[str, Any] | None
    """None of a student that others taught."""
    ranked: list[ranks.Ranked]
    """The settings that load its delta as a LoRA."""


class Use(NamedTuple):
    """A file and how to load it: ``imports`` and ``lines`` make ``pipe``."""

    what: str
    imports: list[str]
    lines: list[str]
    measured: str
    """What the numbers are of, in one sentence; empty where none were measured of this."""


def measured(header: Header, results: Path) -> Measured:
    """The numbers of a student in ``results``; PerflowError if they, or the delta, are of another row of the study."""
    name, specs = header.get("student"), results / "specs"
    delta = artifacts.read_spec(specs / "deltas" / f"{name}.json")
    evaluation = artifacts.read_spec(specs / "evaluations" / f"{name}.json")
    metrics = artifacts.read_json(results / "metrics" / f"{name}.json")
    for what, found, row in (("the delta", header.get("spec"), delta), ("its metrics", metrics["spec"], evaluation)):
        if found != row.hash:
            raise PerflowError(f"{results}: {what} of '{name}' were made for another spec; run the workflow again")
    samples = artifacts.read_spec(specs / "samples" / f"{name}.json").row
    taught = header["row"]["pairs"]
    pairs = artifacts.read_spec(specs / "pairs" / f"{taught}.json").row if taught else None
    return Measured(metrics, evaluation.row, samples, pairs, ranks.ranked(str(name), results))


def study_of(delta: Path, header: Header) -> Path | None:
    """The results folder a delta lies in (results/students/<student>/), if it was measured there."""
    results = delta.resolve().parent.parent.parent
    name = header.get("student")
    here = delta.resolve().parent == results / "students" / str(name)
    return results if here and (results / "metrics" / f"{name}.json").is_file() else None


def delta_use(header: Header, file: str, base: str) -> Use:
    """A delta, added to its base's pipeline."""
    kind = _pipeline(header)
    lines = [f'pipe = {kind}.from_pretrained("{base}")', f'perflow.apply_delta(pipe, "{file}")']
    return Use(
        "A delta: add it to its base.", ["import perflow", f"from diffusers import {kind}"], lines,
        "Measured with the delta added to its base.",
    )  # fmt: skip


def lora_use(header: Header, file: str, base: str) -> Use:
    """A LoRA, loaded into its base's pipeline; it needs the student's scheduler beside it."""
    cut, scheduler, kind = header["lora"], _scheduler(header), _pipeline(header)
    imports = [f"from diffusers import {kind}"]
    lines = [
        f'pipe = {kind}.from_pretrained("{base}")',
        f'pipe.load_lora_weights("{file}")  # needs peft',
    ]
    if scheduler is not None:
        library, name, options = scheduler
        given = "".join(f", {key}={value!r}" for key, value in options.items())
        imports.append(f"from {library} import {name}")
        lines.append(f"pipe.scheduler = {name}.from_config(pipe.scheduler.config{given})")
    return Use(
        f"A LoRA of rank {cut['rank']}, cut from the student's delta with a relative error of "
        f"{number(cut['relative_error'])}.",
        imports, lines, "Measured with the whole delta, not with this LoRA.",
    )  # fmt: skip


def _scheduler(header: Header) -> tuple[str, str, dict[str, Any]] | None:
    """Library, class and options of the scheduler a student is sampled with; None for its base's own."""
    if header.get("edges") is not None:
        return "perflow", "PeRFlowScheduler", {
            "prediction_type": header["prediction"], "windows": header["edges"], "path": header["path"],
            "base_prediction": header["base_prediction"], "timestep_offset": header["timestep_offset"],
        }  # fmt: skip
    chosen = dict((header.get("trial") or {}).get("scheduler") or {})
    return ("diffusers", chosen.pop("class"), chosen) if chosen else None


def _pipeline(header: Header) -> str:
    """diffusers' class of the base's pipeline; headers that do not say it are of Stable Diffusion."""
    return str((header.get("base") or {}).get("pipeline", PIPELINES["stable_diffusion"]))


def folder_use(header: Header, folder: str, needs_perflow: bool, scale: float, own_base: bool) -> Use:
    """A merged pipeline folder."""
    plain, kind = scale == 1 and own_base, _pipeline(header)
    what = "A whole pipeline: the base with the delta added" + ("." if scale == 1 else f" {number(scale)} times.")
    return Use(
        what + (" perflow must be installed, for its scheduler." if needs_perflow else "")
        + ("" if own_base else " The base is another checkpoint than the one the student was taught from."),
        [f"from diffusers import {kind}"],
        [f'pipe = {kind}.from_pretrained("{folder}")'],
        "Measured with the delta added to its base, as here." if plain else "",
    )  # fmt: skip


def card(header: Header, use: Use, numbers: Measured | None, errors: Mapping[int, float] | None = None) -> str:
    """The model card as Markdown.

    ``errors`` are the relative errors of the ranks that its LoRAs are told of; None: of no LoRA anything is said.
    """
    base = header.get("base") or {}
    origin, task = base.get("origin"), "text-to-image" if _prompted(header) else "unconditional-image-generation"
    sections = [
        f"---\nlibrary_name: diffusers\npipeline_tag: {task}\ntags: [perflow, few-step, {task}]\n"
        + (f"base_model: {origin['hub']}\n" if origin else "")
        + "---",
        f"# {header.get('student', 'student')}\n\n{use.what} Few-step {task.replace('-', ' ')} by piecewise rectified"
        f" flow (PeRFlow, arXiv 2405.07510) and its relatives; made with perflow.",
        "## Use\n\n" + _code(header, use),
        "## What it is\n\n" + markup.table(("", ""), _facts(header, base, numbers)),
    ]
    if numbers is not None and use.measured:
        sections.append(f"## Measured\n\n{use.measured} {_protocol(numbers)}\n\n{_metrics(numbers)}")
        if errors is not None:
            sections.append(ranks.section(numbers.ranked, errors, _features(numbers)))
    else:
        sections.append("## Measured\n\nNothing was measured of this.")
    sections.append(f"## Licence\n\n{_LICENCE}")
    return "\n\n".join(sections) + "\n"


def _code(header: Header, use: Use) -> str:
    windows = len(header["edges"]) - 1 if header.get("edges") else None
    steps = windows or (header.get("trial") or {}).get("steps")
    prompted = _prompted(header)
    options = [*(['"a prompt"'] if prompted else []), *([] if steps is None else [f"num_inference_steps={steps}"])]
    guidance = header.get("guidance")
    each = isinstance(guidance, list)
    if guidance is not None and prompted:
        options.append(f"guidance_scale={guidance[0] if each else guidance}")
    draw = f"image = pipe({', '.join(options)}).images[0]"
    code = "```python\n" + "\n".join([*use.imports, "", *use.lines, draw]) + "\n```"
    notes = [] if windows is None else [f"Any number of steps from {windows}, one a window, works."]
    if each:
        notes.append(
            f"It is meant for a guidance a window, {estimates.guidance(guidance)}; a pipeline's call takes the first."
        )
    return "\n\n".join([code, *notes])


def _prompted(header: Header) -> bool:
    """Whether the pipeline takes a prompt and guidance."""
    return _pipeline(header) != PIPELINES["pixel"]


def _told(header: Header) -> str | None:
    """How a network is told its guidance; None for one that is not."""
    told = header.get("told")
    if told is None:
        return None
    among = f"{told['least']:g} to {told['most']:g}"
    return f"{among}, embedded in {told['size']} numbers: one evaluation a step at any of it"


def _facts(header: Header, base: Mapping[str, Any], numbers: Measured | None) -> list[tuple[str, str]]:
    edges, row = header.get("edges"), header.get("row") or {}
    facts = [
        ("base", base.get("name")),
        (
            "base's origin",
            f"{origin['hub']}, revision {origin['revision']}" if (origin := base.get("origin")) else None,
        ),
        ("base's UNet, sha256 of its values", f"`{base.get('sha256')}`"),
        ("windows", "none" if not edges else f"{len(edges) - 1}, at " + " ".join(f"{edge:g}" for edge in edges)),
        ("path in a window", header.get("path")),
        ("prediction", f"{header.get('prediction')} (base: {header.get('base_prediction')})"),
        ("guidance to sample with", estimates.guidance(header.get("guidance"))),
        ("guidance that the network is told", _told(header)),
        ("timesteps", {0: "T t (published weights)", -1: "T t - 1"}.get(header.get("timestep_offset"))),
    ]
    if row and row["method"]:
        options = {key: value for key, value in row["method"].items() if key != "name"}
        said = ", ".join(f"{key} {value}" for key, value in options.items())
        facts.append(("method", row["method"]["name"] + (f" ({said})" if said else "")))
        training = row["training"]
        facts.append(("training", f"{count(training['steps'], 'step')} of {training['batch']}, seed {row['seed']}"))
    if row and row.get("source"):
        source = row["source"]
        facts.append(("taught by others", f"{source['held']} {Path(source['weights']).name}"
                      + (f" of {source['hub']}" if source["hub"] else "")))  # fmt: skip
    if numbers is not None and numbers.pairs is not None:
        facts.append(("pairs", _pairs(numbers.pairs)))
    return [(key, str(value)) for key, value in facts if value is not None]


def _pairs(row: Mapping[str, Any]) -> str:
    """How the pairs were made, and of what."""
    if row.get("ends") == "data":
        return f"{row['count']} with no teacher, starts and ends: data, data set {row['dataset']}"
    return (
        f"{row['count']} of {dashed(row['solver'])}, {count(row['window_steps'], 'step')} a window,"
        f" guidance {spread(row['guidance'])}, starts: {row['starts']}, data set {row['dataset']}"
    ) + (f", teacher {row['teacher']}" if row.get("teacher") else "")


def _drawn(numbers: Measured) -> str:
    own = numbers.samples["sampling"].get("prompt_list")
    return f"the list {Path(own['file']).name}" if own else f"the data set {numbers.samples['dataset']}"


def _protocol(numbers: Measured) -> str:
    sampling, extractor = numbers.samples["sampling"], numbers.metrics["extractor"]
    accuracy = ", ".join(f"{name} {number(value)}" for name, value in extractor.get("accuracy", {}).items())
    return (
        f"{sampling['prompts']} prompts of {_drawn(numbers)}, {sampling['per_prompt']} images"
        f" each; features of {_features(numbers)}{f' (accuracy: {accuracy})' if accuracy else ''}. Brackets:"
        f" {numbers.evaluation['confidence']:.0%} interval over noise and prompts, within this one training seed."
    )


def _features(numbers: Measured) -> str:
    extractor = numbers.metrics["extractor"]
    return called(extractor["name"], "standardised" in extractor)


def _metrics(numbers: Measured) -> str:
    """Metrics down, trials across."""
    trials = numbers.metrics["trials"].values()
    extractor = _features(numbers)
    heads, rows = ["", *(estimates.trial(trial) for trial in trials)], []
    for name in estimates.measured_in(trials):
        found = (estimates.estimate(trial["metrics"].get(name)) for trial in trials)
        rows.append([metric_name(name, extractor), *found])
    return markup.table(heads, rows)
