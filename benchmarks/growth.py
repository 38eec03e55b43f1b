"""How planning grows with the rows of a study: ``python -m benchmarks.growth [--rows 200]``.

Each row is a student with windows of its own: pairs, training, delta, samples and metrics, five jobs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Time ``perflow plan`` and ``snakemake -n`` for one row and for many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    given = parser.parse_args()
    print("| rows | jobs | perflow plan, s | snakemake -n, s |\n|---:|---:|---:|---:|")
    for rows in (1, given.rows):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("Snakefile", "workflow", "perflow", "notebooks", "profiles"):
                source = ROOT / name
                copy = shutil.copytree if source.is_dir() else shutil.copy2
                copy(source, Path(folder) / name)
            print(measure(Path(folder), rows))


def measure(home: Path, rows: int) -> str:
    """One line of the table."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    edges = [[1.0, round(0.05 + 0.9 * i / rows, 6), 0.0] for i in range(rows)]
    params["students"] = {"perflow": params["students"]["perflow-sdxl"] | {"windows": edges, "seeds": 1}}
    (home / "params.yaml").write_text(yaml.safe_dump(params))
    environment = os.environ | {"PYTHONPATH": str(home)}
    plan = [sys.executable, "-m", "perflow", "plan"]
    dry = [sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run", "--quiet", "all"]
    took = []
    for command in (plan, dry):
        begun = time.perf_counter()
        subprocess.run(command, cwd=home, env=environment, check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - begun)
    return f"| {rows} | {5 * rows + 9} | {took[0]:.1f} | {took[1]:.1f} |"


if __name__ == "__main__":
    main()
