"""draw: one prompt, one picture; what ``perflow sample --prompt`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.config.resolve import scheduler_of
from perflow.config.rows import Trial
from perflow.core import RK45, WINDOW
from perflow.errors import PerflowError
from perflow.images import png, tile
from perflow.models import SCHEDULERS, handle
from perflow.models.drawer import Drawer

_BASE = {"solver": "dpmpp_2m", "steps": 25, "scheduler": scheduler_of("dpmpp_2m")}
"""How a base is sampled, which says nothing of it itself."""
_GUIDANCE = 4.5
"""Of a model that says none, where it can be guided."""


def draw(model: Path, prompt: str, out: Path, solver: str | None, steps: int | None, guidance: float | None,
         seed: int, count: int, device: str = "cpu", negative: str | None = None,
         batch: int = 1, compile: bool = False) -> None:  # fmt: skip
    """Write ``count`` images of ``prompt`` side by side to ``out``, a PNG.

    Defaults come from the model: how a student is meant to be sampled. Image i is a function of (seed, i). Guidance
    leads away from ``negative``; PerflowError where there is none, of a model whose guidance is in its weights.

    ``batch`` images are computed at once, whatever a row of this model computes at once: nobody here waits for rows
    that pad a chunk. Another ``batch``, or ``compile``, which compiles the network first, changes last bits.
    """
    if out.suffix.lower() != ".png":
        raise PerflowError(f"--out {out}: must end in .png")
    loaded = handle.load(model, device)
    if not hasattr(loaded.base, "decode"):
        raise PerflowError(f"{model}: draws points on the plane, no images; there is perflow sample --spec")
    if not loaded.base.conditional and prompt:
        raise PerflowError(f"--prompt '{prompt}': {loaded.name} draws without a prompt; give --prompt ''")
    loaded.base.chunk = batch
    if compile:
        loaded.unet.compile()
    drawer = Drawer.of(loaded, device, [prompt], count, seed, [negative or ""])
    own = loaded.trial or _own(loaded)
    solver = solver or own["solver"]
    if solver not in (WINDOW, RK45, *SCHEDULERS):
        raise PerflowError(f"--solver: no '{solver}'; there are {WINDOW}, {RK45}, {', '.join(SCHEDULERS)}")
    scheduler = own["scheduler"] if solver == own["solver"] else scheduler_of(solver)
    steps = _steps(loaded, solver, steps, own)
    guidance = own["guidance"] if guidance is None else guidance
    every = guidance if isinstance(guidance, list) else [guidance]
    if loaded.told and not all(loaded.told["least"] <= each <= loaded.told["most"] for each in every):
        least, most = loaded.told["least"], loaded.told["most"]
        raise PerflowError(f"--guidance {guidance}: {loaded.name} is told its guidance, from {least:g} to {most:g}")
    if guidance != 1 and drawer.null is None:
        raise PerflowError(f"--guidance {guidance}: {loaded.name} knows no condition of no prompt; only 1 is valid")
    if isinstance(guidance, list) and solver != WINDOW:
        raise PerflowError(f"--guidance: the model's own is one a window, {guidance}; give one number for {solver}")
    if negative is not None and loaded.told:
        raise PerflowError(f"--negative: not heard by {loaded.name}, whose guidance is in its weights")
    if negative is not None and all(each == 1 for each in every):
        raise PerflowError(f"--negative: not heard at guidance 1, which is how {loaded.name} is drawn; give --guidance")
    trial = Trial(name="draw", solver=solver, steps=steps, guidance=guidance, nfe=1, scheduler=scheduler)
    images = loaded.base.decode(drawer.draw(trial, drawer.noise(0)))
    with artifacts.atomic(out) as temporary:
        temporary.write_bytes(png(tile(images, 1, count)))


def _steps(model: handle.Model, solver: str, steps: int | None, own: dict[str, Any]) -> int:
    """How many are taken: those asked for, or the model's own; 0 of a solver that decides as it goes."""
    if solver == RK45:
        if model.flow is None or (model.flow.path, model.flow.prediction) != ("straight", "velocity"):
            raise PerflowError(f"--solver: {RK45} reads dx/dt, which {model.name} does not say; give another")
        if steps is not None:
            raise PerflowError(f"--steps {steps}: {RK45} takes as many as each image needs; leave it out")
        return 0
    if solver == WINDOW and model.flow is not None:
        return steps or len(model.flow.windows)
    return steps or own["steps"] or _BASE["steps"]


def _own(model: handle.Model) -> dict[str, Any]:
    """How a model that does not say it is sampled: a base, or published windows without a guidance."""
    on_windows = {"solver": WINDOW, "steps": len(model.flow.windows), "scheduler": None} if model.flow else _BASE
    return on_windows | {"guidance": _GUIDANCE if model.base.has_null else 1.0}
