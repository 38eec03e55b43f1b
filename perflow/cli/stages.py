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
_DATASET = "Manifest of the split of the data set."


class Stage(NamedTuple):
    """A stage as a verb. The function ``perflow.stages.<verb>.<verb>`` takes the spec, then by their names
    the inputs, ``out``, whichever of ``state``, ``device`` and ``root`` it has, and how it is run."""

    help: str
    inputs: dict[str, str]
    """Option -> its help."""
    beside: Callable[[Path], list[Path]] = lambda out: []
    """What the stage writes beside ``--out``, from its path."""
    cost: Callable[[Path], Path] = lambda out: out.with_name("cost.json")
    running: tuple[Any, ...] = ()
    """Options of how it is run, which are no matter of the row."""
    optional: dict[str, str] = {}
    """Options of inputs that only some rows have."""


def _curve(out: Path) -> list[Path]:
    return [out.with_name("curve.jsonl")]


_AT_LEAST_ONE = click.IntRange(1, 4096)
_COMPILE = click.option("--compile", is_flag=True, help="Compile the network when it is first called.")
_TRAINING = (
    click.option("--processes", type=_AT_LEAST_ONE, default=1, show_default=True,
                 help="Processes on this machine, one a GPU, that share each batch."),
    click.option("--accumulate", type=_AT_LEAST_ONE, default=1, show_default=True,
                 help="Passes, one after the other, that each of them cuts its share into."),
    click.option("--checkpointing", is_flag=True, help="Keep less of a forward pass, and compute it again."),
    _COMPILE,
)  # fmt: skip

_CACHING = (
    click.option("--part", type=(int, int), metavar="I N",
                 help="Make only part I of N of the shards; without it, what parts made is gathered."),
    _COMPILE,
)  # fmt: skip

STAGES = {
    "fetch": Stage("Make a split of a data set: images, captions and their manifest (resumes part by part).", {}),
    "prompts": Stage("Choose what every model is asked to draw.", {}),
    "base": Stage(
        "Train an embedded base and save it as a diffusers pipeline folder with its handle.",
        {"dataset": _DATASET}, _curve,
    ),
    "rectify": Stage(
        "Train a flow on the plane from points, with no teacher.", {"dataset": _DATASET}, _curve,
    ),
    "prepare": Stage("Take a pretrained checkpoint as a base, checked against its row.", {"dataset": _DATASET}, _curve),
    "tune": Stage(
        "Fine-tune a base's network on other images.",
        {"start": _HANDLE.format("base it starts from"), "latents": "Manifest of the images as it sees them."}, _curve,
    ),
    "blend": Stage(
        "Make the base that lies between a base and its fine-tune, or beyond.",
        {"start": _HANDLE.format("base"), "tuned": _HANDLE.format("fine-tune")}, _curve,
    ),
    "adapt": Stage(
        "Train a LoRA or a ControlNet beside a base.",
        {"base": _HANDLE.format("base"), "latents": "Manifest of the images as it sees them."}, _curve,
        optional={"dataset": f"{_DATASET[:-1]}, of which a ControlNet is shown the edges."},
    ),
    "extractor": Stage(
        "Make the feature network that models are measured with: train it, or take in weights.",
        {"source": "Manifest of the data set it is trained on, or the weights."}, _curve,
        optional={"dataset": f"{_DATASET[:-1]} by whose images features are standardised, if they are."},
    ),
    "encode": Stage(
        "Encode a data set with a base's autoencoder and text model, once for all pairs (resumes shard by shard).",
        {"model": _HANDLE.format("base"), "dataset": _DATASET},
    ),
    "cache": Stage(
        "Let the teacher solve windows and keep their two ends (resumes shard by shard).",
        {"teacher": _HANDLE.format("teacher"), "latents": "Manifest of the base's latents."}, running=_CACHING,
        optional={"student": _HANDLE.format("student at whose own states windows start")},
    ),
    "train": Stage(
        "Teach a student from window pairs (resumes to the same bytes).",
        {"start": _HANDLE.format("model the student starts from"), "pairs": "Manifest of the window pairs."}, _curve,
        running=_TRAINING,
        optional={"perceptual": "The network that tells how far apart two images look, for a loss that asks."},
    ),
    "take": Stage(
        "Take the released weights of a student that others taught.",
        {"start": _HANDLE.format("base they are of")}, _curve,
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
         "prompts": "What is drawn."},
        optional={"extractor": "The feature network by which spacings are searched for.",
         "captions": "Manifest of the split whose captions a search draws.",
         "pairs": "Manifest of the pairs whose starts are compared with the student's own states."},
    ),
    "transfer": Stage(
        "Draw all trials of a model in a setting, with diffusers' own pipelines.",
        {"base": _HANDLE.format("base that is drawn with"),
         "model": _HANDLE.format("base again, or of a student whose delta is put into it"),
         "prompts": "What is drawn."},
        optional={"dataset": f"{_DATASET[:-1]} whose images are shown, if any are.",
                  "adapter": "The adapter, if there is one."},
    ),
    "evaluate": Stage(
        "Compute every metric of a model's trials, with intervals.",
        {"samples": "Manifest of the model's samples.",
         "teacher": "Manifest of the base's samples, which hold the teacher's.",
         "dataset": _DATASET, "extractor": "The feature network."},
        optional={"clip": "The CLIP of the CLIP score.", "lpips": "The LPIPS of the diversity within a prompt.",
                  "real": "The file of features that stands for the real images."},
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
        *STAGES[verb].running,
        *(click.option(f"--{name}", type=FILE, help=text) for name, text in STAGES[verb].optional.items()),
        click.option("--out", type=FILE, required=True, help="What is written; complete or absent."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option("--log", type=FILE, help="Also append progress to this file."),
        click.option("--root", type=FILE, default=".", show_default=True,
                     help="Where relative paths of the row start: the repository."),
        click.option("--dry-run", is_flag=True, help="Print the resolved row and stop."),
    ]  # fmt: skip

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _run(
    verb: str, spec: Path, out: Path, device: str, log: Path | None, root: Path, dry_run: bool, **given: Any
) -> None:
    """One stage under ``running.run``; the cost is the last thing it writes."""
    if dry_run:
        click.echo(json.dumps(artifacts.read_spec(spec)._asdict(), indent=1, ensure_ascii=False))
        return
    from perflow import running

    stage, row = STAGES[verb], artifacts.read_spec(spec).row
    inputs = {name: given.pop(name) for name in [option.replace("-", "_") for option in stage.inputs]}
    read = [*inputs.values(), *(given[name] for name in stage.optional if given.get(name) is not None)]
    if running.helps() and "processes" not in given:
        raise PerflowError(f"{verb}: is the work of one process; start it without a launcher of several (RANK is set)")
    processes = given.pop("processes", 1)
    outputs, work = [out, *stage.beside(out), stage.cost(out)], ""
    if given.get("part"):
        from perflow.pairs import Part

        given["part"] = part = Part(*given["part"])
        if not 1 <= part.number <= part.of:
            raise PerflowError(f"--part {part.number} {part.of}: parts are numbered from 1 to {part.of}")
        outputs, work = [part.list(out), part.list(out).with_suffix(".cost.json")], f"part {part}"
    running.follow()
    if device in ("auto", "cuda"):
        running.claim(processes)
    device = running.prepare(device, row.get("threads", 1))

    def call(found: artifacts.Spec, state: Path) -> Any:
        function = resolve_name(f"perflow.stages.{verb}:{verb}")
        offered = {"state": state, "device": device, "root": root}
        wanted = [name for name in offered if name in inspect.signature(function).parameters]
        return function(found, **inputs, out=out, **{name: offered[name] for name in wanted}, **given)

    def together(found: artifacts.Spec, state: Path) -> Any:
        again = {"spec": spec, "out": out, "device": device, **inputs, **given}
        with running.together(processes, [verb, *_arguments(again)]):
            return (yield from call(found, state))

    def begin(found: artifacts.Spec, state: Path) -> Any:
        if given.get("compile"):
            running.can_compile(device)
        return (together if processes > 1 else call)(found, state)

    running.run(verb, spec, begin, outputs, log, read, work)


def _arguments(options: dict[str, Any]) -> list[str]:
    """Options as they stand on a command line."""
    words = ((f"--{name.replace('_', '-')}", value) for name, value in options.items() if value is not None)
    written = ((name, [] if value is True else [str(value)]) for name, value in words if value is not False)
    return [part for name, values in written for part in (name, *values)]


@_options("sample", required=False)
@click.option("--prompt", help='Draw this instead of a row, such as "a red handwritten seven on a blue background".')
@click.option("--negative", help="With --prompt: what guidance leads away from [default: the empty prompt].")
@click.option("--solver", help="With --prompt: 'window' or 'rk45' (students), or a training-free solver.")
@click.option("--steps", type=click.IntRange(1, 1000), help="With --prompt: solver steps [default: the model's own].")
@click.option(
    "--guidance", type=click.FloatRange(0, 100), help="With --prompt: guidance [default: the model's own, or 4.5]."
)
@click.option("--seed", type=int, default=0, show_default=True, help="With --prompt: seed of the noise.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="With --prompt: number of images.")
@click.option("--batch", type=_AT_LEAST_ONE, help="With --prompt: images computed at once; changes last bits [1].")
@click.option("--compile", is_flag=True, help="With --prompt: compile the network first; pays off for many images.")
def sample(
    spec: Path | None, model: Path | None, teacher: Path | None, prompts: Path | None, prompt: str | None,
    negative: str | None, solver: str | None, steps: int | None, guidance: float | None, seed: int, count: int,
    batch: int | None, compile: bool, **common: Any,
) -> None:  # fmt: skip
    """Draw all trials of a row, or one prompt into a PNG.

    \b
    perflow sample --prompt "a red handwritten seven on a blue background" \\
        --model results/students/digits-perflow-sdxl-k4-s0/model.json --count 8 --out seven.png
    """
    if negative is not None and prompt is None:
        raise PerflowError("sample: --negative goes with --prompt; a row's are in its prompt_list")
    if (batch or compile) and prompt is None:
        raise PerflowError("sample: --batch and --compile go with --prompt; what a row computes at once is its model's")
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

        device = running.prepare(common["device"], 1)
        if compile:
            running.can_compile(device)
        draw(model, prompt, common["out"], solver, steps, guidance, seed, count, device, negative, batch or 1, compile)
        click.echo(common["out"])
        return
    if teacher is None or prompts is None:
        raise PerflowError("sample: --spec also needs --teacher and --prompts")
    _run("sample", spec, **common, model=model, teacher=teacher, prompts=prompts)


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
