"""PeRFlowScheduler inside diffusers' pipelines does what core.piecewise does by hand."""

import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)

from perflow.core.fields import student_field
from perflow.core.guidance import guided
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.integrations import PeRFlowScheduler

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EDGES = [1, 0.8, 0.35, 0]


def latents(count=1):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def by_hand(pipe, flow, steps, guidance, prompt="a b", first=0, x=None):
    """A student's sampling loop, without diffusers' scheduler."""
    condition, null = pipe.encode_prompt(prompt, "cpu", 1, True)
    unet = guided(lambda x, t, c: pipe.unet(x, t, c).sample, condition, null, guidance)
    y, x = student_field(unet, flow), latents() if x is None else x
    with torch.no_grad():
        for k, u_from, u_to in flow.windows.steps(steps)[first:]:
            x = flow.step(x, y(x, k, u_from), k, u_from, u_to)
    return x


def by_pipeline(pipe, steps, guidance):
    call = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "latent"}
    return pipe("a b", latents=latents(), **call).images


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize(
    ("path", "prediction", "base_prediction"),
    [
        ("straight", "ddim_eps", "epsilon"),
        ("diffusion", "ddim_eps", "v"),
        ("straight", "diff_eps", "epsilon"),
        ("straight", "velocity", "v"),
    ],
)
def test_a_pipeline_samples_the_flow(pipeline, path, prediction, base_prediction, steps, guidance):
    scheduler = PeRFlowScheduler(
        prediction_type=prediction,
        windows=EDGES,
        path=path,
        base_prediction=base_prediction,
        timestep_offset=-1,
    )
    pipe = pipeline(scheduler)
    flow = PiecewiseFlow(Schedule.scaled_linear(), Windows(EDGES), path, prediction, base_prediction)
    want = by_hand(pipe, flow, steps, guidance)
    torch.testing.assert_close(by_pipeline(pipe, steps, guidance), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("steps", [4, 8, 20])
def test_an_untaught_student_on_the_diffusion_path_is_stock_ddim(pipeline, steps, guidance):
    ours = pipeline(PeRFlowScheduler(path="diffusion", timestep_offset=-1))
    stock = pipeline(
        DDIMScheduler(**SD, timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False, steps_offset=1)
    )
    want = by_pipeline(stock, steps, guidance)
    torch.testing.assert_close(by_pipeline(ours, steps, guidance), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prediction", ["ddim_eps", "diff_eps", "velocity"])
@pytest.mark.parametrize("steps", [4, 6, 8])
def test_official_arguments_are_the_official_sampler(prediction, steps):
    """The published step: timesteps from 1000, the end of the window extrapolated, then Euler (eq. 4-8)."""
    scheduler = PeRFlowScheduler.from_config(DDIMScheduler(**SD).config, prediction_type=prediction, num_time_windows=4)
    scheduler.set_timesteps(steps)
    times = torch.cat([scheduler.timesteps.double() / 1000, torch.zeros(1)])
    table = DDIMScheduler(**SD).alphas_cumprod.double()
    x = z = latents().double()
    for i, timestep in enumerate(scheduler.timesteps):
        said = torch.sin(2 * x) + timestep / 2000
        x = scheduler.step(said, timestep, x).prev_sample

        said = torch.sin(2 * z) + timestep / 2000
        t, t_to = times[i].item(), times[i + 1].item()
        k = int(4 - 4 * t + 1e-6)
        t_s, t_e = 1 - k / 4, 1 - (k + 1) / 4
        abar_s, abar_e = table[round(1000 * t_s) - 1], table[max(round(1000 * t_e) - 1, 0)]
        lam = (abar_e / abar_s).sqrt()
        eta = (1 - abar_e).sqrt() - lam * (1 - abar_s).sqrt()
        if prediction == "diff_eps":
            eta = -(lam**2 - 1).sqrt()
        scale = lam * (t - t_s) + (t_e - t)
        end = (lam * (t_e - t_s) * z + eta * (t_e - t) * said) / scale
        velocity = said if prediction == "velocity" else (end - z) / (t_e - t)
        z = z + (t_to - t) * velocity
    torch.testing.assert_close(x, z, rtol=1e-6, atol=1e-6)


def test_timesteps_follow_each_convention():
    official, ours = PeRFlowScheduler(), PeRFlowScheduler(timestep_offset=-1)
    for scheduler in (official, ours):
        scheduler.set_timesteps(6)
    assert official.timesteps.tolist() == [1000, 875, 750, 625, 500, 250]
    assert ours.timesteps.tolist() == [999, 874, 749, 624, 499, 249]
    ours.set_timesteps(12)  # a third of a window is told as it is, not truncated
    assert ours.timesteps[1].item() == pytest.approx(999 - 250 / 3, abs=1e-4)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_image_to_image_starts_late(pipeline, strength):
    pipe = pipeline(PeRFlowScheduler(timestep_offset=-1), StableDiffusionImg2ImgPipeline)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    call = {"num_inference_steps": 8, "strength": strength, "guidance_scale": 1.0, "output_type": "latent"}
    got = pipe("a b", image, generator=torch.Generator().manual_seed(2), **call).images
    first = 8 - int(8 * strength)
    assert pipe.scheduler.begin_index == first
    assert pipe.scheduler.step_index == 8

    # the same by hand: encode, noise to the time of the first step, sample the rest
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        clean = pipe.vae.encode(2 * image - 1).latent_dist.sample(random) * pipe.vae.config.scaling_factor
    noise = torch.randn(clean.shape, generator=random)
    flow = PiecewiseFlow(Schedule.scaled_linear(), Windows.equal(4))
    alpha, sigma = flow.scales(*flow.windows.place(1 - first / 8))
    start = alpha.float() * clean + sigma.float() * noise
    want = by_hand(pipe, flow, 8, 1.0, first=first, x=start)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_inpainting_and_controlnet_run(pipeline, parts):
    image = torch.rand(1, 3, 16, 16)
    paint = pipeline(PeRFlowScheduler(), StableDiffusionInpaintPipeline)
    mask = torch.ones(1, 1, 16, 16)
    kept = paint("a", image, mask, height=16, width=16, num_inference_steps=4, output_type="np").images
    net = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16))
    control = pipeline(PeRFlowScheduler(), StableDiffusionControlNetPipeline, controlnet=net)
    drawn = control("a", torch.rand(1, 3, 16, 16), num_inference_steps=5, output_type="np").images
    assert kept.shape == drawn.shape == (1, 16, 16, 3)
    assert np.isfinite(kept).all()
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize("offset", [0, -1])
def test_noise_is_added_at_the_time_of_the_timestep(offset):
    scheduler = PeRFlowScheduler(timestep_offset=offset, path="diffusion")
    scheduler.set_timesteps(8)
    clean, noise = torch.randn(2, 8, 4, 2, 2)
    got = scheduler.add_noise(clean, noise, scheduler.timesteps)
    for i, index in enumerate([999, 874, 749, 624, 499, 374, 249, 124]):
        abar = DDIMScheduler(**SD).alphas_cumprod[index]
        torch.testing.assert_close(got[i], abar.sqrt() * clean[i] + (1 - abar).sqrt() * noise[i])
    half = scheduler.add_noise(clean.half(), noise.half(), scheduler.timesteps[:1])
    assert half.dtype == torch.float16


def test_a_saved_pipeline_comes_back_whole(pipeline, tmp_path):
    scheduler = PeRFlowScheduler(windows=EDGES, path="diffusion", prediction_type="diff_eps", timestep_offset=-1)
    pipe = pipeline(scheduler)
    want = by_pipeline(pipe, 4, 4.5)
    pipe.save_pretrained(tmp_path)
    again = StableDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is PeRFlowScheduler
    assert dict(again.scheduler.config)["windows"] == EDGES
    assert again.scheduler.flow.windows == scheduler.flow.windows
    assert torch.equal(by_pipeline(again, 4, 4.5), want)

    alone = PeRFlowScheduler.from_pretrained(tmp_path / "scheduler")
    assert dict(alone.config).items() >= {"path": "diffusion", "num_time_windows": 3, "timestep_offset": -1}.items()


def test_diffusers_switches_schedulers_with_it(pipeline):
    pipe = pipeline(DDIMScheduler(**SD, clip_sample=False, steps_offset=1))
    pipe.scheduler = PeRFlowScheduler.from_config(pipe.scheduler.config, num_time_windows=2)
    assert len(pipe.scheduler.flow.windows) == 2
    assert by_pipeline(pipe, 2, 1.0).isfinite().all()
    back = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon")
    assert back.config.beta_end == 0.012
    assert DDIMScheduler in pipe.scheduler.compatibles


def test_pipelines_find_nothing_to_complain_of(pipeline):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        by_pipeline(pipeline(PeRFlowScheduler()), 4, 4.5)
    assert not [warning for warning in caught if "scheduler" in str(warning.message)]


def test_what_a_pipeline_rewrites_in_a_config_is_not_read(pipeline):
    """StableDiffusionPipeline sets steps_offset to 1 and clip_sample to False wherever it finds them."""
    config = DDIMScheduler(**SD, steps_offset=0, clip_sample=True).config
    rewritten = pipeline(PeRFlowScheduler.from_config(config))
    assert rewritten.scheduler.config.steps_offset == 1
    torch.testing.assert_close(by_pipeline(rewritten, 5, 4.5), by_pipeline(pipeline(PeRFlowScheduler()), 5, 4.5))


def test_step_finds_its_place_and_counts_on():
    scheduler = PeRFlowScheduler()
    assert (len(scheduler), scheduler.order, scheduler.init_noise_sigma) == (1000, 1, 1)
    scheduler.set_timesteps(8)
    x = latents()
    assert (scheduler.step_index, scheduler.begin_index) == (None, None)
    (moved,) = scheduler.step(x, scheduler.timesteps[3], x, return_dict=False)
    assert scheduler.step_index == 4
    expected = scheduler.flow.step(x, x, 1, 0.5, 1.0)
    torch.testing.assert_close(moved, expected)
    assert scheduler.scale_model_input(x, 3) is x
    scheduler.set_timesteps(8)
    assert scheduler.step_index is None
    assert torch.equal(scheduler.step(x, int(scheduler.timesteps[3]), x).prev_sample, moved)
    scheduler.set_timesteps(8)
    scheduler.set_begin_index(3)  # nothing is searched, so nothing waits for the device
    assert torch.equal(scheduler.step(x, 0, x).prev_sample, moved)


def test_latents_keep_their_type_and_are_moved_in_fp32():
    scheduler = PeRFlowScheduler(num_time_windows=1)
    x = latents().half()
    scheduler.set_timesteps(1)
    moved = scheduler.step(x, 1000, x).prev_sample
    assert moved.dtype == torch.float16
    assert torch.equal(moved, scheduler.flow.step(x.float(), x.float(), 0, 0.0, 1.0).half())


def test_a_step_that_cannot_be_taken_is_an_error():
    scheduler = PeRFlowScheduler()
    x = latents()
    with pytest.raises(PerflowError, match="set_timesteps first"):
        scheduler.step(x, 1000, x)
    with pytest.raises(PerflowError, match="3 are too few, 4 windows"):
        scheduler.set_timesteps(3)
    scheduler.set_timesteps(4)
    with pytest.raises(PerflowError, match="timestep 999 is none of"):
        scheduler.step(x, 999, x)
    for timestep in scheduler.timesteps:
        scheduler.step(x, timestep, x)
    with pytest.raises(PerflowError, match="all 4 steps are taken"):
        scheduler.step(x, 250, x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction_type": "epsilon"}, "ddim_eps, diff_eps, velocity"),
        ({"base_prediction": "sample"}, "epsilon, v, x0"),
        ({"path": "curved"}, "straight, diffusion"),
        ({"set_alpha_to_one": True}, "set_alpha_to_one"),
        ({"t_clean": 0.1}, "t_noise, t_clean"),
        ({"timestep_offset": 1}, "timestep_offset"),
        ({"windows": [1, 0.5]}, "from 1 to 0"),
        ({"windows": [1, 0.5, 0], "num_time_windows": 4}, "num_time_windows=4"),
        ({"num_time_windows": 0}, "at least 1"),
        ({"rescale_betas_zero_snr": True}, "zero SNR; use velocity"),
    ],
)
def test_a_configuration_no_student_has_is_refused(arguments, message):
    with pytest.raises(PerflowError, match=message):
        PeRFlowScheduler(**arguments)


def test_zero_terminal_snr_samples_a_velocity_student():
    scheduler = PeRFlowScheduler(rescale_betas_zero_snr=True, prediction_type="velocity", path="diffusion")
    scheduler.set_timesteps(8)
    x = latents()
    for timestep in scheduler.timesteps:
        x = scheduler.step(-x, timestep, x).prev_sample
    assert x.isfinite().all()
