"""draw: one prompt, one picture; what ``perflow sample --prompt`` does."""

from __future__ import annotations

from pathlib import Path

from perflow import artifacts
from perflow.config.rows import Trial
from perflow.errors import PerflowError
from perflow.images import png, tile
from perflow.models import SCHEDULERS
from perflow.models.drawer import Drawer

_STEPS, _GUIDANCE = 25, 4.5
"""For a base, which has no windows and no guidance of its own."""


def draw(model: Path, prompt: str, out: Path, solver: str | None, steps: int | None, guidance: float | None,
         seed: int, count: int, device: str = "cpu") -> None:  # fmt: skip
    """Write ``count`` images of ``prompt`` side by side to ``out``, a PNG.

    Defaults come from the model: a student's windows and guidance. Image i is a function of (seed, i).
    """
    if out.suffix.lower() != ".png":
        raise PerflowError(f"--out {out}: must end in .png")
    drawer = Drawer.load(model, device, [prompt], count, seed)
    flow = drawer.model.flow
    solver = solver or ("window" if flow else "dpmpp_2m")
    if solver not in ("window", *SCHEDULERS):
        raise PerflowError(f"--solver: no '{solver}'; there are window, {', '.join(SCHEDULERS)}")
    free = SCHEDULERS.get(solver)
    scheduler = {"class": free.scheduler} | free.options if free else None
    steps = steps or (len(flow.windows) if flow and solver == "window" else _STEPS)
    if guidance is None:
        guidance = _GUIDANCE if drawer.model.guidance is None else drawer.model.guidance
    trial = Trial(name="draw", solver=solver, steps=steps, guidance=float(guidance), nfe=1, scheduler=scheduler)
    images = drawer.model.base.decode(drawer.draw(trial, drawer.noise(0)))
    with artifacts.atomic(out) as temporary:
        temporary.write_bytes(png(tile(images, 1, count)))
