"""A consistency student through the real stages: it resumes exactly, and is sampled by items, not by batches."""

import diffusers
import pytest
import torch

import perflow
from perflow import artifacts
from perflow.core.rng import generator, normal
from perflow.models import handle
from perflow.models.parts import Parts
from perflow.stages import train as stage
from perflow.stages.draw import draw
from tests.stages.conftest import cost, drawing, finish, grown, teach

STUDENT = "eps-lcm-k20-s0"


@pytest.fixture
def lcm(tiny, tiny_params, write_params):
    tiny_params["pairs"]["skips"] = {"starts": "data", "guidance": 4.5, "solver": "ddim", "steps": 20, "count": 120}
    tiny_params["students"]["lcm"] = {
        "label": "LCM", "pairs": "skips", "windows": 20, "path": "diffusion", "prediction": "ddim_eps",
        "method": "consistency", "bases": ["eps"], "trials": {"solvers": ["lcm"], "steps": [1, 4], "guidance": 1.0},
    }  # fmt: skip
    study = grown(tiny, tiny_params, write_params)
    teach(study, STUDENT)
    return study


def drawn(lcm, out):
    finish(drawing(lcm, STUDENT, "eps", out))
    return {
        name: artifacts.read_tensors(out.with_name(f"{name}.safetensors"))[0]["latents"] for name in ("lcm-1", "lcm-4")
    }


def test_interrupted_with_its_target_it_ends_with_the_same_bytes(lcm, tmp_path, monkeypatch):
    from perflow.loop import Loop

    monkeypatch.setattr(stage, "Loop", lambda *a: Loop(*a, save_seconds=0))
    row = lcm.study.students[STUDENT]
    out = tmp_path / "s/ema.safetensors"
    arguments = lcm.spec("students", STUDENT), lcm.handle("eps"), lcm.pairs(row.pairs), out, tmp_path / "state"
    for step in stage.train(*arguments):
        if step.step == 9:
            break
    assert cost(stage.train(*arguments))["student_passes"] == 2 * row.training.steps * row.training.batch
    assert out.read_bytes() == lcm.handle(STUDENT).with_name("ema.safetensors").read_bytes()


def test_noise_added_on_the_way_belongs_to_the_item(lcm, tmp_path, monkeypatch):
    whole = drawn(lcm, tmp_path / "whole/manifest.json")
    monkeypatch.setattr(Parts, "chunk", 24)  # 64 items: the last chunk is padded
    for name, latents in drawn(lcm, tmp_path / "parts/manifest.json").items():
        torch.testing.assert_close(latents, whole[name], rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    for name, latents in drawn(lcm, tmp_path / "again/manifest.json").items():
        assert torch.equal(latents, whole[name])
    assert not torch.allclose(whole["lcm-1"], whole["lcm-4"], atol=1e-2)


def test_the_delta_runs_in_diffusers_on_its_own_scheduler(lcm, tmp_path):
    latents = drawn(lcm, tmp_path / "m/manifest.json")["lcm-4"]
    manifest = artifacts.read_json(tmp_path / "m/manifest.json")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        lcm.handle("eps").with_name("pipeline"), safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    perflow.apply_delta(pipe, lcm.handle(STUDENT).with_name("delta.safetensors"))
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config, original_inference_steps=20)
    prompts = [prompt["text"] for prompt in manifest["prompts"] for _ in range(manifest["per_prompt"])]
    found = pipe(
        prompt=prompts, latents=normal(handle.load(lcm.handle("eps")).base.latent_shape, 0, "noise-0", range(64)),
        generator=[generator(0, "renoise-0", i) for i in range(64)], num_inference_steps=4, guidance_scale=1.0,
        output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(found, latents, rtol=1e-4, atol=1e-4)


def test_a_prompt_is_drawn_as_the_student_is_meant_to_be_sampled(lcm, tmp_path):
    header = artifacts.read_tensors(lcm.handle(STUDENT).with_name("delta.safetensors"))[1]
    assert {name: header["trial"][name] for name in ("solver", "steps", "guidance")} == {
        "solver": "lcm", "steps": 4, "guidance": 1.0,
    }  # fmt: skip
    pictures = []
    for name, solver, steps in (("default", None, None), ("said", "lcm", 4), ("other", "ddim", 4)):
        out = tmp_path / f"{name}.png"
        draw(lcm.handle(STUDENT), "a red digit", out, solver, steps, None, 0, 2)
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
