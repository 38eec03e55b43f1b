"""Which commit the working directory is at; no git, or no repository, is no error."""

from __future__ import annotations

import subprocess
from typing import NamedTuple


class Checkout(NamedTuple):
    """A commit's full hash ("" outside a repository), and whether tracked files differ from it."""

    commit: str
    dirty: bool

    def describe(self) -> str:
        """For people: the hash, and whether there are changes on top."""
        if not self.commit:
            return "not a git checkout"
        return self.commit + (", with uncommitted changes" if self.dirty else "")


def checkout() -> Checkout:
    """Ask git about the working directory."""
    commit = _git("rev-parse", "HEAD")
    return Checkout(commit, bool(commit and _git("status", "--porcelain", "--untracked-files=no")))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
