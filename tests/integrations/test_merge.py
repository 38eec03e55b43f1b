"""A merged checkpoint is the student, wherever it is loaded; what does not fit leaves nothing behind."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from perflow import artifacts, original
from perflow.cli import main
from perflow.errors import PerflowError
from perflow.integrations import PeRFlowScheduler, apply_delta
from perflow.integrations.merge import merge
from tests.integrations.conftest import draw

STRAIGHT = {"path": "straight", "edges": [1, 0.6, 0]}

LCM = {"edges": None, "trial": {"scheduler": {"class": "LCMScheduler", "original_inference_steps": 40}}}


def load(folder):
    return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("said", [{}, STRAIGHT, {"prediction": "diff_eps"}, {"edges": None}, LCM])
def test_a_merged_folder_draws_what_the_applied_delta_draws(on_disk, tmp_path, said):
    files = on_disk(**said)
    made = merge(files.delta, files.base, tmp_path / "out")
    want, got = apply_delta(load(files.base), files.delta), load(tmp_path / "out")
    assert type(got.scheduler).__name__ == made.scheduler
    assert type(got.scheduler) is type(want.scheduler) or made.scheduler == "DDIMScheduler"
    torch.testing.assert_close(draw(got), draw(want), rtol=0, atol=1e-4)
    assert made.own_base
    assert made.tensors == len(got.unet.state_dict())


def test_diffusion_path_students_come_with_diffusers_own_scheduler_and_others_with_ours(on_disk, tmp_path):
    files = on_disk()
    assert merge(files.delta, files.base, tmp_path / "stock").stock
    files = on_disk(**STRAIGHT)
    assert not merge(files.delta, files.base, tmp_path / "ours").stock
    stock, ours = load(tmp_path / "stock").scheduler, load(tmp_path / "ours").scheduler
    assert (type(stock), stock.config.timestep_spacing) == (DDIMScheduler, "trailing")
    assert type(ours) is PeRFlowScheduler
    assert ours.flow.windows.edges == (1, 0.6, 0)
    # timesteps from T are the published convention, which no diffusers scheduler has
    files = on_disk(timestep_offset=0)
    assert not merge(files.delta, files.base, tmp_path / "published").stock


def test_a_stock_folder_needs_no_perflow(on_disk, tmp_path):
    files = on_disk()
    merge(files.delta, files.base, tmp_path / "out")
    program = (
        "import sys; sys.modules['perflow'] = None; from diffusers import StableDiffusionPipeline as P;"
        f"P.from_pretrained({str(tmp_path / 'out')!r})('a', num_inference_steps=4, guidance_scale=1.0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_other_parts_are_the_bases_byte_for_byte(on_disk, tmp_path):
    files = on_disk()
    merge(files.delta, files.base, tmp_path / "out")
    for part in ("vae", "text_encoder", "tokenizer"):
        before = {path.name: path.read_bytes() for path in (files.base / part).iterdir()}
        assert before
        assert {path.name: path.read_bytes() for path in (tmp_path / "out" / part).iterdir()} == before


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_scale_interpolates_from_the_base_to_the_student(on_disk, tmp_path, scale):
    files = on_disk()
    merge(files.delta, files.base, tmp_path / "out", scale)
    base, (change, _) = load(files.base).unet.state_dict(), artifacts.read_tensors(files.delta)
    for key, value in load(tmp_path / "out").unet.state_dict().items():
        torch.testing.assert_close(value, base[key] + scale * change[key])
    pipe = apply_delta(load(files.base), files.delta, scale=scale)
    assert all(torch.equal(v, pipe.unet.state_dict()[k]) for k, v in load(tmp_path / "out").unet.state_dict().items())


def test_a_half_precision_base_is_known_by_its_values_and_keeps_its_type(on_disk, tmp_path):
    files = on_disk()
    half = load(files.base)
    half.unet.half().save_pretrained(files.base / "unet")
    with pytest.raises(PerflowError, match="made for the base 'tiny'"):  # rounded, so another one
        merge(files.delta, files.base, tmp_path / "out")
    change, header = artifacts.read_tensors(files.delta)
    values = {key: value.float() for key, value in half.unet.state_dict().items()}
    header["base"]["sha256"] = artifacts.tensor_hash(values)
    artifacts.write_tensors(files.delta, change, header)
    merge(files.delta, files.base, tmp_path / "out")
    merged = artifacts.read_tensors(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")[0]
    for key, value in merged.items():
        assert torch.equal(value, (values[key] + change[key]).half())


def test_a_fine_tune_is_refused_unless_asked_for_and_then_said(on_disk, tmp_path):
    files = on_disk()
    tuned = load(files.base)
    with torch.no_grad():
        tuned.unet.conv_in.weight.mul_(1.1)
    tuned.save_pretrained(tmp_path / "tuned")
    call = ["apply", str(files.delta), "--base", str(tmp_path / "tuned"), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(main, call)
    assert isinstance(refused.exception, SystemExit)
    assert "made for the base 'tiny'" in str(refused.exception.code)
    assert "\n" not in str(refused.exception.code)
    assert not (tmp_path / "out").exists()
    allowed = CliRunner().invoke(main, [*call, "--other-base"])
    assert "its values are another checkpoint's, not those of 'tiny'" in allowed.output
    change = artifacts.read_tensors(files.delta)[0]
    for key, value in load(tmp_path / "out").unet.state_dict().items():
        assert torch.equal(value, tuned.unet.state_dict()[key] + change[key])


def test_another_meaning_or_another_shape_is_refused_even_as_another_base(on_disk, tmp_path, parts):
    files = on_disk()
    config = files.base / "scheduler/scheduler_config.json"
    artifacts.write_json(config, artifacts.read_json(config) | {"prediction_type": "v_prediction"})
    with pytest.raises(PerflowError, match="base that predicts epsilon; the network of this pipeline: v"):
        merge(files.delta, files.base, tmp_path / "out", other_base=True)
    artifacts.write_json(config, artifacts.read_json(config) | {"prediction_type": "epsilon"})
    wider = UNet2DConditionModel.from_config(parts["unet"].config, cross_attention_dim=24)
    wider.save_pretrained(files.base / "unet")
    with pytest.raises(PerflowError, match="has shape .* the base has"):
        merge(files.delta, files.base, tmp_path / "out", other_base=True)
    assert not list(tmp_path.glob("*out*"))


def test_what_is_no_pipeline_or_is_there_already_is_refused(on_disk, tmp_path):
    files = on_disk()
    with pytest.raises(PerflowError, match="is there already"):
        merge(files.delta, files.base, files.base)
    with pytest.raises(PerflowError, match="not a diffusers pipeline folder"):
        merge(files.delta, files.base / "unet", tmp_path / "out")
    weights = files.base / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(PerflowError, match="unet: has no weights in safetensors; pickled ones are not read"):
        merge(files.delta, files.base, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_a_sharded_base_is_read_whole(on_disk, tmp_path):
    files = on_disk()
    unet = load(files.base).unet
    (files.base / "unet/diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(files.base / "unet", max_shard_size="10KB")
    assert len(list((files.base / "unet").glob("*.safetensors"))) > 1
    assert merge(files.delta, files.base, tmp_path / "out").own_base
    assert draw(load(tmp_path / "out")).isfinite().all()


def test_a_single_file_is_read_by_diffusers_as_the_same_pipeline(on_disk, tmp_path):
    files = on_disk()
    merge(files.delta, files.base, tmp_path / "one.safetensors")
    got = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "one.safetensors"), config=str(files.base), local_files_only=True, safety_checker=None
    )
    want = apply_delta(load(files.base), files.delta)
    for part in ("unet", "vae", "text_encoder"):
        tensors = getattr(want, part).state_dict()
        assert tensors.keys() == getattr(got, part).state_dict().keys()
        for key, value in getattr(got, part).state_dict().items():
            assert torch.equal(value, tensors[key]), (part, key)
    got.scheduler = want.scheduler
    torch.testing.assert_close(draw(got), draw(want))


def test_names_of_the_whole_stable_diffusion_15_convert_back():
    """All 686 names of the UNet at its real depth, by diffusers' own conversion; no weights are made."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
    names = unet.state_dict()
    assert len(names) == 686
    whole = {"model.diffusion_model." + original.network_name(key, names): key for key in names}
    back = convert_ldm_unet_checkpoint(dict(whole), dict(unet.config))
    assert back == {key: key for key in names}


def test_names_of_the_whole_autoencoder_convert_back():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    names = vae.state_dict()
    whole = {"first_stage_model." + original.autoencoder_name(key, names): names[key] for key in names}
    assert len(whole) == len(names)
    back = convert_ldm_vae_checkpoint(whole, dict(vae.config))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in names.items()}


def test_a_single_file_of_another_kind_is_refused(on_disk, tmp_path):
    files = on_disk()
    index = files.base / "model_index.json"
    artifacts.write_json(index, artifacts.read_json(index) | {"_class_name": "StableDiffusionUpscalePipeline"})
    with pytest.raises(PerflowError, match="Stable Diffusion 1, 2 and XL pipelines"):
        merge(files.delta, files.base, tmp_path / "one.safetensors")
    assert not list(tmp_path.glob("*one*"))
