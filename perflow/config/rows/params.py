"""The study as it is written."""

from __future__ import annotations

from perflow.config.rows.bases import AdapterRecipe, BaseRecipe
from perflow.config.rows.data import AnyDataset
from perflow.config.rows.extractors import Extractor
from perflow.config.rows.learning import Encoding, PairsRecipe, StudentRecipe, TrialRecipe
from perflow.config.rows.measuring import EvaluationRecipe, SettingRecipe
from perflow.config.rows.row import Name, Optim, Row, Seed
from perflow.config.rows.sampling import Sampling


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
