"""A diffusers scheduler for windowed students; all mathematics is ``core.piecewise.PiecewiseFlow``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, DDPMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerOutput
from torch import Tensor

from perflow.core.broadcast import per_item, working_dtype
from perflow.core.piecewise import WINDOW_PREDICTIONS, PiecewiseFlow
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.errors import PerflowError

_OFFICIAL_WINDOWS = 4


class PeRFlowScheduler(SchedulerMixin, ConfigMixin):
    """Samples a student of piecewise rectified flow inside any diffusers pipeline.

    Built with the arguments of the published code it reads published weights: a straight path, and
    timesteps 1000, 750, 500, 250. Students made here record ``timestep_offset=-1`` (999, 749, …): the
    timesteps their base was trained with. Where steps do not divide evenly, timesteps are fractions, not
    truncated ones: the network is told the time its latents are at.

    Args:
        num_train_timesteps: T, the base's trained timesteps.
        beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr: the base's noise
            schedule, as in ``DDPMScheduler``.
        set_alpha_to_one: must be False; the last window ends at ᾱ[0], as students are taught.
        prediction_type: what the student says: ddim_eps, diff_eps or velocity.
        t_noise, t_clean: must be 1 and 0.
        num_time_windows: K equal windows; 4 unless ``windows`` is given.
        windows: explicit window edges falling from 1 to 0, such as [1, 0.8, 0.5, 0.2, 0].
        path: straight, or diffusion (the DDIM path).
        base_prediction: what the network said before it was taught: epsilon, v or x0; the eps predictions
            keep it.
        timestep_offset: 0 gives the network T t (published weights), -1 gives it T t - 1 (ours).

    PerflowError for a configuration that no student has, and for fewer steps than windows.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        set_alpha_to_one: bool = False,
        prediction_type: str = "ddim_eps",
        t_noise: float = 1,
        t_clean: float = 0,
        num_time_windows: int | None = None,
        windows: Sequence[float] | None = None,
        path: str = "straight",
        base_prediction: str = "epsilon",
        timestep_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        if set_alpha_to_one:
            raise PerflowError("set_alpha_to_one: only False; students are taught to end at ᾱ[0]")
        if (t_noise, t_clean) != (1, 0):
            raise PerflowError(f"t_noise, t_clean: only 1 and 0, not {t_noise} and {t_clean}")
        if prediction_type not in WINDOW_PREDICTIONS:
            raise PerflowError(
                f"prediction_type: no '{prediction_type}'; a student says {', '.join(WINDOW_PREDICTIONS)}; "
                "pass prediction_type, and what its base said as base_prediction"
            )
        # diffusers' own tables, so that a student meets exactly the schedule its base was loaded with
        self.alphas_cumprod = DDPMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
            trained_betas=trained_betas,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        ).alphas_cumprod
        self.flow = PiecewiseFlow(
            schedule=Schedule(self.alphas_cumprod),
            windows=_windows(windows, num_time_windows),
            path=path,
            prediction=prediction_type,
            base_prediction=base_prediction,
            timestep_offset=timestep_offset,
        )
        self.register_to_config(num_time_windows=len(self.flow.windows))
        self.set_timesteps(len(self.flow.windows))
        self.num_inference_steps: int | None = None  # not ready to step until the caller says how often

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def step_index(self) -> int | None:
        """Which step comes next; None before the first one."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Which step comes first, where a pipeline starts late (image to image)."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say which step comes first; pipelines that start late call it."""
        self._begin_index = begin_index

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay the steps, at least one a window, over the windows; ``timesteps`` [N] is fp32 on ``device``."""
        self._steps = self.flow.windows.steps(num_inference_steps)
        k = torch.tensor([step.k for step in self._steps])
        u = torch.tensor([step.u_from for step in self._steps], dtype=torch.float64)
        self.timesteps = self.flow.timestep(k, u).float().to(device)
        self.num_inference_steps = num_inference_steps
        self._step_index: int | None = None
        self._begin_index: int | None = None

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """Return ``sample``: the network takes latents as they are."""
        return sample

    def index_for_timestep(self, timestep: float | Tensor, schedule_timesteps: Tensor | None = None) -> int:
        """Which step starts at ``timestep``; PerflowError if none does."""
        known = self.timesteps if schedule_timesteps is None else schedule_timesteps
        found = (known == torch.as_tensor(timestep, dtype=known.dtype, device=known.device)).nonzero()
        if len(found) == 0:
            raise PerflowError(f"timestep {float(timestep):g} is none of {known.tolist()}")
        return int(found[0])

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take ``sample`` [B, ...] from ``timestep`` to the next, where the student says ``model_output``.

        Computed in fp32, returned in the sample's type. ``timestep`` is read at the first step only. Nothing is
        random here; ``generator`` is what ``DDPMPipeline`` gives every scheduler.
        """
        if self.num_inference_steps is None:
            raise PerflowError("the scheduler has no steps yet; call set_timesteps first")
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
        if self._step_index >= len(self._steps):
            raise PerflowError(f"all {len(self._steps)} steps are taken; call set_timesteps to start again")
        k, u_from, u_to = self._steps[self._step_index]
        said = self.flow.output(model_output, sample, k, u_from)
        moved = self.flow.step(sample, said, k, u_from, u_to).to(sample.dtype)
        self._step_index += 1
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noise clean latents [B, ...] to ``timesteps`` [B] (or one): where image to image and inpainting come in.

        At the edges of windows that is the base's own noising; inside a window of a straight path it is the chord
        between its edges, where the student was taught.
        """
        t = (timesteps.cpu().double() - self.config.timestep_offset) / len(self)
        scales = self.flow.scales(*self.flow.windows.place(t))
        dtype = working_dtype(original_samples)
        alpha, sigma = (per_item(scale, original_samples) for scale in scales)
        return (alpha * original_samples.to(dtype) + sigma * noise.to(dtype)).to(original_samples.dtype)


def _windows(edges: Sequence[float] | None, count: int | None) -> Windows:
    if edges is None:
        return Windows.equal(_OFFICIAL_WINDOWS if count is None else count)
    windows = Windows(tuple(edges))
    if count not in (None, len(windows)):
        raise PerflowError(f"windows: {list(edges)} are {len(windows)}, not num_time_windows={count}")
    return windows
