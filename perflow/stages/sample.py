"""sample: all trials of one model, from per-item noise; and the course of its own trajectories."""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from perflow import artifacts, trials
from perflow.artifacts import Spec
from perflow.config.resolve import reference
from perflow.config.rows import Samples, Trial
from perflow.core import BEST, RK45
from perflow.core.condition import take
from perflow.core.fields import Denoiser, base_field, student_field, velocity_field, way
from perflow.core.grid import each_window
from perflow.core.solvers import SOLVERS
from perflow.core.straightness import coordinates, curvature, endpoint_error
from perflow.core.velocity import rk45
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.images import png, scatter
from perflow.loop import Step, counted
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache


def sample(
    spec: Spec, model: Path, teacher: Path, prompts: Path, out: Path, state: Path, device: str = "cpu",
    extractor: Path | None = None, captions: Path | None = None, pairs: Path | None = None,
) -> Generator[Step, None, dict[str, int]]:  # fmt: skip
    """Write an archive of PNGs, the latents and a grid for each trial beside ``out``, and last ``out``; of points
    their paths and a picture.

    Item i belongs to prompt i // per_prompt; its noise is a function of (seed, stream, i), so trials of
    stream 0 have common noise. For a student on windows, ``flow.safetensors`` holds the straightness and
    end-point error of each item in each window, on the student's own path. Where a row searches for spacings,
    ``extractor`` is the feature network that tells candidates apart; the manifest holds what was found.

    Items are drawn and written block by block. What was done in the last twenty seconds or so is lost when this is
    stopped: the rest is in ``state``, and the same command goes on from there to the same bytes.
    """
    row = Samples.model_validate(spec.row)
    loaded = handle.load(model, device)
    chosen, negatives = trials.read_prompts(prompts)
    if not loaded.base.conditional:  # nothing is asked for: items in numbered groups
        chosen = [{"text": f"no. {number + 1}"} for number in range(len(chosen))]
    texts = [prompt["text"] for prompt in chosen]
    drawer = Drawer.of(loaded, device, texts, row.sampling.per_prompt, spec.seed, negatives)
    search = _search(spec, row, texts, model, teacher, captions, extractor, device)
    made_of = {"model": loaded.sha256, "device": device, "chunk": loaded.base.chunk}
    kept, made = trials.Kept(state, out, made_of), {}
    for trial in row.trials:
        if (entry := kept.entry(trial.name)) is None:
            searched = {}
            if search and trial.spacing == BEST:
                found = kept.found(trial.name, lambda trial=trial: search.best(trial))
                trial, searched = trial.model_copy(update={"spacing": found["times"]}), {"searched": found}
            entry = yield from _write_trial(out.parent, trial, drawer, kept)
            kept.finish(trial.name, entry := entry | searched)
        made[trial.name] = entry
    flow = None
    if row.windowed:
        flow = _write_flow(out.parent, row, drawer, handle.load(teacher, device), spec)
        if row.pairs is not None:
            flow |= {"starts": _write_starts(out.parent, row, drawer, pairs, spec)}
        yield Step("flow", 1, 1)
    artifacts.write_json(out, {
        "spec": spec.hash, "model": row.model, "model_sha256": drawer.model.sha256, "base": row.base,
        "prompts": chosen, "negatives": negatives, "per_prompt": row.sampling.per_prompt, "trials": made,
        "flow": flow,
    })  # fmt: skip
    found = [entry["searched"]["evaluations"] for entry in made.values() if "searched" in entry]
    return {"search_evaluations": sum(found)} if found else {}


def _search(
    spec: Spec, row: Samples, shown: list[str], model: Path, teacher: Path, captions: Path | None,
    extractor: Path | None, device: str,
) -> Any:  # fmt: skip
    """What finds the spacings that the row leaves open, on captions of the base's own split that are not shown."""
    if row.extractor is None:
        return None
    if extractor is None or captions is None:
        absent = "an --extractor" if extractor is None else "--captions"
        raise PerflowError(f"{spec.name}: searches for spacings, for which it needs {absent}; none given")
    recipe = row.sampling.search
    prompts = development_prompts(captions, recipe.prompts, set(shown))
    references = {trial.teacher: reference(row.sampling.teacher, trial.teacher) for trial in row.trials}
    search = resolve_name("perflow.search:Search")  # by name: rows without it do not depend on its code
    return search.load(recipe, prompts, model, teacher, references, (row.extractor, extractor), device, spec.seed)


def development_prompts(dataset: Path, count: int, without: Container[str]) -> list[str]:
    """The first ``count`` different captions of the base's split that are none of ``without``."""
    found = list(dict.fromkeys(text for text in store.load(dataset, "base")["text"] if text not in without))
    if len(found) < count:
        place = "sampling.search.prompts"
        raise PerflowError(f"{place}: {count} captions asked for, {dataset} has {len(found)} that are not shown")
    return found[:count]


def _write_trial(
    folder: Path, trial: Trial, drawer: Drawer, kept: trials.Kept
) -> Generator[Step, None, dict[str, Any]]:
    if not hasattr(drawer.model.base, "decode"):
        entry = _write_points(folder, trial, drawer)
        yield Step(trial.name, drawer.items, drawer.items)
        return entry

    def draw(items: range) -> dict[str, torch.Tensor]:
        noise = drawer.noise(trial.stream, items)
        if trial.solver == RK45:
            paths, calls = drawer.trace(trial, noise, items.start)
            return {"latents": paths[:, -1].contiguous(), "evaluations": calls}
        return {"latents": drawer.draw(trial, noise, items.start)}

    def blocks() -> Iterator[trials.Block]:
        for tensors in kept.drawn(trial.model_dump(), drawer.blocks(), draw):
            trials.check_finite(drawer.model.name, trial.name, tensors["latents"])
            latents = tensors["latents"].to(drawer.device)
            yield trials.Block(latents, drawer.model.base.decode(latents), tensors.get("evaluations"))

    written = trials.write(folder, trial.model_dump(), drawer.model.sha256, blocks(), drawer.items, drawer.device)
    return (yield from counted(trial.name, written, drawer.items))


def _write_points(folder: Path, trial: Trial, drawer: Drawer) -> dict[str, Any]:
    """Points instead of images: their paths, and a picture of where they end."""
    paths, calls = drawer.trace(trial, drawer.noise(trial.stream))
    trials.check_finite(drawer.model.name, trial.name, paths)
    latents, grid = folder / f"{trial.name}.safetensors", folder / f"{trial.name}.png"
    tensors = {"latents": paths[:, -1].contiguous(), "paths": paths, "evaluations": calls}
    artifacts.write_tensors(latents, tensors, {"model": drawer.model.sha256, **trial.model_dump()})
    with artifacts.atomic(grid) as temporary:
        temporary.write_bytes(png(scatter(paths[:, -1].cpu().numpy())))
    entries = {kind: {"file": path.name, "sha256": artifacts.sha256_file(path)}
               for kind, path in (("latents", latents), ("grid", grid))}  # fmt: skip
    return trial.model_dump(exclude={"name"}) | trials.cost(calls) | entries


@torch.inference_mode()
def _write_flow(folder: Path, row: Samples, drawer: Drawer, teacher: handle.Model, spec: Spec) -> dict[str, Any]:
    """Per item and window: straightness of the student and of the teacher from the student's own states, and
    how far one step of the student ends from the teacher's end."""
    recipe, flow = row.sampling.flow, drawer.model.flow
    first = next(trial for trial in row.trials if trial.scheduler is None)
    guidance, shown = first.guidance, row.sampling.teacher.guidance if first.teacher is None else first.teacher
    every = max(1, drawer.items // recipe.items)
    chosen = torch.arange(0, drawer.items, every)[: recipe.items]
    conditions, null = take(drawer.conditions, chosen), drawer.away(chosen)
    scales = each_window(guidance, len(flow.windows))
    teach = _exact(teacher, teacher.says(conditions, null, shown), recipe.solver)
    positions = [j / recipe.substeps for j in range(recipe.substeps + 1)]
    per = -(-recipe.solver_steps // (len(flow.windows) * recipe.substeps))
    x, columns = drawer.noise(0)[chosen], {"straightness": [], "teacher_straightness": [], "endpoint_error": []}
    for k in range(len(flow.windows)):
        own, exact = [x], [x]
        says = student_field(drawer.model.says(conditions, null, scales[k]), flow)
        for u_from, u_to in zip(positions, positions[1:], strict=False):
            own.append(flow.step(own[-1], says(own[-1], k, u_from), k, u_from, u_to))
            times = flow.time(k, torch.linspace(u_from, u_to, per + 1, dtype=torch.float64)).tolist()
            exact.append(teach(exact[-1], times))
        end = flow.step(x, says(x, k, 0.0), k, 0.0, 1.0)
        columns["straightness"].append(curvature(*coordinates(own, flow, k, positions)))
        columns["teacher_straightness"].append(curvature(*coordinates(exact, flow, k, positions)))
        columns["endpoint_error"].append(endpoint_error(end, exact[-1], x))
        x = end
    path = folder / "flow.safetensors"
    tensors = {name: torch.stack(values, dim=1).float() for name, values in columns.items()}
    artifacts.write_tensors(path, tensors | {"items": chosen}, {"spec": spec.hash})
    return {"file": path.name, "sha256": artifacts.sha256_file(path), "edges": list(flow.windows.edges),
            "path": flow.path, "guidance": guidance}  # fmt: skip


def _exact(
    teacher: handle.Model, network: Denoiser, solver: str
) -> Callable[[torch.Tensor, list[float]], torch.Tensor]:
    """The teacher's solution: (x [B, ...], falling times) -> x at the last of them."""
    base = teacher.base
    if teacher.flow is not None:  # solved between the two ends by steps of its own
        velocity = velocity_field(network, teacher.flow, 0)
        return lambda x, times: rk45(velocity, x, times[0], times[-1]).end
    field = base_field(network, base.schedule, base.prediction)
    return lambda x, times: SOLVERS[solver](field, x, times, base.schedule)


@torch.inference_mode()
def _write_starts(folder: Path, row: Samples, drawer: Drawer, pairs: Path | None, spec: Spec) -> dict[str, Any]:
    """As many starts of each window as the student learnt from, and its own states there: ``taught`` and ``own``,
    [n, K, *latent]. Its own are drawn from new noise, one step a window, for captions of the first window's pairs."""
    if pairs is None:
        raise PerflowError(f"{spec.name}: compares starts, for which it needs its --pairs; none given")
    cache = PairCache.load(pairs, drawer.device, reads=drawer.model.base.condition)
    flow, count = drawer.model.flow, row.sampling.flow.starts
    windows, taught = range(len(flow.windows)), []
    for k in windows:
        there = torch.nonzero(cache.k == k).flatten()
        if len(there) < count:
            raise PerflowError(f"sampling.flow.starts: {count}, but window {k} has {len(there)} pairs in {pairs}")
        chosen = there[torch.arange(count, device=there.device) * (len(there) // count)]
        taught.append(cache.batch(chosen))
    guidance = next(trial.guidance for trial in row.trials if trial.scheduler is None)
    noise = drawer.model.noise(spec.seed, "starts", range(count)).to(drawer.device)
    own = way(
        drawer.model.says, flow, noise, taught[0].condition, drawer.away(torch.tensor([0])),
        each_window(guidance, len(windows)), [[step] for step in flow.windows.steps(len(windows))][:-1],
        drawer.model.base.chunk,
    )  # fmt: skip
    path = folder / "starts.safetensors"
    starts = [batch.start for batch in taught]
    tensors = {"own": torch.stack(own, dim=1), "taught": torch.stack(starts, dim=1)}
    artifacts.write_tensors(path, tensors, {"spec": spec.hash})
    return {"file": path.name, "sha256": artifacts.sha256_file(path)}
