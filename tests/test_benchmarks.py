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
    assert rows == ["stage", "cache", "train", "sample", "latency", "evaluate", "evaluate"]
    assert lines[-1].startswith("recipe: ")


def test_growth_of_planning_and_of_memory(root):
    lines = run(
        root,
        "benchmarks.growth",
        "--rows",
        "3",
        "--pairs",
        "1000",
        "--images",
        "64",
        "--windows",
        "2",
        "--sides",
        "8",
        "--device",
        "cpu",
    )
    found = [line.split("|")[1].strip() for line in lines if line[:3].strip("| ").isdigit()]
    assert found == ["1", "3", "1000", "64", "64", "2", "4"]
    assert all(line.count("|") == 12 for line in lines[-2:])


def test_a_network_of_stable_diffusions_shape(root):
    small = ["--width", "8", "--side", "8", "--batch", "2", "--steps", "2", "--device", "cpu"]
    lines = run(root, "benchmarks.device", *small, "--checkpointing")
    assert [len(line.split("|")) for line in lines] == [11]
