"""The types of params.yaml and of the rows it resolves to: what a value may be, nothing else.

Rows hold no logic beyond checking, so that the stages can read their own row with the same type
that checked it. Torch is never imported here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from perflow.core import BEST, DIFFUSIONS, DISTRIBUTIONS, INTERPOLATIONS, SPACINGS
from perflow.metrics import CLIP, LPIPS
from perflow.models import FLOWS

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
    if name.endswith(".cost"):
        raise ValueError(f"a name may not end in .cost, as the files of costs do; got {name!r}")
    return name


def _check_label(label: str) -> str:
    if not label.isprintable() or not 0 < len(label) <= 120:
        raise ValueError("a label is one line of at most 120 characters")
    return label


_MOST = 10**9
Name = Annotated[str, AfterValidator(_check_name)]
Label = Annotated[str, AfterValidator(_check_label)]
WindowEdges = Annotated[Edges, AfterValidator(check_edges)]
Count = Annotated[int, Field(ge=1, le=_MOST)]
Several = Annotated[int, Field(ge=2, le=_MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Embedding = Annotated[int, Field(ge=4, le=2**14, multiple_of=2)]
"""Numbers of an embedded guidance: as many sines as cosines, of two frequencies or more."""


def _check_range(guidance: float | list[float]) -> float | list[float]:
    if isinstance(guidance, list) and not (len(guidance) == 2 and guidance[0] < guidance[1]):
        raise ValueError(f"guidance is one number, or [least, most] of a range; got {guidance}")
    return guidance


PairGuidance = Annotated[Guidance | list[Guidance], AfterValidator(_check_range)]
"""One number, or a range [least, most] from which every pair has its own, uniformly."""
WindowGuidance = Guidance | Annotated[list[Guidance], Field(min_length=1)]
"""One number, or one a window of the student (PeRFlow §4: dynamic CFG, such as 7.5-4-4-4)."""


class Row(BaseModel):
    """Strict and frozen: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    optional: ClassVar[tuple[str, ...]] = ()
    """Fields that are not written out while they have their default, so that rows without them are as they were."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unused = {name for name in self.optional if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in write(self).items() if name not in unused}


class Optim(Row):
    """One training loop: AdamW, warm-up from zero, then constant or cosine to zero, fp32 EMA."""

    steps: Count
    batch: Count = 64
    lr: Positive
    warmup: Annotated[int, Field(ge=0, le=_MOST)] = 0
    decay: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    precision: Literal["no", "bf16"] = "no"


def _check_splits(counts: dict[str, int]) -> dict[str, int]:
    if absent := [name for name in ("base", "extractor", "reference") if name not in counts]:
        raise ValueError(f"there must be one for base, extractor and reference; {absent[0]} is missing")
    return counts


SplitName = Literal["base", "extractor", "reference"]
"""What the parts of a data set are for: training bases, training extractors, measuring."""


class Dataset(Row):
    """Images and captions that a source renders, in fixed splits."""

    source: str
    resolution: Count = 16
    style: str | None = None
    """How digits are drawn, plain unless said; a base is fine-tuned to another style of the same things."""
    counts: Annotated[dict[SplitName, Count], AfterValidator(_check_splits)]


class Columns(Row):
    """Which columns hold what."""

    image: str = "image"
    caption: str = "text"


class HoldOut(Row):
    """Groups of like items that only the reference has: those with the same value in a column."""

    column: str
    groups: Count


def _check_own_splits(counts: dict[str, int]) -> dict[str, int]:
    if set(counts) != {"base", "reference"}:
        raise ValueError(f"there must be one for base and one for reference; got {', '.join(counts) or 'none'}")
    return counts


class OwnDataset(Row):
    """Images and captions that a user brings: chosen by the seed, cropped and resized alike.

    Where they are is one place for both splits, which then share nothing, or one for each.
    """

    resolution: Count
    columns: Columns = Columns()
    crop: Literal["center", "none"] = "center"
    """The largest square in the middle, or the whole image, whose proportions then change."""
    counts: Annotated[dict[Literal["base", "reference"], Count], AfterValidator(_check_own_splits)]
    """Items of each split, the bad ones among them included."""
    bad_items: Annotated[int, Field(ge=0, le=_MOST)] = 0
    """How many items of a split may be unusable; they are left out by name. One more is an error."""
    hold_out: HoldOut | None = None
    known_as: Label | None = None
    """The published data that these are, such as COCO-2014: a published figure stands beside a measured one only where
    it says the same. Never part of what is made."""

    @model_validator(mode="after")
    def _one_pool(self) -> OwnDataset:
        place = getattr(self, self.PLACE, None)
        if isinstance(place, dict) and set(place) != {"base", "reference"}:
            raise ValueError(f"{self.PLACE} are for both splits, or base and reference have their own; got {place}")
        if isinstance(place, dict) and self.hold_out:
            raise ValueError(f"hold_out parts what both splits share; here each has {self.PLACE} of its own")
        return self

    PLACE: ClassVar[str]
    """The key that says where the items are."""


Files = Annotated[list[str], Field(min_length=1)]


class ParquetDataset(OwnDataset):
    """Parquet files; names may hold ``*``, and relative ones start at the repository."""

    PLACE: ClassVar[str] = "files"
    source: Literal["parquet"]
    files: Files | dict[str, Files]


class FolderDataset(OwnDataset):
    """A folder of images with metadata.csv or metadata.jsonl, or whose file names are the captions."""

    PLACE: ClassVar[str] = "folder"
    source: Literal["imagefolder"]
    folder: str | dict[str, str]
    captions_from: Literal["metadata", "names"] = "metadata"


class HubDataset(OwnDataset):
    """A data set of the hub at a commit."""

    PLACE: ClassVar[str] = "splits"
    source: Literal["hub"]
    hub: str
    """Such as owner/name."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    """The commit, 40 hexadecimal digits: a branch moves."""
    name: str | None = None
    """The configuration, for a data set that has several."""
    splits: str | dict[str, str] = "train"
    """What it calls its splits."""


ANY_DATASET = {
    "union[rendered]": Dataset, "union[parquet]": ParquetDataset, "union[imagefolder]": FolderDataset,
    "union[hub]": HubDataset,
}  # fmt: skip
"""The row types of a data set, by their tag."""


def _dataset_tag(given: Any) -> str:
    tag = f"union[{given.get('source') if isinstance(given, dict) else getattr(given, 'source', None)}]"
    return tag if tag in ANY_DATASET else "union[rendered]"


AnyDataset = Annotated[
    Annotated[Dataset, Tag("union[rendered]")]
    | Annotated[ParquetDataset, Tag("union[parquet]")]
    | Annotated[FolderDataset, Tag("union[imagefolder]")]
    | Annotated[HubDataset, Tag("union[hub]")],
    Discriminator(_dataset_tag),
]


class Captions(Row):
    """Where a split's captions come from."""

    dataset: Name
    source: str
    settings: dict[str, Any]
    """What the source is built with."""


class Split(Captions):
    """Splits of a data set in one manifest. A study gives each its own, so that an edit of one moves no other."""

    counts: dict[SplitName, Count]


Channels = Annotated[int, Field(ge=8, le=2**16, multiple_of=8)]
"""Width of a level; a multiple of the 8 normalisation groups."""


class Text(Row):
    """The embedded base's CLIP text model."""

    width: Count = 32
    layers: Count = 2
    heads: Count = 2
    length: Count = 12

    @model_validator(mode="after")
    def _whole_heads(self) -> Text:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads; got {self.width} and {self.heads}")
        return self


class Base(Row):
    """A base trained from scratch on a data set, saved as a diffusers pipeline folder."""

    optional = ("layers", "attention")

    family: str
    dataset: Name
    prediction: Literal["epsilon", "v"] = "epsilon"
    channels: Annotated[list[Channels], Field(min_length=2)] = [24, 48]
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    """Residual blocks of a level of the network."""
    attention: Annotated[int, Field(ge=1)] = 1
    """How many of its levels read the text, from the narrowest image on."""
    text: Text = Text()
    autoencoder_channels: Annotated[list[Channels], Field(min_length=2, max_length=4)] = [24, 32]
    """Widths of the autoencoder; each level but the last halves the image."""
    words: Optim
    """Training of the text model on its own, before the others."""
    autoencoder: Optim
    network: Optim
    time_power: Positive = 0.7
    """t = u^time_power while the network trains: below 1 means more noise."""
    threads: Count = 1
    """CPU threads while training; another number gives other last bits, and is no faster for so small a network."""
    drop: Share = 0.1
    """Share of captions replaced by the empty one, so that guidance is possible."""

    @model_validator(mode="after")
    def _levels(self) -> Base:
        if self.attention > len(self.channels):
            raise ValueError(f"attention: {self.attention} levels, but channels names {len(self.channels)}")
        for width in self.channels[-self.attention :]:
            if width % max(1, width // 32):
                raise ValueError(
                    f"channels: a level of {width} that reads the text cannot be cut into heads of about 32"
                )
        return self

    @model_validator(mode="after")
    def _one_precision(self) -> Base:
        if len({self.words.precision, self.autoencoder.precision, self.network.precision}) > 1:
            raise ValueError("words, autoencoder and network must have one precision; got several")
        return self


UNPINNED = "unpinned"
"""A hub revision that is not chosen yet: the study can be read and planned, and is refused where it would run."""
Bytes = Annotated[int, Field(ge=1)]


class Source(Row):
    """Where a pretrained checkpoint is: one of folder, hub and file."""

    folder: str | None = None
    """A diffusers pipeline folder."""
    hub: str | None = None
    """A repository of the hub, such as owner/name."""
    revision: str | None = None
    """The hub repository's commit, 40 hexadecimal digits: a branch moves. ``unpinned`` until somebody chooses it."""
    file: str | None = None
    """A single .safetensors checkpoint."""
    config: str | None = None
    """A pipeline folder of the file's architecture."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Hash of the UNet's values; other values are refused."""
    size: Annotated[Bytes | None, Field(exclude=True)] = None
    """Bytes that are fetched, for the plan alone."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        given = [name for name in ("folder", "hub", "file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a source is one of folder, hub and file; got {', '.join(given) or 'none'}")
        if (self.hub is None) != (self.revision is None) or not re.fullmatch(
            rf"[0-9a-f]{{40}}|{UNPINNED}", self.revision or UNPINNED
        ):
            raise ValueError(f"hub goes with a revision of 40 hexadecimal digits, a commit; got {self.revision!r}")
        if (self.file is None) != (self.config is None):
            raise ValueError("file goes with config, a pipeline folder of its architecture; got one of them")
        return self

    @property
    def kind(self) -> str:
        """folder, hub or file."""
        return next(name for name in ("folder", "hub", "file") if getattr(self, name) is not None)

    @property
    def origin(self) -> dict[str, str] | None:
        """Where anybody can find it again; None for what lies on this machine."""
        pinned = self.hub is not None and self.revision != UNPINNED
        return {"hub": str(self.hub), "revision": str(self.revision)} if pinned else None


class Pretrained(Row):
    """A base that was trained elsewhere, taken as it is."""

    optional = ("tuned_from",)

    family: str
    dataset: Name
    """Images and captions to teach and to measure with, at the checkpoint's resolution."""
    source: Source
    prediction: Literal["epsilon", "v", "x0"] = "epsilon"
    """What the checkpoint predicts; compared with what it says itself."""
    classes: Annotated[list[str], Field(min_length=1), AfterValidator(lambda names: _check_once(names))] | None = None
    """Of a family that reads a class: the caption that names each, in the order of their labels."""
    null_class: Annotated[int, Field(ge=0, le=_MOST)] | None = None
    """The label that stands for none, which guidance needs; it has no name."""
    threads: Count = 1
    """CPU threads while it is prepared."""
    tuned_from: Name | None = None
    """The base it was tuned from elsewhere, or is once more, with other data to draw: what is taught on that one can
    be put into it."""


class Flow(Row):
    """A flow on the plane, trained from points alone: no teacher, no captions (rectified flow, arXiv 2209.03003)."""

    family: str
    dataset: Name
    start: Literal[DISTRIBUTIONS] = "gaussian"
    """The distribution at t = 1; another than a Gaussian makes it a transfer from one to the other."""
    start_scale: Positive = 1.0
    interpolation: Literal[INTERPOLATIONS] = "straight"
    prediction: Literal["velocity"] = "velocity"
    width: Count = 64
    depth: Count = 3
    network: Optim
    threads: Count = 1
    """CPU threads while training."""

    @property
    def diffusion(self) -> bool:
        """Whether there is a reverse SDE: a path of a diffusion, from a Gaussian."""
        return self.start == "gaussian" and self.interpolation in DIFFUSIONS


class TuneRecipe(Row):
    """A fine-tune: a base whose network starts from another's; text model and autoencoder stay."""

    fine_tune: Name
    """The base it starts from."""
    dataset: Name
    network: Optim
    time_power: Positive = 0.7
    drop: Share = 0.1
    threads: Count = 1


class Tuned(TuneRecipe):
    """A fine-tune, with what it has from its base."""

    family: str
    prediction: str


class ScaledRecipe(Row):
    """A base on the line from a base to its fine-tune: base + scale (fine-tune - base)."""

    scaled: Name
    """The fine-tune."""
    scale: Annotated[float, Field(gt=0, le=10)]
    """1 is the fine-tune itself."""


class Scaled(ScaledRecipe):
    """A scaled fine-tune, with what it has from its fine-tune."""

    base: Name
    dataset: Name
    family: str
    prediction: str
    threads: Count = 1


ANY_BASE = {
    "union[trained]": Base,
    "union[pretrained]": Pretrained,
    "union[tuned]": TuneRecipe,
    "union[scaled]": ScaledRecipe,
    "union[flow]": Flow,
}
"""The types of an entry of ``bases``, by their tag."""
_MARKS = {"source": "union[pretrained]", "fine_tune": "union[tuned]", "scaled": "union[scaled]"}
"""The key that tells an entry of ``bases`` from one that is trained from scratch."""


def _base_tag(given: Any) -> str:
    if isinstance(given, Row):
        return next(tag for tag, kind in ANY_BASE.items() if isinstance(given, kind))
    keys = given if isinstance(given, dict) else {}
    if keys.get("family") in FLOWS:
        return "union[flow]"
    return next((tag for key, tag in _MARKS.items() if key in keys), "union[trained]")


BaseRecipe = Annotated[
    Annotated[Base, Tag("union[trained]")]
    | Annotated[Pretrained, Tag("union[pretrained]")]
    | Annotated[TuneRecipe, Tag("union[tuned]")]
    | Annotated[ScaledRecipe, Tag("union[scaled]")]
    | Annotated[Flow, Tag("union[flow]")],
    Discriminator(_base_tag),
]
AnyBase = Base | Pretrained | Tuned | Scaled | Flow
"""The rows of bases."""


class AdapterRecipe(Row):
    """What is trained beside a base that stays as it is: a LoRA of its attention, or a ControlNet on edges."""

    kind: Literal["lora", "controlnet"]
    base: Name
    dataset: Name | None = None
    """Images and captions it learns from; None: its base's."""
    rank: Count | None = None
    """Of a LoRA."""
    training: Optim
    time_power: Positive = 0.7
    drop: Share = 0.1

    @model_validator(mode="after")
    def _complete(self) -> AdapterRecipe:
        if (self.kind == "lora") != (self.rank is not None):
            raise ValueError(f"a lora has a rank, a controlnet has none; got {self.kind} with rank {self.rank}")
        return self


class Adapter(AdapterRecipe):
    """An adapter, with what it has from its base."""

    dataset: Name
    family: str


class Extractor(Row):
    """A feature network: a small classifier of a data set's attributes, or one that others trained; or, for points,
    their coordinates."""

    kind: str = "classifier"
    dataset: Name | None = None
    """Of a classifier, as is ``training``."""
    training: Optim | None = None
    weights: str | None = None
    """Of any other kind: the file of its weights, of a CLIP the folder; a relative path starts at the repository."""
    sha256: Annotated[str, Field(pattern=f"^([0-9a-f]{{64}}|{UNPINNED})$")] | None = None
    """Of that file; ``unpinned`` until somebody chooses one."""

    @model_validator(mode="after")
    def _complete(self) -> Extractor:
        own, foreign = ("dataset", "training"), ("weights", "sha256")
        needed, other = (own, foreign) if self.kind == "classifier" else (foreign, own)
        if self.kind == "coordinates":
            needed, other = own[:1], (*own[1:], *foreign)
        absent = [name for name in needed if getattr(self, name) is None]
        surplus = [name for name in other if getattr(self, name) is not None]
        if absent or surplus:
            raise ValueError(
                f"an extractor of kind {self.kind} has {' and '.join(needed)}, and no {' or '.join(other)};"
                f" got {', '.join(sorted(self.model_fields_set)) or 'nothing'}"
            )
        return self


class Encoding(Row):
    """How images become latents, once for a base."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """What the autoencoder computes in; latents are kept in fp32."""


class Latents(Encoding):
    """A data set as a base sees it: latents of its images, conditions of its captions."""

    base: Name
    family: str
    dataset: Name


class PairsRecipe(Row):
    """How the teacher makes window pairs; the windows come from the students that use them."""

    optional = ("student", "precision")

    starts: Literal["data", "trajectory", "mixture", "student"] = "data"
    """Where windows start: noised real latents, the teacher's trajectories from t=1, half of each window's pairs
    either way, or the states of ``student`` on its own way."""
    student: Name | None = None
    """An entry of ``students`` whose own states windows start at (``starts: student``)."""
    guidance: PairGuidance
    drop: Share = 0.0
    """Share of pairs whose caption is the empty one (CFG-sync), decided by pair index."""
    solver: str | Annotated[list[str], Field(min_length=1)] = "ddim"
    """One for all windows, or one each."""
    steps: Count | Annotated[list[Count], Field(min_length=1)]
    """Teacher steps from t=1 to t=0, of which a window gets ceil(steps / windows); or a list, the steps of each
    window. A student solved on its own windows (solver ``window``) takes them as when it is sampled."""
    count: Count
    negative: str = ""
    """What guidance leads away from while pairs are made; the empty caption unless said."""
    teacher: Name | None = None
    """An entry of ``students`` that makes the pairs; None: the base."""
    precision: Literal["no", "bf16"] = "no"
    """bf16: the network alone, by autocast; states, coefficients and guidance are fp32 either way."""

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
    window_steps: Count | list[Count]


def _check_once(values: list) -> list:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError(f"the same value stands twice; got {values}")
    return values


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

    solvers: Annotated[list[str], Field(min_length=1), AfterValidator(_check_once)]
    steps: Annotated[list[Steps], AfterValidator(_check_once)] = []
    evaluations: Annotated[list[Steps], Field(min_length=1), AfterValidator(_check_once)] | None = None
    """In place of steps: network evaluations that a trial may cost; each solver takes as many steps as they buy."""
    guidance: WindowGuidance | None = None
    """None: the teacher's."""
    spacings: Annotated[list[Spacing], Field(min_length=1), AfterValidator(_check_once)] = ["trailing"]
    teachers: Annotated[list[Guidance], Field(min_length=1), AfterValidator(_check_once)] | None = None
    """Guidance of the teachers that the trials are held against; None: ``sampling.teacher``'s."""

    @model_validator(mode="after")
    def _one_budget(self) -> TrialRecipe:
        if bool(self.steps) == bool(self.evaluations):
            raise ValueError("trials have steps or evaluations, a list of one of them; got both or neither")
        return self


_MOST_TRIALS = 5000


class Released(Row):
    """A student that others taught: where its weights are, and what of them cannot be read off."""

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
    hub: str | None = None
    """The repository they were downloaded from, for the record."""
    size: Annotated[Bytes | None, Field(exclude=True)] = None
    """Bytes that are fetched, for the plan alone."""


class StudentRecipe(Row):
    """An entry of params.yaml; ``bases``, ``windows`` and ``seeds`` are axes."""

    optional = ("rank", "source", "guidance_embedding")

    label: Label
    bases: Annotated[list[Name], Field(min_length=1), AfterValidator(_check_once)] | None = None
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

    size: Embedding
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


class TeacherRecipe(Row):
    """The fine solver whose samples stand for the teacher."""

    solver: str
    steps: Count
    guidance: Guidance


class FlowRecipe(Row):
    """How straightness and end-point error are measured on the student's own path."""

    optional = ("starts",)

    items: Count
    substeps: Several = 4
    solver: str = "heun"
    solver_steps: Count = 32
    """Least teacher steps from t=1 to t=0 for what counts as exact: each of the substeps of each window gets
    ceil(solver_steps / (windows x substeps))."""
    starts: Several | None = None
    """Items whose own states where windows start are compared with the starts of its training; None: not done."""


class SearchRecipe(Row):
    """How ``spacing: best`` is found: by a distance to the teacher on samples of other prompts and other noise."""

    prompts: Several = 64
    per_prompt: Several = 4
    metric: Literal["kid_teacher", "fd_teacher"] = "kid_teacher"
    rounds: Annotated[int, Field(ge=0, le=20)] = 2
    """How often the best one so far is bent both ways, after the named ones."""


class PromptList(Row):
    """Prompts of the user's own: a text file with one a line, or a column of a csv, jsonl or parquet file."""

    file: str
    """A relative path starts at the repository."""
    column: str = "text"
    negative: str = ""
    """What guidance leads away from, for every prompt."""
    negative_column: str | None = None
    """Or a column that says it for each."""

    @model_validator(mode="after")
    def _one_negative(self) -> PromptList:
        if self.negative and self.negative_column is not None:
            raise ValueError("negative and negative_column exclude each other; got both")
        return self


class Asked(Row):
    """What models of one data set are asked to draw instead; what is not said is as for the others."""

    prompts: Count | None = None
    per_prompt: Count | None = None
    prompt_list: PromptList | None = None


class Sampling(Row):
    """What every model is asked to draw."""

    optional = ("search", "datasets")

    split: Literal["reference"] = "reference"
    prompts: Count
    """The first so many different captions of the split, or prompts of the list; 1 where captions say nothing: items
    are then independent."""
    prompt_list: PromptList | None = None
    per_prompt: Count
    """With one prompt at least two; metrics of variety within a prompt need two of each."""
    teacher: TeacherRecipe
    flow: FlowRecipe
    search: SearchRecipe | None = None
    datasets: dict[Name, Asked] = {}
    """Data sets whose models are asked for something else: another number of prompts, of images, another list."""

    @model_validator(mode="after")
    def _several(self) -> Sampling:
        for name in (None, *self.datasets):
            asked = self.of(name)
            if asked.prompts * asked.per_prompt < 2:
                place = f"datasets.{name}: " if name else ""
                raise ValueError(f"{place}one prompt needs at least two images, per_prompt: 2; got {asked.per_prompt}")
        return self

    def of(self, dataset: str | None) -> Sampling:
        """What models of a data set are asked to draw, with nothing left to look up."""
        own = self.datasets.get(dataset) if dataset else None
        said = {} if own is None else {name: value for name, value in own if value is not None}
        return self.model_copy(update={**said, "datasets": {}})


class Prompts(Row):
    """What is drawn: prompts of a list, or a data set's captions, however many of its items a study takes."""

    count: Count
    list: PromptList | None = None
    captions: Captions | None = None
    split: SplitName = "reference"


class Samples(Row):
    """All trials of one model, drawn in one job."""

    optional = ("extractor", "pairs")

    model: Name
    base: Name
    family: str
    dataset: Name
    prompts: Name
    """The row of ``prompts`` that is drawn."""
    sampling: Sampling
    trials: list[Trial]
    windowed: bool
    """Measure straightness and end-point error (students sampled on their windows)."""
    extractor: Name | None = None
    """The feature network by which spacings are searched for; None: none is."""
    pairs: Name | None = None
    """The pairs whose starts are compared with the student's own states; None: not done."""


class EvaluationRecipe(Row):
    """Which numbers are computed from the samples."""

    optional = (CLIP, LPIPS)

    extractor: Name
    clip: Name | None = None
    """An entry of ``extractors`` of this kind, for ``clip_score``."""
    lpips: Name | None = None
    """An entry of ``extractors`` of this kind, for ``lpips_diversity``."""
    metrics: Annotated[list[str], Field(min_length=1)]
    split: Literal["reference"] = "reference"
    groups: Annotated[int, Field(ge=4, le=_MOST)] = 20
    """Groups of prompts left out in turn by the jackknife."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Evaluation(EvaluationRecipe):
    """All numbers of one model, or of one transfer."""

    model: Name
    base: Name
    """Whose samples hold the teacher's."""
    dataset: Name


class SettingRecipe(Row):
    """What a delta is put into: other bases, an adapter, another pipeline of diffusers."""

    label: Label
    bases: Annotated[list[Name], Field(min_length=1), AfterValidator(_check_once)]
    """Those it is drawn on: a base its students were taught on, or a fine-tune of one."""
    students: Annotated[list[Name], AfterValidator(_check_once)]
    """Entries of ``students`` whose deltas (training seed 0) are tried."""
    task: Literal["text", "image", "inpaint"] = "text"
    """Text to image; image to image, from a picture of another caption; inpainting of the right half."""
    adapter: Name | None = None
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How much of the way a given picture is noised."""
    rank: Count | None = None
    """Load deltas as LoRAs of this rank; None: whole."""


class Transfer(Row):
    """All trials of one model in a setting, drawn by diffusers' own pipelines."""

    setting: Name
    model: Name
    """The base itself, or a student whose delta is put into it."""
    base: Name
    dataset: Name
    family: str
    task: Literal["text", "image", "inpaint"]
    adapter: Name | None
    strength: float
    rank: Count | None
    reference: Name
    """Whose samples hold the teacher's of this setting: a base's, or the base's own transfer."""
    shows: bool
    """Whether the pipeline is shown the prompts' own images, of this ``split`` of the data set."""
    split: SplitName
    prompts: Name
    """The row of ``prompts`` that is drawn."""
    per_prompt: Count
    trials: list[Trial]


class Params(Row):
    """params.yaml as a whole."""

    study: Name
    seed: Seed = 0
    datasets: dict[Name, AnyDataset]
    bases: dict[Name, BaseRecipe]
    extractors: dict[Name, Extractor]
    encoding: Encoding = Encoding()
    pairs: dict[Name, PairsRecipe]
    training: Optim
    students: dict[Name, StudentRecipe]
    baselines: TrialRecipe
    adapters: dict[Name, AdapterRecipe] = {}
    settings: dict[Name, SettingRecipe] = {}
    sampling: Sampling
    evaluation: EvaluationRecipe
