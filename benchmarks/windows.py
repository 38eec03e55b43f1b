"""How far a solver's end of each window lies from the teacher's own, by solver and steps.

    python -m benchmarks.windows [--model results/bases/digits/model.json]
        [--latents results/latents/digits/manifest.json] [--windows 4] [--guidance 4.5]
        [--solvers ddim dpmpp_2m heun] [--evaluations 1 2 4 8 16] [--items 256]

Windows start at noised real latents, as ``starts: data`` has them. The teacher's own end is that of 128 Heun steps a
window. What is printed is the root of the mean squared error over that of the way, of each window on its own. Guidance
doubles what an evaluation costs; it is not counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from perflow.core.chunks import chunked
from perflow.core.condition import Condition, take
from perflow.core.fields import base_field
from perflow.core.rng import generator
from perflow.core.solvers import SOLVERS
from perflow.core.windows import Windows
from perflow.latents import Latents
from perflow.models import handle

_EXACT = "heun", 128


def main() -> None:
    """Print one row for each solver and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("results/bases/digits/model.json"))
    parser.add_argument("--latents", type=Path, default=Path("results/latents/digits/manifest.json"))
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=4.5)
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    model = handle.load(given.model, given.device)
    data = Latents.of(given.latents, model.name, model.base_sha256, given.device)
    windows = Windows.equal(given.windows)
    measure = _Windows(model, data, windows, given.guidance, given.items)
    print("| solver | evaluations a window | " + " | ".join(f"window {k + 1}" for k in range(len(windows))) + " |")
    print("|---|---:|" + "---:|" * len(windows))
    for solver in given.solvers:
        for evaluations in given.evaluations:
            steps, rest = divmod(evaluations, SOLVERS[solver].calls)
            if steps and not rest:
                errors = [f"{100 * measure.error(k, solver, steps):.2f} %" for k in range(len(windows))]
                print(f"| {solver} | {evaluations} | " + " | ".join(errors) + " |", flush=True)


class _Windows:
    """The windows of some items, and where the teacher ends them."""

    def __init__(self, model: handle.Model, data: Latents, windows: Windows, guidance: float, items: int) -> None:
        self.model, self.windows, self.guidance = model, windows, guidance
        drawn = torch.randint(len(data.latents), (items,), generator=generator(0, "windows", 0))
        self.latents, self.caption, self.kept = data.latents[drawn], data.caption[drawn], data.conditions
        self.away = self._told(torch.tensor([0])) if model.base.has_null else None
        self.noise = model.noise(0, "windows-noise", range(items)).to(self.latents.device)
        self.exact = [self.end(k, *_EXACT) for k in range(len(windows))]

    def _told(self, captions: torch.Tensor) -> Condition:
        """The conditions of captions [B], which may be kept as tokens."""
        return self.model.base.condition(take(self.kept, captions))

    def start(self, k: int) -> torch.Tensor:
        """The states [N, ...] that window k starts from."""
        schedule, t = self.model.base.schedule, self.windows.start(k)
        return (schedule.alpha(t) * self.latents + schedule.sigma(t) * self.noise).float()

    @torch.inference_mode()
    def end(self, k: int, solver: str, steps: int) -> torch.Tensor:
        """Where ``steps`` equal steps of a solver end window k."""
        base = self.model.base
        times = self.windows.time(k, torch.linspace(0, 1, steps + 1, dtype=torch.float64)).tolist()

        def cross(x: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
            network = self.model.says(self._told(caption), self.away, self.guidance)
            return SOLVERS[solver](base_field(network, base.schedule, base.prediction), x, times, base.schedule)

        return chunked(cross, base.chunk, self.start(k), self.caption)

    def error(self, k: int, solver: str, steps: int) -> float:
        """Root mean squared error of the end over that of the way from start to end."""
        way = self.exact[k] - self.start(k)
        return float(((self.end(k, solver, steps) - self.exact[k]).square().mean() / way.square().mean()).sqrt())


if __name__ == "__main__":
    main()
