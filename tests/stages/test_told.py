"""Students that are told their guidance, through the real stages: one evaluation a step at any of a range."""

import shutil

import diffusers
import pytest
import torch

import perflow
from perflow import artifacts, delta
from perflow.core.condition import take
from perflow.core.fields import base_field
from perflow.core.rng import generator, normal
from perflow.core.solvers import SOLVERS
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.integrations.merge import merge
from perflow.latents import Latents
from perflow.models import handle
from perflow.models.stable_diffusion import StableDiffusion
from perflow.pairs import PairCache
from perflow.stages import train as stage
from perflow.stages.cache import cache
from perflow.stages.draw import draw
from tests.stages.conftest import cost, drawing, finish, grown, teach

LCM, DISTILLED = "eps-lcm-k20-s0", "eps-guided-k2-s0"
LEAST, MOST = 2.0, 8.0


@pytest.fixture
def told(tiny, tiny_params, write_params):
    tiny_params["pairs"] |= {
        "skips": {"starts": "data", "guidance": [LEAST, MOST], "solver": "ddim", "steps": 20, "count": 120},
        "along": {"starts": "trajectory", "guidance": [LEAST, MOST], "solver": "ddim", "steps": 4, "count": 128},
    }
    common = {"path": "diffusion", "prediction": "ddim_eps", "bases": ["eps"], "guidance_embedding": 32}
    tiny_params["students"] |= {
        "lcm": common | {
            "label": "LCM", "pairs": "skips", "windows": 20, "method": "consistency",
            "trials": {"solvers": ["lcm"], "steps": [1, 4], "teachers": [2.5, 7.0]},
        },
        "guided": common | {
            "label": "distilled", "pairs": "along", "windows": 2, "method": "distill",
            "trials": {"solvers": ["window", "ddim"], "steps": [2], "guidance": 3.0},
        },
    }  # fmt: skip
    return grown(tiny, tiny_params, write_params)


@pytest.fixture
def lcm(told):
    teach(told, LCM)
    return told


def test_every_item_has_a_guidance_of_its_own_whatever_the_shards(told, tmp_path):
    """Drawn last, so that all else of an item is as with one guidance; the end is the solver's at that guidance."""
    row = told.study.pairs["eps-along-k2"]
    made = []
    for name, size in (("one", 1024), ("several", 24)):
        manifest = tmp_path / name / "manifest.json"
        arguments = told.spec("pairs", "eps-along-k2"), told.handle("eps"), told.latents("eps"), manifest
        assert cost(cache(*arguments, shard_items=size))["teacher_evaluations"] == 64 * 4 * 2
        made.append(PairCache.load(manifest))
    one, several = made
    assert one.manifest["guidance"] == [LEAST, MOST]
    first, second = one.guidance.chunk(2)
    assert torch.equal(first, second), "the windows of a trajectory have one guidance"
    assert len(set(first.tolist())) == 64
    assert LEAST <= first.min() < first.max() <= MOST
    assert first.mean().item() == pytest.approx((LEAST + MOST) / 2, abs=4 * (MOST - LEAST) / (12 * 64) ** 0.5)
    at = lambda cache, k: torch.nonzero(cache.k == k).flatten()  # noqa: E731
    for k in (0, 1):
        for column in ("guidance", "start", "end"):
            torch.testing.assert_close(*(getattr(each, column)[at(each, k)] for each in made), rtol=1e-4, atol=1e-4)
    assert torch.equal(several.guidance[at(several, 0)], first)

    model = handle.load(told.handle("eps"))
    data = Latents.of(told.latents("eps"), "eps", model.base_sha256, "cpu")
    for item in (0, 37):
        noise = normal(model.base.latent_shape, 0, "pair-noise", [item])
        image = torch.randint(len(data.latents), (1,), generator=generator(0, "pair", item))
        start = model.base.schedule.alpha(1.0) * data.latents[image] + model.base.schedule.sigma(1.0) * noise
        torch.testing.assert_close(one.start[torch.tensor([item])], start.float())
        condition = take(data.conditions, one.caption[item : item + 1].long())
        field = base_field(
            model.says(condition, take(data.conditions, torch.tensor([0])), first[item].item()),
            model.base.schedule, model.base.prediction,
        )  # fmt: skip
        times = Windows(tuple(row.edges)).time(0, torch.linspace(0, 1, 3, dtype=torch.float64)).tolist()
        with torch.inference_mode():
            end = SOLVERS["ddim"](field, start.float(), times, model.base.schedule)
        torch.testing.assert_close(one.end[torch.tensor([item])], end, rtol=1e-4, atol=1e-4)


def test_interrupted_it_ends_with_the_same_bytes_and_its_matrix_has_learnt(lcm, tmp_path, monkeypatch):
    from perflow.loop import Loop

    monkeypatch.setattr(stage, "Loop", lambda *a: Loop(*a, save_seconds=0))
    row, out = lcm.study.students[LCM], tmp_path / "s/ema.safetensors"
    arguments = lcm.spec("students", LCM), lcm.handle("eps"), lcm.pairs(row.pairs), out, tmp_path / "state"
    for step in stage.train(*arguments):
        if step.step == 9:
            break
    finish(stage.train(*arguments))
    weights = lcm.handle(LCM).with_name("ema.safetensors")
    assert out.read_bytes() == weights.read_bytes()
    assert artifacts.read_tensors(weights)[0][delta.ADDED].abs().max() > 0


def _pipeline(study):
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        study.handle("eps").with_name("pipeline"), safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _by_diffusers(pipe, manifest, steps, guidance):
    """Latents of the same items, and how many the network was asked about."""
    asked, count = [], len(manifest["prompts"]) * manifest["per_prompt"]
    hook = pipe.unet.register_forward_hook(lambda _, inputs, output: asked.append(len(inputs[0])))
    found = pipe(
        prompt=[prompt["text"] for prompt in manifest["prompts"] for _ in range(manifest["per_prompt"])],
        latents=normal((4, 8, 8), 0, "noise-0", range(count)),
        generator=[generator(0, "renoise-0", i) for i in range(count)], num_inference_steps=steps,
        guidance_scale=guidance, output_type="latent",
    ).images  # fmt: skip
    hook.remove()
    return found, sum(asked) / count


def test_a_pipeline_tells_it_its_guidance_scale_and_draws_the_same(lcm, tmp_path):
    out = tmp_path / "m/manifest.json"
    finish(drawing(lcm, LCM, "eps", out))
    manifest, drawn = artifacts.read_json(out), {}
    assert {name: entry["nfe"] for name, entry in manifest["trials"].items()} == {
        "lcm-1-w2.5": 1, "lcm-4-w2.5": 4, "lcm-1-w7": 1, "lcm-4-w7": 4,
    }  # fmt: skip
    pipe = _pipeline(lcm)
    perflow.apply_delta(pipe, lcm.handle(LCM).with_name("delta.safetensors"))
    for name, entry in manifest["trials"].items():
        drawn[name] = artifacts.read_tensors(out.with_name(f"{name}.safetensors"))[0]["latents"]
        pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=20)
        found, calls = _by_diffusers(pipe, manifest, entry["steps"], entry["guidance"])
        torch.testing.assert_close(found, drawn[name], rtol=1e-4, atol=1e-4)
        assert calls == entry["nfe"]
    assert not torch.allclose(drawn["lcm-4-w2.5"], drawn["lcm-4-w7"], atol=1e-3)


def test_on_windows_and_with_any_solver_it_is_the_same_seam(told, tmp_path):
    teach(told, DISTILLED)
    out = tmp_path / "m/manifest.json"
    finish(drawing(told, DISTILLED, "eps", out))
    manifest = artifacts.read_json(out)
    assert {entry["nfe"] for entry in manifest["trials"].values()} == {2}
    latents = artifacts.read_tensors(out.with_name("window-2.safetensors"))[0]["latents"]
    path = told.handle(DISTILLED).with_name("delta.safetensors")
    pipe = perflow.apply_delta(_pipeline(told), path)
    found, calls = _by_diffusers(pipe, manifest, 2, 3.0)
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)
    assert calls == 2

    merged = tmp_path / "merged"
    merge(path, told.handle("eps").with_name("pipeline"), merged)
    again = diffusers.StableDiffusionPipeline.from_pretrained(merged, safety_checker=None, trust_remote_code=True)
    again.set_progress_bar_config(disable=True)
    assert again.unet.config.time_cond_proj_dim == 32
    torch.testing.assert_close(_by_diffusers(again, manifest, 2, 3.0)[0], latents, rtol=1e-4, atol=1e-4)
    with pytest.raises(PerflowError, match="give a folder"):
        merge(path, told.handle("eps").with_name("pipeline"), tmp_path / "one.safetensors")
    with pytest.raises(PerflowError, match="is told its guidance .*as a student's may be"):
        StableDiffusion(merged)


def test_what_has_no_place_for_it_says_so(lcm, tmp_path):
    from perflow.integrations.settings import apply_low_rank

    path = lcm.handle(LCM).with_name("delta.safetensors")
    change, header = artifacts.read_tensors(path)
    pipe = _pipeline(lcm)
    with pytest.raises(PerflowError, match="told its guidance, which no LoRA holds"):
        apply_low_rank(pipe, path, 4)
    silent = {key: value for key, value in header.items() if key != "told"}
    with pytest.raises(PerflowError, match="the base has no place for that"):
        perflow.apply_delta(pipe, (change, silent))
    assert pipe.unet.config.time_cond_proj_dim is None

    for options, said in (({"guidance": 9.0}, "from 2 to 8"), ({"guidance": 1.0}, "from 2 to 8")):
        with pytest.raises(PerflowError, match=said):
            draw(lcm.handle(LCM), "a red digit", tmp_path / "a.png", None, None, options["guidance"], 0, 1)
    with pytest.raises(PerflowError, match="--negative: not heard"):
        draw(lcm.handle(LCM), "a red digit", tmp_path / "a.png", None, None, None, 0, 1, negative="a blue digit")
    pictures = []
    for guidance in (None, 2.5, 7.0):  # its own is its first trial's
        draw(lcm.handle(LCM), "a red digit", tmp_path / "a.png", None, None, guidance, 0, 1)
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_pairs_of_another_kind_are_refused(lcm, tmp_path):
    fixed = lcm.pairs("eps-fixed-k2")
    assert PairCache.load(fixed).guidance is None
    assert "guidance" not in artifacts.read_tensors(fixed.with_name("shard-00000.safetensors"))[0]
    manifest = artifacts.read_json(lcm.pairs("eps-skips-k20"))
    spec = lcm.spec("students", LCM)
    shutil.copytree(lcm.pairs("eps-skips-k20").parent, tmp_path / "pairs")
    path = tmp_path / "pairs/manifest.json"
    artifacts.write_json(path, manifest | {"guidance": 4.5})
    with pytest.raises(PerflowError, match="each pair has one guidance, and the student is told it"):
        finish(stage.train(spec, lcm.handle("eps"), path, tmp_path / "o/ema.safetensors", tmp_path / "state"))
    artifacts.write_json(fixed, artifacts.read_json(fixed) | {"guidance": [2.0, 8.0]})
    with pytest.raises(PerflowError, match="do not fit together"):
        PairCache.load(fixed)
