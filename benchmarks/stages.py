"""Stages against their floor: the bare network calls they cannot do without.

    python -m benchmarks.stages [--device cpu] [--pairs 4096] [--steps 60] [--repeats 3]

The embedded base of params.yaml at its real size, trained for two steps (speed does not ask for quality). Stage and
floor take turns in one process; each is the best of the repeats. ``recipe`` compares a whole training on cached
pairs, the cache included, with a loop that solves each batch's windows online, as the official script does.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from perflow import artifacts, config, running
from perflow.core.chunks import MOST, chunked
from perflow.core.condition import take
from perflow.core.fields import base_field
from perflow.core.guidance import guided
from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator
from perflow.core.solvers import SOLVERS
from perflow.core.windows import Windows
from perflow.datasets import store
from perflow.images import png
from perflow.methods import make
from perflow.metrics.features import Extractor
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache

"""Items a forward pass, as in the stages; guidance doubles it."""
_STUDENT = "digits-perflow-sdxl-k4-s0"


class Home:
    """The default study cut to one student, in the working directory; its base is hardly trained.

    ``count`` and ``steps`` are what the default study itself uses.
    """

    def __init__(self, pairs: int, steps: int):
        params = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
        for part in ("words", "autoencoder", "network"):
            params["bases"]["digits"][part]["steps"] = 2
        self.count, self.steps = params["pairs"]["fixed"]["count"], params["training"]["steps"]
        params["pairs"]["fixed"]["count"] = pairs
        params["training"]["steps"] = steps
        student = params["students"]["perflow-sdxl"] | {"windows": 4, "seeds": 1}
        params["students"] = {"perflow-sdxl": student}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        self.study = config.load("params.yaml")
        config.write_specs(self.study)

    def spec(self, table: str, name: str) -> artifacts.Spec:
        """A row as its stage reads it."""
        return artifacts.read_spec(Path("results/specs") / table / f"{name}.json")


def timed(function: Callable[[], Any]) -> float:
    """Seconds of a call, the device's queue included."""
    begun = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def between(stage: Iterator) -> float:
    """Seconds from a stage's first report to its last: what comes before is loading."""
    next(stage)
    return timed(lambda: list(stage))


def row(name: str, floor: float, took: float) -> str:
    """One line: floor, time, and the share of the time that the floor is."""
    return f"| {name} | {floor:.2f} | {took:.2f} | {floor / took:.0%} |"


def main() -> None:
    """Make what is needed, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    device = running.prepare(given.device, 1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        measure(given, device)


def measure(given: argparse.Namespace, device: str) -> None:
    """The table."""
    from perflow.stages.base import base
    from perflow.stages.cache import cache
    from perflow.stages.encode import encode
    from perflow.stages.export import export
    from perflow.stages.fetch import fetch
    from perflow.stages.train import train

    home = Home(given.pairs, given.steps)
    dataset, teacher = Path("data/digits-base/manifest.json"), Path("results/bases/digits/model.json")
    pairs = Path("results/pairs/digits-fixed-k4/manifest.json")
    weights = Path("results/students") / _STUDENT / "ema.safetensors"
    latents = Path("results/latents/digits/manifest.json")
    list(fetch(home.spec("splits", "digits-base"), dataset, Path("results/state/fetch")))
    list(base(home.spec("bases", "digits"), dataset, teacher, Path("results/state/base"), device))
    list(encode(home.spec("latents", "digits"), teacher, dataset, latents, device))
    recipe, student = home.study.pairs["digits-fixed-k4"], home.study.students[_STUDENT]
    model = handle.load(teacher, device)
    network, shape = model.base.network(), model.base.latent_shape
    condition = model.base.embed(["a red handwritten seven on a blue background"])

    def forward(items: int) -> Callable[[], Any]:
        x, t = torch.randn(items, *shape, device=device), torch.full((items,), 500.0, device=device)
        c = take(condition, torch.zeros(items, dtype=torch.long))
        return torch.inference_mode()(lambda: network(x, t, c))

    def best(function: Callable[[], float]) -> float:
        return min(function() for _ in range(given.repeats))

    def call(items: int) -> float:
        """Seconds of one forward pass."""
        run = forward(items)
        return best(lambda: timed(lambda: [run() for _ in range(10)]) / 10)

    def caching() -> float:
        for path in pairs.parent.glob("*"):
            path.unlink()
        return between(cache(home.spec("pairs", "digits-fixed-k4"), teacher, latents, pairs, device))

    took_cache = best(caching)
    shards = 3  # of four: the first one ends with the stage's first report
    floor_cache = call(2 * MOST) * shards * (given.pairs // 4 // MOST) * recipe.window_steps

    state = iter(range(10**6))
    took_train = best(
        lambda: between(
            train(
                home.spec("students", _STUDENT), teacher, pairs, weights, Path(f"results/state/{next(state)}"), device
            )
        )
    )
    floor_train = best(lambda: timed(bare_training(model, condition, student.training, device, given.steps - 1)))
    export(
        home.spec("deltas", _STUDENT), Path("results/specs/students") / f"{_STUDENT}.json", weights, teacher,
        weights.with_name("delta.safetensors"),
    )  # fmt: skip
    drawer = Drawer.load(weights.with_name("model.json"), device, ["a red handwritten seven"] * 4, MOST, 0)
    trial = next(t for t in home.study.samples[_STUDENT].trials if t.steps == 4)
    noise = drawer.noise(0)
    took_draw = best(lambda: timed(lambda: drawer.draw(trial, noise)))
    floor_draw = call(MOST) * (len(noise) // MOST) * trial.steps

    online = best(lambda: timed(online_training(model, recipe, student, pairs, device, 5))) / 5
    cached = took_cache / (shards * given.pairs // 4) * home.count + took_train / (given.steps - 1) * home.steps

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, one thread, torch {torch.__version__}, Python {platform.python_version()}\n")
    print("| stage | floor, s | took, s | floor / took |\n|---|---:|---:|---:|")
    print(
        row(
            f"cache: {given.pairs // 4 * shards:,} guided pairs of {recipe.window_steps} steps", floor_cache, took_cache
        )
    )
    print(row(f"train: {given.steps - 1} steps of {student.training.batch}", floor_train, took_train))
    print(row(f"sample: {len(noise)} items, 4 steps", floor_draw, took_draw))
    print(row(*evaluation(dataset, best)))
    alone = handle.load(weights.with_name("model.json"), device)
    alone.base.chunk = 1  # as ``perflow sample --prompt`` draws
    single = Drawer.of(alone, device, ["a red handwritten seven"], 1, 0)
    one = single.noise(0)
    print(row("latency: 1 item, 4 steps", 4 * call(1), best(lambda: timed(lambda: single.draw(trial, one)))))
    whole = online * home.steps
    print(
        f"\nrecipe: {home.steps} steps of {student.training.batch}: {cached:.1f} s on {home.count:,} cached pairs, the"
        f" cache included; {whole:.1f} s online, as the official script: {whole / cached:.1f} times"
    )


def evaluation(dataset: Path, best: Callable[[Callable[[], float]], float]) -> tuple[str, float, float]:
    """Features of an archive of samples, against the feature network alone; seconds."""
    manifest = store.manifest(dataset)
    pixels = store.images(store.load(dataset, "base"))[:1024]
    network = Extractor(manifest["attributes"], manifest["resolution"]).eval()
    archive = Path("samples.zip")
    artifacts.write_archive(archive, {f"{i:05d}.png": png(image) for i, image in enumerate(pixels)})

    def observe() -> None:
        network.observe(np.stack([store.decode(data) for data in artifacts.read_archive(archive).values()]))

    floor = best(lambda: timed(lambda: network.observe(pixels)))
    return f"evaluate: features of {len(pixels):,} images", floor, best(lambda: timed(observe))


def bare_training(model: Any, condition: Any, optim: Any, device: str, steps: int) -> Callable[[], None]:
    """Forward, backward, clip, fused AdamW on one batch that never changes."""
    unet = copy.deepcopy(model.unet).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)
    network = model.base.network(unet)
    x = torch.randn(optim.batch, *model.base.latent_shape, device=device)
    t = torch.full((optim.batch,), 500.0, device=device)
    c = take(condition, torch.zeros(optim.batch, dtype=torch.long))

    def run() -> None:
        for _ in range(steps):
            network(x, t, c).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def online_training(model: Any, recipe: Any, row: Any, pairs: Path, device: str, steps: int) -> Callable[[], None]:
    """The same loss, each batch's windows solved by the teacher first and the empty prompt encoded each time."""
    cached = PairCache.load(pairs, device)
    flow = PiecewiseFlow(
        model.base.schedule, Windows(tuple(row.edges)), row.path, row.prediction, model.base.prediction
    )
    unet = copy.deepcopy(model.unet).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    learner, method = Learner(model.base.network(unet), flow), make(row.method)

    def run() -> None:
        for step in range(steps):
            rng = generator(0, "online", step)
            batch = cached.batch(torch.randint(len(cached), (row.training.batch,), generator=rng))
            null = model.base.embed([""])
            k = step % len(flow.windows)
            with torch.inference_mode():
                field = base_field(
                    guided(model.base.network(), batch.condition, null, recipe.guidance),
                    model.base.schedule, model.base.prediction,
                )  # fmt: skip
                times = flow.windows.time(k, torch.linspace(0, 1, recipe.window_steps + 1, dtype=torch.float64))
                end = chunked(
                    lambda x: SOLVERS[recipe.solver](field, x, times.tolist(), model.base.schedule),  # noqa: B023
                    row.training.batch, batch.start,
                )  # fmt: skip
            solved = batch._replace(end=end.clone(), k=torch.full_like(batch.k, k))
            method.loss(learner, learner, solved, rng).backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


if __name__ == "__main__":
    main()
