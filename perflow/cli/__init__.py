"""The command line: each verb reads a spec and files, and writes one artifact.

Heavy libraries are imported inside the verbs, so that ``--help``, ``plan`` and ``show`` are quick.
"""

from perflow.cli.deltas import adopt, apply, card, lora
from perflow.cli.group import main
from perflow.cli.keeping import clean, verify
from perflow.cli.measuring import measure
from perflow.cli.stages import STAGES
from perflow.cli.study import collect, plan, render, show, table, track

__all__ = [
    "STAGES", "adopt", "apply", "card", "clean", "collect", "lora", "main", "measure", "plan", "render", "show",
    "table", "track", "verify",
]  # fmt: skip
