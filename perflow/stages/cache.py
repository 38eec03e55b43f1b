"""cache: the teacher solves windows; their two ends are kept, in shards that resume."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from perflow import artifacts, pairs
from perflow.artifacts import Spec
from perflow.config.rows import Pairs
from perflow.core import WINDOW, guidance
from perflow.core.chunks import chunked
from perflow.core.fields import base_field, follow, way
from perflow.core.grid import each_window, stretches
from perflow.core.rng import generator, normal
from perflow.core.solvers import SOLVERS, evaluations
from perflow.core.windows import Windows
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.loop import Step
from perflow.models import handle

_CHUNK = 128


def cache(
    spec: Spec,
    teacher: Path,
    dataset: Path,
    out: Path,
    device: str = "cpu",
    shard_items: int = 1024,
    student: Path | None = None,
) -> Generator[Step, None, dict[str, int]]:
    """Write shards beside ``out`` and last ``out``, the manifest of the pairs.

    An item is a window (``starts: data``: noised real latents, PeRFlow eq. 3) or a trajectory through all
    windows (``starts: trajectory``); of a ``mixture`` the first half of each window's pairs are of trajectories.
    With ``starts: student`` the windows of an item start where the model ``student`` comes by on its own way.
    Everything about item i is a function of (seed, i), so neither chunks nor shards nor an interruption
    change its bytes. A sound shard of this spec is kept.
    """
    row = Pairs.model_validate(spec.row)
    work = _Work.load(spec, row, teacher, dataset, device, student)
    folder = out.parent
    entries = []
    shards = work.shards(shard_items)
    for index, (items, crossed) in enumerate(shards):
        path = folder / pairs.shard_name(index)
        header = {"spec": spec.hash, "teacher": work.teacher.sha256, "items": [int(items[0]), int(items[-1])]}
        header |= {"student": work.student.sha256} if work.student else {}
        if not _sound(path, header):
            tensors = work.solve(items, crossed)
            artifacts.write_tensors(path, tensors, header | {"sha256": artifacts.tensor_hash(tensors)})
        entries.append({"file": path.name, "sha256": artifacts.sha256_file(path)})
        yield Step("pairs", int(items[-1]) + 1, int(shards[-1][0][-1]) + 1)
    conditions = folder / pairs.CONDITIONS
    artifacts.write_tensors(conditions, {"conditions": work.conditions}, {"spec": spec.hash, "captions": work.captions})
    artifacts.write_json(out, {
        "spec": spec.hash,
        "base": {"name": row.base, "sha256": work.teacher.base_sha256},
        "teacher": {"name": work.teacher.name, "sha256": work.teacher.sha256},
        "edges": row.edges, "starts": row.starts, "solver": row.solver, "window_steps": row.window_steps,
        "guidance": row.guidance, "drop": row.drop, "count": work.pairs,
        "teacher_evaluations": work.evaluations,
        "shards": entries,
        "conditions": {"file": conditions.name, "sha256": artifacts.sha256_file(conditions)},
    })  # fmt: skip
    return {"teacher_evaluations": work.evaluations} | ({"student_passes": work.passes} if work.student else {})


def _sound(path: Path, header: dict) -> bool:
    """Whether ``path`` is this very shard, whole: otherwise it is made anew."""
    if not path.is_file():
        return False
    try:
        found = artifacts.read_tensors(path)[1]
    except PerflowError:
        return False
    return {key: value for key, value in found.items() if key != "sha256"} == header


@dataclass(frozen=True)
class _Work:
    """What every item needs: teacher, latents, captions, windows."""

    spec: Spec
    row: Pairs
    teacher: handle.Model
    latents: Tensor
    captions: list[str]
    caption_of: Tensor
    conditions: Tensor
    windows: Windows
    device: str
    student: handle.Model | None
    """Whose own states windows start at."""

    @classmethod
    def load(cls, spec: Spec, row: Pairs, teacher: Path, dataset: Path, device: str, student: Path | None) -> _Work:
        model = handle.load(teacher, device)
        if (row.student is None) != (student is None):
            raise PerflowError(
                f"{spec.name}: starts: {row.starts}, with {'no' if row.student else 'a'} --student given"
            )
        data = store.load(dataset, "base")
        texts = data["text"]
        captions = ["", *sorted(set(texts))]
        number = {caption: i for i, caption in enumerate(captions)}
        return cls(
            spec, row, model, model.base.encode(store.images(data)), captions,
            torch.tensor([number[text] for text in texts]), model.base.embed(captions), Windows(tuple(row.edges)),
            device, handle.load(student, device) if student else None,
        )  # fmt: skip

    @property
    def pairs(self) -> int:
        """Pairs of the cache: ``count``, rounded up to as many for each window."""
        return self._per_window * len(self.windows)

    @property
    def _per_window(self) -> int:
        return -(-self.row.count // len(self.windows))

    @property
    def evaluations(self) -> int:
        """Network evaluations of the teacher for all pairs."""
        row = self.row
        calls = row.window_steps if row.solver == WINDOW else evaluations(row.solver, row.window_steps)
        return self.pairs * calls * guidance.nfe(row.guidance)

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
        seed, recipe = self.spec.seed, self.row
        draws = [generator(seed, "pair", int(i)) for i in items]
        image = torch.cat([torch.randint(len(self.latents), (1,), generator=rng) for rng in draws])
        dropped = torch.cat([torch.rand(1, generator=rng) for rng in draws]) < recipe.drop
        caption = torch.where(dropped, 0, self.caption_of[image])
        noise = normal(self.latents.shape[1:], seed, "pair-noise", items.tolist()).to(self.device)
        if self.student is not None:
            starts = self._states(noise, caption.to(self.device))
            ends = [
                chunked(lambda x, c, k=k: self._cross(x, c, k), _CHUNK, starts[k], caption.to(self.device))
                for k in crossed
            ]
            return _pairs(starts, ends, crossed, caption)
        t = self.windows.start(crossed[0])
        x = self.teacher.base.schedule.alpha(t) * self.latents[image] + self.teacher.base.schedule.sigma(t) * noise
        x = x.float()
        nodes = [x]
        for k in crossed:
            x = chunked(lambda x, c, k=k: self._cross(x, c, k), _CHUNK, x, caption.to(self.device))
            nodes.append(x)
        return _pairs(nodes[:-1], nodes[1:], crossed, caption)

    @property
    def passes(self) -> int:
        """Calls of the student's network for the states that windows start at."""
        own = len(self.student.flow.windows)
        scales = each_window(self.student.trial["guidance"], own)
        return self._per_window * sum(guidance.nfe(scales[k]) for k in range(own - 1))

    def _states(self, noise: Tensor, caption: Tensor) -> list[Tensor]:
        """Where the student, drawn from noise as it is meant to be, one step a window, comes by at every start."""
        student, flow = self.student, self.student.flow
        scales = each_window(student.trial["guidance"], len(flow.windows))
        pieces = stretches(flow.windows.edges, len(flow.windows), self.row.edges)[:-1]
        network = student.base.network(student.unet)
        return way(network, flow, noise, self.conditions[caption], self.conditions[:1], scales, pieces, _CHUNK)

    def _cross(self, x: Tensor, caption: Tensor, k: int) -> Tensor:
        """The teacher's solution over window k: a base's with a solver, a student's on its own windows."""
        teacher, row = self.teacher, self.row
        network = guidance.guided(
            teacher.base.network(teacher.unet), self.conditions[caption], self.conditions[:1], row.guidance
        )
        if row.solver == WINDOW:
            own = teacher.flow.windows.edges
            return follow(network, teacher.flow, x, stretches(own, row.steps, row.edges)[k])
        field = base_field(network, teacher.base.schedule, teacher.base.prediction)
        times = torch.linspace(0, 1, row.window_steps + 1, dtype=torch.float64)
        return SOLVERS[row.solver](field, x, self.windows.time(k, times).tolist(), teacher.base.schedule)


def _pairs(starts: list[Tensor], ends: list[Tensor], crossed: range, caption: Tensor) -> dict[str, Tensor]:
    """A shard of the pairs of some items, window by window."""
    return {
        "start": torch.cat(starts),
        "end": torch.cat(ends),
        "k": torch.tensor(crossed, dtype=torch.int32).repeat_interleave(len(caption)),
        "caption": caption.int().repeat(len(crossed)),
    }
