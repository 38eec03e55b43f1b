"""What a base is, and the schedulers of diffusers it, or a student without windows, can be sampled with."""

from __future__ import annotations

from typing import Any, NamedTuple

FAMILIES = {
    "stable_diffusion": "perflow.models.stable_diffusion:StableDiffusion",
    "sdxl": "perflow.models.sdxl:SDXL",
    "pixel": "perflow.models.pixel:Pixel",
    "plane": "perflow.models.plane:Plane",
}
TRAINABLE = ("stable_diffusion", "plane")
"""Families of which a base can be trained from scratch; the others are taken from a ``source``."""
OPTIONS: dict[str, dict[str, type]] = {"pixel": {"classes": list, "null_class": int}}
"""What a family is told beside its folder, and its type. One that takes ``null_class`` reads a class or nothing: only
a class that stands for none lets it be guided."""
PIPELINES = {
    "stable_diffusion": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "pixel": "DDPMPipeline",
}
"""diffusers' pipeline of each family that has one."""

TELLING = ("stable_diffusion", "sdxl")
"""Families whose network can be told its guidance (``embedding``)."""

READING = ("stable_diffusion", "sdxl")
"""Families with a text model, which makes conditions of captions, or of their tokens when they are needed."""

FLOWS = ("plane",)
"""Families whose bases are flows that say velocity: solved as they are, with Euler, RK45 or the reverse SDE."""

TASKS = {
    "stable_diffusion": {
        "text": PIPELINES["stable_diffusion"],
        "image": "StableDiffusionImg2ImgPipeline",
        "inpaint": "StableDiffusionInpaintPipeline",
        "controlnet": "StableDiffusionControlNetPipeline",
    },
    "sdxl": {"text": PIPELINES["sdxl"]},
}
"""diffusers' pipelines of a family that has settings: a task, or text to image with a ControlNet -> class."""

PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""diffusers' names of what a network predicts -> ours."""


def prediction_type(ours: str) -> str:
    """diffusers' name of a prediction of ours."""
    return next(theirs for theirs, name in PREDICTION_TYPES.items() if name == ours)


class TrainingFree(NamedTuple):
    """A diffusers scheduler, with trailing spacing where it has a choice: class, configuration, name in tables."""

    scheduler: str
    options: dict[str, Any]
    label: str
    calls: int = 1
    """Network calls a step."""
    grid: str = ""
    """The option, if any, that takes how many equal windows its student was taught on: it steps on their edges."""
    placed: tuple[str, dict[str, Any]] | None = None
    """Class and options where steps are placed by a spacing other than trailing; None: the same ones."""

    def evaluations(self, steps: int) -> int:
        """Network calls of ``steps`` steps; a second-order step ends with a first-order one."""
        return self.calls * steps - (self.calls - 1)


_TRAILING = {"timestep_spacing": "trailing"}
SCHEDULERS = {
    # diffusers' DDIM finds the next step by counting; DPM-Solver++ of first order is the same from any step to any.
    "ddim": TrainingFree(
        "DDIMScheduler",
        _TRAILING | {"set_alpha_to_one": False, "clip_sample": False},
        "DDIM",
        placed=("DPMSolverMultistepScheduler", {"solver_order": 1, "final_sigmas_type": "sigma_min"}),
    ),
    "euler": TrainingFree("EulerDiscreteScheduler", _TRAILING, "Euler"),
    "dpmpp_2m": TrainingFree("DPMSolverMultistepScheduler", _TRAILING, "DPM-Solver++(2M)"),
    "dpmpp_3m": TrainingFree("DPMSolverMultistepScheduler", _TRAILING | {"solver_order": 3}, "DPM-Solver++(3M)"),
    "unipc": TrainingFree("UniPCMultistepScheduler", _TRAILING, "UniPC"),
    "deis": TrainingFree("DEISMultistepScheduler", _TRAILING, "DEIS"),
    "heun": TrainingFree("HeunDiscreteScheduler", _TRAILING, "Heun", calls=2),
    "lcm": TrainingFree(
        "LCMScheduler",
        {"timestep_scaling": 10.0, "original_inference_steps": 50},
        "LCM",
        grid="original_inference_steps",
    ),
}
