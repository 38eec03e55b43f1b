"""The command line: each verb reads a spec and files, and writes one artifact.

Heavy libraries are imported inside the verbs, so that ``--help``, ``plan`` and ``show`` are quick.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from perflow import __version__, artifacts
from perflow.errors import PerflowError

_FILE = click.Path(path_type=Path)
_THREADS = {"base": 2}
"""Threads of a stage on a CPU, for the stages that run alone; all others get one."""


class _Group(click.Group):
    """Verbs in the order of the pipeline; a user's mistake is one line and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PerflowError as error:
            sys.exit(f"perflow: {error}")
        except ValidationError as error:
            sys.exit(f"perflow: --spec: not a spec of this verb ({error.errors()[0]['msg']})")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
                raise
            place = f"{error.filename}: " if error.filename else ""
            sys.exit(
                f"perflow: {place}{error.strerror}; make room or allow writing there, and run the same command again"
            )
        except KeyboardInterrupt:
            sys.exit("perflow: stopped; the same command goes on from here")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="perflow")
def main() -> None:
    """A reproducible pipeline for few-step diffusion (PeRFlow and its relatives).

    The workflow calls these verbs; each also works by hand. `snakemake --cores all` runs a whole study,
    `perflow plan` shows it beforehand.
    """


def _stage(verb: str):
    """Options that every stage has, and the dry run."""

    def decorate(function: Any) -> Any:
        for option in (
            click.option(
                "--spec", type=_FILE, required=verb != "sample", help="The row: results/specs/<table>/<row>.json."
            ),
            click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
            click.option("--log", type=_FILE, help="Also append progress to this file."),
            click.option("--dry-run", is_flag=True, help="Print the resolved row and stop."),
        ):
            function = option(function)
        return main.command(verb)(function)

    return decorate


def _run(
    verb: str,
    spec: Path,
    device: str,
    log: Path | None,
    dry_run: bool,
    inputs: list[Path],
    outputs: list[Path],
    call: Any,
) -> None:
    """``call(spec, state, device)`` under ``running.run``; ``cost.json`` is the last of the outputs."""
    if dry_run:
        found = artifacts.read_spec(spec)
        click.echo(json.dumps(found._asdict(), indent=1, ensure_ascii=False))
        return
    from perflow import running

    device = running.prepare(device, _THREADS.get(verb, 1))
    running.run(verb, spec, lambda row, state: call(row, state, device), outputs, log, inputs)


def _in(name: str, text: str) -> Any:
    return click.option(f"--{name}", type=_FILE, required=True, help=text)


_out = click.option("--out", type=_FILE, required=True, help="What is written; complete or absent.")


@_stage("fetch")
@_out
def fetch(spec: Path, out: Path, **common: Any) -> None:
    """Make a data set: images and captions in fixed splits, and its manifest."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.fetch import fetch

        return fetch(row, out)

    _run("fetch", spec, inputs=[], outputs=[out, out.with_name("cost.json")], call=call, **common)


@_stage("base")
@_in("dataset", "Manifest of the data set.")
@_out
def base(spec: Path, dataset: Path, out: Path, **common: Any) -> None:
    """Train an embedded base and save it as a diffusers pipeline folder with its handle."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.base import base

        return base(row, dataset, out, state, device)

    _run("base", spec, inputs=[dataset], outputs=[out, out.with_name("cost.json")], call=call, **common)


@_stage("extractor")
@_in("dataset", "Manifest of the data set.")
@_out
def extractor(spec: Path, dataset: Path, out: Path, **common: Any) -> None:
    """Train the feature network that models are measured with."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.extractor import extractor

        return extractor(row, dataset, out, state, device)

    _run("extractor", spec, inputs=[dataset], outputs=[out, out.with_name("cost.json")], call=call, **common)


@_stage("cache")
@_in("teacher", "Handle of the teacher (model.json).")
@_in("dataset", "Manifest of the data set.")
@_out
def cache(spec: Path, teacher: Path, dataset: Path, out: Path, **common: Any) -> None:
    """Let the teacher solve windows and keep their two ends (resumes shard by shard)."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.cache import cache

        return cache(row, teacher, dataset, out, device)

    _run("cache", spec, inputs=[teacher, dataset], outputs=[out, out.with_name("cost.json")], call=call, **common)


@_stage("train")
@_in("base", "Handle of the base the student starts from.")
@_in("pairs", "Manifest of the window pairs.")
@_out
def train(spec: Path, base: Path, pairs: Path, out: Path, **common: Any) -> None:
    """Teach a student from window pairs (resumes to the same bytes)."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.train import train

        return train(row, base, pairs, out, state, device)

    _run(
        "train",
        spec,
        inputs=[base, pairs],
        outputs=[out, out.with_name("curve.jsonl"), out.with_name("cost.json")],
        call=call,
        **common,
    )


@_stage("export")
@_in("student-spec", "The student's own spec.")
@_in("weights", "The student's averaged weights.")
@_in("base", "Handle of the base.")
@_in("model", "The student's handle, written too.")
@_out
def export(spec: Path, student_spec: Path, weights: Path, base: Path, model: Path, out: Path, **common: Any) -> None:
    """Subtract the base: a delta whose header says all that is needed to use it."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.export import export

        return export(row, student_spec, weights, base, out, model)

    _run(
        "export",
        spec,
        inputs=[student_spec, weights, base],
        outputs=[out, model, out.with_name("export.cost.json")],
        call=call,
        **common,
    )


@_stage("sample")
@click.option("--model", type=_FILE, help="Handle of the model (model.json).")
@click.option("--teacher", type=_FILE, help="With --spec: handle of the base that counts as teacher.")
@click.option("--dataset", type=_FILE, help="With --spec: manifest of the data set the prompts come from.")
@click.option("--prompt", help='Draw this instead of a row, such as "a red handwritten seven on a blue background".')
@click.option("--solver", help="With --prompt: 'window' (students) or a training-free solver.")
@click.option(
    "--steps", type=click.IntRange(1, 1000), help="With --prompt: solver steps [default: the windows, or 25]."
)
@click.option(
    "--guidance", type=click.FloatRange(0, 100), help="With --prompt: guidance [default: the model's own, or 4.5]."
)
@click.option("--seed", type=int, default=0, show_default=True, help="With --prompt: seed of the noise.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="With --prompt: number of images.")
@_out
def sample(
    spec: Path | None, model: Path | None, teacher: Path, dataset: Path, out: Path, prompt: str | None,
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

        draw(model, prompt, out, solver, steps, guidance, seed, count, running.prepare(common["device"], 1))
        click.echo(out)
        return

    if teacher is None or dataset is None:
        raise PerflowError("sample: --spec also needs --teacher and --dataset")

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.sample import sample

        return sample(row, model, teacher, dataset, out, device)

    _run(
        "sample", spec, inputs=[model, teacher, dataset], outputs=[out, out.with_name("cost.json")], call=call, **common
    )


@_stage("evaluate")
@_in("samples", "Manifest of the model's samples.")
@_in("teacher", "Manifest of the base's samples, which hold the teacher's.")
@_in("dataset", "Manifest of the data set.")
@_in("extractor", "The feature network.")
@_out
def evaluate(
    spec: Path, samples: Path, teacher: Path, dataset: Path, extractor: Path, out: Path, **common: Any
) -> None:
    """Compute every metric of a model's trials, with intervals."""

    def call(row: Any, state: Path, device: str) -> Any:
        from perflow.stages.evaluate import evaluate

        return evaluate(row, samples, teacher, dataset, extractor, out)

    _run(
        "evaluate",
        spec,
        inputs=[samples, teacher, dataset, extractor],
        outputs=[out, out.with_suffix(".cost.json")],
        call=call,
        **common,
    )


_results = click.option(
    "--results", type=_FILE, default="results", show_default=True, help="The study's results folder."
)
_published = click.option(
    "--published", type=_FILE, default="workflow/report/published.json", show_default=True,
    help="Published figures, and the orderings to read.",
)  # fmt: skip
_database = click.option("--database", type=_FILE, default="mlflow.db", show_default=True, help="MLflow's sqlite file.")


@main.command()
@_results
@_published
def collect(results: Path, published: Path) -> None:
    """Write results/tables/*.csv and results/metrics.json from what the study names."""
    from perflow import report

    report.collect(results / "specs" / "study.json", results, published)


@main.command()
@_results
@_database
@click.option("--artifacts", "store", type=_FILE, default="mlruns", show_default=True, help="MLflow's artifact folder.")
@click.option(
    "--report", "page", type=_FILE, default="reports/report.html", show_default=True, help="Attached if there."
)
def track(results: Path, database: Path, store: Path, page: Path) -> None:
    """Bring MLflow in step with the files: one run a row, no duplicates."""
    from perflow import tracking

    runs = tracking.sync(results / "specs" / "study.json", results, database, store, page)
    click.echo(f"{len(runs)} runs in {database}; look at them with: mlflow ui", err=True)


@main.command("report")
@_results
@click.option("--notebook", type=_FILE, default="notebooks/report.ipynb", show_default=True, help="The template.")
@_published
@click.option(
    "--out", type=_FILE, default="reports/report.html", show_default=True, help="The page; the notebook beside it."
)
@_database
def render(results: Path, notebook: Path, published: Path, out: Path, database: Path) -> None:
    """Execute the report's notebook and make it one self-contained page."""
    from perflow import report, tracking

    report.render(notebook, results, published, out)
    tracking.attach_report(results, database, out)


@main.command()
@_results
@click.option("--markdown", is_flag=True, help="As a Markdown table.")
def table(results: Path, markdown: bool) -> None:
    """Print the main table."""
    from perflow import report

    click.echo(report.markdown(results) if markdown else report.summary(results))


@main.command()
@click.argument("params", type=_FILE, default="params.yaml")
@click.option("--write", is_flag=True, help="Also write results/specs/, as the workflow does.")
def plan(params: Path, write: bool) -> None:
    """Print every row PARAMS expands to, its edges, what is skipped and why, and the cost."""
    from perflow import config

    study = config.load(params)
    click.echo(config.plan(study))
    if write:
        config.write_specs(study)


@main.command()
@click.argument("path", type=_FILE)
def show(path: Path) -> None:
    """Print what a file says of itself: a delta, weights, a shard, a manifest, a handle, a spec."""
    content = artifacts.read_header(path) if path.suffix == ".safetensors" else artifacts.read_json(path)
    click.echo(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False))
