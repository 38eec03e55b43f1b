"""cache: the two ends of windows, as the teacher solves them or from data, kept in shards that resume."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perflow import artifacts, pairs, record
from perflow.artifacts import Spec
from perflow.config.rows import Pairs
from perflow.core import WINDOW
from perflow.core.chunks import chunked
from perflow.core.condition import Condition, take
from perflow.core.fields import Denoiser, base_field, follow, way
from perflow.core.grid import each_window, stretches
from perflow.core.rng import generator
from perflow.core.solvers import SOLVERS, evaluations
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.latents import Latents
from perflow.loop import Step
from perflow.models import handle


def cache(
    spec: Spec,
    teacher: Path,
    latents: Path,
    out: Path,
    device: str = "cpu",
    shard_items: int = 1024,
    part: pairs.Part | None = None,
    student: Path | None = None,
    compile: bool = False,
) -> Generator[Step, None, dict[str, int]]:
    """Write shards beside ``out`` and last ``out``, the manifest of the pairs.

    An item is a window (``starts: data``: noised real latents, PeRFlow eq. 3) or a trajectory through all
    windows (``starts: trajectory``); of a ``mixture`` the first half of each window's pairs are of trajectories.
    With ``ends: data`` an item's window also ends at its latents and its noise, at the level of the end (arXiv
    2209.03003), and no network is asked: ``teacher`` is then the base, for its noise levels and shapes alone.
    Of a range of guidance every item has its own, along all its windows; shards then hold it.
    With ``starts: student`` the windows of an item start where the model ``student`` comes by on its own way.
    Everything about item i is a function of (seed, i), so neither chunks nor shards nor an interruption
    change its bytes. A sound shard of this spec is kept.

    A ``part`` makes every so many-th shard and writes their list, beside ``out`` and not ``out``: a job of its own,
    on whatever device. Once all parts are there, the whole only lists them. ``compile`` compiles the networks when
    they are first called; last bits change.
    """
    row = Pairs.model_validate(spec.row)
    work = _Work.load(spec, row, teacher, latents, device, student)
    if compile:
        for model in filter(None, (work.teacher, work.student)):
            model.unet.compile()
    folder = out.parent
    shards = work.shards(shard_items)
    asked = row.ends == "teacher"
    made_of = {"spec": spec.hash, "latents": artifacts.sha256_file(latents)}
    made_of |= {"teacher": work.teacher.sha256} if asked else {}
    made_of |= {"student": work.student.sha256} if work.student else {}
    numbers = range(len(shards))[(part.number - 1) :: part.of] if part else range(len(shards))
    evaluated = sum(work.evaluations(*shards[index]) for index in numbers)
    entries = []
    for entry in _made(work, {pairs.shard_name(index): shards[index] for index in numbers}, folder, made_of):
        entries.append(entry)
        yield Step("pairs", len(entries), len(numbers))
    if part:
        artifacts.write_json(part.list(out), {"spec": spec.hash, "part": str(part), "shards": entries})
        return {"teacher_evaluations": evaluated}
    conditions = folder / pairs.CONDITIONS
    captions = work.data.captions
    told = {"spec": spec.hash, "captions": len(captions) if work.data.recomputed else captions}
    artifacts.write_tensors(conditions, work.data.conditions, told)
    artifacts.write_json(out, {
        "spec": spec.hash,
        "base": {"name": row.base, "sha256": work.teacher.base_sha256},
        "teacher": {"name": work.teacher.name, "sha256": work.teacher.sha256} if asked else None,
        "edges": row.edges, "starts": row.starts, "solver": row.solver, "window_steps": row.window_steps,
        "guidance": row.guidance, "negative": row.negative, "drop": row.drop, "count": work.pairs,
        "teacher_evaluations": evaluated,
        "shards": entries,
        "conditions": {"file": conditions.name, "sha256": artifacts.sha256_file(conditions)},
    } | ({} if asked else {"ends": row.ends}))  # fmt: skip
    passes = {"student_passes": work.passes} if work.student else {}
    return {"teacher_evaluations": evaluated, **passes, **_spent(spec, out)}


def _made(
    work: _Work, shards: dict[str, tuple[Tensor, range]], folder: Path, made_of: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Name, items and windows of shards -> their entries in the manifest, in order, each once its file is whole.

    While the teacher solves a shard, the one before is written: at most two are in memory. What the writing raises is
    raised here.
    """
    with ThreadPoolExecutor(1) as writer:
        written: Future[dict[str, str]] | None = None
        for name, (items, crossed) in shards.items():
            path, header = folder / name, made_of | {"items": [int(items[0]), int(items[-1])]}
            tensors = None if artifacts.holds(path, header) else work.solve(items, crossed)
            if written:
                yield written.result()
            written = writer.submit(_entry, path, tensors, header)
        if written:
            yield written.result()


def _entry(path: Path, tensors: dict[str, Tensor] | None, header: dict[str, Any]) -> dict[str, str]:
    """What the manifest says of a shard, which is written first unless it is there."""
    if tensors is not None:
        here = {name: value.cpu() for name, value in tensors.items()}  # once, for the hash and the file
        artifacts.write_tensors(path, here, header | {"sha256": artifacts.tensor_hash(here)})
    return {"file": path.name, "sha256": artifacts.sha256_file(path)}


def _spent(spec: Spec, out: Path) -> dict[str, float]:
    """Seconds that the parts of this cache took, as far as they are still listed."""
    records = [record.read(path) for path in sorted(out.parent.glob("part-*-of-*.cost.json"))]
    of_this = [found for found in records if found["spec"] == spec.hash]
    return {name: sum(found[name] for found in of_this) for name in ("seconds", "cpu_seconds")}


@dataclass(frozen=True)
class _Work:
    """What every item needs: teacher, latents and conditions, windows."""

    spec: Spec
    row: Pairs
    teacher: handle.Model
    data: Latents
    away: dict[str, Tensor] | None
    """The condition that guidance leads away from, [1, ...]; None of a base that knows none."""
    windows: Windows
    device: str
    student: handle.Model | None
    """Whose own states windows start at."""

    @classmethod
    def load(cls, spec: Spec, row: Pairs, teacher: Path, latents: Path, device: str, student: Path | None) -> _Work:
        model = handle.load(teacher, device)
        if (row.student is None) != (student is None):
            raise PerflowError(
                f"{spec.name}: starts: {row.starts}, with {'no' if row.student else 'a'} --student given"
            )
        data = Latents.of(latents, model.name, model.base_sha256, device)
        away = None
        if model.base.has_null:
            empty = take(data.conditions, torch.tensor([0]))
            away = model.base.embed([row.negative]) if row.negative else model.base.condition(empty)
        walker = handle.load(student, device) if student else None
        return cls(spec, row, model, data, away, Windows(tuple(row.edges)), device, walker)

    @property
    def pairs(self) -> int:
        """Pairs of the cache: ``count``, rounded up to as many for each window."""
        return self._per_window * len(self.windows)

    @property
    def _per_window(self) -> int:
        return -(-self.row.count // len(self.windows))

    def evaluations(self, items: Tensor, crossed: range) -> int:
        """Network evaluations of the teacher for ``items``, each across the windows ``crossed``."""
        if self.row.ends == "data":
            return 0
        calls = sum(
            steps if solver == WINDOW else evaluations(solver, steps) for solver, steps in map(self._ways, crossed)
        )
        return len(items) * calls * self.teacher.nfe(self.row.guidance)

    def _ways(self, k: int) -> tuple[str, int]:
        """Solver and steps across window k."""
        count = len(self.windows)
        return each_window(self.row.solver, count)[k], each_window(self.row.window_steps, count)[k]

    def shards(self, size: int) -> list[tuple[Tensor, range]]:
        """Consecutive items of each shard, and the windows that each of them crosses."""
        each, every = self._per_window, range(len(self.windows))
        whole = {"data": 0, "mixture": -(-each // 2)}.get(self.row.starts, each)
        blocks = [(torch.arange(whole), every)]
        for k in every:
            blocks.append((torch.arange(each - whole) + whole + k * (each - whole), range(k, k + 1)))
        return [(shard, crossed) for items, crossed in blocks if len(items) for shard in items.split(size)]

    @torch.inference_mode()
    def solve(self, items: Tensor, crossed: range) -> dict[str, Tensor]:
        """The pairs of ``items``, each from real latents noised to the first of the windows ``crossed``."""
        seed, recipe, latents = self.spec.seed, self.row, self.data.latents
        draws = [generator(seed, "pair", int(i)) for i in items]
        image = torch.cat([torch.randint(len(latents), (1,), generator=rng) for rng in draws])
        dropped = torch.cat([torch.rand(1, generator=rng) for rng in draws]) < recipe.drop
        caption = torch.where(dropped, 0, self.data.caption[image])
        own = None
        if isinstance(recipe.guidance, list):
            least, most = recipe.guidance
            own = least + (most - least) * torch.cat([torch.rand(1, generator=rng) for rng in draws])
        noise = self.teacher.noise(seed, "pair-noise", items.tolist()).to(self.device)
        if self.student is not None:
            starts = self._states(noise, caption)
            ends = [self._end(starts[k], caption, own, k) for k in crossed]
            return _pairs(starts, ends, crossed, caption, own)
        nodes = [self._noised(latents[image], noise, self.windows.start(crossed[0]))]
        for k in crossed:
            if recipe.ends == "data":
                nodes.append(self._noised(latents[image], noise, self.windows.end(k)))
            else:
                nodes.append(self._end(nodes[-1], caption, own, k))
        return _pairs(nodes[:-1], nodes[1:], crossed, caption, own)

    def _noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """alpha(t) latents + sigma(t) noise, fp32."""
        schedule = self.teacher.base.schedule
        return (schedule.alpha(t) * latents + schedule.sigma(t) * noise).float()

    @property
    def passes(self) -> int:
        """Calls of the student's network for the states that windows start at."""
        own = len(self.student.flow.windows)
        scales = each_window(self.student.trial["guidance"], own)
        return self._per_window * sum(self.student.nfe(scales[k]) for k in range(own - 1))

    def _states(self, noise: Tensor, caption: Tensor) -> list[Tensor]:
        """Where the student, drawn from noise as it is meant to be, one step a window, comes by at every start."""
        student, flow = self.student, self.student.flow
        scales = each_window(student.trial["guidance"], len(flow.windows))
        pieces = stretches(flow.windows.edges, len(flow.windows), self.row.edges)[:-1]
        told = self._told(caption)
        return way(partial(self._says, student), flow, noise, told, self.away, scales, pieces, student.base.chunk)

    def _told(self, caption: Tensor) -> dict[str, Tensor]:
        """The conditions of captions [B], by their numbers."""
        return self.teacher.base.condition(take(self.data.conditions, caption))

    def _says(self, model: handle.Model, told: Condition, away: Condition | None, guidance: float | Tensor) -> Denoiser:
        """The model under a condition, its network in the precision of the row; what it says is fp32."""
        network = model.says(told, away, guidance)
        if self.row.precision == "no":
            return network

        def says(x: Tensor, timestep: Tensor) -> Tensor:
            with torch.autocast(self.device, torch.bfloat16):
                return network(x, timestep).float()

        return says

    def _end(self, x: Tensor, caption: Tensor, own: Tensor | None, k: int) -> Tensor:
        """Where windows k from x [N, ...] end by the teacher, in chunks; ``own``: their guidance [N], if not one."""
        rows = [x, caption] if own is None else [x, caption, own]
        return chunked(lambda x, c, w=self.row.guidance: self._cross(x, c, w, k), self.teacher.base.chunk, *rows)

    def _cross(self, x: Tensor, caption: Tensor, guidance: float | Tensor, k: int) -> Tensor:
        """The teacher's solution over window k: a base's with a solver, a student's or a flow's on its own windows."""
        teacher, row = self.teacher, self.row
        network = self._says(teacher, self._told(caption), self.away, guidance)
        if row.solver == WINDOW:
            own = teacher.flow.windows.edges
            return follow(network, teacher.flow, x, stretches(own, row.steps, row.edges)[k])
        field = base_field(network, teacher.base.schedule, teacher.base.prediction)
        solver, steps = self._ways(k)
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return SOLVERS[solver](field, x, self.windows.time(k, times).tolist(), teacher.base.schedule)


def _pairs(
    starts: list[Tensor], ends: list[Tensor], crossed: range, caption: Tensor, own: Tensor | None
) -> dict[str, Tensor]:
    """A shard of the pairs of some items, window by window."""
    return {
        "start": torch.cat(starts),
        "end": torch.cat(ends),
        "k": torch.tensor(crossed, dtype=torch.int32).repeat_interleave(len(caption)),
        "caption": caption.int().repeat(len(crossed)),
        **({} if own is None else {"guidance": own.repeat(len(crossed))}),
    }
