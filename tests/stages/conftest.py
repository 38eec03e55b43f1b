"""A tiny data set, base and student, made once by the real stages and handed to tests as a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perflow import artifacts, config
from perflow.artifacts import Spec
from tests.digits import fetch_digits


class Study(NamedTuple):
    """A resolved study and the folder it is made in."""

    study: config.Study
    home: Path

    def spec(self, table: str, name: str) -> Spec:
        """A row's spec, as a stage reads it."""
        return artifacts.read_spec(self.path("results/specs", table, f"{name}.json"))

    def path(self, *parts: str) -> Path:
        """A file of the study."""
        return self.home.joinpath(*parts)

    @property
    def dataset(self) -> Path:
        """The manifest of all splits of the data set."""
        return self.path("data/digits/manifest.json")

    def latents(self, base: str) -> Path:
        """A base's latents."""
        return self.path("results/latents", base, "manifest.json")

    @property
    def prompts(self) -> Path:
        """What models are asked to draw."""
        return self.path("results/prompts/digits/manifest.json")

    def handle(self, model: str) -> Path:
        """A model's handle."""
        return self.path("results", "bases" if model in self.study.bases else "students", model, "model.json")

    def pairs(self, name: str) -> Path:
        """A cache's manifest."""
        return self.path("results/pairs", name, "manifest.json")

    def state(self, name: str) -> Path:
        """A state folder."""
        return self.path("results/state", name)


def drawing(study: Study, model: str, base: str, out: Path, **more: Any) -> Iterator:
    """The stage that draws a row of a study to ``out``, with its state beside it; ``base`` holds the teacher."""
    from perflow.stages.sample import sample

    handles = study.handle(model), study.handle(base)
    return sample(study.spec("samples", model), *handles, study.prompts, out, out.with_name("state"), **more)


def finish(stage: Any) -> Any:
    """Run a stage to its end."""
    return list(stage) if isinstance(stage, Iterator) else stage


def cost(stage: Iterator) -> dict[str, int]:
    """Run a stage to its end; what it counted."""
    counted: dict[str, int] = {}

    def through() -> Iterator:
        counted.update((yield from stage))

    finish(through())
    return counted


@pytest.fixture(scope="session")
def made(root, tmp_path_factory) -> Study:
    """Data set, both bases, one cache and one student of the tiny study."""
    from perflow.stages.base import base
    from perflow.stages.encode import encode
    from perflow.stages.prompts import prompts

    made = Study(config.load(root / "workflow/studies/tiny.yaml"), tmp_path_factory.mktemp("tiny"))
    config.write_specs(made.study, made.home)
    fetch_digits(made.dataset, made.study.datasets["digits"].counts)
    prompts(made.spec("prompts", "digits"), made.prompts)
    for name in ("eps", "v"):
        finish(base(made.spec("bases", name), made.dataset, made.handle(name), made.state(name)))
        finish(encode(made.spec("latents", name), made.handle(name), made.dataset, made.latents(name)))
    for student in ("eps-perflow-k2-s0", "v-distilled-k2-s0"):
        teach(made, student)
    return made


def teach(study: Study, student: str, /, **more: Path) -> None:
    """Pairs (unless they are there; ``more``: their inputs), training and delta of one student, by the real stages."""
    from perflow.stages.cache import cache
    from perflow.stages.encode import encode
    from perflow.stages.export import export
    from perflow.stages.train import train

    row = study.study.students[student]
    pairs, weights = study.study.pairs[row.pairs], study.handle(student).with_name("ema.safetensors")
    if not study.latents(row.base).exists():
        finish(encode(study.spec("latents", row.base), study.handle(row.base), study.dataset, study.latents(row.base)))
    base, start, teacher = (study.handle(name or row.base) for name in (None, row.start, pairs.teacher))
    if not study.pairs(row.pairs).exists():
        finish(cache(study.spec("pairs", row.pairs), teacher, study.latents(row.base), study.pairs(row.pairs), **more))
    finish(train(study.spec("students", student), start, study.pairs(row.pairs), weights, study.state(student)))
    shutil.rmtree(study.state(student))
    export(
        study.spec("deltas", student), study.path("results/specs/students", f"{student}.json"), weights, base,
        weights.with_name("delta.safetensors"),
    )  # fmt: skip


@pytest.fixture
def tiny(made, tmp_path) -> Study:
    """A copy of ``made`` that a test may damage."""
    shutil.copytree(made.home, tmp_path / "home")
    return Study(made.study, tmp_path / "home")


def grown(study: Study, params: dict[str, Any], write_params: Any) -> Study:
    """The same home with the specs of another study, whose data set and bases are the tiny one's."""
    other = Study(config.load(write_params(params)), study.home)
    config.write_specs(other.study, other.home)
    return other
