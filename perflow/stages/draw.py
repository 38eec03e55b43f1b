"""draw: one prompt, one picture; what ``perflow sample --prompt`` does."""

from __future__ import annotations

from pathlib import Path

from perflow import artifacts
from perflow.config.resolve import scheduler_of
from perflow.config.rows import Trial
from perflow.core import WINDOW
from perflow.errors import PerflowError
from perflow.images import png, tile
from perflow.models import SCHEDULERS
from perflow.models.drawer import Drawer

_BASE = {"solver": "dpmpp_2m", "steps": 25, "guidance": 4.5, "scheduler": scheduler_of("dpmpp_2m")}
"""How a base is sampled, which says nothing of it itself."""


def draw(model: Path, prompt: str, out: Path, solver: str | None, steps: int | None, guidance: float | None,
         seed: int, count: int, device: str = "cpu") -> None:  # fmt: skip
    """Write ``count`` images of ``prompt`` side by side to ``out``, a PNG.

    Defaults come from the model: how a student is meant to be sampled. Image i is a function of (seed, i).
    """
    if out.suffix.lower() != ".png":
        raise PerflowError(f"--out {out}: must end in .png")
    drawer = Drawer.load(model, device, [prompt], count, seed)
    if not hasattr(drawer.model.base, "decode"):
        raise PerflowError(f"{model}: draws points on the plane, no images; there is perflow sample --spec")
    flow, own = drawer.model.flow, drawer.model.trial or _BASE
    solver = solver or own["solver"]
    if solver not in (WINDOW, *SCHEDULERS):
        raise PerflowError(f"--solver: no '{solver}'; there are {WINDOW}, {', '.join(SCHEDULERS)}")
    scheduler = own["scheduler"] if solver == own["solver"] else scheduler_of(solver)
    steps = steps or (len(flow.windows) if flow and solver == WINDOW else own["steps"])
    guidance = own["guidance"] if guidance is None else guidance
    if isinstance(guidance, list) and solver != WINDOW:
        raise PerflowError(f"--guidance: the model's own is one a window, {guidance}; give one number for {solver}")
    trial = Trial(name="draw", solver=solver, steps=steps, guidance=guidance, nfe=1, scheduler=scheduler)
    images = drawer.model.base.decode(drawer.draw(trial, drawer.noise(0)))
    with artifacts.atomic(out) as temporary:
        temporary.write_bytes(png(tile(images, 1, count)))
