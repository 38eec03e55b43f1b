"""The verb that measures a user's own images, or features of them, under a study's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from perflow import artifacts
from perflow.cli.group import FILE, main
from perflow.errors import PerflowError


@main.command()
@click.argument("images", type=FILE)
@click.option("--against", type=FILE, required=True, help="A base's samples: results/samples/<base>/manifest.json.")
@click.option(
    "--same-prompts", is_flag=True, help="IMAGES, by name, are of the prompts of --against, as many of each as there."
)
@click.option("--real", type=FILE, help="Features of real images, or their statistics, in place of the study's.")
@click.option("--made-by", help="The study's extractor, where a file of features does not say that it made it.")
@click.option("--out", type=FILE, help="Also write everything as JSON.")
@click.option("--images", "drawn", type=FILE, help="Of a pipeline: the new folder that its images are written to.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Of a pipeline: steps [default: its own].")
@click.option("--guidance", type=click.FloatRange(0, 100), help="Of a pipeline: guidance [default: its own].")
@click.option("--seed", type=int, help="Of a pipeline: seed of its noise [default: 0].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
def measure(
    images: Path, against: Path, same_prompts: bool, real: Path | None, made_by: str | None, out: Path | None,
    drawn: Path | None, steps: int | None, guidance: float | None, seed: int | None, device: str,
) -> None:  # fmt: skip
    """Measure a folder or zip of IMAGES as the study of --against measures its models.

    Metrics, extractor, real images, groups and confidence are the study's; IMAGES have the size of its images.
    IMAGES may also be a diffusers pipeline folder, which then draws the prompts of --against, or a file of features
    (.npz, .safetensors) that the study's extractor made elsewhere.

    \b
    perflow measure my-samples/ --against results/samples/digits/manifest.json
    perflow measure my-pipeline/ --steps 8 --guidance 4.5 --images drawn/ --against results/samples/digits/manifest.json
    """
    from perflow import running
    from perflow.config.rows import Evaluation
    from perflow.stages import measure as stage

    model = artifacts.read_object(against, "a manifest of samples", model=str)["model"]
    results = against.absolute().parents[1].parent
    spec = results / "specs" / "evaluations" / f"{model}.json"
    if not spec.is_file():
        raise PerflowError(f"{against}: {spec} is missing; give a study's results/samples/<base>/manifest.json")
    pipeline = (images / "model_index.json").is_file()
    if not pipeline and not drawn == steps == guidance == seed is None:
        raise PerflowError(f"{images}: no diffusers pipeline; --images, --steps, --guidance and --seed are for one")
    if pipeline and drawn is None:
        raise PerflowError(f"{images}: a diffusers pipeline; give --images, a new folder for what it draws")
    if device in ("auto", "cuda"):
        running.claim(1)
    device = running.prepare(device, 1)
    row = Evaluation.model_validate(artifacts.read_spec(spec).row)
    dataset = results.parent / "data" / f"{row.dataset}-{row.split}" / "manifest.json"
    extractor, clip, lpips = (
        name and results / "extractors" / name / "extractor.safetensors"
        for name in (row.extractor, row.clip, row.lpips)
    )
    about = {}
    if pipeline and drawn is not None:
        from perflow.stages.depict import depict

        stage.teachers(against, row.base)  # before anything is drawn
        about = {"pipeline": depict(images, against, drawn, steps, guidance, seed or 0, device)}
        images, same_prompts = drawn, True
    found = stage.measure(images, row, against, dataset, extractor, same_prompts, clip, lpips, real, made_by, device)
    found = about | found
    click.echo(_table(found))
    if out is not None:
        artifacts.write_json(out, found)


def _table(found: dict[str, Any]) -> str:
    """The numbers, and what they are of, for a terminal."""
    from perflow.metrics.naming import called
    from perflow.report.study import metric_name
    from perflow.report.words import number

    extractor = found["extractor"]
    features = called(extractor["name"], "standardised" in extractor)
    sets = [(key, found[key]["path"], _size(found[key]), found[key]["sha256"]) for key in ("images", "teacher", "real")]
    about = _columns([*sets, ("features", features, "", extractor["sha256"])], cut=12)
    rows = [("metric", "value", f"{found['confidence']:.0%} interval")]
    for metric, one in found["metrics"].items():
        bounds = f"{number(one['low'])} to {number(one['high'])}"
        rows.append((metric_name(metric, features), number(one["value"]), bounds))
    if drawn := found.get("pipeline"):
        own = {name: "its own" if drawn[name] is None else f"{drawn[name]:g}" for name in ("steps", "guidance")}
        how = f"steps: {own['steps']}, guidance: {own['guidance']}, seed: {drawn['seed']}"
        about.append(f"drawn by  {drawn['path']} ({drawn['class']}, {drawn['scheduler']}), {how}")
    lines = [
        *about,
        "",
        *_columns(rows),
        "",
        f"intervals: jackknife over {found['groups']} groups of {found['groups_of']}",
    ]
    lines += [f"left out: {metric_name(name, features)}: {why}" for name, why in found["left_out"].items()]
    return "\n".join(lines)


def _size(one: dict[str, Any]) -> str:
    """How many images a set has, and who says that a file of features is of them."""
    number = "statistics" if one["count"] is None else f"{one['count']:,} images"
    return f"{number} by {one['made_by']}, says {one['said_by']}" if "made_by" in one else number


def _columns(rows: list[tuple[str, ...]], cut: int | None = None) -> list[str]:
    """Rows in aligned columns; the last one is cut to so many characters."""
    rows = [(*row[:-1], row[-1][:cut]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
