"""Samples on disk as metrics see them: a manifest, its files, checked first, and the feature network."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perflow import artifacts
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics import EXTRACTORS, METRICS, intervals
from perflow.metrics.given import Given
from perflow.metrics.looking import Viewer
from perflow.metrics.standardised import Standardised
from perflow.metrics.trial import Images, Trial

TEACHER, INDEPENDENT = "teacher", "teacher-2"
"""The base's trials that stand for the teacher: with the noise of every trial, and with other noise."""


@dataclass(frozen=True)
class Drawn:
    """A samples manifest and the files beside it."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Drawn:
        """PerflowError naming ``path`` if it is no manifest of samples."""
        what = "a manifest of samples"
        content = artifacts.read_object(path, what, model=str, prompts=list, per_prompt=int, trials=dict)
        for entry in content["trials"].values():
            if not isinstance(entry, dict):
                raise PerflowError(f"{path}: not {what}; delete it and run again")
            artifacts.has(entry, path, what, solver=str, steps=int, nfe=int, guidance=int | float | list, stream=int)
            artifacts.has({"teacher": None} | entry, path, what, teacher=int | float | None)
        if not all(isinstance(prompt, dict) and "text" in prompt for prompt in content["prompts"]):
            raise PerflowError(f"{path}: not {what} (a prompt has no text); delete it and run again")
        return cls(path, artifacts.has(content, path, what, flow=dict | None))

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        """Trials by name, as the manifest describes them."""
        return self.content["trials"]

    @property
    def units(self) -> np.ndarray:
        """Index [N] of what items share with others: their prompt, or, where all have the same one, nothing."""
        return self.prompts if len(self.content["prompts"]) > 1 else np.arange(self.content["per_prompt"])

    @property
    def prompts(self) -> np.ndarray:
        """Index [N] of each item's prompt."""
        return np.arange(len(self.content["prompts"])).repeat(self.content["per_prompt"])

    @property
    def texts(self) -> list[str]:
        """What each prompt says."""
        return [prompt["text"] for prompt in self.content["prompts"]]

    def images(self, trial: str) -> artifacts.Archive:
        """A trial's images, PNGs."""
        return artifacts.Archive(artifacts.beside(self.path, self.trials[trial].get("images")))

    def observe(self, trial: str, viewer: Viewer, groups: np.ndarray) -> Images:
        """A trial's N samples as the extractor sees them, with their latents, and points with their paths;
        ``groups`` [N]."""
        tensors = artifacts.tensors_beside(self.path, self.trials[trial].get("latents"), "latents")
        latents = tensors["latents"].numpy()
        archive = None if "paths" in tensors else self.images(trial)
        count = len(latents) if archive is None else len(archive)
        if not count == len(latents) == len(self.prompts):
            raise PerflowError(
                f"{self.path}: trial '{trial}' has {count} images and {len(latents)} latents for"
                f" {len(self.prompts)} items of its prompts; delete {self.path} and run again"
            )
        seen = (
            viewer.network.observe(latents) if archive is None else viewer.see(archive, where=f"{self.path}: {trial}")
        )
        prompts = self.prompts if len(self.content["prompts"]) > 1 else None
        paths = tensors["paths"].numpy() if "paths" in tensors else None
        calls = np.full(count, self.trials[trial]["nfe"])  # or each one's, of a solver that decides as it goes
        calls = tensors["evaluations"].numpy() if "evaluations" in tensors else calls
        return Images(*seen, latents, prompts=prompts, groups=groups, paths=paths, calls=calls)


def load_extractor(name: str, path: Path, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
    """The feature network in ``path``, on ``device``, and how results name it; PerflowError if it is none, or
    altered."""
    tensors, header = artifacts.read_tensors(path)
    if header.get("kind") not in list(EXTRACTORS):
        raise PerflowError(f"{path}: not an extractor; one is made with perflow extractor")
    with artifacts.understood(path, "an extractor"):
        taken = header.get("weights", {})  # not under its keys: a "file" of a result is one that lies beside it
        about = {"weights": {"name": taken["file"], "sha256": taken["sha256"]}} if taken else {}
        if said := header.get("standardised"):
            about["standardised"] = said
            tensors, mean, scale = Standardised.split(tensors)
        network = pkgutil.resolve_name(EXTRACTORS[header["kind"]])(tensors, header["architecture"])
        network = Standardised(network, mean, scale) if said else network
    return network.to(device), {"name": name, "sha256": artifacts.sha256_file(path)} | about


def observe_real(dataset: Path, split: str, viewer: Viewer) -> tuple[Images, dict[str, dict[str, float]]]:
    """A data set's real images as the extractor sees them, and ``accuracy``, by attribute, if it reads any."""
    data = store.load(dataset, split)
    if store.of_points(data):
        real = Images(*viewer.network.observe(store.items(data)))
    else:
        images = store.Encoded(data)
        real = Images(*viewer.see(images, images.decode, str(dataset)))
    if not viewer.network.values:
        return real, {}
    right = {name: found == np.asarray(data[f"label_{name}"]) for name, found in real.predicted.items()}
    return real, {"accuracy": {name: float(np.mean(each)) for name, each in right.items()}}


def reference_of(
    dataset: Path, split: str, viewer: Viewer, known: Given | None, dimensions: int
) -> tuple[Images, dict[str, dict[str, float]]]:
    """As ``observe_real``, but of what is ``known`` of the real images in their place, if anything is: the images then
    only say how well the extractor reads."""
    if known is None:
        return observe_real(dataset, split, viewer)
    accuracy = observe_real(dataset, split, viewer)[1] if viewer.network.values else {}
    return known.images(dimensions), accuracy


def labels_wanted(drawn: Drawn, values: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Labels [N] that the prompts specify, by the extractor's attributes; -1 where a prompt says nothing.

    None for an extractor that reads no attributes; PerflowError for a value that one does not know.
    """
    if not values:
        return {}
    prompts = drawn.content["prompts"]
    wanted = {name: np.full(len(prompts), -1) for name in values}
    for number, prompt in enumerate(prompts):
        for name, value in prompt.items():
            if name == "text" or value is None:
                continue
            if value not in values.get(name, ()):
                known = ", ".join(values.get(name, values))
                raise PerflowError(
                    f"{drawn.path}: prompt '{prompt['text']}' asks for {name} '{value}', which the extractor"
                    f" does not know; it knows {known}"
                )
            wanted[name][number] = values[name].index(value)
    return {name: labels.repeat(drawn.content["per_prompt"]) for name, labels in wanted.items()}


def measured(trial: Trial, metrics: Iterable[str], confidence: float) -> dict[str, dict[str, Any]]:
    """Value, ends of the interval and replicates of each metric; one that is undefined here is left out."""
    found = {}
    for name in metrics:
        estimate = pkgutil.resolve_name(METRICS[name])(trial)
        if np.isfinite(estimate.value) and np.isfinite(estimate.replicates).all():
            bounds = intervals.interval(estimate, confidence)._asdict()
            found[name] = bounds | {"replicates": estimate.replicates.tolist()}
    return found
