"""The consistency function: from any point of a trajectory to its end at t = 0, in one call.

Consistency models, arXiv 2303.01469; the scales are those of latent consistency models, arXiv 2310.04378.
"""

from __future__ import annotations

from torch import Tensor

from perflow.core.broadcast import per_item
from perflow.core.guidance import Condition
from perflow.core.learner import Learner

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
"""As diffusers' ``LCMScheduler`` has them, so that what is taught is what is sampled."""


def boundary(timestep: Tensor) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) at a network timestep in [0, T - 1]: 1 and 0 at timestep 0, where x is the answer."""
    scaled = TIMESTEP_SCALING * timestep
    total = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()


def jump(learner: Learner, x: Tensor, k: Tensor, u: Tensor, condition: Condition) -> Tensor:
    """f(x, t) = c_skip x + c_out x̂0 [B, ...] at position u [B] of window k [B]: the end, as the network sees it.

    The network says epsilon (2310.04378 eq. 9), x̂0 = (x - sigma epsilon) / alpha.
    """
    schedule, t = learner.flow.schedule, learner.flow.time(k, u)
    c_skip, c_out = boundary(learner.flow.timestep(k, u))
    on_x, on_epsilon = c_skip + c_out / schedule.alpha(t), c_out * schedule.sigma(t) / schedule.alpha(t)
    said = learner.says(x, k, u, condition)
    return per_item(on_x, x) * x - per_item(on_epsilon, x) * said
