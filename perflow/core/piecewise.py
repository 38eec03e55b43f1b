"""A student's flow: what its network is asked, what it answers, and the step that follows.

Within window k, from x_s (start, noisy) to x_e (end), a path and a meaning of the output are linear:

    x_t = a(u) x_s + b(u) x_e          the path, a = 1, b = 0 at u = 0 and a = 0, b = 1 at u = 1
    y   = p x_s + q x_e                what the network should say, constant along the window

A sampling step knows x_t and y, solves the 2x2 system for (x_s, x_e), and evaluates the path further on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perflow.core.broadcast import per_item, working_dtype
from perflow.core.interpolation import Interpolation
from perflow.core.prediction import PREDICTIONS, to_epsilon
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.errors import PerflowError


class Ends(NamedTuple):
    """Scales at the start and the end of windows, and their (negative) length in time; fp64."""

    alpha_s: Tensor
    sigma_s: Tensor
    alpha_e: Tensor
    sigma_e: Tensor
    length: Tensor

    @property
    def det(self) -> Tensor:
        """alpha_s sigma_e - alpha_e sigma_s < 0, the sine of the angle from start to end."""
        return self.alpha_s * self.sigma_e - self.alpha_e * self.sigma_s


def _straight(ends: Ends, alpha: Tensor, sigma: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Linear in time (PeRFlow, arXiv 2405.07510, eq. 3)."""
    return 1 - u, u


def _diffusion(ends: Ends, alpha: Tensor, sigma: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The DDIM path (rectified diffusion, arXiv 2410.07303): one epsilon and one x0 from start to end.

    (a, b) solve [alpha_t; sigma_t] = a [alpha_s; sigma_s] + b [alpha_e; sigma_e] by Cramer's rule, which
    stays finite at alpha_s = 0.
    """
    return (
        (alpha * ends.sigma_e - ends.alpha_e * sigma) / ends.det,
        (ends.alpha_s * sigma - alpha * ends.sigma_s) / ends.det,
    )


def _velocity(ends: Ends) -> tuple[Tensor, Tensor]:
    """y = (x_e - x_s) / (t_e - t_s) (PeRFlow eq. 3)."""
    return -1 / ends.length, 1 / ends.length


def _ddim_eps(ends: Ends) -> tuple[Tensor, Tensor]:
    """x_e = λ x_s + η y, λ = sqrt(ᾱ_e/ᾱ_s), η = σ_e - λ σ_s (PeRFlow eq. 8): y is DDIM's epsilon.

    p = -λ/η and q = 1/η, both multiplied through by alpha_s: det = α_s η.
    """
    return -ends.alpha_e / ends.det, ends.alpha_s / ends.det


def _diff_eps(ends: Ends) -> tuple[Tensor, Tensor]:
    """x_s = γ x_e + sqrt(1 - γ²) y, γ = sqrt(ᾱ_s/ᾱ_e) (PeRFlow eq. 7): y is the noise from end to start."""
    gamma = ends.alpha_s / ends.alpha_e
    root = (1 - gamma**2).sqrt()
    return 1 / root, -gamma / root


def _remembered(function: Callable) -> Callable:
    """A coefficient of numbers is computed once: a sampler asks for the same few, and each is many tiny operations."""

    @wraps(function)
    def find(self: PiecewiseFlow, *position: Any) -> Any:
        if any(isinstance(value, Tensor) for value in position):
            return function(self, *position)
        key = (function, position)
        if key not in self._known:
            with torch.inference_mode(False):
                self._known[key] = function(self, *position)
        return self._known[key]

    return find


class Path(NamedTuple):
    """A path from start to end: where it is, and how it turns."""

    at: Callable[[Ends, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(ends, alpha, sigma, u) -> (a, b)"""
    turn: Callable[[Ends, Tensor], Tensor]
    """(ends, dφ/dt of the schedule) -> a db/dt - b da/dt"""


PATHS: dict[str, Path] = {
    "straight": Path(_straight, lambda ends, turn: 1 / ends.length),
    "diffusion": Path(
        _diffusion, lambda ends, turn: turn / (ends.alpha_s * ends.sigma_e - ends.alpha_e * ends.sigma_s)
    ),
}
WINDOW_PREDICTIONS: dict[str, Callable[[Ends], tuple[Tensor, Tensor]]] = {
    "ddim_eps": _ddim_eps,
    "diff_eps": _diff_eps,
    "velocity": _velocity,
}


@dataclass(frozen=True)
class PiecewiseFlow:
    """A student's flow over windows.

    ``path`` is straight or diffusion; ``prediction`` is what the student says (ddim_eps, diff_eps, velocity);
    ``base_prediction`` is what the network it was taken from says (epsilon, v, x0), which the two eps
    predictions keep, so that an untaught student is its base; a flow on the plane says velocity, as its
    students do. Below, k [B] and u [B] may also be single numbers; keep them on the CPU, where coefficients
    are computed in fp64. Results are fp32 (fp64 for fp64).

    PerflowError for unknown names, a window too short to hold two noise levels, or an eps prediction on a
    schedule of zero terminal SNR, where noise says nothing of the data.

    ``timestep_offset`` is what a network is told: -1 is what its base was trained with, T t - 1, or t itself of a flow
    on the plane; 0 is T t, as published weights were taught.
    """

    schedule: Schedule | Interpolation
    windows: Windows
    path: str = "straight"
    prediction: str = "ddim_eps"
    base_prediction: str = "epsilon"
    timestep_offset: int = -1

    def __post_init__(self) -> None:
        for field, known in (
            ("path", PATHS),
            ("prediction", WINDOW_PREDICTIONS),
            ("base_prediction", (*PREDICTIONS, "velocity")),
        ):
            if getattr(self, field) not in known:
                raise PerflowError(f"{field}: no '{getattr(self, field)}'; there are {', '.join(known)}")
        if self.timestep_offset not in (0, -1):
            raise PerflowError(f"timestep_offset: 0 (published weights) or -1 (ours), not {self.timestep_offset}")
        if self.base_prediction == "velocity" != self.prediction:
            raise PerflowError(f"prediction: a base that says velocity has no '{self.prediction}'; use velocity")
        stands = (self._ends.alpha_s >= self._ends.alpha_e) & (self._ends.sigma_s <= self._ends.sigma_e)
        for k, flat in enumerate(stands.tolist()):
            if flat:
                edges = self.windows.edges[k : k + 2]
                raise PerflowError(f"windows: {list(edges)} is less than a timestep, 1/{len(self.schedule)}")
        if self._ends.alpha_s[0] == 0 and self.prediction != "velocity":
            raise PerflowError(f"prediction: '{self.prediction}' cannot start at zero SNR; use velocity")

    def time(self, k: int | Tensor, u: float | Tensor) -> Tensor:
        """Continuous time of a position in a window; fp64 on CPU."""
        return self.windows.time(k, u)

    @_remembered
    def timestep(self, k: int | Tensor, u: float | Tensor) -> Tensor:
        """What the network is given there: 999, 749, …, or 1000, 750, … with an offset of 0; fp64 on CPU.

        Of a flow on the plane t itself.
        """
        return self.schedule.index(self.time(k, u)) + 1 + self.timestep_offset

    def interpolate(self, start: Tensor, end: Tensor, k: int | Tensor, u: float | Tensor) -> Tensor:
        """The point x_t [B, ...] of the path from ``start`` to ``end`` [B, ...] at position u."""
        return _combine(self._path(k, u), start, end)

    def scales(self, k: int | Tensor, u: float | Tensor) -> tuple[Tensor, Tensor]:
        """Scales of data and noise at position u where one x0 and one noise make both ends; fp64 on CPU.

        On the diffusion path they are the schedule's. On the straight one they are the schedule's at edges only:
        a student was taught on the chord between them, and inside a window it expects latents of that scale.
        """
        a, b = self._path(k, u)
        ends = Ends(*(value[torch.as_tensor(k, device="cpu")] for value in self._ends))
        return a * ends.alpha_s + b * ends.alpha_e, a * ends.sigma_s + b * ends.sigma_e

    def target(self, start: Tensor, end: Tensor, k: int | Tensor) -> Tensor:
        """What the student should say anywhere between ``start`` and ``end`` [B, ...] of window k."""
        return _combine(self._meaning(k), start, end)

    def output(self, raw: Tensor, x: Tensor, k: int | Tensor, u: float | Tensor) -> Tensor:
        """What the network's ``raw`` output [B, ...] says in the student's terms.

        For the eps predictions v and x0 become epsilon by the base's rule; a velocity is itself.
        """
        if self.prediction == "velocity":
            return raw.to(working_dtype(raw))
        return to_epsilon(self.base_prediction, raw, x, *self._mixed(k, u))

    def step(self, x: Tensor, y: Tensor, k: int | Tensor, u_from: float | Tensor, u_to: float | Tensor) -> Tensor:
        """Take x [B, ...] from ``u_from`` to ``u_to`` on the path where the student says ``y`` [B, ...]."""
        return _combine(self._way(k, u_from, u_to), x, y)

    def endpoint_weight(self, k: int | Tensor) -> Tensor:
        """1/q² with mean 1 over windows: makes a squared error of y one of the window's end; fp32 on CPU."""
        weight = self._meanings[1] ** -2
        return (weight / weight.mean())[torch.as_tensor(k, device="cpu")].float()

    def velocity_weight(self, k: int | Tensor, u: float | Tensor) -> Tensor:
        """(∂v/∂y)² with mean 1 over windows and positions: makes a squared error of y one of dx/dt; fp32 on CPU.

        On the straight path with an eps prediction it is (η/D)², D = (1-u) + λu, of a window's length (PeRFlow eq. 6).
        """
        return (self._velocity_gain(k, u) ** 2 / self._mean_velocity_gain).float()

    def _velocity_gain(self, k: int | Tensor, u: float | Tensor) -> Tensor:
        """What an error of y at a position does to the velocity dx/dt there; fp64 on CPU."""
        (a, b), (p, q) = self._path(k, u), self._meaning(k)
        ends = Ends(*(value[torch.as_tensor(k, device="cpu")] for value in self._ends))
        return PATHS[self.path].turn(ends, self.schedule.turn(self.time(k, u))) / (a * q - b * p)

    @cached_property
    def _mean_velocity_gain(self) -> Tensor:
        k = torch.arange(len(self.windows))[:, None]
        u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        return (self._velocity_gain(k, u) ** 2).mean()

    @_remembered
    def _mixed(self, k: int | Tensor, u: float | Tensor) -> tuple[Tensor, Tensor]:
        """Scales of data and noise of the schedule at a position; fp64 on CPU."""
        t = self.time(k, u)
        return self.schedule.alpha(t), self.schedule.sigma(t)

    @_remembered
    def _way(self, k: int | Tensor, u_from: float | Tensor, u_to: float | Tensor) -> tuple[Tensor, Tensor]:
        """What a step takes of x and of y; fp64 on CPU."""
        (a, b), (a_to, b_to), (p, q) = self._path(k, u_from), self._path(k, u_to), self._meaning(k)
        det = a * q - b * p
        return (a_to * q - b_to * p) / det, (b_to * a - a_to * b) / det

    def _path(self, k: int | Tensor, u: float | Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) at a position; fp64 on CPU."""
        u = torch.as_tensor(u, dtype=torch.float64, device="cpu")
        k = torch.as_tensor(k, device="cpu")
        t = self.time(k, u)
        ends = Ends(*(value[k] for value in self._ends))
        return PATHS[self.path].at(ends, self.schedule.alpha(t), self.schedule.sigma(t), u)

    def _meaning(self, k: int | Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) of a window; fp64 on CPU."""
        k = torch.as_tensor(k, device="cpu")
        return self._meanings[0][k], self._meanings[1][k]

    @cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def _meanings(self) -> tuple[Tensor, Tensor]:
        return WINDOW_PREDICTIONS[self.prediction](self._ends)

    @cached_property
    def _ends(self) -> Ends:
        k = torch.arange(len(self.windows))
        start, end = self.windows.start(k), self.windows.end(k)
        scales = (f(t) for t in (start, end) for f in (self.schedule.alpha, self.schedule.sigma))
        return Ends(*scales, end - start)


def _combine(coefficients: tuple[Tensor, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """c0 first + c1 second, one pair of coefficients for all items or one an item."""
    dtype = working_dtype(first, second)
    first, second = first.to(dtype), second.to(dtype)
    return per_item(coefficients[0], first) * first + per_item(coefficients[1], second) * second
