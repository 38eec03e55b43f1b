"""The report: tables collected from artifacts, readings computed from them, figures, one page.

``collect`` comes first, then ``render`` executes the notebook, which calls the sections below; ``summary`` and
``markdown`` print the main table. pandas and matplotlib are imported here and nowhere else.
"""

from perflow.report import plane
from perflow.report.comparable import beside
from perflow.report.data import Report, load
from perflow.report.elsewhere import compatibility, compatibility_markdown
from perflow.report.gain import gain
from perflow.report.gain import pictures as gain_pictures
from perflow.report.listings import ablation_table, main_table
from perflow.report.markup import as_markdown
from perflow.report.protocol import settings
from perflow.report.provenance import provenance
from perflow.report.questions import budget, monotone, rivals, starts
from perflow.report.render import render
from perflow.report.sections import (
    ablation,
    costs,
    curves,
    flow,
    opening,
    published,
    quality,
    readings,
    samples,
    samples_by_windows,
)
from perflow.report.tables import collect, trained
from perflow.report.text import headline, markdown, summary
from perflow.report.text import readings as readings_markdown

__all__ = [
    "Report",
    "ablation",
    "ablation_table",
    "as_markdown",
    "beside",
    "budget",
    "collect",
    "compatibility",
    "compatibility_markdown",
    "costs",
    "curves",
    "flow",
    "gain",
    "gain_pictures",
    "headline",
    "load",
    "main_table",
    "markdown",
    "monotone",
    "opening",
    "plane",
    "provenance",
    "published",
    "quality",
    "readings",
    "readings_markdown",
    "render",
    "rivals",
    "samples",
    "samples_by_windows",
    "settings",
    "starts",
    "summary",
    "trained",
]
