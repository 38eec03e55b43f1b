"""SDXL through the real stages: what a study draws is what StableDiffusionXLPipeline draws."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import perflow
from perflow import artifacts, config, delta, lora, original
from perflow.cli import main
from perflow.config import rows
from perflow.config.load import read_yaml
from perflow.config.rows import Trial
from perflow.core.condition import take
from perflow.core.rng import normal
from perflow.datasets.digits import words
from perflow.errors import PerflowError
from perflow.integrations import single_file
from perflow.models import folder as pipeline_folder
from perflow.models import handle, sources
from perflow.models.drawer import Drawer
from perflow.models.sdxl import SDXL
from perflow.pairs import PairCache
from perflow.stages.evaluate import evaluate
from perflow.stages.extractor import extractor
from perflow.stages.prepare import prepare
from perflow.stages.prompts import prompts
from tests.conftest import dump_params
from tests.digits import fetch_digits
from tests.stages.conftest import Study, drawing, finish, teach
from tests.stages.test_sample import images
from tests.tiny_pipelines import SD, sdxl

STUDENT, SYNC = "xl-perflow-k2-s0", "xl-synced-k2-s0"
PROMPTS = ["a red handwritten seven", "a digit", ""]


@pytest.fixture(scope="module")
def xl(root, tmp_path_factory):
    """An SDXL base, two students of it (guided pairs, and dropped captions), their samples and numbers."""
    home = tmp_path_factory.mktemp("xl")
    params, _ = read_yaml(root / "workflow/studies/tiny.yaml")
    source = {"folder": str(sdxl(home / "checkpoint", words()))}
    params["bases"] = {"xl": {"family": "sdxl", "dataset": "digits", "source": source}}
    params["students"] = {
        "perflow": params["students"]["perflow"] | {"bases": ["xl"], "windows": 2},
        "synced": params["students"]["distilled"] | {"bases": ["xl"], "pairs": "path", "prediction": "ddim_eps"},
    }
    (home / "params.yaml").write_text(dump_params(params))
    study = Study(config.load(home / "params.yaml"), home)
    config.write_specs(study.study, home)
    fetch_digits(study.dataset, study.study.datasets["digits"].counts)
    prompts(study.spec("prompts", "digits"), study.prompts)
    prepare(study.spec("bases", "xl"), study.dataset, study.handle("xl"))
    for student in (STUDENT, SYNC):
        teach(study, student)
    for model in ("xl", STUDENT):
        finish(drawing(study, model, "xl", drawn(study, model)))
    return study


def drawn(study, model):
    return study.path("results/samples", model, "manifest.json")


def pipeline(study, **options):
    pipe = StableDiffusionXLPipeline.from_pretrained(study.handle("xl").with_name("pipeline"), **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(count):
    return normal((4, 8, 8), 0, "noise-0", range(count))


@pytest.mark.parametrize(("model", "trial"), [(STUDENT, "window-2"), ("xl", "ddim-2")])
def test_the_pipeline_draws_what_the_stage_draws(xl, model, trial):
    """Same noise, same prompts: latents to 1e-4, pixels to one grey level."""
    manifest = artifacts.read_json(drawn(xl, model))
    entry = manifest["trials"][trial]
    latents = artifacts.read_tensors(drawn(xl, model).with_name(entry["latents"]["file"]))[0]["latents"]
    pipe = pipeline(xl)
    if model == "xl":
        pipe.scheduler = DDIMScheduler(**SD, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False)
    else:
        perflow.apply_delta(pipe, xl.handle(model).with_name("delta.safetensors"))
    prompts = [prompt["text"] for prompt in manifest["prompts"] for _ in range(manifest["per_prompt"])]
    common = dict(prompt=prompts, latents=noise(len(prompts)), num_inference_steps=2, guidance_scale=entry["guidance"])
    got = pipe(**common, output_type="latent").images
    torch.testing.assert_close(got, latents, rtol=1e-4, atol=1e-4)
    pixels = np.stack([np.asarray(image) for image in pipe(**common).images])
    assert np.abs(pixels.astype(int) - images(drawn(xl, model), trial).astype(int)).max() <= 1


@pytest.mark.parametrize("zeros", [True, False])
def test_conditions_are_what_the_pipeline_tells_its_network(xl, tmp_path, zeros):
    """The empty caption is what guidance starts from there: zeros, or the text of nothing."""
    folder = sdxl(tmp_path / "xl", words(), force_zeros_for_empty_prompt=zeros)
    pipe, found = StableDiffusionXLPipeline.from_pretrained(folder), SDXL(folder).embed(PROMPTS)
    text, null, pooled, null_pooled = pipe.encode_prompt(PROMPTS[:2], do_classifier_free_guidance=True)
    torch.testing.assert_close(found["text"], torch.cat([text, null[:1]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["pooled"], torch.cat([pooled, null_pooled[:1]]), rtol=1e-5, atol=1e-5)
    assert bool(found["text"][2].any()) is bool(found["pooled"][2].any()) is not zeros
    sizes = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, text_encoder_projection_dim=12)
    assert torch.equal(found["sizes"], sizes.repeat(3, 1))
    for asked in ([2], [2, 0], [1, 1, 0, 2]):  # made of tokens, of these captions alone
        again = SDXL(folder).condition(take(SDXL(folder).tokens(PROMPTS), torch.tensor(asked)))
        assert again.keys() == found.keys()
        assert all(torch.equal(value, found[name][asked]) for name, value in again.items())


def test_dropped_captions_become_the_condition_of_no_prompt(xl):
    pairs = PairCache.load(xl.pairs(xl.study.students[SYNC].pairs))
    batch = pairs.batch(torch.arange(len(pairs)))
    empty = pairs.caption == 0
    assert 0 < int(empty.sum()) < len(pairs)
    for name in ("text", "pooled"):
        assert torch.equal(batch.condition[name].flatten(1).any(1), ~empty)
    assert batch.condition["sizes"].shape == (len(pairs), 6)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_an_untaught_student_is_trailing_ddim(xl, guidance):
    pipe = pipeline(xl)
    base = pipe.unet.state_dict()
    header = {
        "base": {"name": "xl", "sha256": delta.identity(base)}, "edges": [1, 0.75, 0.5, 0.25, 0], "path": "diffusion",
        "prediction": "ddim_eps", "base_prediction": "epsilon", "timestep_offset": -1,
    }  # fmt: skip
    perflow.apply_delta(pipe, ({key: torch.zeros_like(value) for key, value in base.items()}, header))
    call = dict(
        prompt=PROMPTS[:2], latents=noise(2), num_inference_steps=4, guidance_scale=guidance, output_type="latent"
    )
    student = pipe(**call).images
    pipe.scheduler = DDIMScheduler(**SD, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False)
    torch.testing.assert_close(student, pipe(**call).images, rtol=1e-4, atol=1e-4)


def run(*call):
    done = CliRunner().invoke(main, [str(part) for part in call], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_delta_leaves_the_study_as_a_folder_and_a_card(xl, tmp_path):
    file, base = xl.handle(STUDENT).with_name("delta.safetensors"), xl.handle("xl").with_name("pipeline")
    run("apply", file, "--base", base, "--out", tmp_path / "fast")
    call = dict(prompt=PROMPTS[:2], latents=noise(2), num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    want = perflow.apply_delta(pipeline(xl), file)
    merged = StableDiffusionXLPipeline.from_pretrained(tmp_path / "fast")
    torch.testing.assert_close(merged(**call).images, want(**call).images, rtol=0, atol=1e-5)
    assert "StableDiffusionXLPipeline.from_pretrained" in (tmp_path / "fast/README.md").read_text()
    assert "StableDiffusionXLPipeline.from_pretrained" in run("card", file)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_delta_leaves_the_study_as_a_lora(xl, tmp_path, layout):
    file = xl.handle(STUDENT).with_name("delta.safetensors")
    run("lora", file, "--rank", 32, "--layout", layout, "--out", tmp_path / "lora.safetensors")
    cut = pipeline(xl)
    cut.load_lora_weights(str(tmp_path / "lora.safetensors"))
    cut.fuse_lora(components=["unet"])
    change = artifacts.read_tensors(file)[0]
    base_weights = pipeline(xl).unet.state_dict()
    matrices = [key for key, value in change.items() if value.ndim > 1]
    fused = {key.replace(".base_layer", ""): value for key, value in cut.unet.state_dict().items()}
    for key in matrices:
        torch.testing.assert_close(fused[key], base_weights[key] + change[key], rtol=1e-3, atol=1e-5)


def test_a_delta_leaves_the_study_as_one_file_that_diffusers_reads(xl, tmp_path):
    file, base = xl.handle(STUDENT).with_name("delta.safetensors"), xl.handle("xl").with_name("pipeline")
    run("apply", file, "--base", base, "--out", tmp_path / "one.safetensors")
    got = StableDiffusionXLPipeline.from_single_file(
        str(tmp_path / "one.safetensors"), config=str(base), local_files_only=True, add_watermarker=False
    )
    want = perflow.apply_delta(pipeline(xl), file)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        tensors = getattr(want, part).state_dict()
        assert tensors.keys() == getattr(got, part).state_dict().keys()
        for key, value in getattr(got, part).state_dict().items():
            assert torch.equal(value, tensors[key]), (part, key)
    got.scheduler = want.scheduler
    call = dict(prompt=PROMPTS[:2], latents=noise(2), num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    torch.testing.assert_close(got(**call).images, want(**call).images)


def whole_network():
    """The UNet of the published SDXL, without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(320, 640, 1280), transformer_layers_per_block=[1, 2, 10], cross_attention_dim=2048,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=[5, 10, 20],
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )  # fmt: skip


def test_names_of_the_whole_sdxl_convert_back():
    """All 1,680 names of the UNet and the second text model's at real depth, by diffusers' own conversions."""
    unet = whole_network()
    names = {key: key for key in unet.state_dict()}
    assert len(names) == 1680
    whole = {f"model.diffusion_model.{original.network_name(key, names)}": key for key in names}
    assert convert_ldm_unet_checkpoint(dict(whole), dict(unet.config)) == names
    with torch.device("meta"):
        text = CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20)
        )
    values = text.state_dict()
    renamed = {f"conditioner.embedders.1.model.{key}": value for key, value in original.open_clip(values).items()}
    back = convert_open_clip_checkpoint(text, renamed, prefix="conditioner.embedders.1.model.")
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in values.items()}


def test_kohya_names_of_the_whole_sdxl_are_those_of_its_files():
    """Names as they stand in LoRAs that kohya's scripts trained on SDXL: the original network's."""
    pair = lora.Pair(torch.zeros(1, 1), torch.zeros(1, 1))
    modules = [key.removesuffix(".weight") for key, value in whole_network().state_dict().items() if value.ndim > 1]
    named = lora.kohya_names(dict.fromkeys(modules, pair))
    assert len(named) == 3 * len(modules)
    for module in (
        "input_blocks_4_1_transformer_blocks_0_attn1_to_k", "input_blocks_8_1_proj_in",
        "input_blocks_7_1_transformer_blocks_9_attn2_to_out_0", "middle_block_1_transformer_blocks_9_ff_net_0_proj",
        "output_blocks_2_1_transformer_blocks_3_attn1_to_q", "output_blocks_5_1_transformer_blocks_1_ff_net_2",
        "input_blocks_3_0_op", "input_blocks_4_0_skip_connection", "output_blocks_2_2_conv", "label_emb_0_0",
    ):  # fmt: skip
        assert f"lora_unet_{module}.lora_down.weight" in named


def test_an_adopted_delta_is_told_the_published_timesteps_by_pipeline_and_study_alike(xl, tmp_path):
    """1000, 750, 500, 250, where our own students are told 999, 749, 499, 249."""
    unet = pipeline(xl).unet
    base_weights = unet.state_dict()
    random = torch.Generator().manual_seed(3)
    change = {key: 0.1 * value * torch.randn(value.shape, generator=random) for key, value in base_weights.items()}
    unet.load_state_dict(change)
    unet.save_pretrained(tmp_path / "published")
    base = xl.handle("xl").with_name("pipeline")
    home = tmp_path / "delta.safetensors"
    run("adopt", tmp_path / "published", "--base", base, "--windows", 4, "--prediction", "ddim_eps", "--out", home)
    pipe = perflow.apply_delta(pipeline(xl), home)
    call = dict(
        prompt=PROMPTS[:1] * 3, latents=noise(3), num_inference_steps=4, guidance_scale=2.0, output_type="latent"
    )
    want = pipe(**call).images
    assert pipe.scheduler.timesteps.tolist() == [1000, 750, 500, 250]

    model = tmp_path / "model.json"
    artifacts.write_json(model, {
        "kind": "student", "name": "published", "base": str(xl.handle("xl")), "delta": home.name,
        "sha256": artifacts.read_header(home)["student_sha256"],
    })  # fmt: skip
    drawer = Drawer.load(model, "cpu", PROMPTS[:1], 3, 0)
    trial = Trial(name="t", solver="window", steps=4, guidance=2.0, nfe=8)
    torch.testing.assert_close(drawer.draw(trial, drawer.noise(0)), want, rtol=1e-4, atol=1e-4)
    ours = artifacts.read_tensors(home)
    artifacts.write_tensors(home, ours[0], ours[1] | {"timestep_offset": -1})
    other = Drawer.load(model, "cpu", PROMPTS[:1], 3, 0).draw(trial, noise(3))
    assert float((other - want).abs().max()) > 1e-3
    run(
        "sample", "--prompt", PROMPTS[0], "--model", model, "--out", tmp_path / "x.png", "--count", 2, "--device", "cpu"
    )


def test_latents_are_scaled_and_shifted_as_the_autoencoder_says_and_never_in_half(xl, tmp_path):
    """What is stored in half precision is computed in single: beyond 65,504 half of it would be infinite."""
    shifted = {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [2.0, 0.5, 1.0, 3.0]}
    folder = sdxl(tmp_path / "xl", words(), vae=shifted)
    pipe, base = StableDiffusionXLPipeline.from_pretrained(folder), SDXL(folder)
    call = dict(prompt=PROMPTS[0], latents=noise(1), num_inference_steps=1, guidance_scale=1.0)
    want = (pipe(**call, output_type="np").images * 255).round().astype(np.uint8)
    latents = pipe(**call, output_type="latent").images
    assert np.abs(base.decode(latents).astype(int) - want).max() <= 1
    again = base.encode(want)
    mean = base.autoencoder.encode(torch.from_numpy(want).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    shift, std = (torch.tensor(shifted[name]).reshape(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(again, (mean - shift) / std * 0.13025, rtol=1e-4, atol=1e-5)

    with torch.no_grad():
        pipe.vae.decoder.conv_in.weight.mul_(3e5)
    pipe.vae.half().save_pretrained(folder / "vae")
    loaded = SDXL(folder)
    assert loaded.autoencoder.config.force_upcast
    assert {value.dtype for value in loaded.autoencoder.state_dict().values()} == {torch.float32}
    inside = loaded.autoencoder.decoder.conv_in(loaded.autoencoder.post_quant_conv(100 * noise(1)))
    assert bool(inside.isfinite().all())
    assert float(inside.abs().max()) > 65_504


def test_models_of_the_study_are_measured(xl):
    network = xl.path("results/extractors/tiny-cnn/extractor.safetensors")
    finish(extractor(xl.spec("extractors", "tiny-cnn"), xl.dataset, network, xl.state("cnn"), "cpu"))
    out = xl.path("results/metrics", f"{STUDENT}.json")
    finish(evaluate(xl.spec("evaluations", STUDENT), drawn(xl, STUDENT), drawn(xl, "xl"), xl.dataset, network, out))
    found = artifacts.read_json(out)["trials"]["window-2"]["metrics"]
    assert set(xl.study.params.evaluation.metrics) - found.keys() <= {"diversity"}  # no two correct samples of a prompt
    assert found["teacher_mse"]["value"] > 0


def test_what_is_no_base_of_the_family_is_refused(xl, tmp_path):
    spec = xl.spec("bases", "xl")
    out = tmp_path / "model.json"
    for family, message in (
        ("stable_diffusion", "bases.xl.family: stable_diffusion, but the checkpoint is a StableDiffusionXLPipeline;"
                             " family: sdxl"),
        ("pixel", "bases.xl.family: pixel, but the checkpoint is a StableDiffusionXLPipeline"),
    ):  # fmt: skip
        with pytest.raises(PerflowError, match=message):
            prepare(spec._replace(row=spec.row | {"family": family}), xl.dataset, out)
    folder = xl.path("checkpoint")
    text = (folder / "unet/config.json").read_text()
    try:
        (folder / "unet/config.json").write_text(text.replace('_input_dim": 60', '_input_dim": 52'))
        with pytest.raises(PerflowError, match="its network is not told 6 sizes"):
            prepare(spec, xl.dataset, out)
    finally:
        (folder / "unet/config.json").write_text(text)
    assert not out.exists()


def test_a_schedule_is_never_assumed(xl, tmp_path):
    """EDM and flow matching have no betas: they are refused, not read as Stable Diffusion's."""
    folder = sdxl(tmp_path / "xl", words())
    path = folder / "scheduler/scheduler_config.json"
    for scheduler in ("EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"):
        artifacts.write_json(path, {"_class_name": scheduler})
        with pytest.raises(PerflowError, match=f"its scheduler '{scheduler}' has no beta_start"):
            SDXL(folder)
    artifacts.write_json(path, {"_class_name": "OneOfTheFuture"})
    with pytest.raises(PerflowError, match="its scheduler 'OneOfTheFuture' is none of diffusers"):
        SDXL(folder)
    artifacts.write_json(path, {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "linear", "beta_end": 0.03})
    want = DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.03)  # Euler's own default beta_start
    assert torch.equal(SDXL(folder).schedule.alphas_cumprod, want.alphas_cumprod.double())
    assert handle.load(xl.handle("xl")).base.clip is None


def test_a_single_file_is_the_same_base(xl, tmp_path):
    folder = xl.path("checkpoint")
    whole = single_file.tensors(folder, pipeline_folder.index(folder), pipeline_folder.tensors(folder / "unet"))
    artifacts.write_tensors(tmp_path / "one.safetensors", whole, {})
    source = rows.Source(file=str(tmp_path / "one.safetensors"), config=str(folder))
    sources.take(source, tmp_path / "taken")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        got, want = (pipeline_folder.tensors(place / part) for place in (tmp_path / "taken", folder))
        assert got.keys() == want.keys()
        assert all(torch.equal(value, got[key]) for key, value in want.items()), part
    got, want = (SDXL(place).embed(PROMPTS) for place in (tmp_path / "taken", folder))
    assert all(torch.equal(value, got[key]) for key, value in want.items())
