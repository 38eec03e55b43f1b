"""Networks whose features images are compared in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from perflow.config.rows.bases import UNPINNED
from perflow.config.rows.row import Name, Optim, Row
from perflow.metrics import STANDARDISABLE


class Extractor(Row):
    """A feature network: a small classifier of a data set's attributes, or one that others trained; or, for points,
    their coordinates."""

    optional = ("standardise",)

    kind: str = "classifier"
    dataset: Name | None = None
    """Of a classifier, as is ``training``."""
    training: Optim | None = None
    weights: str | None = None
    """Of any other kind: the file of its weights, of a CLIP the folder; a relative path starts at the repository."""
    sha256: Annotated[str, Field(pattern=f"^([0-9a-f]{{64}}|{UNPINNED})$")] | None = None
    """Of that file; ``unpinned`` until somebody chooses one."""
    standardise: Name | None = None
    """The data set by whose images (of its split ``base``) features are standardised; None: features as they are."""

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
        if self.standardise is not None and self.kind not in STANDARDISABLE:
            raise ValueError(
                f"standardise is for {' and '.join(STANDARDISABLE)}; an extractor of kind {self.kind} has its own way"
            )
        return self
