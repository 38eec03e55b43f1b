"""Stages against their floor: the bare network calls they cannot do without.

    python -m benchmarks.stages [--device cpu] [--pairs 4096] [--steps 60] [--repeats 5] [--only train]

The embedded base of params.yaml at its real size, trained for two steps (speed does not ask for quality). Floor and
stage take turns in one process, in training step by step, and the share of each turn is one measurement: a machine that
is slower for a while is slower for both. ``recipe`` compares a whole training on cached pairs, the cache included, with
a loop that solves each batch's windows online, as the official script does.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from perflow.metrics.looking import Viewer
from perflow.metrics.squeezenet import SIDE, SqueezeNet
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache

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


def step_by_step(stage: Iterator, floor: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of ``floor`` and of a stage, after its first report: one call of the one, one report of the other."""
    next(stage)
    bare = took = 0.0
    done = object()
    while True:
        begun = time.perf_counter()
        ended = next(stage, done) is done
        took += time.perf_counter() - begun
        if ended:
            return bare, took
        bare += timed(floor)


def between(stage: Iterator) -> float:
    """Seconds from a stage's first report to its last: what comes before is loading."""
    next(stage)
    return timed(lambda: list(stage))


class Turns:
    """Floors and stages, as they took turns; one line of the table each. Beside ``only`` a stage runs once."""

    def __init__(self, repeats: int, only: str):
        self.repeats, self.only, self.rows = repeats, only, []

    def compare(self, name: str, floor: Callable[[], float], stage: Callable[[], float]) -> float:
        """Seconds of ``stage`` in the median, after as many turns of both as there are repeats."""
        if not name.startswith(self.only):
            return stage()
        return self.note(name, [(floor(), stage()) for _ in range(self.repeats)])

    def note(self, name: str, turns: list[tuple[float, float]]) -> float:
        """As ``compare``, of the seconds of floor and stage in each turn."""
        shares = sorted(bare / took for bare, took in turns)
        bare, took = (statistics.median(column) for column in zip(*turns, strict=True))
        ends = f"{shares[0]:.0%} to {shares[-1]:.0%}"
        self.rows.append(f"| {name} | {bare:.3f} | {took:.3f} | {statistics.median(shares):.0%} | {ends} |")
        return took


def main() -> None:
    """Make what is needed, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", choices=["", "cache", "train", "sample", "latency", "evaluate"])
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

    def calls(items: int, count: int) -> Callable[[], float]:
        """Seconds of ``count`` forward passes of ``items``, after one that is not counted."""
        x, t = torch.randn(items, *shape, device=device), torch.full((items,), 500.0, device=device)
        c = take(condition, torch.zeros(items, dtype=torch.long))

        @torch.inference_mode()
        def run(times: int) -> None:
            for _ in range(times):
                network(x, t, c)

        run(1)
        return lambda: timed(lambda: run(count))

    def caching() -> float:
        for path in pairs.parent.glob("*"):
            path.unlink()
        return between(cache(home.spec("pairs", "digits-fixed-k4"), teacher, latents, pairs, device))

    turns, state = Turns(given.repeats, given.only), iter(range(10**6))
    made = given.pairs // 4 * 2  # two shards of four: the first report comes when the second one is solved
    took_cache = turns.compare(
        f"cache: {made:,} guided pairs of {recipe.window_steps} steps",
        calls(2 * MOST, made // MOST * recipe.window_steps),
        caching,
    )

    def training() -> Iterator:
        folder = Path(f"results/state/{next(state)}")
        return train(home.spec("students", _STUDENT), teacher, pairs, weights, folder, device)

    bare = bare_training(model, condition, student.training, device)
    repeats = given.repeats if "train".startswith(given.only) else 1
    took_train = turns.note(
        f"train: {given.steps - 1} steps of {student.training.batch}",
        [step_by_step(training(), bare) for _ in range(repeats)],
    )
    export(
        home.spec("deltas", _STUDENT), Path("results/specs/students") / f"{_STUDENT}.json", weights, teacher,
        weights.with_name("delta.safetensors"),
    )  # fmt: skip
    drawer = Drawer.load(weights.with_name("model.json"), device, ["a red handwritten seven"] * 4, MOST, 0)
    trial = next(t for t in home.study.samples[_STUDENT].trials if t.steps == 4)
    noise = drawer.noise(0)
    turns.compare(
        f"sample: {len(noise)} items, 4 steps",
        calls(MOST, len(noise) // MOST * trial.steps),
        lambda: timed(lambda: drawer.draw(trial, noise)),
    )
    alone = handle.load(weights.with_name("model.json"), device)
    alone.base.chunk = 1  # as ``perflow sample --prompt`` draws
    single = Drawer.of(alone, device, ["a red handwritten seven"], 1, 0)
    one, often = single.noise(0), 10
    turns.compare(
        f"latency: 1 item, 4 steps, {often} times",
        calls(1, 4 * often),
        lambda: timed(lambda: [single.draw(trial, one) for _ in range(often)]),
    )
    evaluation(dataset, turns, device)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, one thread, torch {torch.__version__}, Python {platform.python_version()}\n")
    print("| stage | floor, s | took, s | floor / took, median | of each turn |\n|---|---:|---:|---:|---:|")
    print("\n".join(turns.rows))
    if given.only:
        return
    slow = online_training(model, recipe, student, pairs, device, 3)
    online = statistics.median(timed(slow) / 3 for _ in range(max(3, given.repeats)))
    cached = took_cache / made * home.count + took_train / (given.steps - 1) * home.steps
    whole = online * home.steps
    print(
        f"\nrecipe: {home.steps} steps of {student.training.batch}: {cached:.1f} s on {home.count:,} cached pairs, the"
        f" cache included; {whole:.1f} s online, as the official script: {whole / cached:.1f} times"
    )


def evaluation(dataset: Path, turns: Turns, device: str) -> None:
    """Features of an archive of samples, against bare calls of two feature networks: the study's own, and SqueezeNet
    with random weights on images enlarged to 64 pixels."""
    manifest = store.manifest(dataset)
    pixels = store.images(store.load(dataset, "base"))[:1024]
    own = Extractor(manifest["attributes"], manifest["resolution"]).eval()
    large = SqueezeNet().eval()
    wide = pixels[:128].repeat(4, axis=1).repeat(4, axis=2)
    for name, network, images, bare, rows, side in (
        ("the study's own", own, pixels, own, 128, manifest["resolution"]),
        ("SqueezeNet", large, wide, large.features, 32, SIDE),
    ):
        archive = Path("samples.zip")
        artifacts.write_archive(archive, {f"{i:05d}.png": png(image) for i, image in enumerate(images)})
        x = torch.randn(rows, 3, side, side).to(device, memory_format=torch.channels_last)  # as pixels come

        @torch.inference_mode()
        def forward(bare: Any = bare, x: torch.Tensor = x, count: int = len(images) // rows) -> None:
            for _ in range(count):
                bare(x)

        viewer = Viewer(network.to(device), device)

        def observe(viewer: Viewer = viewer, archive: Path = archive) -> None:
            viewer.see(artifacts.Archive(archive))

        turns.compare(
            f"evaluate: {len(images):,} images of {images.shape[1]} pixels, {name}",
            lambda forward=forward: timed(forward),
            lambda observe=observe: timed(observe),
        )


def bare_training(model: Any, condition: Any, optim: Any, device: str) -> Callable[[], None]:
    """A step: forward, backward, clip, fused AdamW on one batch that never changes."""
    unet = copy.deepcopy(model.unet).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)
    network = model.base.network(unet)
    x = torch.randn(optim.batch, *model.base.latent_shape, device=device)
    t = torch.full((optim.batch,), 500.0, device=device)
    c = take(condition, torch.zeros(optim.batch, dtype=torch.long))

    def run() -> None:
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
