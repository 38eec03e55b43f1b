"""What a trial is drawn of, its samples on disk (PNGs, latents, a grid), and what is kept of a row at work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perflow import artifacts
from perflow.ahead import helpers, mapped
from perflow.errors import PerflowError
from perflow.images import png, tile

_GRID = (4, 16)
"""Rows and columns of a trial's picture."""


def read_prompts(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What is drawn, and what guidance leads away from for each; PerflowError naming a file that is no prompts."""
    content = artifacts.read_object(path, "prompts", prompts=list, negatives=list)
    return content["prompts"], content["negatives"]


def check_finite(model: str, trial: str, latents: Tensor) -> None:
    """PerflowError if a sampler diverged."""
    if not bool(torch.isfinite(latents).all()):
        raise PerflowError(f"{model} {trial}: samples are not finite; the model or solver diverged")


class Block(NamedTuple):
    """Some items of a trial, one after the other."""

    latents: Tensor
    """[n, ...]."""
    images: np.ndarray
    """uint8 [n, H, W, 3]."""
    calls: Tensor | None = None
    """Evaluations [n] of a solver that decides as it goes."""


def write(
    folder: Path, trial: Mapping[str, Any], sha256: str, blocks: Iterable[Block], count: int, device: str
) -> Generator[int, None, dict[str, Any]]:
    """Write the latents and images of ``trial``, a row of a model of hash ``sha256``, as its ``count`` items come in
    ``blocks`` from ``device``; images are held by the block. Yields how many are written, and returns the trial's entry
    for a manifest."""
    name = trial["name"]
    files = {kind: folder / f"{name}.{suffix}" for kind, suffix in
             (("images", "zip"), ("latents", "safetensors"), ("grid", "png"))}  # fmt: skip
    every, shown = max(1, count // (_GRID[0] * _GRID[1])), []
    tensors: dict[str, Tensor] = {}

    def images() -> Iterator[np.ndarray]:
        first = 0
        for block in blocks:
            for name, part in (("latents", block.latents), ("evaluations", block.calls)):
                if part is None:
                    continue
                if name not in tensors:
                    tensors[name] = torch.empty(count, *part.shape[1:], dtype=part.dtype)
                tensors[name][first : first + len(part)] = part
            first += len(block.latents)
            yield from block.images
        if first != count:
            raise ValueError(f"{first} items were drawn of {count}")

    with artifacts.archiving(files["images"]) as add:
        for number, (image, data) in enumerate(mapped(lambda each: (each, png(each)), images(), helpers(device))):
            add(f"{number:05d}.png", data)
            if number % every == 0 and len(shown) < _GRID[0] * _GRID[1]:
                shown.append(image.copy())  # a view would hold its whole block
            yield number + 1
    artifacts.write_tensors(files["latents"], tensors, {"model": sha256, **trial})
    with artifacts.atomic(files["grid"]) as temporary:
        temporary.write_bytes(png(tile(np.stack(shown), *_GRID)))
    entries = {kind: {"file": path.name, "sha256": artifacts.sha256_file(path)} for kind, path in files.items()}
    spent = cost(tensors["evaluations"]) if "evaluations" in tensors else {}
    return {key: value for key, value in trial.items() if key != "name"} | spent | entries


def cost(calls: Tensor) -> dict[str, int]:
    """Network evaluations of a trial as it ran, those [N] of a solver that decides as it goes in the mean; it has no
    number of steps, and its row's 0 stays."""
    return {"nfe": round(float(calls.double().mean()))}


class Kept:
    """What is done of a row's trials, in a folder from which an interrupted row goes on: what was found for them,
    the entries of whole ones, and tensors of the one at hand.

    Each is written when ``seconds`` have passed since the last time, so about as much is lost; what comes faster is not
    worth it. ``made_of`` says what else bytes depend on: what was kept of something else is not taken.
    """

    def __init__(self, state: Path, manifest: Path, made_of: Mapping[str, Any], seconds: float = 20.0) -> None:
        self._state, self._manifest, self._made_of, self._seconds = state, manifest, dict(made_of), seconds
        self._listed = self._drawn = time.monotonic()
        self._path = state / "trials.json"
        self._entries: dict[str, Any] = {}
        self._found: dict[str, Any] = {}
        self._unlisted = False
        with contextlib.suppress(PerflowError):
            kept = artifacts.read_object(self._path, "trials", made_of=dict, entries=dict, found=dict)
            if kept["made_of"] == self._made_of:
                self._entries, self._found = kept["entries"], kept["found"]

    def entry(self, name: str) -> dict[str, Any] | None:
        """A trial's entry for the manifest, if it is done and its files are as they were written."""
        found = self._entries.get(name)
        if not isinstance(found, dict):
            return None
        try:
            for part in found.values():
                if isinstance(part, dict) and "file" in part:
                    artifacts.beside(self._manifest, part)
        except PerflowError:
            return None
        return found

    def found(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``find`` finds for a trial before it is drawn, once."""
        if name not in self._found:
            self._found[name] = find()
            self._list()
        return self._found[name]

    def finish(self, name: str, entry: dict[str, Any]) -> None:
        """A trial is done; its tensors are needed no more once that is written."""
        self._entries[name] = entry
        self._list()

    def _list(self, at_once: bool = False) -> None:
        self._unlisted = True
        if not at_once and time.monotonic() - self._listed <= self._seconds:
            return
        artifacts.write_json(self._path, {"made_of": self._made_of, "entries": self._entries, "found": self._found})
        for path in self._state.glob("drawn-*.safetensors"):
            if path.stem.split("-", 2)[2] in self._entries:
                path.unlink()
        self._listed, self._unlisted = time.monotonic(), False

    def drawn(
        self, trial: Mapping[str, Any], blocks: Sequence[range], draw: Callable[[range], dict[str, Tensor]]
    ) -> Iterator[dict[str, Tensor]]:
        """Tensors [n, ...] of each of ``blocks`` of a trial's items, as they were kept or else by ``draw``."""
        name, made_of, number, waiting = trial["name"], self._made_of | {"trial": dict(trial)}, 0, []
        while number < len(blocks):
            path = self._shard(name, number)
            if not waiting and (found := self._read(path, made_of, blocks[number:])):
                yield from found
                number += len(found)
                continue
            waiting.append(draw(blocks[number]))
            yield waiting[-1]
            number += 1
            if time.monotonic() - self._drawn > self._seconds:
                self._write(self._shard(name, number - len(waiting)), made_of, waiting)
                waiting = []
                if self._unlisted:
                    self._list(at_once=True)

    def _shard(self, name: str, number: int) -> Path:
        """Where the blocks of a trial from ``number`` on are kept."""
        return self._state / f"drawn-{number:06d}-{name}.safetensors"

    def _read(self, path: Path, made_of: Mapping[str, Any], blocks: Sequence[range]) -> list[dict[str, Tensor]]:
        """The first of ``blocks``, as far as the file holds them; none if it is broken, or of something else."""
        if not path.is_file():
            return []
        try:
            tensors, header = artifacts.read_tensors(path)
            sizes = artifacts.has(header, path, "what was drawn", sizes=list)["sizes"]
        except PerflowError:
            return []
        same = all(header.get(key) == value for key, value in made_of.items())
        if not same or sizes != [len(block) for block in blocks[: len(sizes)]]:
            return []
        parts = {key: value.split(sizes) for key, value in tensors.items()}
        return [dict(zip(parts, block, strict=True)) for block in zip(*parts.values(), strict=True)]

    def _write(self, path: Path, made_of: Mapping[str, Any], blocks: Sequence[dict[str, Tensor]]) -> None:
        tensors = {key: torch.cat([block[key].cpu() for block in blocks]) for key in blocks[0]}
        header = {"sizes": [len(block["latents"]) for block in blocks], "sha256": artifacts.tensor_hash(tensors)}
        artifacts.write_tensors(path, tensors, made_of | header)
        self._drawn = time.monotonic()
