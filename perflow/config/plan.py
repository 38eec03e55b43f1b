"""What a study will do, before it does anything: rows, edges, skipped combinations, cost."""

from __future__ import annotations

import contextlib

from perflow import artifacts, record
from perflow.config import places, sizes, weight
from perflow.config.bases import latents_row, root
from perflow.config.rows import Flow, Pretrained, Scaled, Student, Transfer, Tuned
from perflow.config.splits import unpinned
from perflow.config.study import TABLES, Study
from perflow.core import BEST, RK45, SOLVER_CALLS, SPACINGS, WINDOW
from perflow.core.grid import dashed, each_window, spread
from perflow.datasets import POINTS
from perflow.errors import PerflowError
from perflow.metrics import CLIP, LPIPS
from perflow.models import OPTIONS

_RATES = {"pairs": 1.0e-3, "training": 1.6e-3, "samples": 6.0e-4, "start": 9.0, "evaluations": 8.0, "base": 2.6e-3,
          "decode": 1.8e-3, "look": 0.2}  # fmt: skip
"""CPU seconds per network evaluation (pairs, samples), per trained item (training, base) and per job
(start, evaluations), of the embedded base on one 2020s server core; used for rows never run here. Of an item whose loss
looks: two images decoded (decode) and seen by SqueezeNet (look), and the gradient of one back to its latents."""
_POINT = 0.005
"""What a point on the plane costs of that."""


def pair_evaluations(study: Study, name: str) -> int:
    """Network evaluations of the teacher for one cache; 0 where the ends are data."""
    row = study.pairs[name]
    if row.ends == "data":
        return 0
    windows = len(row.edges) - 1
    calls = [(SOLVER_CALLS | {WINDOW: 1})[solver] for solver in each_window(row.solver, windows)]
    steps = each_window(row.window_steps, windows)
    told = row.teacher is not None and study.students[row.teacher].told is not None
    asked = sum(call * count for call, count in zip(calls, steps, strict=True))
    asked *= 1 if told or row.guidance == 1 else 2
    return -(-row.count // windows) * asked


def sample_evaluations(study: Study, name: str) -> int:
    """Network evaluations of all trials of one model; at most, where spacings are searched for. Those of a solver that
    decides as it goes are not known before."""
    row = study.samples[name]
    drawn = sum(trial.nfe for trial in row.trials) * row.sampling.prompts * row.sampling.per_prompt
    if (search := row.sampling.search) is None:
        return drawn
    tried = sum(trial.nfe for trial in row.trials if trial.spacing == BEST) * (len(SPACINGS) + 2 * search.rounds)
    return drawn + tried * search.prompts * search.per_prompt


def transfer_evaluations(study: Study, name: str) -> int:
    """Network evaluations of all trials of one model in a setting."""
    row = study.transfers[name]
    return sum(trial.nfe for trial in row.trials) * _drawn(study, row)


def _drawn(study: Study, row: Transfer) -> int:
    """Items of each trial of a model in a setting."""
    return study.prompts[row.prompts].count * row.per_prompt


def _latent_floats(study: Study, base: str) -> int:
    row = study.bases[root(study.bases, base)]
    if isinstance(row, Flow):
        return 2
    # a pretrained autoencoder is not read here; nearly all have four levels
    levels = 4 if isinstance(row, Pretrained) else len(row.autoencoder_channels)
    if OPTIONS.get(row.family):  # pixels
        return 3 * study.datasets[row.dataset].resolution ** 2
    side = study.datasets[row.dataset].resolution // 2 ** (levels - 1)
    return 4 * side * side


def _seconds(study: Study, table: str, name: str) -> tuple[float, bool]:
    """CPU seconds of a row: measured by an earlier run here, or estimated. -> (seconds, measured)"""
    with contextlib.suppress(PerflowError):  # never made, or not readable: estimated
        cost = record.read(places.record(table, name))
        if cost["spec"] == artifacts.spec_hash(study.spec(table, name)):
            return cost["cpu_seconds"], True
    start, row = _RATES["start"], getattr(study, table)[name]
    base = row if table == "bases" else study.bases.get(getattr(row, "base", ""))
    times = _POINT if isinstance(base, Flow) else _times(study, table, name)
    each = {stage: rate * times for stage, rate in _RATES.items()}
    match table:
        case "pairs":
            return start + pair_evaluations(study, name) * each["pairs"], False
        case "students":
            training = study.students[name].training
            if training is None:
                return start, False
            share = sizes.training_passes(study.students[name]) / sizes.TRAINED
            item = each["training"] * share + _looking(study, study.students[name])
            return start + training.steps * training.batch * item, False
        case "samples":
            return start + sample_evaluations(study, name) * each["samples"], False
        case "transfers":
            return start + transfer_evaluations(study, name) * each["samples"], False
        case "adapters":
            training = study.adapters[name].training
            return start + training.steps * training.batch * each["training"], False
        case "bases" if isinstance(study.bases[name], Pretrained | Scaled):
            return start, False
        case "bases" if isinstance(study.bases[name], Tuned):
            training = study.bases[name].network
            return start + training.steps * training.batch * each["training"], False
        case "bases":
            row = study.bases[name]
            if isinstance(row, Flow):
                return start + row.network.steps * row.network.batch * each["training"], False
            items = row.network.steps * row.network.batch * times
            items += row.autoencoder.steps * row.autoencoder.batch * weight.autoencoder(study, name)
            return start + items * _RATES["base"], False
        case "extractors":
            training = study.extractors[name].training
            items = training.steps * training.batch if training else 0
            return items * _RATES["training"] / 4, False
    return _RATES["evaluations"] if table == "evaluations" else 3.0, False


def _times(study: Study, table: str, name: str) -> float:
    """How many times as long as the embedded base's the network of a row takes; 1 where nobody can say."""
    base = name if table == "bases" else getattr(getattr(study, table)[name], "base", None)
    return 1.0 if base not in study.bases else weight.network(study, base) or 1.0


def _looking(study: Study, row: Student) -> float:
    """CPU seconds of a training item for how far apart two images look, on top of its network's; 0 of most losses."""
    if row.perceptual is None:
        return 0.0
    times = weight.autoencoder(study, row.base)
    return _RATES["decode"] * (1.0 if times is None else times) + _RATES["look"]


def _edges(study: Study, table: str, name: str) -> str:
    match table:
        case "splits":
            return f"dataset {study.splits[name].dataset}"
        case "prompts":
            row = study.prompts[name]
            return f"list {row.list.file}" if row.list else f"dataset {row.captions.dataset}"
        case "latents":
            return f"base {study.latents[name].base}, dataset {study.latents[name].dataset}"
        case "bases" if isinstance(study.bases[name], Scaled):
            return f"base {study.bases[name].base}, fine-tune {study.bases[name].scaled}"
        case "bases" if isinstance(study.bases[name], Tuned):
            row = study.bases[name]
            return f"base {row.fine_tune}, latents {latents_row(study.bases, row.fine_tune, row.dataset)}"
        case "bases":
            return f"dataset {study.bases[name].dataset}"
        case "adapters":
            row = study.adapters[name]
            return f"base {row.base}, latents {latents_row(study.bases, row.base, row.dataset)}"
        case "transfers":
            row = study.transfers[name]
            return f"model {row.model}, base {row.base}" + (f", adapter {row.adapter}" if row.adapter else "")
        case "extractors":
            row = study.extractors[name]
            return f"dataset {row.dataset}" if row.dataset else f"weights {row.weights}"
        case "pairs":
            row = study.pairs[name]
            maker = "base" if row.ends == "data" else "teacher"
            return f"{maker} {row.teacher or row.base}, latents {row.base}"
        case "students":
            row = study.students[name]
            if row.source:
                return f"base {row.base}, weights {row.source.weights}"
            asked = f", extractor {row.perceptual}" if row.perceptual else ""
            return f"start {row.start or row.base}, pairs {row.pairs}{asked}"
        case "deltas":
            return f"student {name}"
        case "samples":
            return f"model {name}, prompts {study.samples[name].prompts}"
        case "evaluations":
            drawn = "transfer" if name in study.transfers else "samples"
            row = study.evaluations[name]
            beside = "".join(f", {kind} {getattr(row, kind)}" for kind in (CLIP, LPIPS) if getattr(row, kind))
            return f"{drawn} {name}, extractor {row.extractor}{beside}"
    return "-"


def _work(study: Study, table: str, name: str) -> str:
    match table:
        case "splits":
            row = study.splits[name]
            kind = "points" if row.source in POINTS else "images"
            return f"{sum(row.counts.values()):,} {kind} ({row.source})"
        case "prompts":
            return f"{study.prompts[name].count:,} prompts"
        case "latents":
            row = study.latents[name]
            said = f"{study.datasets[row.dataset].counts['base']:,} latents, {row.dtype}"
            if (size := sizes.captions(study, name)) is None:
                return said
            here, other = row.captions, next(kept for kept in size if kept != row.captions)
            return (
                f"{said}, captions {here}: at most {_bytes(size[here])}, in each row of pairs again"
                f" ({other}: {_bytes(size[other])})"
            )
        case "bases" if isinstance(study.bases[name], Scaled):
            return f"scale {study.bases[name].scale:g}"
        case "adapters":
            row = study.adapters[name]
            return f"{row.kind}, {row.training.steps:,} steps"
        case "transfers":
            row = study.transfers[name]
            rank = f", rank {row.rank}" if row.rank else ""
            return f"{row.task}{rank}, {len(row.trials)} trials, {transfer_evaluations(study, name):,} evaluations"
        case "bases":
            row = study.bases[name]
            return f"pretrained ({row.source.kind})" if isinstance(row, Pretrained) else f"{row.network.steps:,} steps"
        case "extractors":
            row = study.extractors[name]
            if row.sha256:
                return f"{row.kind}, sha256 {row.sha256[:12]}"
            return f"{row.training.steps:,} steps" if row.training else row.kind
        case "pairs":
            row = study.pairs[name]
            way = f"x {dashed(row.window_steps)} {dashed(row.solver)}, w={spread(row.guidance)}"
            return (
                f"{row.count:,} pairs, {len(row.edges) - 1} windows {'from data' if row.ends == 'data' else way},"
                f" {pair_evaluations(study, name):,} teacher evaluations"
            )
        case "students":
            row = study.students[name]
            if row.source:
                told = f", guidance {spread(row.source.guidance)}" if row.source.guidance else ""
                return f"released {row.source.held}, {row.path}, {row.prediction}{told}"
            steps = f"{row.training.steps:,} steps of {row.training.batch}"
            told = f", guidance in {row.told.size} numbers" if row.told else ""
            return f"{steps}, {row.method['name']}, {row.path}, {row.prediction}{told}"
        case "samples":
            row = study.samples[name]
            said = f"{len(row.trials)} trials, {sample_evaluations(study, name):,} evaluations"
            return said + (f" and those of {RK45}, as it goes" if any(not trial.steps for trial in row.trials) else "")
        case "evaluations":
            return f"{len(study.evaluations[name].metrics)} metrics"
    return ""


def _hours(study: Study, table: str, name: str, tflops: float | None) -> float | None:
    """GPU hours of a row on a base of real size; None for any other."""
    asked = {"pairs": pair_evaluations, "samples": sample_evaluations, "transfers": transfer_evaluations}
    evaluations = asked[table](study, name) if table in asked else 0
    return sizes.gpu_hours(study, table, name, evaluations, tflops)


def plan(study: Study, tflops: float | None = None) -> str:
    """The whole study as text: one line a row, then what was skipped, then the totals.

    ``tflops`` a second is what one GPU is taken to do, for rows on bases of real size; None: what is assumed.
    """
    lines, total, measured_all = [f"study {study.name}, seed {study.seed}"], 0.0, True
    hours: dict[str, float] = {}
    for table in TABLES:
        names = list(getattr(study, table))
        lines.append(f"\n{table} ({len(names)})")
        width = max((len(name) for name in names), default=0)
        for name in names:
            seconds, measured = _seconds(study, table, name)
            work = None if measured else _hours(study, table, name, tflops)
            if work is None:
                total, measured_all = total + seconds, measured_all and measured
                time = f"{seconds:6.0f} s{'' if measured else '~'}"
            else:
                hours[table] = hours.get(table, 0.0) + work
                time = f"{work:.4g} GPU h~"
            lines.append(
                f"  {name:<{width}}  {time:>9}  <- {_edges(study, table, name)}  {_work(study, table, name)}".rstrip()
            )
    lines.append(f"\nskipped ({len(study.skipped)})")
    lines += [f"  {item.row}: {item.why}" for item in study.skipped]
    evaluations = sum(pair_evaluations(study, name) for name in study.pairs)
    said = f"\ntotal: {evaluations:,} teacher evaluations for pairs"
    if hours:
        lines += [f"{said}, about {sum(hours.values()):,.0f} GPU hours", *_of_real_size(study, hours, tflops)]
        return "\n".join(lines)
    disk = sum(row.count * _latent_floats(study, row.base) * 8 for row in study.pairs.values())
    disk += sum(
        len(row.trials) * row.sampling.prompts * row.sampling.per_prompt * _latent_floats(study, row.base) * 8
        for row in study.samples.values()
    )
    disk += sum(
        len(row.trials) * _drawn(study, row) * _latent_floats(study, row.base) * 8 for row in study.transfers.values()
    )
    lines.append(
        f"{said}, about {disk / 2**20:,.0f} MiB of pairs and samples,"
        f" about {total / 60:.0f} CPU minutes ({total / 120:.0f} minutes on two cores)"
    )
    if not measured_all:
        lines.append("~ estimated for one server core without a GPU; rows that were run here show what they took")
        if unknown := weight.unknown(study):
            lines.append(f"  {', '.join(unknown)}: of unknown shape, counted as the small embedded base")
        asked = sorted({row.perceptual for row in study.students.values() if row.perceptual})
        if programs := [name for name in asked if study.extractors[name].kind == LPIPS]:
            lines.append(f"  {', '.join(programs)}: programs of unknown size, counted as SqueezeNet")
    return "\n".join(lines)


def _of_real_size(study: Study, hours: dict[str, float], tflops: float | None) -> list[str]:
    """What a study on bases of real size costs, what that rests on, and what must be there before it can run."""
    assumed = ", ".join(f"{rate:g} in {'fp32' if name == 'no' else name}" for name, rate in sizes.ASSUMED.items())
    shapes = {shape.name: shape for name in study.bases if (shape := sizes.real(study, name))}.values()
    disk = sizes.disk(study)
    lines = [
        "GPU hours: " + ", ".join(f"{table} {value:,.0f}" for table, value in hours.items()),
        "  ~ arithmetic, not measured: operations counted on the architectures of "
        + " and ".join(f"{shape.name} ({shape.evaluation:.2f} TFLOP an evaluation)" for shape in shapes)
        + (f", {tflops:g} TFLOP/s by --tflops" if tflops else f", TFLOP/s of one H100: {assumed},")
        + ("" if tflops else " 35 % of its data sheet; --tflops says another"),
        "  not counted: text models, straightness on a student's own path, features of images"
        + (", networks by which a loss looks" if any(row.perceptual for row in study.students.values()) else ""),
        f"disk: about {sum(disk.values()) / 2**30:,.0f} GiB",
        *(f"  {size / 2**30:8,.0f} GiB  {name}" for name, size in disk.items()),
        "downloads, as far as this file says (the hub is not asked):",
        *(f"  {_size(size):>12}  {where}" for where, size in sizes.downloads(study).items()),
    ]
    if shapes and None in sizes.downloads(study).values():
        unets = ", ".join(f"{shape.name} {4 * shape.parameters / 2**30:.1f} GiB" for shape in shapes)
        lines.append(f"  (of which the UNet alone, in fp32: {unets})")
    if absent := unpinned(study):
        lines += ["before it can run:", *(f"  {line}" for line in absent)]
    return lines


def _bytes(size: float) -> str:
    for unit in ("KiB", "MiB"):
        size /= 2**10
        if size < 2**10:
            return f"{size:.3g} {unit}"
    return f"{size / 2**10:,.1f} GiB"


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.2f} GiB"
