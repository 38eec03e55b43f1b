"""How planning grows with rows, memory with pairs and images, and a network's work with windows and resolution.

    python -m benchmarks.growth [--rows 200] [--pairs 1000 …] [--images 256 …] [--windows 1 2 4 8] [--sides 8 16 32]
        [--device cpu]

Each row is a student with windows of its own: pairs, training, delta, samples and metrics, five jobs. Pairs are of the
embedded base's size, 2 KiB, in shards of 10,000; what is measured is a process that draws 200 batches of 64. Images
have 512 pixels a side; a process writes them as ``sample`` does and another looks at them as ``evaluate`` does, with a
network that costs nothing, so what is left is PNG: with no thread as beside a CPU, with all cores as beside a GPU.
Windows and sides of the latents are those of ``benchmarks.device``, of a narrow network on a CPU and of the real one on
a GPU.
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

from benchmarks.device import HEADER

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure one table after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--images", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--windows", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--sides", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    print("| rows | jobs | perflow plan, s | snakemake -n, s | CPU s of it | its memory, MiB |")
    print("|---:|---:|---:|---:|---:|---:|")
    for rows in (1, given.rows):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("Snakefile", "workflow", "perflow", "notebooks", "profiles"):
                source = ROOT / name
                copy = shutil.copytree if source.is_dir() else shutil.copy2
                copy(source, Path(folder) / name)
            print(measure(Path(folder), rows))
    print("\n| pairs | on disk, MiB | memory of the reader, MiB | a batch of 64, ms |\n|---:|---:|---:|---:|")
    for pairs in given.pairs:
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder), pairs)
            command = [sys.executable, "-c", READER, folder]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            size = sum(path.stat().st_size for path in Path(folder).iterdir())
            print(f"| {pairs} | {size / 2**20:.0f} | {said.strip()} |")
    print("\n| images | threads | on disk, MiB | written a second | memory of that, MiB | looked at a second"
          " | memory of that, MiB |\n|---:|---|---:|---:|---:|---:|---:|")  # fmt: skip
    for images in given.images:
        for beside in ("cpu", "cuda"):
            print(f"| {images} | {'none' if beside == 'cpu' else 'all cores'} {pictures(images, beside)}", flush=True)
    head, line = HEADER.split("\n")
    print(f"\n| windows | side {head}\n|---:|---:{line}", flush=True)
    for windows, side in [(k, given.sides[0]) for k in given.windows] + [(4, side) for side in given.sides]:
        print(f"| {windows} | {side} {network(given.device, windows, side)}", flush=True)


def network(device: str, windows: int, side: int) -> str:
    """One line of ``benchmarks.device``."""
    import torch

    small = [] if device != "cpu" and torch.cuda.is_available() else ["--width", "32", "--batch", "4", "--steps", "4"]
    given = ["--device", device, "--windows", str(windows), "--side", str(side), "--precision", "no", *small]
    command = [sys.executable, "-m", "benchmarks.device", *given]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def pictures(count: int, beside: str) -> str:
    """One line of the table, of a process that writes and one that looks."""
    with tempfile.TemporaryDirectory() as folder:
        said = []
        for script in (WRITER, VIEWER):
            command = [sys.executable, "-c", script, folder, str(count), beside]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            said.append(done.stdout.strip())
        size = (Path(folder) / "t.zip").stat().st_size
        return f"| {size / 2**20:.0f} | {' | '.join(said)} |"


WRITER = """
import resource, sys, time
from pathlib import Path
import numpy as np
import torch
from perflow import trials
folder, count, beside = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
ramp = (np.add.outer(np.arange(512), np.arange(512))[..., None] // 5 % 200).astype(np.uint8)
shown = rng.integers(0, 8, (64, 512, 512, 3), dtype=np.uint8) + ramp
sizes = [min(64, count - first) for first in range(0, count, 64)]
blocks = lambda: (trials.Block(torch.zeros(size, 4, 64, 64), shown[:size].copy()) for size in sizes)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, begun = peak(), time.perf_counter()
for _ in trials.write(folder, {"name": "t"}, "", blocks(), count, beside):
    pass
print(f"{count / (time.perf_counter() - begun):.1f} | {peak() - before:.0f}")
"""
VIEWER = """
import resource, sys, time
from pathlib import Path
import numpy as np
from perflow import artifacts
from perflow.metrics.looking import Looks, Viewer
class Free(Looks):
    def look(self, prepared):
        return prepared[:, 0, 0].astype(float), {}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, begun = peak(), time.perf_counter()
found, _ = Viewer(Free(), sys.argv[3]).see(artifacts.Archive(Path(sys.argv[1]) / "t.zip"))
print(f"{len(found) / (time.perf_counter() - begun):.1f} | {peak() - before:.0f}")
"""
READER = """
import resource, sys, time
from pathlib import Path
import torch
from perflow.pairs import PairCache
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
cache = PairCache.load(Path(sys.argv[1]) / "manifest.json")
rng = torch.Generator().manual_seed(0)
begun = time.perf_counter()
for _ in range(200):
    cache.batch(torch.randint(len(cache), (64,), generator=rng))
print(f"{peak() - before:.1f} | {(time.perf_counter() - begun) * 5:.2f}")
"""


def write_pairs(folder: Path, count: int) -> None:
    """A cache of the embedded base's shape; its shards hold the same numbers."""
    import torch

    from perflow import artifacts, pairs

    entries = []
    for index, first in enumerate(range(0, count, 10_000)):
        items = min(10_000, count - first)
        latents = {name: torch.zeros(items, 4, 8, 8) for name in ("start", "end")}
        numbers = {name: torch.zeros(items, dtype=torch.int32) for name in ("k", "caption")}
        path = folder / pairs.shard_name(index)
        artifacts.write_tensors(path, latents | numbers, {})
        entries.append({"file": path.name, "sha256": artifacts.sha256_file(path)})
    conditions = folder / pairs.CONDITIONS
    artifacts.write_tensors(conditions, {"embeddings": torch.zeros(200, 12, 32)}, {"captions": ["a seven"] * 200})
    artifacts.write_json(folder / pairs.MANIFEST, {
        "shards": entries, "edges": [1.0, 0.0], "teacher": {"name": "none", "sha256": ""},
        "conditions": {"file": conditions.name, "sha256": artifacts.sha256_file(conditions)},
    })  # fmt: skip


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
        begun, process = (
            time.perf_counter(),
            subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL),
        )
        _, status, used = os.wait4(process.pid, 0)
        took.append(time.perf_counter() - begun)
        if status:
            sys.exit(f"failed: {' '.join(command[1:])}")
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return f"| {rows} | {5 * rows + 9} | {took[0]:.1f} | {took[1]:.1f} | {cpu:.1f} | {peak:.0f} |"


if __name__ == "__main__":
    main()
