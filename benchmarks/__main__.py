"""Every table of docs/performance.md that asks for a device: ``python -m benchmarks --device cuda``.

``--quick`` shrinks everything, to see that it runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.device import HEADER

_QUICK = {
    "benchmarks.stages": ["--pairs", "512", "--steps", "3", "--repeats", "1"],
    "benchmarks.device": ["--width", "8", "--side", "8", "--batch", "2", "--steps", "2"],
    "benchmarks.growth": ["--rows", "1", "--pairs", "1000", "--images", "64", "--windows", "2", "--sides", "8"],
}


def run(module: str, *arguments: str, quick: bool) -> None:
    """One benchmark in a process of its own."""
    command = [sys.executable, "-m", module, *(_QUICK[module] if quick else []), *arguments]
    if subprocess.run(command, check=False).returncode:
        print(f"failed: {' '.join(command[1:])}")
    sys.stdout.flush()


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    run("benchmarks.stages", "--device", given.device, quick=given.quick)
    print(f"\nStable Diffusion 1.5's shape\n\n{HEADER}", flush=True)
    bf16 = ["--precision", "bf16"]
    variants = [["--precision", "no"], bf16, [*bf16, "--checkpointing"], [*bf16, "--channels-last"]]
    if not given.quick:  # compiling takes minutes on a CPU
        variants.append([*bf16, "--compile"])
    for variant in variants:
        run("benchmarks.device", "--device", given.device, *variant, quick=given.quick)
    print(flush=True)
    run("benchmarks.growth", "--device", given.device, quick=given.quick)


if __name__ == "__main__":
    main()
