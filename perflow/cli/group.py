"""The command group: a user's mistake is one line."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from perflow import __version__
from perflow.errors import PerflowError, no_room, refused, unwritable

FILE = click.Path(path_type=Path)


SECTIONS = {
    "study": "A study",
    "stages": "Its stages, in the order of the pipeline",
    "measuring": "Images from elsewhere",
    "keeping": "Its files",
    "deltas": "A delta that leaves it",
}
"""Module of a verb -> heading in the help, in this order."""


_STOPPED = "perflow: stopped; the same command goes on from here"


@contextlib.contextmanager
def _noticed() -> Iterator[list[int]]:
    """The Ctrl-C's that come in the block: a library that is being imported may make an error of its own of one."""
    came: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield came
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Group(click.Group):
    """Verbs by section; a user's mistake is one line and exit status 1."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for module, heading in SECTIONS.items():
            verbs = [v for v in self.commands.values() if v.callback.__module__ == f"perflow.cli.{module}"]
            with formatter.section(heading):
                formatter.write_dl([(verb.name, verb.get_short_help_str(limit=200)) for verb in verbs])

    def invoke(self, ctx: click.Context) -> Any:
        with _noticed() as interrupts:
            try:
                return self._told(ctx)
            except Exception:
                if interrupts:
                    sys.exit(_STOPPED)
                raise

    def _told(self, ctx: click.Context) -> Any:
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
        except RuntimeError as error:
            if (reason := no_room(error)) is None:
                raise
            sys.exit(
                f"perflow: the device has no room ({reason}); ask for less at once (--batch), or take --device cpu"
            )
        except KeyboardInterrupt:
            sys.exit(_STOPPED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="perflow")
def main() -> None:
    """A reproducible pipeline for few-step diffusion (PeRFlow and its relatives).

    The workflow calls these verbs; each also works by hand. `snakemake --cores all` runs a whole study,
    `perflow plan` shows it beforehand.
    """
