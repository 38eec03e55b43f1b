"""The study: params.yaml checked, resolved to rows, and written as specs."""

from perflow.config.bases import latents_row
from perflow.config.places import home
from perflow.config.plan import plan
from perflow.config.resolve import load
from perflow.config.specs import specs, summary, write_specs
from perflow.config.splits import files, missing, rooted, split_row, weights
from perflow.config.study import TABLES, Study

__all__ = [
    "TABLES",
    "Study",
    "files",
    "home",
    "latents_row",
    "load",
    "missing",
    "plan",
    "rooted",
    "specs",
    "split_row",
    "summary",
    "weights",
    "write_specs",
]
