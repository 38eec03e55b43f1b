"""The one training loop: it yields, others listen; it resumes to the same bytes.

A step is a function of its number alone, so a loop that was killed at any point goes on from its last
state and ends with the same weights. The state lives in a folder that is no output of any rule.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from perflow import artifacts
from perflow.errors import PerflowError

if TYPE_CHECKING:
    from perflow.config.rows import Optim

_POINTS = 200
"""Points of a training curve, and how often progress, numerics and state are looked at."""


class Step(NamedTuple):
    """Progress of a stage: ``step`` of ``total`` in a ``phase``; training adds its curve."""

    phase: str
    step: int
    total: int
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None


def learning_rate(optim: Optim, step: int) -> float:
    """Rate of step 0, 1, …: rises from lr/warmup over ``warmup`` steps, then constant or cosine to 0."""
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    if optim.decay == "constant":
        return optim.lr
    return optim.lr * 0.5 * (1 + math.cos(math.pi * (step - optim.warmup) / max(1, optim.steps - optim.warmup)))


def ema_decay(optim: Optim, step: int) -> float:
    """Decay of the moving average after step 0, 1, …: (1+s)/(10+s) until it reaches ``ema``."""
    return min(optim.ema, (1 + step) / (10 + step))


class Loop:
    """AdamW on ``model`` (fp32) with clipping and an fp32 moving average ``ema`` (a copy of the model)."""

    def __init__(self, model: nn.Module, optim: Optim, state: Path, phase: str = "train",
                 device: str = "cpu", save_seconds: float = 20.0):  # fmt: skip
        self.optim, self.phase, self.device, self.save_seconds = optim, phase, device, save_seconds
        self.path = state / f"{phase}.safetensors"
        self.accelerator = Accelerator(mixed_precision=optim.precision, cpu=device == "cpu")
        self.model = model.to(device).train()
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=True
        )
        self.curve: list[dict[str, float]] = []
        self.done = 0
        self._restore()

    def run(self, loss: Callable[[nn.Module, int], Tensor]) -> Iterator[Step]:
        """Train; ``loss(model, step)`` is a scalar and a function of the step's number.

        Yields about 200 times; raises PerflowError when the loss or gradient is no longer finite,
        with the last sound state kept.
        """
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        every = max(1, self.optim.steps // _POINTS)
        saved = time.monotonic()
        losses, norms = [], []
        for step in range(self.done, self.optim.steps):
            rate = learning_rate(self.optim, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with self.accelerator.autocast():
                value = loss(model, step)
            self.accelerator.backward(value)
            norms.append(self.accelerator.clip_grad_norm_(self.model.parameters(), self.optim.clip))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._average(ema_decay(self.optim, step))
            losses.append(value.detach())
            if (step + 1) % every and step + 1 < self.optim.steps:
                continue
            point = {
                "phase": self.phase, "step": step + 1, "loss": float(torch.stack(losses).mean()), "lr": rate,
                "grad_norm": float(torch.stack(norms).mean()),
            }  # fmt: skip
            losses, norms = [], []
            self._check(step + 1, loss=point["loss"], **{"gradient norm": point["grad_norm"]})
            self.curve.append(point)
            if time.monotonic() - saved > self.save_seconds or step + 1 == self.optim.steps:
                self._save(step + 1)
                saved = time.monotonic()
            yield Step(self.phase, step + 1, self.optim.steps, point["loss"], rate, point["grad_norm"])

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        average, current = list(self.ema.parameters()), list(self.model.parameters())
        torch._foreach_lerp_(average, current, 1 - decay)

    def _check(self, step: int, **numbers: float) -> None:
        """PerflowError if one of ``numbers`` by ``step`` is not finite."""
        if all(map(math.isfinite, numbers.values())):
            return
        kept = f"the state of step {self.done} is kept in {self.path}" if self.done else "no state was saved before"
        found = ", ".join(f"{name} {value}" for name, value in numbers.items())
        raise PerflowError(f"{self.phase}: {found} by step {step} of {self.optim.steps}; {kept}; lower lr")

    def _save(self, step: int) -> None:
        """Keep the state; PerflowError, with the last one left, if a weight or its average is not finite."""
        weights = [value.detach().abs().max() for value in (*self.model.parameters(), *self.ema.parameters())]
        self._check(step, **{"largest weight": float(torch.stack(weights).max())})
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
        sha256 = artifacts.tensor_hash(tensors)
        artifacts.write_tensors(self.path, tensors, {"step": step, "curve": self.curve, "sha256": sha256})
        self.done = step

    def _restore(self) -> None:
        if not self.path.is_file():
            return
        tensors, header = artifacts.read_tensors(self.path)
        artifacts.has(header, self.path, "the state of a training", step=int, curve=list)
        self.done, self.curve = header["step"], header["curve"]

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.ema.load_state_dict(part("ema."))
        first, second = part("exp_avg."), part("exp_avg_sq.")
        for name, parameter in self.model.named_parameters():
            if name not in first:
                continue  # a parameter that no loss reached
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.done), device=self.device),
                "exp_avg": first[name].to(self.device),
                "exp_avg_sq": second[name].to(self.device),
            }
