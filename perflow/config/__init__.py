"""The study: params.yaml checked, resolved to rows, and written as specs."""

from perflow.config.plan import plan
from perflow.config.resolve import TABLES, Study, load, write_specs

__all__ = ["TABLES", "Study", "load", "plan", "write_specs"]
