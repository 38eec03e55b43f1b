"""The benchmarks run and print what they promise; what they print is never asserted."""

import os
import subprocess
import sys


def run(root, *command: str) -> list[str]:
    """Lines that a benchmark prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_stages_against_their_floor(root):
    lines = run(root, "benchmarks.stages", "--pairs", "512", "--steps", "3", "--repeats", "1", "--device", "cpu")
    rows = [line.split("|")[1].split(":")[0].strip() for line in lines if line.startswith("| ")]
    assert rows == ["stage", "cache", "train", "sample"]
    assert lines[-1].startswith("recipe: ")


def test_growth_of_planning(root):
    assert [line.split("|")[1].strip() for line in run(root, "benchmarks.growth", "--rows", "3")][2:] == ["1", "3"]
