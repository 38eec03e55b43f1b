"""A resolved study: tables of rows, and the spec of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perflow.config import rows
from perflow.datasets import DATASETS
from perflow.fingerprint import fingerprint
from perflow.methods import METHODS
from perflow.metrics import EXTRACTORS, METRICS
from perflow.models import FAMILIES

TABLES = (
    "splits",
    "prompts",
    "bases",
    "extractors",
    "latents",
    "adapters",
    "pairs",
    "students",
    "deltas",
    "samples",
    "transfers",
    "evaluations",
)


class Skipped(NamedTuple):
    """A combination an axis names that cannot be."""

    row: str
    why: str


@dataclass(frozen=True)
class Study:
    """A resolved study: tables of named rows. A row that names another row is an edge of the DAG."""

    name: str
    seed: int
    params: rows.Params
    text: str
    datasets: dict[str, rows.AnyDataset]
    """Not rows but entries: a row is a split."""
    bases: dict[str, rows.AnyBase]
    extractors: dict[str, rows.Extractor]
    pairs: dict[str, rows.Pairs]
    students: dict[str, rows.Student]
    deltas: dict[str, rows.Delta]
    samples: dict[str, rows.Samples]
    evaluations: dict[str, rows.Evaluation]
    splits: dict[str, rows.Split] = field(default_factory=dict)
    prompts: dict[str, rows.Prompts] = field(default_factory=dict)
    latents: dict[str, rows.Latents] = field(default_factory=dict)
    adapters: dict[str, rows.Adapter] = field(default_factory=dict)
    transfers: dict[str, rows.Transfer] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    """Student -> the entry of params.yaml it comes from."""
    skipped: list[Skipped] = field(default_factory=list)

    def spec(self, table: str, name: str) -> dict[str, Any]:
        """The spec of one row: the row, the seed, a fingerprint of the code that will read it."""
        row = getattr(self, table)[name]
        return {
            "table": table,
            "name": name,
            "seed": self.seed,
            "row": row.model_dump(mode="json"),
            "fingerprint": fingerprint(*_readers(self, table, row)),
        }


def _readers(study: Study, table: str, row: Any) -> tuple[str, ...]:
    """The modules that will read a row: its stage and the plug-ins it names."""
    match table:
        case "splits":
            return "perflow.stages.fetch", DATASETS[row.source]
        case "prompts":
            return "perflow.stages.prompts", *([DATASETS[row.captions.source]] if row.captions else [])
        case "latents":
            return "perflow.stages.encode", FAMILIES[row.family]
        case "bases" if isinstance(row, rows.Pretrained):
            return "perflow.stages.prepare", FAMILIES[row.family]
        case "bases" if isinstance(row, rows.Tuned):
            return "perflow.stages.tune", FAMILIES[row.family]
        case "bases" if isinstance(row, rows.Scaled):
            return "perflow.stages.blend", FAMILIES[row.family]
        case "adapters":
            return "perflow.stages.adapt", FAMILIES[row.family]
        case "transfers":
            return "perflow.stages.transfer", FAMILIES[row.family]
        case "bases" if isinstance(row, rows.Flow):
            return "perflow.stages.rectify", FAMILIES[row.family], DATASETS[study.datasets[row.dataset].source]
        case "bases":
            return "perflow.stages.base", FAMILIES[row.family], DATASETS[study.datasets[row.dataset].source]
        case "extractors":
            shown = row.dataset or row.standardise
            source = [DATASETS[study.datasets[shown].source]] if shown else []
            return "perflow.stages.extractor", EXTRACTORS[row.kind], *source
        case "pairs":
            return "perflow.stages.cache", FAMILIES[study.bases[row.base].family]
        case "students" if row.source is not None:
            return "perflow.stages.take", FAMILIES[row.family]
        case "students":
            asked = row.perceptual and ("perflow.metrics.perceived", EXTRACTORS[study.extractors[row.perceptual].kind])
            return "perflow.stages.train", FAMILIES[row.family], METHODS[row.method["name"]], *(asked or ())
        case "deltas":
            return ("perflow.stages.export",)
        case "samples" if row.extractor is not None:
            kind = study.extractors[row.extractor].kind
            search = "perflow.search", EXTRACTORS[kind], METRICS[row.sampling.search.metric]
            return "perflow.stages.sample", FAMILIES[row.family], *search
        case "samples":
            return "perflow.stages.sample", FAMILIES[row.family]
        case "evaluations":
            networks = [name for name in (row.extractor, row.clip, row.lpips) if name is not None]
            kinds = [EXTRACTORS[study.extractors[name].kind] for name in networks]
            return "perflow.stages.evaluate", *kinds, *(METRICS[metric] for metric in row.metrics)
    raise KeyError(table)
