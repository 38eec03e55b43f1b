"""The types of params.yaml and of the rows it resolves to: what a value may be, nothing else.

Rows hold no logic beyond checking, so that the stages can read their own row with the same type
that checked it. Torch is never imported here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Edges = list[float]
"""Window edges, falling from 1 (noise) to 0 (data)."""


def check_edges(edges: Edges) -> Edges:
    """Refuse edges that do not fall strictly from 1 to 0."""
    falls = all(a > b for a, b in zip(edges, edges[1:], strict=False))
    if len(edges) < 2 or edges[0] != 1 or edges[-1] != 0 or not falls:
        raise ValueError(f"window edges must fall from 1 to 0, such as [1, 0.8, 0.5, 0.2, 0]; got {edges}")
    return edges


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", name):
        raise ValueError(f"a name is letters, digits, '.', '_' and '-' (at most 81); got {name!r}")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
WindowEdges = Annotated[Edges, AfterValidator(check_edges)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Row(BaseModel):
    """Strict and frozen: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Optim(Row):
    """One training loop: AdamW, warm-up from zero, then constant or cosine to zero, fp32 EMA."""

    steps: Count
    batch: Count = 64
    lr: Positive
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    precision: Literal["no", "bf16"] = "no"


class Dataset(Row):
    """Images and captions from one source, rendered or copied into fixed splits."""

    source: str
    resolution: Count = 16
    counts: dict[Literal["base", "extractor", "reference"], Count]


Channels = Annotated[int, Field(ge=8, multiple_of=8)]
"""Width of a level; a multiple of the 8 normalisation groups."""


class Text(Row):
    """The embedded base's CLIP text model."""

    width: Count = 32
    layers: Count = 2
    heads: Count = 2
    length: Count = 12


class Base(Row):
    """A base trained from scratch on a data set, saved as a diffusers pipeline folder."""

    family: str
    dataset: Name
    prediction: Literal["epsilon", "v"] = "epsilon"
    channels: Annotated[list[Channels], Field(min_length=2)] = [24, 48]
    text: Text = Text()
    autoencoder_channels: Annotated[list[Channels], Field(min_length=2, max_length=2)] = [24, 32]
    words: Optim
    """Training of the text model on its own, before the others."""
    autoencoder: Optim
    network: Optim
    time_power: Positive = 0.7
    """t = u^time_power while the network trains: below 1 means more noise."""
    drop: Share = 0.1
    """Share of captions replaced by the empty one, so that guidance is possible."""

    @model_validator(mode="after")
    def _one_precision(self) -> Base:
        if len({self.words.precision, self.autoencoder.precision, self.network.precision}) > 1:
            raise ValueError("words, autoencoder and network must have one precision; got several")
        return self


class Extractor(Row):
    """A feature network: a small classifier of the data set's attributes."""

    dataset: Name
    training: Optim


class PairsRecipe(Row):
    """How the teacher makes window pairs; the windows come from the students that use them."""

    starts: Literal["data", "trajectory"] = "data"
    guidance: Guidance
    drop: Share = 0.0
    """Share of pairs whose caption is the empty one (CFG-sync), decided by pair index."""
    solver: str = "ddim"
    steps: Count
    """Teacher steps from t=1 to t=0; a window gets ceil(steps / windows)."""
    count: Count


class Pairs(PairsRecipe):
    """One cache: a recipe on one base and one set of window edges."""

    base: Name
    dataset: Name
    edges: WindowEdges
    window_steps: Count


def _check_once(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"the same value stands twice; got {values}")
    return values


Steps = Annotated[int, Field(ge=1, le=1000)]


class TrialRecipe(Row):
    """Which samplers a model is tried with: every solver at every number of steps."""

    solvers: Annotated[list[str], Field(min_length=1), AfterValidator(_check_once)]
    steps: Annotated[list[Steps], Field(min_length=1), AfterValidator(_check_once)]
    guidance: Guidance | None = None


class StudentRecipe(Row):
    """An entry of params.yaml; ``bases``, ``windows`` and ``seeds`` are axes."""

    label: str
    bases: Annotated[list[Name], Field(min_length=1), AfterValidator(_check_once)] | None = None
    """None: every base of the study."""
    pairs: Name
    windows: Any
    path: Literal["straight", "diffusion"]
    prediction: Literal["ddim_eps", "diff_eps", "velocity"]
    method: dict[str, Any]
    seeds: Count | dict[Count, Count] = 1
    """Number of training seeds, or by number of windows, such as {4: 3}; others get one."""
    training: dict[str, Any] = {}
    """Differences from the study's ``training``."""
    trials: TrialRecipe

    @model_validator(mode="before")
    @classmethod
    def _short_method(cls, data: Any) -> Any:
        """``method: distill`` is short for ``method: {name: distill}``."""
        if isinstance(data, dict) and isinstance(data.get("method"), str):
            return data | {"method": {"name": data["method"]}}
        return data


class Student(Row):
    """One training: what it learns from, what its output means, how, with which seed."""

    base: Name
    family: str
    pairs: Name
    edges: WindowEdges
    path: Literal["straight", "diffusion"]
    prediction: Literal["ddim_eps", "diff_eps", "velocity"]
    method: dict[str, Any]
    training: Optim
    seed: Annotated[int, Field(ge=0)]


class Delta(Row):
    """What is exported for a student."""

    student: Name
    base: Name
    windowed: bool
    """Whether the student samples on its windows (its header then describes a scheduler)."""
    guidance: Guidance
    """The guidance the student is meant to be sampled with."""


class Trial(Row):
    """A model with a solver, steps and guidance; ``stream`` 0 is the common noise."""

    name: Name
    solver: str
    steps: Steps
    guidance: Guidance
    nfe: Count
    stream: Annotated[int, Field(ge=0)] = 0
    scheduler: dict[str, Any] | None = None
    """A training-free solver's diffusers class (``class``) and options; None on a student's windows."""


class TeacherRecipe(Row):
    """The fine solver whose samples stand for the teacher."""

    solver: str
    steps: Count
    guidance: Guidance


class FlowRecipe(Row):
    """How straightness and end-point error are measured on the student's own path."""

    items: Count
    substeps: Annotated[int, Field(ge=2)] = 4
    solver: str = "heun"
    solver_steps: Count = 32
    """Least teacher steps from t=1 to t=0 for what counts as exact: each of the substeps of each window gets
    ceil(solver_steps / (windows x substeps))."""


class Sampling(Row):
    """What every model is asked to draw."""

    split: Literal["reference"] = "reference"
    prompts: Annotated[int, Field(ge=2)]
    per_prompt: Annotated[int, Field(ge=2)]
    teacher: TeacherRecipe
    flow: FlowRecipe


class Samples(Row):
    """All trials of one model, drawn in one job."""

    model: Name
    base: Name
    family: str
    dataset: Name
    sampling: Sampling
    trials: list[Trial]
    windowed: bool
    """Measure straightness and end-point error (students sampled on their windows)."""


class EvaluationRecipe(Row):
    """Which numbers are computed from the samples."""

    extractor: Name
    metrics: Annotated[list[str], Field(min_length=1)]
    split: Literal["reference"] = "reference"
    groups: Annotated[int, Field(ge=4)] = 20
    """Groups of prompts left out in turn by the jackknife."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Evaluation(EvaluationRecipe):
    """All numbers of one model."""

    model: Name
    base: Name
    dataset: Name


class Params(Row):
    """params.yaml as a whole."""

    study: Name
    seed: Annotated[int, Field(ge=0)] = 0
    datasets: dict[Name, Dataset]
    bases: dict[Name, Base]
    extractors: dict[Name, Extractor]
    pairs: dict[Name, PairsRecipe]
    training: Optim
    students: dict[Name, StudentRecipe]
    baselines: TrialRecipe
    sampling: Sampling
    evaluation: EvaluationRecipe
