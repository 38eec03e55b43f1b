"""Laws of PeRFlowScheduler in pipelines that start late or paint over, and the recipes of the page, on stand-ins."""

import copy
import re

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import perflow
from perflow import artifacts, lora
from perflow.core.piecewise import PATHS, PiecewiseFlow
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.integrations import PeRFlowScheduler, settings
from tests.integrations.conftest import SD

EDGES = (1, 0.8, 0.5, 0.2, 0)


def picture(seed=1, size=16):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def call(steps, **more):
    return {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "latent",
            "generator": torch.Generator().manual_seed(2)} | more  # fmt: skip


@given(st.floats(0, 1))
def test_a_place_is_where_its_time_is(t):
    windows = Windows(EDGES)
    k, u = windows.place(t)
    assert 0 <= k < len(windows)
    assert 0 <= u <= 1
    assert float(windows.time(k, u)) == pytest.approx(t, abs=1e-12)
    assert all(float(windows.time(*windows.place(edge))) == edge for edge in EDGES)


@given(st.sampled_from(sorted(PATHS)), st.integers(0, 3), st.floats(0, 1))
def test_noise_is_added_where_the_student_was_taught(path, k, u):
    """Between the noised ends of a window, on its path."""
    scheduler = PeRFlowScheduler(windows=EDGES, path=path, timestep_offset=-1)
    flow, random = scheduler.flow, torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 2, 2, generator=random, dtype=torch.float64)

    def at(t):
        return flow.schedule.alpha(t) * clean + flow.schedule.sigma(t) * noise

    want = flow.interpolate(at(flow.windows.start(k)), at(flow.windows.end(k)), k, u)
    timestep = 1000 * flow.time(k, u) - 1
    torch.testing.assert_close(scheduler.add_noise(clean, noise, timestep), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.5), (4, 0.75), (8, 0.5), (8, 0.4)])
@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_an_untrained_diffusion_path_student_is_trailing_ddim(pipeline, kind, steps, strength):
    """Stock diffusers, late start and painting over: the same pictures to rounding."""
    trailing = DDIMScheduler(
        **SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing"
    )
    ours = PeRFlowScheduler(num_time_windows=4, path="diffusion", timestep_offset=-1)
    mask = (picture(5)[:, :1] > 0.5).float()
    more = {"mask_image": mask, "height": 16, "width": 16} if kind is StableDiffusionInpaintPipeline else {}
    drawn = [
        pipeline(scheduler, kind)("a b", picture(), strength=strength, **more, **call(steps)).images
        for scheduler in (ours, trailing)
    ]
    torch.testing.assert_close(*drawn, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [4, 6])
def test_at_strength_one_all_steps_are_taken_from_the_noised_picture(pipeline, steps):
    scheduler = PeRFlowScheduler(timestep_offset=-1)
    late = pipeline(scheduler, StableDiffusionImg2ImgPipeline)
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(2)
    found = late("a b", clean, strength=1.0, **call(steps)).images
    noise = torch.randn(clean.shape, generator=random)
    start = scheduler.add_noise(clean, noise, torch.tensor([999.0]))
    whole = pipeline(PeRFlowScheduler(timestep_offset=-1))("a b", latents=start, **call(steps)).images
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 6])
def test_painting_everything_is_text_to_image_and_painting_nothing_is_the_picture(pipeline, steps):
    paint = pipeline(PeRFlowScheduler(timestep_offset=-1), StableDiffusionInpaintPipeline)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))

    def painted(mask):
        return paint("a b", clean, torch.full((1, 1, 16, 16), mask), latents=noise, height=16, width=16, strength=1.0,
                     masked_image_latents=clean, **call(steps)).images  # fmt: skip

    whole = pipeline(PeRFlowScheduler(timestep_offset=-1))("a b", latents=noise, **call(steps)).images
    torch.testing.assert_close(painted(1.0), whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(painted(0.0), clean)


def test_a_zero_controlnet_changes_nothing(pipeline, parts):
    net = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16))
    for steps in (4, 6):
        held = pipeline(PeRFlowScheduler(), StableDiffusionControlNetPipeline, controlnet=net)
        got = held("a b", picture(), **call(steps)).images
        torch.testing.assert_close(got, pipeline(PeRFlowScheduler())("a b", **call(steps)).images)


def test_a_late_start_in_a_window_is_at_the_scale_of_the_chord():
    """A shorter latent than the schedule's inside a straight window, the same at its edges."""
    flow = PiecewiseFlow(Schedule.scaled_linear(), Windows.equal(4))
    for u, shorter in ((0.0, False), (0.5, True), (1.0, False)):
        alpha, sigma = flow.scales(2, u)
        assert (float(alpha**2 + sigma**2) < 0.999) is shorter


def test_full_rank_as_a_lora_is_the_delta_but_for_what_is_no_matrix(on_disk):
    files = on_disk()
    change, header = artifacts.read_tensors(files.delta)
    matrices = {name: value if value.ndim > 1 else 0 * value for name, value in change.items()}
    files.delta.unlink()
    artifacts.write_tensors(files.delta, matrices, header | {"sha256": artifacts.tensor_hash(matrices)})
    rank = lora.cut(matrices)[1].full
    whole, low = (
        settings.pipeline(files.base, "stable_diffusion", "text", delta=files.delta, rank=r) for r in (None, rank)
    )
    assert type(low.scheduler) is type(whole.scheduler) is PeRFlowScheduler
    drawn = [settings.draw(pipe, ["a b"], [""], 4, 1.0, [torch.Generator().manual_seed(2)]) for pipe in (whole, low)]
    torch.testing.assert_close(*drawn, rtol=1e-3, atol=1e-3)


@pytest.fixture
def here(on_disk, parts, tmp_path, monkeypatch):
    """A folder with the files the page speaks of, every network tiny and random."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    files = on_disk()
    change, header = artifacts.read_tensors(files.delta)
    artifacts.write_tensors(tmp_path / "delta-k1.safetensors", change, header | {"edges": [1, 0]})
    random = torch.Generator().manual_seed(7)
    attention = {name: value for name, value in change.items() if re.search(r"to_[qkv]\.weight", name)}
    artifacts.write_tensors(
        tmp_path / "style.safetensors", lora.diffusers_names(lora.cut(attention, 2)[0]), {"about": "a style"}
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16)).save_pretrained(
            tmp_path / "controlnet"
        )
        vision = CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, projection_dim=8, num_hidden_layers=1, num_attention_heads=2,
            image_size=224, patch_size=56,
        ))  # fmt: skip
        wide = UNet2DConditionModel.from_config(parts["unet"].config, in_channels=8)
    vision.save_pretrained(tmp_path / "ip-adapter/models/image_encoder")
    state = {"image_proj.proj.weight": torch.randn(64, 8, generator=random), "image_proj.proj.bias": torch.zeros(64),
             "image_proj.norm.weight": torch.ones(16), "image_proj.norm.bias": torch.zeros(16)}  # fmt: skip
    crossing = [name for name in parts["unet"].attn_processors if "attn2" in name]
    for i, name in enumerate(parts["unet"].attn_processors):
        if name in crossing:
            width = parts["unet"].get_submodule(name.removesuffix(".processor")).to_k.out_features
            for which in ("k", "v"):
                state[f"ip_adapter.{i}.to_{which}_ip.weight"] = torch.randn(width, 16, generator=random)
    artifacts.write_tensors(tmp_path / "ip-adapter/models/ip-adapter.safetensors", state, {"about": "a stand-in"})
    weights = {name: value.clone() for name, value in parts["unet"].state_dict().items()}
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], torch.zeros(8, 4, 3, 3)], dim=1)
    wide.load_state_dict(weights)
    wide.save_pretrained(tmp_path / "multiview/unet")
    Image.fromarray((picture()[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "picture.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return files


def blocks(root):
    text = (root / "docs/recipes.md").read_text()
    return dict(re.findall(r"^## (.+?)\n.*?```python\n(.+?)```", text, re.DOTALL | re.MULTILINE))


def test_every_recipe_runs_as_it_stands(here, root):
    recipes = blocks(root)
    assert list(recipes) == re.findall(r"^## (.+)$", (root / "docs/recipes.md").read_text(), re.MULTILINE)
    for title, text in recipes.items():
        said: dict = {}
        exec(text, said)
        if "image" in said:
            assert np.asarray(said["image"]).std() > 0, title


def test_an_ip_adapter_at_scale_zero_is_silent_and_the_delta_comes_first(here, root):
    def drawn(pipe, **more):
        return pipe("a b", **call(4), **more).images

    plain = StableDiffusionPipeline.from_pretrained("base")
    perflow.apply_delta(plain, "delta.safetensors")
    said: dict = {}
    exec(blocks(root)["An IP-Adapter"], said)
    shown = {"ip_adapter_image": Image.open("picture.png")}
    assert not torch.allclose(drawn(said["pipe"], **shown), drawn(plain), atol=1e-3)
    said["pipe"].set_ip_adapter_scale(0)
    torch.testing.assert_close(drawn(said["pipe"], **shown), drawn(plain), rtol=1e-5, atol=1e-5)
    late = StableDiffusionPipeline.from_pretrained("base")
    late.load_ip_adapter("ip-adapter", subfolder="models", weight_name="ip-adapter.safetensors")
    with pytest.raises(PerflowError, match="does not fit the base"):
        perflow.apply_delta(late, "delta.safetensors")


def test_the_tile_refiner_without_a_tile_is_image_to_image(here):
    large = Image.open("picture.png").resize((32, 32), Image.Resampling.LANCZOS)
    net = ControlNetModel.from_pretrained("controlnet")
    tile = StableDiffusionControlNetImg2ImgPipeline.from_pretrained("base", controlnet=net)
    plain = StableDiffusionImg2ImgPipeline.from_pretrained("base")
    for pipe in (tile, plain):
        perflow.apply_delta(pipe, "delta.safetensors")
    held = tile("a b", image=large, control_image=large, height=32, width=32, strength=0.5, **call(4)).images
    assert held.shape == (1, 4, 16, 16)
    torch.testing.assert_close(held, plain("a b", large, strength=0.5, **call(4)).images, rtol=1e-5, atol=1e-5)


def test_one_step_multiview_draws_each_view_as_the_student_draws_it(here, root):
    """Further channels with zero weights, one window, one step, four views in a batch."""
    said: dict = {}
    exec(blocks(root)["One-step multiview"], said)
    pipe = StableDiffusionPipeline.from_pretrained("base")
    perflow.apply_delta(pipe, "delta-k1.safetensors")
    views = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    condition = pipe.encode_prompt("a b", "cpu", 4, False)[0]
    with torch.no_grad():
        t = said["scheduler"].timesteps[0]
        output = said["unet"](torch.cat([views, torch.randn(4, 4, 8, 8)], 1), t, condition).sample
        found = said["scheduler"].step(output, t, views).prev_sample
    more = {"latents": copy.deepcopy(views), "num_images_per_prompt": 4}
    want = pipe("a b", **call(1), **more).images
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
