"""What a base is, and the training-free schedulers it can be sampled with."""

from __future__ import annotations

from typing import Any, NamedTuple

FAMILIES = {
    "stable_diffusion": "perflow.models.stable_diffusion:StableDiffusion",
}


class TrainingFree(NamedTuple):
    """A diffusers scheduler with trailing spacing: class, configuration, name in tables."""

    scheduler: str
    options: dict[str, Any]
    label: str
    calls: int = 1
    """Network calls a step."""

    def evaluations(self, steps: int) -> int:
        """Network calls of ``steps`` steps; a second-order step ends with a first-order one."""
        return self.calls * steps - (self.calls - 1)


_TRAILING = {"timestep_spacing": "trailing"}
SCHEDULERS = {
    "ddim": TrainingFree("DDIMScheduler", _TRAILING | {"set_alpha_to_one": False, "clip_sample": False}, "DDIM"),
    "dpmpp_2m": TrainingFree("DPMSolverMultistepScheduler", _TRAILING, "DPM-Solver++(2M)"),
    "unipc": TrainingFree("UniPCMultistepScheduler", _TRAILING, "UniPC"),
    "deis": TrainingFree("DEISMultistepScheduler", _TRAILING, "DEIS"),
    "heun": TrainingFree("HeunDiscreteScheduler", _TRAILING, "Heun", calls=2),
}
