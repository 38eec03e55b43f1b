"""What is measured, and in which settings a delta is tried."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from perflow.config.rows.data import SplitName
from perflow.config.rows.learning import Trial
from perflow.config.rows.row import MOST, Count, Label, Name, Row, check_once
from perflow.metrics import CLIP, LPIPS


class RealFeatures(Row):
    """Features of real images that somebody has already, or their statistics: a file in place of the images."""

    optional = ("made_by",)

    features: str
    """A .npz or .safetensors file (``perflow.metrics.given``); a relative path starts at the repository."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    made_by: Name | None = None
    """The extractor that made it; None: the file says so itself."""


class EvaluationRecipe(Row):
    """Which numbers are computed from the samples."""

    optional = (CLIP, LPIPS, "real")

    extractor: Name
    clip: Name | None = None
    """An entry of ``extractors`` of this kind, for ``clip_score``."""
    lpips: Name | None = None
    """An entry of ``extractors`` of this kind, for ``lpips_diversity``."""
    metrics: Annotated[list[str], Field(min_length=1)]
    real: dict[Name, RealFeatures] = {}
    """Data set -> features of its real images, in place of those of its ``split``."""
    split: Literal["reference"] = "reference"
    groups: Annotated[int, Field(ge=4, le=MOST)] = 20
    """Groups of prompts left out in turn by the jackknife."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Evaluation(EvaluationRecipe):
    """All numbers of one model, or of one transfer."""

    model: Name
    base: Name
    """Whose samples hold the teacher's."""
    dataset: Name

    @classmethod
    def of(cls, recipe: EvaluationRecipe, model: str, base: str, dataset: str) -> Evaluation:
        """By a study's recipe; of its features of real images only those of ``dataset``."""
        real = {dataset: recipe.real[dataset]} if dataset in recipe.real else {}
        return cls(**recipe.model_copy(update={"real": real}).model_dump(), model=model, base=base, dataset=dataset)

    @property
    def given(self) -> RealFeatures | None:
        """Features in place of the real images, if there are any."""
        return self.real.get(self.dataset)


class SettingRecipe(Row):
    """What a delta is put into: other bases, an adapter, another pipeline of diffusers."""

    label: Label
    bases: Annotated[list[Name], Field(min_length=1), AfterValidator(check_once)]
    """Those it is drawn on: a base its students were taught on, or a fine-tune of one."""
    students: Annotated[list[Name], AfterValidator(check_once)]
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
