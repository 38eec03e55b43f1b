"""The verbs around a study: plan it, gather it, track it, report it, look at it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from perflow import artifacts, record
from perflow.cli.group import FILE, main
from perflow.config import places
from perflow.errors import PerflowError

_results = click.option(
    "--results", type=FILE, default="results", show_default=True, help="The study's results folder."
)
_published = click.option(
    "--published", type=FILE, default="workflow/report/published.json", show_default=True,
    help="Published figures, and the orderings to read.",
)  # fmt: skip


@main.command()
@_results
@_published
def collect(results: Path, published: Path) -> None:
    """Write results/tables/*.csv and results/metrics.json from what the study names."""
    from perflow import report, tracking

    study = artifacts.read_object(results / "specs" / "study.json", "a summary of a study", models=list)
    for model in study["models"]:
        record.check(results.parent / places.record("evaluations", model["name"]))
    for table, row, _ in report.trained(study):
        record.check(results.parent / places.record(table, row), "curve.jsonl")
    report.collect(results / "specs" / "study.json", results, published)
    tracking.write_ids(results / "specs" / "study.json", results)


@main.command()
@_results
@click.option("--database", type=FILE, default="mlflow.db", show_default=True, help="MLflow's sqlite file.")
@click.option("--artifacts", "store", type=FILE, default="mlruns", show_default=True, help="MLflow's artifact folder.")
@click.option(
    "--report", "page", type=FILE, default="reports/report.html", show_default=True, help="Attached if there."
)
def track(results: Path, database: Path, store: Path, page: Path) -> None:
    """Bring MLflow in step with the files: one run a row, no duplicates."""
    from perflow import tracking

    record.check(results / "tables" / "record.json")
    runs = tracking.sync(results / "specs" / "study.json", results, database, store, page)
    click.echo(f"{len(runs)} runs in {database}; look at them with: mlflow ui", err=True)


@main.command("report")
@_results
@click.option("--notebook", type=FILE, default="notebooks/report.ipynb", show_default=True, help="The template.")
@_published
@click.option(
    "--out", type=FILE, default="reports/report.html", show_default=True, help="The page; the notebook beside it."
)
def render(results: Path, notebook: Path, published: Path, out: Path) -> None:
    """Execute the report's notebook and make it one self-contained page."""
    from perflow import report

    record.check(results / "tables" / "record.json")
    report.render(notebook, results, published, out)


@main.command()
@_results
@click.option("--markdown", is_flag=True, help="As a Markdown table.")
def table(results: Path, markdown: bool) -> None:
    """Print the main table."""
    from perflow import report

    click.echo(report.markdown(results) if markdown else report.summary(results))


@main.command()
@click.argument("params", type=FILE, default="params.yaml")
@click.option("--write", is_flag=True, help="Also write results/specs/, as the workflow does.")
@click.option(
    "--tflops", type=click.FloatRange(min=0, min_open=True),
    help="TFLOP a second that one GPU does, for bases of real size [default: what the plan says it assumes].",
)  # fmt: skip
def plan(params: Path, write: bool, tflops: float | None) -> None:
    """Print every row PARAMS expands to, its edges, what is skipped and why, and the cost."""
    from perflow import config

    study = config.load(params)
    click.echo(config.plan(study, tflops))
    if write:
        config.write_specs(study)


@main.command()
@click.argument("metrics", type=FILE)
@click.option("--windows", type=click.IntRange(1, 100), required=True, help="How many.")
def edges(metrics: Path, windows: int) -> None:
    """Print the edges of windows in which the teacher turns equally much, for a study's ``windows``.

    METRICS is what was measured of a student on its windows: results/metrics/<student>.json. More windows tell more.
    """
    from perflow.config.axis import even_edges

    flow = artifacts.read_object(metrics, "a student's metrics", flow=dict | None)["flow"]
    if flow is None:
        raise PerflowError(f"{metrics}: of a model that is not sampled on windows; its flow was not measured")
    found = even_edges(flow["edges"], [window["value"] for window in flow["teacher_straightness"]], windows)
    click.echo("[" + ", ".join(f"{edge:g}" for edge in found) + "]")


@main.command()
@click.argument("path", type=FILE)
def show(path: Path) -> None:
    """Print what a file says of itself: a delta, weights, a shard, a manifest, a handle, a spec."""
    content = artifacts.read_header(path) if path.suffix == ".safetensors" else artifacts.read_json(path)
    click.echo(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False))
