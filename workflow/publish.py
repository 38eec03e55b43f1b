"""Keep a finished study in docs/results/<name>/: its tables, two pictures, and how it was made; of flows on the plane
also the page of notebooks/plane.ipynb and its figures.

    python workflow/publish.py [--home studies/<name>] [--seconds WALL] [--machine TEXT] [--commit TEXT]

For the study of params.yaml the blocks between markers in README.md are written too. No number is typed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path

from perflow import report
from perflow.checkout import checkout
from perflow.report import figures, galleries
from perflow.report.words import seconds as clock

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = Path("workflow/report/published.json")
_SAVE = {"dpi": 80, "bbox_inches": "tight"}
_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "snakemake")


def main() -> None:
    """Copy, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=ROOT, help="the study's home [the repository]")
    parser.add_argument("--seconds", type=float, help="wall time of the whole run, as measured outside")
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores, {platform.machine()}", help="in words")
    parser.add_argument("--commit", help="what the study ran at, where that is not what is checked out now")
    given = parser.parse_args()
    commit = given.commit or checkout().describe()  # before anything is written
    results = given.home / "results"
    study = json.loads((results / "specs" / "study.json").read_text())
    out = ROOT / "docs" / "results" / study["name"]
    shutil.rmtree(out, ignore_errors=True)
    (out / "tables").mkdir(parents=True)
    for table in sorted((results / "tables").glob("*.csv")):
        if table.name != "curves.csv":  # long, and drawn in the report
            shutil.copy2(table, out / "tables")
    shutil.copy2(results / "metrics.json", out)
    data = report.load(results / "specs" / "study.json", results, ROOT / PUBLISHED)
    bases = [base["name"] for base in study["bases"]]
    for base in bases:
        suffix = "" if len(bases) == 1 else f"-{base}"
        figures.quality(data, base, data.shown("fd_teacher")).savefig(out / f"quality{suffix}.png", **_SAVE)
        steps = galleries.shown_steps(data, base)
        if steps and galleries.pictured(data, base):
            galleries.gallery(data, base, steps[0]).savefig(out / f"gallery{suffix}.png", **_SAVE)
    for setting in dict.fromkeys(transfer["setting"] for transfer in study["transfers"]):
        lines = data.of_setting(setting)
        drawn = galleries.elsewhere(data, setting, galleries.shown_base(lines), min(line["steps"] for line in lines))
        drawn.savefig(out / f"{setting}.png", **_SAVE)
    for base, drawn in report.gain_pictures(data).items():
        drawn.savefig(out / f"gain-{base}.png", **_SAVE)
    if report.plane.flows(data):
        for name, drawn in report.plane.pictures(data).items():
            drawn.savefig(out / f"{name}.png", **_SAVE)
        report.render(
            ROOT / "notebooks" / "plane.ipynb", results, ROOT / PUBLISHED, given.home / "reports" / "plane.html"
        )
    (out / "README.md").write_text(_page(study, data, given, out, commit), encoding="utf-8")
    if given.home.resolve() == ROOT:
        _fill(ROOT / "README.md", {"table": report.headline(out), "readings": report.readings_markdown(out)})


def _page(study: dict, data: report.Report, given: argparse.Namespace, out: Path, commit: str) -> str:
    costs = data.tables["costs"]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    home = study["home"]
    command = "make reproduce" if home == "." else f"make study STUDY=workflow/studies/{Path(home).name}.yaml"
    wall = f"{clock(given.seconds)} wall; " if given.seconds else ""
    lines = [
        f"# {study['name']}, as measured", "",
        f"`{command}` at commit {commit}.", "",
        f"- Machine: {given.machine}; Python {platform.python_version()}, {versions}.",
        f"- Time: {wall}{clock(costs['cpu_seconds'].sum())} of CPU inside {len(costs)} stages; at most"
        f" {costs['peak_mib'].max() / 1024:.2f} GiB in one process (two run side by side).",
        f"- `tables/`: what the report shows; `main.csv` has a line for each method, steps and metric. "
        f"{', '.join(f'`{path.name}`' for path in sorted(out.glob('*.png')))}: quality against cost, and the same noise"
        " and prompts in every row.",
        "- The same machine gives the same bytes; another one gives other last bits, and so slightly other numbers.",
        "",
        "## Main table", "", report.markdown(out).strip(), "", "## Orderings", "",
        "Computed; differences under common noise, Holm-corrected together.", "",
        report.readings_markdown(out).strip(), "",
    ]  # fmt: skip
    asked = (report.rivals, report.gain, report.starts, report.budget, report.monotone)
    answers = (report.as_markdown(section(data)) for section in asked)
    lines += [part for answer in answers if answer for part in (answer, "")]
    if elsewhere := report.compatibility_markdown(out).strip():
        lines += ["## Deltas in other settings", "", elsewhere, ""]
    return "\n".join(lines)


def _fill(page: Path, blocks: dict[str, str]) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    text = page.read_text(encoding="utf-8")
    for name, content in blocks.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        if begin not in text or end not in text:
            raise SystemExit(f"publish: {page} has no block '{name}'")
        text = text.split(begin)[0] + begin + content.strip() + end + text.split(end)[1]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
