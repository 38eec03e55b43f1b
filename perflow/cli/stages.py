"""The verbs of the pipeline: a table, and ``sample``, which can also draw one prompt."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import click

from perflow import artifacts
from perflow.cli.group import FILE, main
from perflow.errors import PerflowError

_HANDLE = "Handle of the {} (model.json)."
_DATASET = "Manifest of the data set."


class Stage(NamedTuple):
    """A stage as a verb. The function ``perflow.stages.<verb>.<verb>`` takes the spec, then by their names
    the inputs, ``out``, and whichever of ``state`` and ``device`` it has."""

    help: str
    inputs: dict[str, str]
    """Option -> its help."""
    beside: Callable[[Path], list[Path]] = lambda out: []
    """What the stage writes beside ``--out``, from its path."""
    cost: Callable[[Path], Path] = lambda out: out.with_name("cost.json")
    optional: dict[str, str] = {}
    """Options of inputs that only some rows have."""


def _curve(out: Path) -> list[Path]:
    return [out.with_name("curve.jsonl")]


STAGES = {
    "fetch": Stage("Make a data set: images and captions in fixed splits, and its manifest.", {}),
    "base": Stage(
        "Train an embedded base and save it as a diffusers pipeline folder with its handle.",
        {"dataset": _DATASET}, _curve,
    ),
    "prepare": Stage("Take a pretrained checkpoint as a base, checked against its row.", {"dataset": _DATASET}, _curve),
    "extractor": Stage(
        "Make the feature network that models are measured with: train it, or take in weights.",
        {"source": "Manifest of the data set it is trained on, or the weights."}, _curve,
    ),
    "cache": Stage(
        "Let the teacher solve windows and keep their two ends (resumes shard by shard).",
        {"teacher": _HANDLE.format("teacher"), "dataset": _DATASET},
        optional={"student": _HANDLE.format("student at whose own states windows start")},
    ),
    "train": Stage(
        "Teach a student from window pairs (resumes to the same bytes).",
        {"start": _HANDLE.format("model the student starts from"), "pairs": "Manifest of the window pairs."}, _curve,
    ),
    "export": Stage(
        "Subtract the base: a delta whose header says all that is needed to use it, and the student's handle.",
        {"student-spec": "The student's own spec.", "weights": "The student's averaged weights.",
         "base": _HANDLE.format("base")},
        lambda out: [out.with_name("model.json")], lambda out: out.with_name("export.cost.json"),
    ),
    "sample": Stage(
        "Draw all trials of a row, or one prompt into a PNG.",
        {"model": _HANDLE.format("model"), "teacher": _HANDLE.format("base that counts as teacher"),
         "dataset": "Manifest of the data set the prompts come from."},
        optional={"extractor": "The feature network by which spacings are searched for.",
         "pairs": "Manifest of the pairs whose starts are compared with the student's own states."},
    ),
    "evaluate": Stage(
        "Compute every metric of a model's trials, with intervals.",
        {"samples": "Manifest of the model's samples.",
         "teacher": "Manifest of the base's samples, which hold the teacher's.",
         "dataset": _DATASET, "extractor": "The feature network."},
        cost=lambda out: out.with_suffix(".cost.json"),
    ),
}  # fmt: skip


def _options(verb: str, required: bool = True) -> Callable[[Any], Any]:
    """What every stage takes: its spec, its inputs, where it writes, where it runs."""
    options = [
        click.option("--spec", type=FILE, required=required, help="The row: results/specs/<table>/<row>.json."),
        *(
            click.option(f"--{name}", type=FILE, required=required, help=text)
            for name, text in STAGES[verb].inputs.items()
        ),
        *(click.option(f"--{name}", type=FILE, help=text) for name, text in STAGES[verb].optional.items()),
        click.option("--out", type=FILE, required=True, help="What is written; complete or absent."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option("--log", type=FILE, help="Also append progress to this file."),
        click.option("--dry-run", is_flag=True, help="Print the resolved row and stop."),
    ]

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _run(verb: str, spec: Path, out: Path, device: str, log: Path | None, dry_run: bool, **given: Path) -> None:
    """One stage under ``running.run``; the cost is the last thing it writes."""
    inputs = {name: path for name, path in given.items() if path is not None}
    if dry_run:
        click.echo(json.dumps(artifacts.read_spec(spec)._asdict(), indent=1, ensure_ascii=False))
        return
    from perflow import running

    stage, row = STAGES[verb], artifacts.read_spec(spec).row
    device = running.prepare(device, row.get("threads", 1))

    def call(found: artifacts.Spec, state: Path) -> Any:
        function = resolve_name(f"perflow.stages.{verb}:{verb}")
        offered = {"state": state, "device": device}
        wanted = [name for name in offered if name in inspect.signature(function).parameters]
        return function(found, **inputs, out=out, **{name: offered[name] for name in wanted})

    running.run(verb, spec, call, [out, *stage.beside(out), stage.cost(out)], log, list(inputs.values()))


@_options("sample", required=False)
@click.option("--prompt", help='Draw this instead of a row, such as "a red handwritten seven on a blue background".')
@click.option("--solver", help="With --prompt: 'window' (students) or a training-free solver.")
@click.option("--steps", type=click.IntRange(1, 1000), help="With --prompt: solver steps [default: the model's own].")
@click.option(
    "--guidance", type=click.FloatRange(0, 100), help="With --prompt: guidance [default: the model's own, or 4.5]."
)
@click.option("--seed", type=int, default=0, show_default=True, help="With --prompt: seed of the noise.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="With --prompt: number of images.")
def sample(
    spec: Path | None, model: Path | None, teacher: Path | None, dataset: Path | None, prompt: str | None,
    solver: str | None, steps: int | None, guidance: float | None, seed: int, count: int, **common: Any,
) -> None:  # fmt: skip
    """Draw all trials of a row, or one prompt into a PNG.

    \b
    perflow sample --prompt "a red handwritten seven on a blue background" \\
        --model results/students/digits-perflow-sdxl-k4-s0/model.json --count 8 --out seven.png
    """
    if prompt is None and spec is None:
        raise PerflowError("sample: give --prompt TEXT to draw a picture, or --spec to draw a row's trials")
    if model is None:
        there = sorted(
            map(str, [*Path("results/students").glob("*/model.json"), *Path("results/bases").glob("*/model.json")])
        )
        raise PerflowError(f"sample: --model is missing; there are {', '.join(there) or 'none yet (make reproduce)'}")
    if prompt is not None:
        from perflow import running
        from perflow.stages.draw import draw

        draw(model, prompt, common["out"], solver, steps, guidance, seed, count, running.prepare(common["device"], 1))
        click.echo(common["out"])
        return
    if teacher is None or dataset is None:
        raise PerflowError("sample: --spec also needs --teacher and --dataset")
    _run("sample", spec, **common, model=model, teacher=teacher, dataset=dataset)


def _verb(verb: str) -> Any:
    if verb == "sample":
        return sample

    @_options(verb)
    def run(**given: Any) -> None:
        _run(verb, **given)

    run.__doc__ = STAGES[verb].help
    return run


for _name in STAGES:
    main.command(_name)(_verb(_name))
