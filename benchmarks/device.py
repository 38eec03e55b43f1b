"""A network of Stable Diffusion 1.5's shape on this device: speed and memory of teacher evaluations and training.

    python -m benchmarks.device [--device cpu] [--width 320] [--batch 16] [--precision bf16] [--checkpointing]
        [--compile] [--channels-last] [--windows 4]

Weights are random: speed does not ask for quality. One line; ``python -m benchmarks`` prints the table. The most memory
is the device's, on a CPU the process's. Waits are what ``torch.cuda.set_sync_debug_mode`` warns of in the steps of the
training loop between two looks.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from perflow import running
from perflow.config.rows import Optim
from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import step_generator
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.loop import Loop
from perflow.methods import make
from perflow.pairs import PairBatch

HEADER = (
    "| weights in | checkpointing | compiled | channels last | teacher evaluations a second | training items a second"
    " | kept a pass, MiB | most memory, MiB | waits in the steps |\n|---|---|---|---|---:|---:|---:|---:|---:|"
)
_TOKENS, _CONDITION = 77, 768


def unet(width: int, side: int) -> Any:
    """Stable Diffusion 1.5's architecture with ``width`` channels on the first level (320 is the real one)."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side, in_channels=4, out_channels=4, cross_attention_dim=_CONDITION, attention_head_dim=8,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width), norm_num_groups=min(32, width),
    )  # fmt: skip


def seconds(function: Callable[[], Any], repeats: int, device: str) -> float:
    """Of one call, after a first one that is not counted."""
    function()
    _wait(device)
    begun = time.perf_counter()
    for _ in range(repeats):
        function()
    _wait(device)
    return (time.perf_counter() - begun) / repeats


def _process_peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--width", type=int, default=320, help="channels of the first level, a multiple of 8 [320]")
    parser.add_argument("--side", type=int, default=64, help="of a latent [64, an image of 512 pixels]")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=["no", "bf16"], default="bf16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true", help="the layout of the network's weights")
    parser.add_argument("--windows", type=int, default=4, help="of the student that is trained [4]")
    given = parser.parse_args()
    device = running.prepare(given.device, 1)
    layout = torch.channels_last if given.channels_last else torch.contiguous_format
    network = unet(given.width, given.side).to(device, memory_format=layout)
    if given.compile:
        network.compile()
    shape = (given.batch, 4, given.side, given.side)
    x, condition = torch.randn(shape, device=device), torch.randn(given.batch, _TOKENS, _CONDITION, device=device)
    t = torch.full((given.batch,), 500.0, device=device)

    @torch.inference_mode()
    def evaluate() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=given.precision == "bf16"):
            network(x, t, condition)

    evaluations = given.batch / seconds(evaluate, max(2, given.steps // 4), device)
    trained = training(
        network, PairBatch(x, x.flip(0), torch.arange(given.batch) % given.windows, condition), given, device
    )
    chosen = (given.checkpointing, given.compile, given.channels_last)
    said = " | ".join("yes" if each else "no" for each in chosen)
    weights = "fp32" if given.precision == "no" else "bf16"
    print(f"| {weights} | {said} | {evaluations:.1f} | {' | '.join(trained)} |")


def training(network: Any, pairs: PairBatch, given: argparse.Namespace, device: str) -> list[str]:
    """Items a second in the training loop, MiB kept a pass, most MiB on the device, and waits in the steps."""
    if given.checkpointing:
        network.enable_gradient_checkpointing()
    flow = PiecewiseFlow(Schedule.scaled_linear(), Windows.equal(given.windows))
    method = make({"name": "piecewise_reflow"})

    def loss(model: Any, step: int, share: slice) -> torch.Tensor:
        learner = Learner(lambda x, t, c: model(x, t, c, return_dict=False)[0], flow)
        part = PairBatch(*(value[share] for value in pairs))
        return method.loss(learner, learner, part, step_generator(given.batch, share, 0, "benchmark", step))

    optim = Optim(steps=given.steps + 2, batch=given.batch, lr=1e-5, precision=given.precision)
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(network, optim, Path(folder), "benchmark", device, save_seconds=1e9)
        moments: list[float] = []
        waits = 0

        def watched(model: Any, step: int, share: slice) -> torch.Tensor:
            if step in (2, given.steps + 1):
                _wait(device)
                moments.append(time.perf_counter())
            return loss(model, step, share)

        loop.look_seconds = 1e9
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            steps = loop.run_shared(watched, given.batch)
            loop._save = lambda step: None  # four copies of the weights on the disk are not what is measured
            list(steps)
            waits = sum("synchroniz" in str(warning.message) for warning in said)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    rate = given.batch * (given.steps - 1) / (moments[1] - moments[0])
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _process_peak()
    return [
        f"{rate:.1f}",
        f"{loop.activation_bytes / 2**20:,.0f}",
        f"{peak:,.0f}",
        str(waits) if device == "cuda" else "–",
    ]


if __name__ == "__main__":
    main()
