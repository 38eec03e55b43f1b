"""Published weights become deltas, and the published sampler is reproduced but where it is wrong."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from perflow import artifacts
from perflow.cli import main
from perflow.errors import PerflowError
from perflow.integrations import PeRFlowScheduler, apply_delta
from perflow.integrations.merge import merge
from tests.integrations.conftest import SD, draw


def run(*call):
    done = CliRunner().invoke(main, [str(part) for part in call])
    if done.exception:
        raise PerflowError(str(done.exception.code)) if isinstance(done.exception, SystemExit) else done.exception
    return done.output


@pytest.fixture
def release(on_disk, tmp_path):
    """A delta as it was published: a UNet folder, half precision, a variant in the name, no header."""
    files = on_disk()
    change = {key: value.half() for key, value in artifacts.read_tensors(files.delta)[0].items()}
    unet = UNet2DConditionModel.from_pretrained(files.base / "unet", torch_dtype=torch.float16)
    unet.load_state_dict(change)
    unet.save_pretrained(tmp_path / "release", variant="v0-1")
    assert (tmp_path / "release/diffusion_pytorch_model.v0-1.safetensors").is_file()
    return files, tmp_path / "release", change


def test_a_published_delta_is_adopted_and_draws_what_the_official_recipe_draws(release, tmp_path):
    files, folder, change = release
    call = ["--base", files.base, "--windows", 4, "--prediction", "diff_eps", "--guidance", 4.5, "--origin", "a/b@c1"]
    said = run("adopt", folder, *call, "--out", tmp_path / "delta.st.safetensors")
    assert "was read as delta" in said
    made = merge(tmp_path / "delta.st.safetensors", files.base, tmp_path / "out")
    assert made.own_base
    assert not made.stock

    by_hand = StableDiffusionPipeline.from_pretrained(files.base)
    weights = by_hand.unet.state_dict()
    by_hand.unet.load_state_dict({key: weights[key] + change[key] for key in weights})
    by_hand.scheduler = PeRFlowScheduler.from_config(
        by_hand.scheduler.config, prediction_type="diff_eps", num_time_windows=4
    )
    merged = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(draw(merged, 6, 4.5), draw(by_hand, 6, 4.5), rtol=0, atol=1e-5)
    header = artifacts.read_header(tmp_path / "delta.st.safetensors")
    assert header["timestep_offset"] == 0
    assert header["base_prediction"] == "epsilon"
    text = run("card", tmp_path / "delta.st.safetensors")
    for said in ("guidance_scale=4.5", "base_model: a/b\n", "a/b, revision c1", 'from_pretrained("a/b")'):
        assert said in text


def test_merged_weights_are_told_from_a_delta_and_give_the_same_student(release, tmp_path):
    files, folder, change = release
    run("adopt", folder, "--base", files.base, "--windows", 4, "--prediction", "ddim_eps", "--out", tmp_path / "a")
    merge(tmp_path / "a", files.base, tmp_path / "merged")
    for i, source in enumerate(("merged", "merged/unet", "merged/unet/diffusion_pytorch_model.safetensors")):
        call = ["--base", files.base, "--windows", "1,0.75,0.5,0.25,0", "--prediction", "ddim_eps"]
        assert "was read as weights" in run("adopt", tmp_path / source, *call, "--out", tmp_path / f"b{i}")
        got, header = artifacts.read_tensors(tmp_path / f"b{i}")
        for key, value in change.items():
            torch.testing.assert_close(got[key], value.float(), rtol=1e-3, atol=1e-6)
        assert header["student_sha256"] == artifacts.read_header(tmp_path / "a")["student_sha256"]
        assert header["edges"] == [1, 0.75, 0.5, 0.25, 0]


def test_the_noise_schedule_and_the_meaning_come_from_the_base(on_disk, tmp_path):
    files = on_disk()
    config = files.base / "scheduler/scheduler_config.json"
    artifacts.write_json(
        config, artifacts.read_json(config) | {"prediction_type": "v_prediction", "beta_schedule": "linear"}
    )
    call = ["--base", files.base, "--windows", 2, "--prediction", "velocity", "--out", tmp_path / "v.safetensors"]
    run("adopt", files.delta, *call)
    pipe = apply_delta(StableDiffusionPipeline.from_pretrained(files.base), tmp_path / "v.safetensors")
    assert pipe.scheduler.config.base_prediction == "v"
    assert pipe.scheduler.config.beta_schedule == "linear"
    assert pipe.scheduler.config.prediction_type == "velocity"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--windows": "four"}, "--windows four: give a number such as 4"),
        ({"--windows": "1,0.5"}, "fall from 1 to 0"),
        ({"--prediction": "epsilon"}, "--prediction: no 'epsilon'; there are ddim_eps, diff_eps, velocity"),
        ({"--origin": "a/b"}, "--origin a/b: must be owner/name@revision"),
        ({"--path": "curved"}, "--path: no 'curved'; there are straight, diffusion"),
    ],
)
def test_a_description_no_student_has_is_refused(on_disk, tmp_path, change, message):
    files = on_disk()
    options = {"--base": files.base, "--windows": 4, "--prediction": "ddim_eps", "--out": tmp_path / "x"} | change
    with pytest.raises(PerflowError, match=message):
        run("adopt", files.delta, *(part for pair in options.items() for part in pair))
    assert not (tmp_path / "x").exists()


def test_weights_of_another_architecture_are_refused(release, tmp_path, parts):
    files, folder, _ = release
    UNet2DConditionModel.from_config(parts["unet"].config, cross_attention_dim=24).save_pretrained(tmp_path / "wide")
    call = ["--base", files.base, "--windows", 4, "--prediction", "ddim_eps", "--out", tmp_path / "x"]
    with pytest.raises(PerflowError, match="wide: '.*' has shape .* the base has"):
        run("adopt", tmp_path / "wide", *call)
    with pytest.raises(PerflowError, match="no such file or folder"):
        run("adopt", tmp_path / "nothing", *call)


# The published sampler, from the formulas of its step and its timesteps (see docs/method.md).


def published_timesteps(windows, steps):
    """Times of each window laid out in fp64 and cut, not rounded, to whole timesteps."""
    starts = [i / windows for i in range(windows, 0, -1)]
    times = [
        np.linspace(start, end, steps // windows + (k < steps % windows), endpoint=False)
        for k, (start, end) in enumerate(zip(starts, [*starts[1:], 0.0], strict=True))
    ]
    return [int(1000 * t) for t in np.concatenate(times)]


def published_course(says, z, windows, steps, prediction):
    """Its Euler steps between cut timesteps, windows looked up from the time, ᾱ at cut indices."""
    table = DDIMScheduler(**SD).alphas_cumprod.double()
    timesteps = published_timesteps(windows, steps)
    for timestep, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
        t = timestep / 1000
        k = next(k for k in range(windows) if t - 1e-4 > (windows - 1 - k) / windows)
        t_s, t_e = (windows - k) / windows, (windows - 1 - k) / windows
        abar_s, abar_e = table[int(1000 * t_s + 1e-9) - 1], table[max(int(1000 * t_e + 1e-9) - 1, 0)]
        lam = (abar_e / abar_s).sqrt()
        eta = (1 - abar_e).sqrt() - lam * (1 - abar_s).sqrt()
        if prediction == "diff_eps":
            eta = -(lam**2 - 1).sqrt()
        said = says(z, timestep)
        end = (lam * (t_e - t_s) * z + eta * (t_e - t) * said) / (lam * (t - t_s) + (t_e - t))
        velocity = said if prediction == "velocity" else (end - z) / (t_e - t)
        z = z + (following - timestep) / 1000 * velocity
    return z


def course(says, z, windows, steps, prediction):
    scheduler = PeRFlowScheduler(prediction_type=prediction, num_time_windows=windows)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        z = scheduler.step(says(z, float(timestep)), timestep, z).prev_sample
    return scheduler.timesteps.tolist(), z


@pytest.mark.parametrize("prediction", ["ddim_eps", "diff_eps", "velocity"])
@pytest.mark.parametrize("windows", range(1, 9))
def test_the_published_sampler_step_for_step(windows, prediction):
    """Equal wherever its timesteps are whole; elsewhere it is told a time that is cut by less than one timestep."""

    def says(z, timestep):
        return 0.7 * torch.tanh(z)

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    equal = []
    for steps in range(windows, 25):
        theirs = published_timesteps(windows, steps)
        ours, got = course(says, noise, windows, steps, prediction)
        want = published_course(says, noise, windows, steps, prediction)
        if 1000 % windows == 0 and ours == theirs:
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            equal.append(steps)
        else:
            assert all(-1e-3 <= mine - cut <= 1 for mine, cut in zip(ours, theirs, strict=True))
            assert float((got - want).norm() / want.norm()) < 1e-3
    assert equal == {
        1: [1, 2, 4, 8], 2: [2, 3, 4, 8, 9], 4: [4, 5, 6, 7, 8], 5: [5, 6, 7, 8, 9, 10], 8: [8]
    }.get(windows, [])  # fmt: skip


def test_float_dust_costs_the_published_sampler_a_timestep_where_none_is_cut():
    """All times of these are whole, and still the published cut lands one below: 5 steps of 1 window give 399."""
    for windows, steps, dusty in ((1, 5, [400, 200]), (2, 10, [200, 100]), (4, 20, [100, 50]), (5, 20, [50])):
        scheduler = PeRFlowScheduler(num_time_windows=windows)
        scheduler.set_timesteps(steps)
        pairs = zip(scheduler.timesteps.tolist(), published_timesteps(windows, steps), strict=True)
        assert [ours for ours, theirs in pairs if ours != theirs] == dusty


def test_fewer_steps_than_windows_are_an_error_where_the_published_sampler_raises_them():
    with pytest.raises(PerflowError, match="1 are too few, 4 windows need at least 4"):
        PeRFlowScheduler().set_timesteps(1)
