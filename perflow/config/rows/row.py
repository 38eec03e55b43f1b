"""What rows are made of: names, edges, numbers in their ranges, the strict type, and a training."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

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


MOST = 10**9

Name = Annotated[str, AfterValidator(_check_name)]

Label = Annotated[str, AfterValidator(_check_label)]

WindowEdges = Annotated[Edges, AfterValidator(check_edges)]

Count = Annotated[int, Field(ge=1, le=MOST)]

Several = Annotated[int, Field(ge=2, le=MOST)]

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

GuidanceRange = Annotated[list[Guidance], AfterValidator(_check_range)]
"""[least, most]."""

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
    warmup: Annotated[int, Field(ge=0, le=MOST)] = 0
    decay: Literal["constant", "cosine"] = "cosine"
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Positive = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    precision: Literal["no", "bf16"] = "no"


def check_once(values: list) -> list:
    if any(value in values[:i] for i, value in enumerate(values)):
        raise ValueError(f"the same value stands twice; got {values}")
    return values
