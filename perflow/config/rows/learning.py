"""What students learn from and how: latents, window pairs, students, deltas; and the trials they are sampled in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from perflow.config.rows.bases import Bytes
from perflow.config.rows.row import (
    Count,
    Embedding,
    Guidance,
    GuidanceRange,
    Label,
    Name,
    Optim,
    PairGuidance,
    Row,
    Seed,
    Share,
    WindowEdges,
    WindowGuidance,
    check_once,
)
from perflow.core import BEST, RK45, SPACINGS, WINDOW


class Encoding(Row):
    """How images become latents, once for a base, and what is kept of their captions."""

    optional = ("captions",)

    dtype: Literal["fp32", "bf16"] = "fp32"
    """What the autoencoder computes in; latents are kept in fp32."""
    captions: Literal["stored", "recomputed"] = "stored"
    """The condition of each different caption, or its tokens alone, which the text model reads again in every batch."""


class Latents(Encoding):
    """A data set as a base sees it: latents of its images, conditions of its captions."""

    base: Name
    family: str
    dataset: Name


class PairsRecipe(Row):
    """How window pairs are made; the windows come from the students that use them."""

    optional = ("student", "precision", "ends")

    starts: Literal["data", "trajectory", "mixture", "student"] = "data"
    """Where windows start: noised real latents, the teacher's trajectories from t=1, half of each window's pairs
    either way, or the states of ``student`` on its own way."""
    student: Name | None = None
    """An entry of ``students`` whose own states windows start at (``starts: student``)."""
    ends: Literal["teacher", "data"] = "teacher"
    """Where windows end: at the teacher's solution, or at the same latents with the same noise as they start from, at
    the level of the end. ``data`` asks no teacher: guidance is 1, and there is no solver and no steps."""
    guidance: PairGuidance
    drop: Share = 0.0
    """Share of pairs whose caption is the empty one (CFG-sync), decided by pair index."""
    solver: str | Annotated[list[str], Field(min_length=1)] | None = None
    """One for all windows, or one each; a teacher's is ddim unless said."""
    steps: Count | Annotated[list[Count], Field(min_length=1)] | None = None
    """Teacher steps from t=1 to t=0, of which a window gets ceil(steps / windows); or a list, the steps of each
    window. A student solved on its own windows (solver ``window``) takes them as when it is sampled."""
    count: Count
    negative: str = ""
    """What guidance leads away from while pairs are made; the empty caption unless said."""
    teacher: Name | None = None
    """An entry of ``students`` that makes the pairs; None: the base."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: the network alone, by autocast; states, coefficients and guidance are fp32 either way."""

    @model_validator(mode="before")
    @classmethod
    def _solved(cls, data: Any) -> Any:
        """A teacher that is not told its solver takes DDIM; ends that are data have none."""
        if isinstance(data, dict) and data.get("ends") != "data":
            return {"solver": "ddim"} | data
        return data

    @model_validator(mode="after")
    def _whose_ends(self) -> PairsRecipe:
        if self.ends == "teacher":
            if absent := [name for name in ("solver", "steps") if getattr(self, name) is None]:
                raise ValueError(f"{absent[0]}: missing; only ends: data go without it, and got ends 'teacher'")
            return self
        asked = {"starts": "data", "guidance": 1, "teacher": None, "solver": None, "steps": None, "negative": "",
                 "precision": "no"}  # fmt: skip
        for name, only in asked.items():
            if (given := getattr(self, name)) != only:
                valid = f"only {only}" if name in ("starts", "guidance") else "not written"
                raise ValueError(f"{name}: ends: data ask no teacher, so it is {valid}; got {given!r}")
        return self

    @model_validator(mode="after")
    def _whose_states(self) -> PairsRecipe:
        if (self.starts == "student") != (self.student is not None):
            raise ValueError(
                f"starts: student goes with student, an entry of students; got starts {self.starts!r} and student"
                f" {self.student!r}"
            )
        return self


class Pairs(PairsRecipe):
    """One cache: a recipe on one base and one set of window edges; ``teacher`` and ``student`` are rows, or None."""

    base: Name
    dataset: Name
    edges: WindowEdges
    window_steps: Count | list[Count] | None
    """Of the teacher; None where it is not asked."""


Steps = Annotated[int, Field(ge=1, le=1000)]


def _check_spacing(spacing: str | list[float]) -> str | list[float]:
    if isinstance(spacing, str):
        if spacing not in (*SPACINGS, BEST):
            raise ValueError(f"a spacing is one of {', '.join((*SPACINGS, BEST))}, or times; got {spacing!r}")
        return spacing
    falls = all(a > b for a, b in zip(spacing, spacing[1:], strict=False))
    if not spacing or not falls or not 0 < spacing[-1] <= spacing[0] <= 1:
        raise ValueError(f"steps begin at falling times in (0, 1], such as [1, 0.6, 0.3, 0.1]; got {spacing}")
    return spacing


Spacing = Annotated[str | list[float], AfterValidator(_check_spacing)]
"""Where steps lie: a name of ``core.SPACINGS``, ``best`` (searched for on development samples), or their times."""


class TrialRecipe(Row):
    """Which samplers a model is tried with: every solver at every number of steps, spacing and teacher."""

    optional = ("evaluations", "spacings", "teachers")

    solvers: Annotated[list[str], Field(min_length=1), AfterValidator(check_once)]
    steps: Annotated[list[Steps], AfterValidator(check_once)] = []
    evaluations: Annotated[list[Steps], Field(min_length=1), AfterValidator(check_once)] | None = None
    """In place of steps: network evaluations that a trial may cost; each solver takes as many steps as they buy."""
    guidance: WindowGuidance | None = None
    """None: the teacher's."""
    spacings: Annotated[list[Spacing], Field(min_length=1), AfterValidator(check_once)] = ["trailing"]
    teachers: Annotated[list[Guidance], Field(min_length=1), AfterValidator(check_once)] | None = None
    """Guidance of the teachers that the trials are held against; None: ``sampling.teacher``'s."""

    @model_validator(mode="after")
    def _one_budget(self) -> TrialRecipe:
        if bool(self.steps) == bool(self.evaluations):
            raise ValueError("trials have steps or evaluations, a list of one of them; got both or neither")
        return self

    @property
    def windowed(self) -> bool:
        """Whether a student is sampled on its windows, in so many steps or in as many as it takes."""
        return WINDOW in self.solvers or RK45 in self.solvers


_MOST_TRIALS = 5000


class Released(Row):
    """A student that others taught: where its weights are, and what of them cannot be read off."""

    optional = ("guidance",)

    weights: str
    """A .safetensors file of the UNet's tensors, a UNet folder or a pipeline folder; a relative path starts at the
    repository."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of a file: another one is refused."""
    held: Literal["weights", "delta", "lora"]
    """What the tensors are: the student's, the student's minus the base's, or a LoRA in kohya's or diffusers' names."""
    timestep_offset: Literal[0, -1] = 0
    """0: the network is told T t, as the official code tells it; -1: T t - 1."""
    towards_data: bool = False
    """Its velocity points from noise to data, against ours."""
    guidance: GuidanceRange | None = None
    """[least, most] that its network was taught to be told, as LCM's is; how many numbers it is told it in is read off
    the weights. None: its network is not told its guidance."""
    hub: str | None = None
    """The repository they were downloaded from, for the record."""
    size: Annotated[Bytes | None, Field(exclude=True)] = None
    """Bytes that are fetched, for the plan alone."""


class StudentRecipe(Row):
    """An entry of params.yaml; ``bases``, ``windows`` and ``seeds`` are axes."""

    optional = ("rank", "source", "guidance_embedding")

    label: Label
    bases: Annotated[list[Name], Field(min_length=1), AfterValidator(check_once)] | None = None
    """None: every base of the study."""
    pairs: Name | None = None
    windows: Any
    path: Literal["straight", "diffusion"]
    prediction: Literal["ddim_eps", "diff_eps", "velocity"]
    method: dict[str, Any] | None = None
    seeds: Count | dict[Count, Count] = 1
    """Number of training seeds, or by number of windows, such as {4: 3}; others get one."""
    training: dict[str, Any] = {}
    """Differences from the study's ``training``."""
    trials: TrialRecipe
    start: Name | None = None
    """An entry of ``students`` whose weights it starts from; None: the base."""
    rank: Count | None = None
    """Rank of what its matrices learn (LoRA), biases and norms fixed; None: every weight is free."""
    guidance_embedding: Embedding | None = None
    """Numbers in which its network is told the guidance of its pairs, a range; one evaluation is then enough at any of
    it. 256 is LCM's. None: it is not told."""
    source: Released | None = None
    """Where its weights are, for one that others taught: it has no pairs, no method and no training here."""

    @model_validator(mode="before")
    @classmethod
    def _short_method(cls, data: Any) -> Any:
        """``method: distill`` is short for ``method: {name: distill}``."""
        if isinstance(data, dict) and isinstance(data.get("method"), str):
            return data | {"method": {"name": data["method"]}}
        return data

    @model_validator(mode="after")
    def _taught_once(self) -> StudentRecipe:
        own = ("pairs", "method", "training", "seeds", "start", "rank", "guidance_embedding")
        given = [name for name in own if getattr(self, name) != type(self).model_fields[name].default]
        if self.source is not None and given:
            raise ValueError(f"a student with a source was taught elsewhere and has no {given[0]}; got both")
        if self.source is None and (absent := [name for name in ("pairs", "method") if getattr(self, name) is None]):
            raise ValueError(f"{absent[0]}: missing; got neither it nor a source")
        if self.source is not None and self.source.towards_data and self.prediction != "velocity":
            raise ValueError(f"source.towards_data is of a velocity; got prediction {self.prediction!r}")
        if self.source is not None and self.source.guidance is not None and self.source.held == "lora":
            raise ValueError("source.guidance: no LoRA holds how a network is told its guidance; got both")
        if self.rank is not None and self.guidance_embedding is not None:
            raise ValueError(
                "a student of low rank has no guidance_embedding: what loads a LoRA has no place for it; got both"
            )
        return self

    @model_validator(mode="after")
    def _bounded(self) -> StudentRecipe:
        windows = len(self.windows) if isinstance(self.windows, list) else 1
        seeds = max(self.seeds.values(), default=1) if isinstance(self.seeds, dict) else self.seeds
        recipe = self.trials
        trials = windows * seeds * len(recipe.solvers) * len(recipe.steps or recipe.evaluations or ())
        trials *= len(recipe.spacings) * len(recipe.teachers or [None])
        if trials > _MOST_TRIALS:
            raise ValueError(f"expands to {trials:,} trials; at most {_MOST_TRIALS:,} an entry")
        return self


class ToldGuidance(Row):
    """How a student's network is told its guidance: embedded in ``size`` numbers, one from ``least`` to ``most``."""

    size: Embedding | None
    """None: as the released weights have it."""
    least: Guidance
    most: Guidance


class Student(Row):
    """One training: what it learns from, what its output means, how, with which seed; or where its weights are."""

    optional = ("rank", "source", "told")

    base: Name
    family: str
    start: Name | None = None
    """The student whose weights it starts from; None: the base."""
    pairs: Name | None
    edges: WindowEdges
    path: Literal["straight", "diffusion"]
    prediction: Literal["ddim_eps", "diff_eps", "velocity"]
    method: dict[str, Any] | None
    training: Optim | None
    seed: Seed
    rank: Count | None = None
    told: ToldGuidance | None = None
    """None: its network is not told its guidance."""
    source: Released | None = None
    """Where its weights are, for one that others taught; it then has no pairs, no method and no training."""

    @property
    def perceptual(self) -> str | None:
        """The extractor that its method asks how far apart two images look; None where it asks none."""
        return (self.method or {}).get("perceptual")


class Trial(Row):
    """A model with a solver, steps and guidance; ``stream`` 0 is the common noise."""

    optional = ("spacing", "teacher")

    name: Name
    solver: str
    steps: Annotated[int, Field(ge=0, le=1000)]
    guidance: WindowGuidance
    nfe: Annotated[int, Field(ge=0)]
    """Network evaluations; 0 of them, and 0 steps, where the solver decides as it goes and the samples say how many."""
    stream: Annotated[int, Field(ge=0)] = 0
    scheduler: dict[str, Any] | None = None
    """A training-free solver's diffusers class (``class``) and options; None on a student's windows."""
    spacing: Spacing = "trailing"
    teacher: Guidance | None = None
    """Guidance of the teacher it is held against; None: the study's."""


class Delta(Row):
    """What is exported for a student."""

    student: Name
    base: Name
    windowed: bool
    """Whether the student samples on its windows (its header then describes a scheduler)."""
    trial: Trial
    """How the student is meant to be sampled."""
