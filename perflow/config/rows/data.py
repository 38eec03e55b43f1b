"""Where images, captions and prompts come from."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from perflow.config.rows.row import MOST, Count, Label, Name, Row


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
    bad_items: Annotated[int, Field(ge=0, le=MOST)] = 0
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
