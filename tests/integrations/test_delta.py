"""A delta makes exactly its student of exactly its base, or changes nothing."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from perflow.artifacts import tensor_hash, write_tensors
from perflow.errors import PerflowError
from perflow.integrations import PeRFlowScheduler, apply_delta

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture
def pipe(pipeline):
    return pipeline(DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1))


@pytest.fixture
def student(pipe):
    """A taught network: every weight within 40 % of the base's."""
    random = torch.Generator().manual_seed(3)
    return {
        key: weight * (0.6 + 0.8 * torch.rand(weight.shape, generator=random))
        for key, weight in pipe.unet.state_dict().items()
    }


@pytest.fixture
def delta(pipe, student):
    """(tensors, header) as an export writes them."""
    base = pipe.unet.state_dict()
    header = {
        "base": {"name": "tiny", "origin": None, "sha256": tensor_hash(base)},
        "edges": [1, 0.7, 0.3, 0],
        "path": "diffusion",
        "prediction": "ddim_eps",
        "base_prediction": "epsilon",
        "timestep_offset": -1,
        "guidance": {"mode": "fixed", "scale": 4.5},
        "spec": {},
    }
    return {key: student[key] - base[key] for key in base}, header


def copy_of(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_base_plus_delta_is_the_student_bit_for_bit(pipe, student, delta, tmp_path):
    write_tensors(tmp_path / "delta.safetensors", *delta)
    assert apply_delta(pipe, tmp_path / "delta.safetensors") is pipe
    assert unchanged(pipe.unet, student)


def test_the_pipeline_gets_the_students_scheduler_on_its_own_noise_schedule(pipeline, delta):
    # beta_end is not what any scheduler here has by default
    pipe = pipeline(EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.02, beta_schedule="linear"))
    apply_delta(pipe, delta)
    assert type(pipe.scheduler) is PeRFlowScheduler
    flow = pipe.scheduler.flow
    assert (flow.windows.edges, flow.path, flow.prediction) == ((1, 0.7, 0.3, 0), "diffusion", "ddim_eps")
    assert pipe.scheduler.config.timestep_offset == -1
    want = DDIMScheduler(beta_start=0.00085, beta_end=0.02, beta_schedule="linear").alphas_cumprod
    assert torch.equal(pipe.scheduler.alphas_cumprod, want)
    images = pipe("a b", num_inference_steps=3, guidance_scale=1.0, output_type="np").images
    assert images.shape == (1, 16, 16, 3)


def test_default_betas_of_another_scheduler_are_kept(pipeline, delta):
    pipe = apply_delta(pipeline(DDIMScheduler()), delta)
    assert torch.equal(pipe.scheduler.alphas_cumprod, DDIMScheduler().alphas_cumprod)


def test_a_student_that_says_no_scheduler_keeps_the_bases(pipe, delta):
    scheduler = pipe.scheduler
    apply_delta(pipe, (delta[0], delta[1] | {"edges": None}))
    assert pipe.scheduler is scheduler


def test_a_student_without_windows_gets_the_scheduler_it_is_sampled_with(pipe, delta):
    chosen = {"class": "LCMScheduler", "original_inference_steps": 40}
    apply_delta(pipe, (delta[0], delta[1] | {"edges": None, "trial": {"scheduler": chosen}}))
    assert type(pipe.scheduler) is LCMScheduler
    assert pipe.scheduler.config.original_inference_steps == 40
    assert torch.equal(pipe.scheduler.alphas_cumprod, DDIMScheduler(**SD).alphas_cumprod)


def test_a_unet_alone(pipe, student, delta):
    assert apply_delta(pipe.unet, delta) is pipe.unet
    assert unchanged(pipe.unet, student)


def test_half_precision_sums_in_fp32(pipe, delta):
    pipe.unet.half()
    before = copy_of(pipe.unet)
    small = {key: torch.full_like(value, 3e-4) for key, value in delta[0].items()}
    apply_delta(pipe, (small, delta[1]), other_base=True)
    for key, value in pipe.unet.state_dict().items():
        assert value.dtype == torch.float16
        assert torch.equal(value, (before[key].float() + 3e-4).half())


@pytest.mark.parametrize("other_base", [False, True])
def test_tensors_that_do_not_fit_are_always_refused(pipe, delta, other_base):
    before, scheduler = copy_of(pipe.unet), pipe.scheduler
    key = "conv_in.weight"
    broken = {
        r"lacks 'conv_in\.weight'": {k: v for k, v in delta[0].items() if k != key},
        "has 'extra'": delta[0] | {"extra": torch.zeros(1)},
        # a shape that would broadcast is another shape still
        r"'conv_in\.weight' has shape \(1, 4, 3, 3\), the base has \(8, 4, 3, 3\)": delta[0] | {key: delta[0][key][:1]},
    }
    for message, tensors in broken.items():
        with pytest.raises(PerflowError, match=message):
            apply_delta(pipe, (tensors, delta[1]), other_base=other_base)
    assert unchanged(pipe.unet, before)
    assert pipe.scheduler is scheduler


def test_another_base_is_refused_unless_asked_for(pipe, delta):
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] += 1e-3
    before, scheduler = copy_of(pipe.unet), pipe.scheduler
    with pytest.raises(PerflowError, match="made for the base 'tiny'.*other_base=True"):
        apply_delta(pipe, delta)
    assert unchanged(pipe.unet, before)
    assert pipe.scheduler is scheduler
    apply_delta(pipe, delta, other_base=True)
    for key, value in pipe.unet.state_dict().items():
        assert torch.equal(value, before[key] + delta[0][key])


def test_a_delta_is_not_applied_twice(pipe, delta):
    apply_delta(pipe, delta)
    with pytest.raises(PerflowError, match="made for the base"):
        apply_delta(pipe, delta)


def test_what_is_no_delta_is_refused(pipe, delta, tmp_path):
    write_tensors(tmp_path / "weights.safetensors", delta[0], {})
    with pytest.raises(PerflowError, match=r"weights\.safetensors: its header names no base"):
        apply_delta(pipe, tmp_path / "weights.safetensors")
    with pytest.raises(PerflowError, match="no such file"):
        apply_delta(pipe, tmp_path / "nothing.safetensors")
    with pytest.raises(PerflowError, match="not str"):
        apply_delta("a path", delta)


def test_a_header_that_half_describes_a_scheduler_is_refused(pipe, delta):
    before = copy_of(pipe.unet)
    with pytest.raises(PerflowError, match="no 'path'"):
        apply_delta(pipe, (delta[0], {key: value for key, value in delta[1].items() if key != "path"}))
    assert unchanged(pipe.unet, before)


def test_an_altered_file_is_refused(pipe, delta, tmp_path):
    tensors, header = delta
    other = {key: value + 1 for key, value in tensors.items()}
    write_tensors(tmp_path / "delta.safetensors", other, header | {"sha256": tensor_hash(tensors)})
    with pytest.raises(PerflowError, match="altered"):
        apply_delta(pipe, tmp_path / "delta.safetensors")


def test_a_pipeline_without_the_bases_noise_schedule_is_refused(pipe, delta):
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    before = copy_of(pipe.unet)
    with pytest.raises(PerflowError, match="FlowMatchEulerDiscreteScheduler has no beta_start"):
        apply_delta(pipe, delta)
    assert unchanged(pipe.unet, before)
