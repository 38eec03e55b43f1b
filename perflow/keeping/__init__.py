"""Keeping a study: is everything still as it was made, is another machine's the same, and what may go."""

from perflow.keeping.clean import Leftover, leftovers, remove
from perflow.keeping.compare import DIFFERENCES, TOLERANCE, Difference, compare
from perflow.keeping.verify import STATES, Finding, verify

__all__ = [
    "DIFFERENCES", "STATES", "TOLERANCE", "Difference", "Finding", "Leftover", "compare", "leftovers", "remove",
    "verify",
]  # fmt: skip
