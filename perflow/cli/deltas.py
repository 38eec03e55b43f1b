"""The verbs for a delta that leaves the study: into a checkpoint, a LoRA, a model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perflow import artifacts
from perflow.cli.group import FILE, main
from perflow.errors import PerflowError

if TYPE_CHECKING:
    from perflow.core.windows import Windows
    from perflow.lora import Spectrum
    from perflow.report.card import Measured


@main.command()
@click.argument("delta", type=FILE)
@click.option("--base", type=FILE, required=True, help="A diffusers pipeline folder.")
@click.option("--out", type=FILE, required=True, help="A new folder, or a file that ends in .safetensors.")
@click.option("--scale", type=click.FloatRange(0, 2), default=1.0, show_default=True, help="How much of the delta.")
@click.option("--other-base", is_flag=True, help="The base is another checkpoint of the same architecture.")
def apply(delta: Path, base: Path, out: Path, scale: float, other_base: bool) -> None:
    """Add DELTA to a base: a pipeline folder with its model card, or one file for ComfyUI and AUTOMATIC1111.

    Without --other-base the folder must hold the very base the delta was made for.
    """
    from perflow.integrations.merge import merge
    from perflow.report import card as cards

    made = merge(delta, base, out, scale, other_base)
    if out.is_dir():
        header = artifacts.read_header(delta)
        use = cards.folder_use(header, str(out), not made.stock, scale, made.own_base)
        artifacts.write_text(out / "README.md", cards.card(header, use, _measured(delta, header, None)))
    same = "and its values are" if made.own_base else "its values are another checkpoint's, not"
    click.echo(f"checked: {made.tensors} tensors of the UNet, names and shapes fit; {same} those of '{made.base}'")
    needs = "diffusers' own" if made.stock else "perflow must be installed where it is loaded"
    click.echo(f"{out}: sampled with {made.scheduler} ({needs})")


@main.command()
@click.argument("delta", type=FILE)
@click.option("--rank", type=click.IntRange(1), help="Rank of each matrix; without it, only the errors are printed.")
@click.option("--out", type=FILE, help="With --rank: the LoRA, a .safetensors file.")
@click.option(
    "--layout", default="diffusers", show_default=True,
    help="With --rank: 'diffusers', or 'kohya' for ComfyUI, AUTOMATIC1111 and kohya's scripts.",
)  # fmt: skip
def lora(delta: Path, rank: int | None, out: Path | None, layout: str) -> None:
    """Cut DELTA to a LoRA of low rank, and print how far each rank is from the whole delta."""
    from perflow.integrations.delta import check_matrices
    from perflow.lora import LAYOUTS, cut

    if (rank is None) != (out is None):
        raise PerflowError("lora: --rank and --out go together; without both, the errors of all ranks are printed")
    if layout not in LAYOUTS:
        raise PerflowError(f"--layout: no '{layout}'; there are {', '.join(LAYOUTS)}")
    change, header = artifacts.read_tensors(delta)
    check_matrices(str(delta), header)
    pairs, spectrum = cut(change, rank or 0)
    if rank is not None and rank > spectrum.full:
        raise PerflowError(f"--rank {rank}: the largest rank of this delta is {spectrum.full}")
    click.echo(_errors(spectrum, rank))
    if rank is not None and out is not None:
        said = {key: header[key] for key in header if key != "sha256"}
        about = {"lora": {"rank": rank, "layout": layout, "relative_error": spectrum.error(rank)}}
        artifacts.write_tensors(out, LAYOUTS[layout](pairs), said | about)
        click.echo(f"{out}: rank {rank}, relative error {spectrum.error(rank):.3g}")


def _errors(spectrum: Spectrum, rank: int | None) -> str:
    """The error of ranks 1, 2, 4, … and of ``rank``, one line each, and what no rank holds."""
    powers = [2**i for i in range(spectrum.full.bit_length()) if 2**i < spectrum.full]
    shown = sorted({*powers, spectrum.full, *([rank] if rank else [])})
    lines = ["  rank  relative error  numbers"]
    lines += [f"{r:6d}  {spectrum.error(r):14.4f}  {spectrum.numbers(r):,}" for r in shown]
    lines.append(
        f"dropped: {len(spectrum.dropped)} tensors that are no matrices (biases, norms), "
        f"{spectrum.dropped_share:.4f} of the delta's norm"
    )
    return "\n".join(lines)


@main.command()
@click.argument("path", metavar="FILE", type=FILE)
@click.option(
    "--base", help="How the card's code names the base, a folder or a hub id [default: its hub id, or its name]."
)
@click.option("--results", type=FILE, help="The study's results folder [default: the one FILE lies in, if any].")
@click.option("--out", type=FILE, help="Write the card there; without it, it is printed.")
def card(path: Path, base: str | None, results: Path | None, out: Path | None) -> None:
    """Write the model card of FILE, a delta or a LoRA, from its header and what was measured."""
    from perflow.report import card as cards

    header = artifacts.read_header(path)
    if "base" not in header:
        raise PerflowError(f"{path}: its header names no base; a card is written for a delta or a LoRA of perflow's")
    known = header["base"]
    named = base or (known.get("origin") or {}).get("hub") or known["name"]
    use = (cards.lora_use if "lora" in header else cards.delta_use)(header, str(path), named)
    numbers = _measured(path, header, results)
    text = cards.card(header, use, numbers, _rank_errors(path, header, numbers))
    if out is None:
        click.echo(text, nl=False)
    else:
        artifacts.write_text(out, text)


def _measured(path: Path, header: dict[str, Any], results: Path | None) -> Measured | None:
    """The numbers of a file's student, if a study is given, or if the file lies in one that measured it."""
    from perflow.report import card as cards

    results = results or cards.study_of(path, header)
    return None if results is None else cards.measured(header, results)


def _rank_errors(path: Path, header: dict[str, Any], numbers: Measured | None) -> dict[int, float]:
    """The relative error of a LoRA's own rank, or of the ranks that a delta's study tried."""
    from perflow.lora import cut

    if "lora" in header:
        return {header["lora"]["rank"]: header["lora"]["relative_error"]}
    tried = {row.rank for row in numbers.ranked if row.rank is not None} if numbers is not None else set()
    spectrum = cut(artifacts.read_tensors(path)[0])[1] if tried else None
    return {rank: spectrum.error(rank) for rank in sorted(tried)} if spectrum is not None else {}


@main.command()
@click.argument("source", type=FILE)
@click.option("--base", type=FILE, required=True, help="The pipeline folder SOURCE was taught from.")
@click.option("--windows", required=True, help="Their number, such as 4, or their edges, such as 1,0.8,0.5,0.")
@click.option("--prediction", required=True, help="What the network says: ddim_eps, diff_eps or velocity.")
@click.option("--path", default="straight", show_default=True, help="straight or diffusion.")
@click.option("--guidance", type=click.FloatRange(0, 100), help="The guidance to sample it with.")
@click.option("--origin", help="Where the base is from, for the record: owner/name@revision of the hub.")
@click.option("--out", type=FILE, required=True, help="The delta, a .safetensors file.")
def adopt(
    source: Path, base: Path, windows: str, prediction: str, path: str, guidance: float | None, origin: str | None,
    out: Path,
) -> None:  # fmt: skip
    """Give published weights a header: a delta or whole weights, as the official PeRFlow release has them."""
    from perflow.integrations import published

    said = published.Described(_windows(windows), prediction, path, guidance, _origin(origin))
    found = published.adopt(source, base, said, out)
    click.echo(f"{out}: {source} was read as {found.held}; the delta's norm is {found.relative_norm:.3g} of the base's")


def _origin(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    hub, at, revision = text.partition("@")
    if not (hub and at and revision):
        raise PerflowError(f"--origin {text}: must be owner/name@revision")
    return {"hub": hub, "revision": revision}


def _windows(text: str) -> Windows:
    from perflow.core.windows import Windows

    try:
        edges = [float(part) for part in text.split(",")]
        return Windows(tuple(edges)) if "," in text else Windows.equal(int(text))
    except ValueError:
        raise PerflowError(f"--windows {text}: give a number such as 4, or edges such as 1,0.8,0.5,0") from None
