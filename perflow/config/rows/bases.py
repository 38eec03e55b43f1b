"""Bases: trained here, taken from elsewhere, tuned or scaled, flows of points; and adapters beside them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from perflow.config.rows.row import MOST, Count, Name, Optim, Positive, Row, Share, check_once
from perflow.core import DIFFUSIONS, DISTRIBUTIONS, INTERPOLATIONS
from perflow.models import FLOWS

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
    """What the checkpoint predicts; compared with what it says itself. A single file cannot: there it is to be said."""
    classes: Annotated[list[str], Field(min_length=1), AfterValidator(lambda names: check_once(names))] | None = None
    """Of a family that reads a class: the caption that names each, in the order of their labels."""
    null_class: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """The label that stands for none, which guidance needs; it has no name."""
    threads: Count = 1
    """CPU threads while it is prepared."""
    tuned_from: Name | None = None
    """The base it was tuned from elsewhere, or is once more, with other data to draw: what is taught on that one can
    be put into it."""

    @model_validator(mode="after")
    def _predicts(self) -> Pretrained:
        if self.source.file is not None and "prediction" not in self.model_fields_set:
            raise ValueError("a single file does not say what its network predicts; write prediction: epsilon or v")
        return self


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
