"""Samples belong to items, and a diffusers pipeline with the delta draws the same ones."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import perflow
from perflow import artifacts, trials
from perflow.config.rows import Trial
from perflow.core.fields import follow, velocity_field
from perflow.core.guidance import guided
from perflow.core.velocity import rk45
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics import trial as metrics
from perflow.metrics.looking import Looks, Viewer
from perflow.metrics.observed import Drawn, measured
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.stages.draw import draw
from perflow.stages.prompts import prompts
from perflow.stages.sample import sample
from tests.stages.conftest import drawing, finish, grown, teach

STUDENT = "eps-perflow-k2-s0"


@pytest.fixture
def drawn(tiny):
    out = tiny.path("results/samples", STUDENT, "manifest.json")
    finish(drawing(tiny, STUDENT, "eps", out))
    return out


def images(manifest, trial):
    entry = artifacts.read_json(manifest)["trials"][trial]
    files = artifacts.read_archive(manifest.with_name(entry["images"]["file"]))
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files.values()])


@pytest.mark.parametrize(("model", "trial", "scheduler"), [
    (STUDENT, "window-2", None),
    ("eps", "ddim-2", "DDIMScheduler"),
])  # fmt: skip
def test_the_pipeline_draws_what_the_stage_draws(tiny, model, trial, scheduler, tmp_path):
    """Same noise, same prompts: latents to 1e-4, pixels to one grey level."""
    import diffusers

    out = tmp_path / "m/manifest.json"
    finish(drawing(tiny, model, "eps", out))
    manifest = artifacts.read_json(out)
    entry = manifest["trials"][trial]
    latents = artifacts.read_tensors(out.with_name(entry["latents"]["file"]))[0]["latents"]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        tiny.handle("eps").with_name("pipeline"), safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(
            pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False
        )
    else:
        perflow.apply_delta(pipe, tiny.handle(model).with_name("delta.safetensors"))
    prompts = [prompt["text"] for prompt in manifest["prompts"] for _ in range(manifest["per_prompt"])]
    noise = perflow_noise(tiny, len(prompts))
    common = dict(prompt=prompts, latents=noise, num_inference_steps=2, guidance_scale=entry["guidance"])
    torch.testing.assert_close(pipe(**common, output_type="latent").images, latents, rtol=1e-4, atol=1e-4)
    pixels = np.stack([np.asarray(image) for image in pipe(**common).images])
    assert np.abs(pixels.astype(int) - images(out, trial).astype(int)).max() <= 1


def perflow_noise(tiny, count):
    from perflow.core.rng import normal

    return normal(handle.load(tiny.handle("eps")).base.latent_shape, 0, "noise-0", range(count))


def test_the_same_command_gives_the_same_bytes(tiny, drawn, tmp_path):
    again = tmp_path / "again/manifest.json"
    finish(drawing(tiny, STUDENT, "eps", again))
    assert {p.name: p.read_bytes() for p in drawn.parent.iterdir()} == {
        p.name: p.read_bytes() for p in again.parent.iterdir()
    }


def test_flow_is_measured_for_every_item_and_window(drawn):
    tensors, _ = artifacts.read_tensors(drawn.with_name("flow.safetensors"))
    for name in ("straightness", "teacher_straightness", "endpoint_error"):
        assert tensors[name].shape == (8, 2)
        assert bool((tensors[name] > 0).all())


def test_guidance_by_window_acts_in_its_window_and_a_constant_one_is_the_number(tiny):
    drawer = Drawer.load(tiny.handle(STUDENT), "cpu", ["a red digit", "a blue digit"], 16, 0)
    noise = drawer.noise(0)

    def drawn(guidance, steps=4):
        return drawer.draw(Trial(name="t", solver="window", steps=steps, guidance=guidance, nfe=1), noise)

    assert torch.equal(drawn([3.0, 3.0]), drawn(3.0))
    first, second, both = drawn([3.0, 1.0]), drawn([1.0, 3.0]), drawn([3.0, 3.0])
    assert not torch.allclose(first, both)
    assert not torch.allclose(second, both)
    flow, base = drawer.model.flow, drawer.model.base
    x = noise
    for k, scale in enumerate((3.0, 1.0)):
        network = guided(base.network(drawer.model.unet), drawer.conditions, drawer.null, scale)
        x = follow(network, flow, x, [step for step in flow.windows.steps(4) if step.k == k])
    torch.testing.assert_close(first, x.detach(), rtol=1e-4, atol=1e-5)


def test_more_prompts_than_there_are_captions_are_refused(tiny, tmp_path):
    spec = tiny.spec("prompts", "digits")
    with pytest.raises(PerflowError, match=r"sampling.prompts: 5,000 asked for, the split 'reference' .* has \d+ diff"):
        prompts(spec._replace(row=spec.row | {"count": 5000}), tmp_path / "m.json")


@pytest.mark.parametrize("model", [STUDENT, "eps"])
def test_one_prompt_becomes_a_png_by_the_models_own_defaults(tiny, model, tmp_path):
    draw(tiny.handle(model), "a red handwritten seven on a blue background", tmp_path / "x.png", None, None, None, 0, 3)
    assert Image.open(tmp_path / "x.png").size == (3 * 64, 64)


def test_windows_cannot_be_crossed_in_fewer_steps(tiny, tmp_path):
    with pytest.raises(PerflowError, match="1 are too few"):
        draw(tiny.handle(STUDENT), "a red digit", tmp_path / "x.png", None, 1, None, 0, 1)
    with pytest.raises(PerflowError, match="has no windows; its solver must be one of ddim"):
        draw(tiny.handle("eps"), "a red digit", tmp_path / "x.png", "window", 4, None, 0, 1)


def test_a_solver_that_decides_as_it_goes_says_what_each_image_cost(tiny, tiny_params, write_params, tmp_path):
    """RK45 of a velocity student, window by window; the manifest has the mean, and each item its own."""
    tiny_params["students"]["distilled"] |= {
        "path": "straight", "trials": {"solvers": ["rk45", "window"], "steps": [2], "guidance": 1.0},
    }  # fmt: skip
    study = grown(tiny, tiny_params, write_params)
    name, out = "v-distilled-k2-s0", tmp_path / "m/manifest.json"
    teach(study, name)
    finish(drawing(study, name, "v", out))
    entry = artifacts.read_json(out)["trials"]["rk45"]
    tensors = artifacts.read_tensors(out.with_name("rk45.safetensors"))[0]
    calls = tensors["evaluations"].double()
    assert (entry["steps"], entry["nfe"]) == (0, round(float(calls.mean())))
    assert calls.min() >= 2 * 7, "two windows, of one step of seven calls each at least"
    assert artifacts.read_json(out)["trials"]["window-2"]["nfe"] == 2

    model = handle.load(study.handle(name))
    drawer = Drawer.of(model, "cpu", [p["text"] for p in artifacts.read_json(out)["prompts"]], 4, 0)
    x, edges = drawer.noise(0)[:8], model.flow.windows.edges
    condition = {key: value[:8] for key, value in drawer.conditions.items()}
    with torch.inference_mode():
        for k in (0, 1):
            field = velocity_field(model.says(condition, None, 1.0), model.flow, k)
            x = rk45(field, x, edges[k], edges[k + 1]).end
    torch.testing.assert_close(tensors["latents"][:8], x, rtol=0, atol=0.1)  # its steps hang on last bits

    drawn = Drawn.read(out)
    groups = np.arange(64) % 4
    found = {}
    for trial in ("rk45", "window-2"):
        own = drawn.observe(trial, Viewer(Brightness()), groups)
        found[trial] = measured(metrics.Trial(own, own, own, own, {}), ["evaluations"], 0.95)
    assert found["rk45"]["evaluations"]["value"] == pytest.approx(float(calls.mean()))
    assert [found["window-2"]["evaluations"][bound] for bound in ("value", "low", "high")] == [2, 2, 2]

    for solver in (None, "window"):  # its own is rk45, the first of its trials
        draw(study.handle(name), "a red digit", tmp_path / f"{solver}.png", solver, None, None, 0, 1)
    assert (tmp_path / "None.png").read_bytes() != (tmp_path / "window.png").read_bytes()
    with pytest.raises(PerflowError, match="--steps 4: rk45 takes as many as each image needs"):
        draw(study.handle(name), "a red digit", tmp_path / "x.png", None, 4, None, 0, 1)
    with pytest.raises(PerflowError, match=f"rk45 reads dx/dt, which {STUDENT} does not say"):
        draw(study.handle(STUDENT), "a red digit", tmp_path / "x.png", "rk45", None, None, 0, 1)


class Brightness(Looks):
    """Images by the means of their colours."""

    def look(self, prepared):
        return prepared.mean((1, 2)), {}


class Stopped(Exception):
    pass


def test_a_row_that_was_stopped_goes_on_to_the_same_bytes(tiny, drawn, tmp_path, monkeypatch):
    """Wherever it was stopped: in a trial, whose first blocks are then not drawn again, and after whole ones."""
    monkeypatch.setattr(trials.Kept.__init__, "__defaults__", (-1.0,))  # what is drawn is kept at once
    asked: list[tuple[str, int]] = []
    limit = [0]

    class Counted(Drawer):
        def blocks(self):
            return [range(first, min(first + 3, self.items)) for first in range(0, self.items, 3)]

        def draw(self, trial, noise, first=0):
            if len(asked) >= limit[0]:
                raise Stopped
            asked.append((trial.name, first))
            return super().draw(trial, noise, first)

    monkeypatch.setattr("perflow.stages.sample.Drawer", Counted)
    reference = Drawn.read(drawn)
    sizes = {name: len(artifacts.Archive(drawn.with_name(f"{name}.zip"))) for name in reference.trials}
    every = [(name, first) for name, count in sizes.items() for first in range(0, count, 3)]
    out, state = tmp_path / "again" / "manifest.json", tmp_path / "state"
    out.parent.mkdir()
    state.mkdir()
    given = (tiny.spec("samples", STUDENT), tiny.handle(STUDENT), tiny.handle("eps"), tiny.prompts, out, state)
    for stop in (1, 2, len(every) - 1):
        limit[0] = stop
        with pytest.raises(Stopped):
            finish(sample(*given))
        assert asked == every[:stop]  # each block once, over all runs
    limit[0] = len(every)
    finish(sample(*given))
    assert asked == every
    once = tmp_path / "once" / "manifest.json"
    once.parent.mkdir()
    asked.clear()
    finish(sample(*given[:4], once, tmp_path / "empty"))
    for path in sorted(once.parent.iterdir()):
        assert path.read_bytes() == (out.parent / path.name).read_bytes(), path.name


class Work:
    """A row's trials of ten items each, on a clock of its own: a second an item, and sixty to find something first."""

    def __init__(self, state, monkeypatch, device="cpu"):
        self.now, self.drawn, self.searched = 0.0, [], []
        monkeypatch.setattr(trials.time, "monotonic", lambda: self.now)
        self.state, self.device = state, device

    def run(self, names, until=float("inf")):
        """All trials' latents, or as far as the clock lets it come."""
        self.now, self.drawn, self.searched, made = 0.0, [], [], {}
        kept = trials.Kept(self.state, self.state / "manifest.json", {"device": self.device})

        def draw(name, items):
            self.now += len(items)
            if self.now > until:
                raise Stopped
            self.drawn.append((name, items.start))
            return {"latents": torch.arange(items.start, items.stop, dtype=torch.float32)}

        def find(name):
            self.now += 60
            self.searched.append(name)
            return {"times": [1.0, 0.5]}

        for name in names:
            if (entry := kept.entry(name)) is None:
                if name.startswith("best"):
                    assert kept.found(name, lambda name=name: find(name)) == {"times": [1.0, 0.5]}
                blocks = [range(first, first + 2) for first in range(0, 10, 2)]
                parts = kept.drawn({"name": name}, blocks, lambda items, name=name: draw(name, items))
                latents = torch.cat([part["latents"] for part in parts])
                assert latents.tolist() == list(range(10))
                path = self.state / f"{name}.bin"
                path.write_bytes(latents.numpy().tobytes())
                entry = {"steps": 4, "images": {"file": path.name, "sha256": artifacts.sha256_file(path)}}
                kept.finish(name, entry)
            made[name] = entry
        return made


NAMES = ["a", "best", "window-4", "window-4-w7.5", "b", "c", "d"]


def test_little_more_than_twenty_seconds_are_lost_wherever_a_row_is_stopped(tmp_path, monkeypatch):
    wanted = Work(tmp_path, monkeypatch).run(NAMES)
    for until in range(1, 130, 3):
        state = tmp_path / str(until)
        state.mkdir()
        work = Work(state, monkeypatch)
        with pytest.raises(Stopped):
            work.run(NAMES, until)
        assert work.run(NAMES) == wanted
        reached = max(until, 70) if until >= 10 else 0  # the search is kept when it is over
        assert work.now <= 60 + 10 * len(NAMES) - reached + 20 + 4
        assert work.searched == ([] if until >= 10 else ["best"])


def test_what_is_drawn_is_kept_no_longer_than_it_is_needed_and_quick_work_not_at_all(tmp_path, monkeypatch):
    work = Work(tmp_path, monkeypatch)
    work.run(["a"])
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".bin"]
    work.run([f"t{i}" for i in range(20)])
    assert len(list(tmp_path.glob("drawn-*"))) <= 2
    assert len(artifacts.read_json(tmp_path / "trials.json")["entries"]) >= 18


@pytest.mark.parametrize("harm", ["broken", "altered", "another device", "changed file", "no trials"])
def test_what_was_kept_of_something_else_or_is_broken_is_made_again(tmp_path, monkeypatch, harm):
    names = ["a", "b", "c", "d"]
    work = Work(tmp_path, monkeypatch)
    with pytest.raises(Stopped):
        work.run(names, until=37)
    listed = list(artifacts.read_json(tmp_path / "trials.json")["entries"])
    (first,) = tmp_path.glob("drawn-*")
    assert listed == ["a", "b"]
    if harm == "broken":
        first.write_bytes(first.read_bytes()[:-3])
    if harm == "altered":
        first.write_bytes(first.read_bytes()[:-1] + b"\x7f")
    if harm == "changed file":
        (tmp_path / "a.bin").write_bytes(b"changed")
    if harm == "no trials":
        (tmp_path / "trials.json").write_text('{"entries": []}')
    if harm == "another device":
        work.device = "cuda"
    work.run(names)
    again = {name for name, _ in work.drawn}
    assert ("a" in again) == (harm in ("another device", "changed file", "no trials"))
    assert ((first.stem.split("-")[2], 0) in work.drawn) == (harm in ("broken", "altered", "another device"))


def test_images_are_written_in_order_by_however_many_threads(tmp_path, monkeypatch):
    shown = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    latents = torch.arange(70.0)

    def blocks():
        for first in range(0, 70, 32):
            yield trials.Block(latents[first : first + 32], shown[first : first + 32])

    found = []
    for threads in (0, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        monkeypatch.setattr(trials, "helpers", lambda device, threads=threads: threads)
        written = trials.write(folder, {"name": "t", "steps": 1}, "a" * 64, blocks(), 70, "cpu")
        assert list(written) == list(range(1, 71))
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    archive = artifacts.Archive(tmp_path / "0" / "t.zip")
    assert archive.names == [f"{number:05d}.png" for number in range(70)]
    assert all((store.decode(data) == image).all() for data, image in zip(archive, shown, strict=True))
    kept, _ = artifacts.read_tensors(tmp_path / "0" / "t.safetensors")
    assert torch.equal(kept["latents"], latents)
