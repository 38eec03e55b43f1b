"""Stable Diffusion 2 as a single file: what a study draws with it is what diffusers draws from the folder."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

import perflow
from perflow import artifacts, config, delta, original
from perflow.config.load import read_yaml
from perflow.core.rng import normal
from perflow.datasets.digits import words
from perflow.errors import PerflowError
from perflow.integrations import single_file
from perflow.integrations.merge import merge
from perflow.models import folder as pipeline_folder
from perflow.stages.prepare import prepare
from perflow.stages.prompts import prompts
from tests.conftest import dump_params
from tests.digits import fetch_digits
from tests.stages.conftest import Study, drawing, finish
from tests.tiny_pipelines import SD, sd2

TEXT = "cond_stage_model.model."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A pipeline in the shape of Stable Diffusion 2, which predicts v, and below it the same as its one file: with the
    last layer of the text model, its projection and its scale, which the pipeline's folder lacks."""
    folder = sd2(tmp_path_factory.mktemp("sd2") / "pipeline", words())
    index = pipeline_folder.index(folder)
    tensors = single_file.tensors(folder, index, pipeline_folder.tensors(folder / "unet"))
    last = {key.replace(".1.", ".2."): torch.randn_like(value) for key, value in tensors.items() if _layer(key, 1)}
    assert len(last) == 12
    beside = {"text_projection": torch.randn(24, 24), "logit_scale": torch.tensor(4.6)}
    artifacts.write_tensors(
        folder.with_name("one.safetensors"), tensors | last | {TEXT + name: value for name, value in beside.items()}, {}
    )
    return folder


def _layer(key, number):
    return key.startswith(f"{TEXT}transformer.resblocks.{number}.")


def taken(root, home, source, **more):
    """A tiny study with the base "two" from a source."""
    params, _ = read_yaml(root / "workflow/studies/tiny.yaml")
    params["bases"] = {"two": {"family": "stable_diffusion", "dataset": "digits", "source": source} | more}
    params["students"] = {"perflow": params["students"]["perflow"] | {"bases": ["two"], "windows": 2}}
    (home / "params.yaml").write_text(dump_params(params))
    study = Study(config.load(home / "params.yaml"), home)
    config.write_specs(study.study, home)
    return study


def one_file(checkpoint):
    return {"file": str(checkpoint.with_name("one.safetensors")), "config": str(checkpoint)}


def test_the_stage_draws_from_the_file_what_the_pipeline_draws_from_the_folder(root, checkpoint, tmp_path):
    study = taken(root, tmp_path, one_file(checkpoint), prediction="v")
    fetch_digits(study.dataset, study.study.datasets["digits"].counts)
    prompts(study.spec("prompts", "digits"), study.prompts)
    prepare(study.spec("bases", "two"), study.dataset, study.handle("two"))
    out = study.path("results/samples/two/manifest.json")
    finish(drawing(study, "two", "two", out))
    manifest = artifacts.read_json(out)
    entry = manifest["trials"]["ddim-2"]
    latents = artifacts.read_tensors(out.with_name(entry["latents"]["file"]))[0]["latents"]
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler(
        **SD, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
    )
    texts = [prompt["text"] for prompt in manifest["prompts"] for _ in range(manifest["per_prompt"])]
    got = pipe(
        prompt=texts, latents=normal((4, 8, 8), 0, "noise-0", range(len(texts))), num_inference_steps=2,
        guidance_scale=entry["guidance"], output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(got, latents, rtol=1e-4, atol=1e-4)


def test_what_the_file_predicts_is_said_by_the_row_and_by_the_configuration(root, checkpoint, tmp_path):
    with pytest.raises(PerflowError, match="bases.two: a single file does not say .*; write prediction: epsilon or v"):
        taken(root, tmp_path, one_file(checkpoint))
    study = taken(root, tmp_path, one_file(checkpoint), prediction="epsilon")
    fetch_digits(study.dataset, study.study.datasets["digits"].counts)
    with pytest.raises(PerflowError, match="two.prediction: epsilon, but the scheduler of .*/pipeline is for v"):
        prepare(study.spec("bases", "two"), study.dataset, study.handle("two"))
    assert not study.handle("two").exists()


def test_a_text_model_of_more_layers_than_the_file_is_refused(root, checkpoint, tmp_path):
    tensors, _ = artifacts.read_tensors(checkpoint.with_name("one.safetensors"))
    cut = {key: value for key, value in tensors.items() if not _layer(key, 1) and not _layer(key, 2)}
    artifacts.write_tensors(tmp_path / "cut.safetensors", cut, {})
    source = one_file(checkpoint) | {"file": str(tmp_path / "cut.safetensors")}
    study = taken(root, tmp_path, source, prediction="v")
    fetch_digits(study.dataset, study.study.datasets["digits"].counts)
    with pytest.raises(PerflowError, match=r"does not hold the architecture of .* 'text_encoder.encoder.layers.1.*'"):
        prepare(study.spec("bases", "two"), study.dataset, study.handle("two"))


def test_a_delta_leaves_as_one_file_that_diffusers_reads(checkpoint, tmp_path):
    base = pipeline_folder.tensors(checkpoint / "unet")
    change = {key: 0.1 * torch.randn_like(value) for key, value in base.items()}
    header = {
        "base": {"name": "two", "sha256": delta.identity(base)}, "sha256": artifacts.tensor_hash(change),
        "edges": [1, 0.5, 0], "path": "diffusion", "prediction": "ddim_eps", "base_prediction": "v",
        "timestep_offset": -1,
    }  # fmt: skip
    artifacts.write_tensors(tmp_path / "delta.safetensors", change, header)
    merge(tmp_path / "delta.safetensors", checkpoint, tmp_path / "one.safetensors")
    got = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "one.safetensors"), config=str(checkpoint), local_files_only=True, safety_checker=None
    )
    want = perflow.apply_delta(StableDiffusionPipeline.from_pretrained(checkpoint), tmp_path / "delta.safetensors")
    for part in ("unet", "vae", "text_encoder"):
        tensors = getattr(want, part).state_dict()
        assert tensors.keys() == getattr(got, part).state_dict().keys()
        for key, value in getattr(got, part).state_dict().items():
            assert torch.equal(value, tensors[key]), (part, key)


def test_a_text_model_that_readers_would_run_with_another_activation_is_refused(checkpoint, tmp_path):
    folder = sd2(tmp_path / "pipeline", words())
    path = folder / "text_encoder/config.json"
    artifacts.write_json(path, artifacts.read_json(path) | {"hidden_act": "quick_gelu"})
    with pytest.raises(PerflowError, match="text_encoder: its activation is quick_gelu; .* take it for gelu"):
        single_file.tensors(folder, pipeline_folder.index(folder), pipeline_folder.tensors(folder / "unet"))


def test_names_of_the_whole_stable_diffusion_2_convert_back():
    """All 686 names of the UNet and the text model's 372 at real depth, by diffusers' own conversions."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            cross_attention_dim=1024, sample_size=96, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
        text = CLIPTextModel(
            CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16)
        )
    names = {key: key for key in unet.state_dict()}
    assert len(names) == 686
    whole = {f"model.diffusion_model.{original.network_name(key, names)}": key for key in names}
    assert convert_ldm_unet_checkpoint(dict(whole), dict(unet.config)) == names
    values = {
        f"text_model.{key}": value for key, value in text.state_dict().items()
    }  # as published, with their numbers
    assert len(values) == 372
    renamed = original.open_clip(values | {"text_model.embeddings.position_ids": torch.arange(77)})
    assert "transformer.resblocks.22.mlp.c_proj.bias" in renamed
    back = convert_open_clip_checkpoint(text, {TEXT + key: value for key, value in renamed.items()}, prefix=TEXT)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in values.items()}
