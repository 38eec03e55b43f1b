"""The command group: a user's mistake is one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from perflow import __version__
from perflow.errors import PerflowError, refused, unwritable

FILE = click.Path(path_type=Path)


SECTIONS = {
    "study": "A study",
    "stages": "Its stages, in the order of the pipeline",
    "measuring": "Images from elsewhere",
    "keeping": "Its files",
    "deltas": "A delta that leaves it",
}
"""Module of a verb -> heading in the help, in this order."""


class _Group(click.Group):
    """Verbs by section; a user's mistake is one line and exit status 1."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for module, heading in SECTIONS.items():
            verbs = [v for v in self.commands.values() if v.callback.__module__ == f"perflow.cli.{module}"]
            with formatter.section(heading):
                formatter.write_dl([(verb.name, verb.get_short_help_str(limit=200)) for verb in verbs])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PerflowError as error:
            sys.exit(f"perflow: {error}")
        except ValidationError as error:
            sys.exit(f"perflow: --spec: not a spec of this verb ({error.errors()[0]['msg']})")
        except OSError as error:
            if not refused(error):
                raise
            place = error.filename2 or error.filename or f"what perflow {ctx.invoked_subcommand} makes"
            sys.exit(f"perflow: {unwritable(place, error.strerror)}")
        except KeyboardInterrupt:
            sys.exit("perflow: stopped; the same command goes on from here")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="perflow")
def main() -> None:
    """A reproducible pipeline for few-step diffusion (PeRFlow and its relatives).

    The workflow calls these verbs; each also works by hand. `snakemake --cores all` runs a whole study,
    `perflow plan` shows it beforehand.
    """
