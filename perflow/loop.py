"""The one training loop: it yields, others listen; it resumes to the same bytes.

A step is a function of its number alone, so a loop that was killed at any point goes on from its last
state and ends with the same weights. The state lives in a folder that is no output of any rule.

Several processes (accelerate's, one a device) may share a loop: each takes its slice of a step's batch, and the
gradients' mean is that of the whole. Every process keeps the moving average; the main one alone writes.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from perflow import artifacts
from perflow.errors import PerflowError

if TYPE_CHECKING:
    from perflow.config.rows import Optim

Result = TypeVar("Result")

_COUNTED = 128
"""Items between two reports of what only counts them, at least."""
_POINTS = 200
"""Points of a training curve."""
_LOOK_SECONDS = 1.0
"""How often progress, numerics and state are looked at: to look is to wait for the device."""


class Step(NamedTuple):
    """Progress of a stage: ``step`` of ``total`` in a ``phase``; training adds its curve."""

    phase: str
    step: int
    total: int
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None


def counted(phase: str, counts: Generator[int, None, Result], total: int) -> Generator[Step, None, Result]:
    """``counts`` of ``total`` as progress in ``phase``, at about every hundredth and the last; returns what they do."""
    every = max(1, total // 100, _COUNTED)
    while True:
        try:
            count = next(counts)
        except StopIteration as end:
            return end.value
        if count % every == 0 or count == total:
            yield Step(phase, count, total)


def team(device: str) -> tuple[int, int]:
    """Which of how many processes of one training this is, from 0; they meet here for the first time."""
    state = PartialState(cpu=device == "cpu")
    return state.process_index, state.num_processes


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
        self.main = self.accelerator.is_main_process
        self.look_seconds = 0.0 if device == "cpu" else _LOOK_SECONDS
        self.model = model.to(device).train()
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        # found once: to walk a network of many small modules at every step is a per cent of a small one's step
        self._weights, self._averages = list(self.model.parameters()), list(self.ema.parameters())
        self.optimizer = torch.optim.AdamW(self._weights, lr=optim.lr, weight_decay=optim.weight_decay, fused=True)
        self.curve: list[dict[str, float]] = []
        self.activation_bytes = 0
        """What one pass keeps for its backward pass, of the first step of a run; parameters are not counted."""
        self.done = 0
        self._restore()

    def run(self, loss: Callable[[nn.Module, int], Tensor]) -> Iterator[Step]:
        """Train; ``loss(model, step)`` is a scalar and a function of the step's number.

        Yields about 200 times, on a GPU several at once; raises PerflowError when the loss or gradient is no longer
        finite, with the last sound state kept.
        """
        yield from self._run(lambda model, step, _: loss(model, step), [slice(None)])

    def run_shared(
        self, loss: Callable[[nn.Module, int, slice], Tensor], batch: int, accumulate: int = 1
    ) -> Iterator[Step]:
        """As ``run``, where ``loss(model, step, share)`` is the mean over that slice of the step's ``batch`` items.

        The batch is cut into equal shares, ``accumulate`` for each process, one after the other. PerflowError if that
        is impossible, or if the processes have not the same state.
        """
        processes, own = self.accelerator.num_processes, self.accelerator.process_index
        size, rest = divmod(batch, processes * accumulate)
        if rest:
            raise PerflowError(
                f"{self.phase}: a batch of {batch} cannot be cut into {processes} (processes) x {accumulate}"
                f" (accumulate) equal shares; their product must divide {batch}"
            )
        if processes > 1:
            done = self.accelerator.gather(torch.tensor([self.done], device=self.device)).tolist()
            if len(set(done)) > 1:
                raise PerflowError(
                    f"{self.path}: the processes resume at {done}; the folder must be one that all share"
                )
        first = own * accumulate
        shares = [slice((first + i) * size, (first + i + 1) * size) for i in range(accumulate)]
        yield from self._run(loss, shares)

    def _run(self, loss: Callable[[nn.Module, int, slice], Tensor], shares: Sequence[slice]) -> Iterator[Step]:
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        every = max(1, self.optim.steps // _POINTS)
        looked = saved = time.monotonic()
        wait = self.save_seconds
        losses, norms, seen = [], [], []
        for step in range(self.done, self.optim.steps):
            rate = learning_rate(self.optim, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses.append(self._backward(loss, model, step, shares))
            norms.append(nn.utils.clip_grad_norm_(self._weights, self.optim.clip))  # there are no scaled gradients
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._average(ema_decay(self.optim, step))
            last = step + 1 == self.optim.steps
            if (step + 1) % every and not last:
                continue
            mean = self.accelerator.reduce(torch.stack(losses).mean(), "mean")
            seen.append((step + 1, rate, mean, torch.stack(norms).mean()))
            losses, norms = [], []
            now = time.monotonic()
            if now - looked < self.look_seconds and not last:
                continue
            looked = now
            points = self._points(seen)
            seen = []
            if now - saved > wait or last:
                self._save(step + 1)
                saved = time.monotonic()
                wait = self.save_seconds * max(1.0, saved - now)  # of a large network a state takes long to write
            for point in points:
                yield Step(self.phase, point["step"], self.optim.steps, point["loss"], point["lr"], point["grad_norm"])

    def _backward(
        self, loss: Callable[[nn.Module, int, slice], Tensor], model: nn.Module, step: int, shares: Sequence[slice]
    ) -> Tensor:
        """The mean loss of the shares; its gradient is added to the model's, over all processes with the last one."""
        total = torch.zeros((), device=self.device)
        for share in shares:
            waits = share is not shares[-1]
            with self.accelerator.no_sync(model) if waits else contextlib.nullcontext():
                with (
                    self.accelerator.autocast(),
                    contextlib.nullcontext() if self.activation_bytes else self._counted(),
                ):
                    value = loss(model, step, share)
                    if len(shares) > 1:
                        value = value / len(shares)
                self.accelerator.backward(value)
            total = total + value.detach()
        return total

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the bytes that autograd keeps of what is computed in the block."""
        known = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        found: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # itself would refer to what saves it, and never be freed

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield
        self.activation_bytes = sum(found.values())

    def _points(self, seen: list[tuple[int, float, Tensor, Tensor]]) -> list[dict[str, float]]:
        """What was ``seen`` (step, rate, loss, gradient norm) as points of the curve; PerflowError as of ``_check``."""
        numbers = torch.stack([number for _, _, *both in seen for number in both]).tolist()
        points = []
        for (step, rate, *_), loss, norm in zip(seen, numbers[::2], numbers[1::2], strict=True):
            self._check(step, loss=loss, **{"gradient norm": norm})
            points.append({"phase": self.phase, "step": step, "loss": loss, "lr": rate, "grad_norm": norm})
        self.curve += points
        return points

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    def _check(self, step: int, **numbers: float) -> None:
        """PerflowError if one of ``numbers`` by ``step`` is not finite."""
        if all(map(math.isfinite, numbers.values())):
            return
        kept = f"the state of step {self.done} is kept in {self.path}" if self.done else "no state was saved before"
        found = ", ".join(f"{name} {value}" for name, value in numbers.items())
        raise PerflowError(f"{self.phase}: {found} by step {step} of {self.optim.steps}; {kept}; lower lr")

    def _save(self, step: int) -> None:
        """Keep the state; PerflowError, with the last one left, if a weight or its average is not finite."""
        if not self.main:
            return
        weights = [value.detach().abs().max() for value in (*self._weights, *self._averages)]
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
