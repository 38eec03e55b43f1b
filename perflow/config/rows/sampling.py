"""What is drawn of a model: the teacher, the prompts, the flow, the search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from perflow.config.rows.data import Asked, Captions, PromptList, SplitName
from perflow.config.rows.learning import Trial
from perflow.config.rows.row import Count, Guidance, Name, Row, Several


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
