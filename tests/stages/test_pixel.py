"""Pixel bases through the real stages: told nothing, or a class."""

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, UNet2DModel

import perflow
from perflow import artifacts, config, delta
from perflow.config.load import read_yaml
from perflow.config.rows import Trial
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.datasets.digits import DIGITS
from perflow.errors import PerflowError
from perflow.integrations.merge import merge
from perflow.models import folder as pipeline_folder
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.models.pixel import Pixel
from perflow.pairs import PairCache
from perflow.stages.draw import draw
from perflow.stages.evaluate import evaluate
from perflow.stages.extractor import extractor
from perflow.stages.prepare import prepare
from perflow.stages.prompts import prompts
from tests.conftest import dump_params
from tests.digits import fetch_digits
from tests.stages.conftest import Study, drawing, finish, teach
from tests.stages.test_sample import images
from tests.tiny_pipelines import pixel

STUDENT, CLASSED = "px-perflow-k2-s0", "cls-perflow-k2-s0"


def params_of(root, home):
    """The tiny study on a pixel base alone, without guidance."""
    params, _ = read_yaml(root / "workflow/studies/tiny.yaml")
    params["bases"] = {"px": {"family": "pixel", "dataset": "digits", "source": {"folder": str(home / "px")}}}
    params["students"] = {"perflow": params["students"]["perflow"] | {"bases": ["px"], "windows": 2}}
    params["pairs"]["fixed"]["guidance"] = params["sampling"]["teacher"]["guidance"] = 1.0
    return params


@pytest.fixture(scope="module")
def px(root, tmp_path_factory):
    """A base that is told nothing, flat as google/ddpm-cifar10-32 is, and one that is told a digit, with a student."""
    home = tmp_path_factory.mktemp("px")
    pixel(home / "px", old=True)
    pixel(home / "cls", classes=11, clip_sample=False)
    params = params_of(root, home)
    params["bases"]["cls"] = params["bases"]["px"] | {
        "source": {"folder": str(home / "cls")}, "classes": list(DIGITS), "null_class": 10,
    }  # fmt: skip
    (home / "params.yaml").write_text(dump_params(params))
    study = Study(config.load(home / "params.yaml"), home)
    config.write_specs(study.study, home)
    fetch_digits(study.dataset, study.study.datasets["digits"].counts)
    prompts(study.spec("prompts", "digits"), study.prompts)
    for base in ("px", "cls"):
        prepare(study.spec("bases", base), study.dataset, study.handle(base))
    teach(study, STUDENT)
    for model in ("px", STUDENT):
        finish(drawing(study, model, "px", drawn(study, model)))
    return study


def drawn(study, model):
    return study.path("results/samples", model, "manifest.json")


def pipeline(study, kind=DDPMPipeline):
    pipe = kind.from_pretrained(study.handle("px").with_name("pipeline"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_of(count):
    return [generator(0, "noise-0", item) for item in range(count)]


def test_ddpm_pipeline_draws_what_the_stage_draws(px):
    """A student in DDPMPipeline; a base, whose scheduler clips, in DDIMPipeline: latents to 1e-4."""
    for model, trial in ((STUDENT, "window-2"), ("px", "ddim-2")):
        manifest = artifacts.read_json(drawn(px, model))
        entry = manifest["trials"][trial]
        latents = artifacts.read_tensors(drawn(px, model).with_name(entry["latents"]["file"]))[0]["latents"]
        call = {"batch_size": len(latents), "generator": noise_of(len(latents)), "num_inference_steps": 2}
        if model == "px":
            pipe = pipeline(px, DDIMPipeline)
            pipe.scheduler = DDIMScheduler.from_config(
                pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=False
            )
            assert pipe.scheduler.config.clip_sample
            call["use_clipped_model_output"] = True
        else:
            pipe = perflow.apply_delta(pipeline(px), px.handle(model).with_name("delta.safetensors"))
        got = pipe(**call, output_type="np").images
        want = (latents / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
        assert np.abs((got * 255).round() - images(drawn(px, model), trial)).max() <= 1


def test_a_clipped_base_is_another_field_than_an_unclipped_one(px):
    loaded = handle.load(px.handle("px"))
    x = 3 * torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.full((8,), 400.0)
    raw, kept = loaded.base.network()(x, t, {}), loaded.says({}, None, 1)(x, t)
    alpha, sigma = (
        value(torch.tensor(0.401)).float() for value in (loaded.base.schedule.alpha, loaded.base.schedule.sigma)
    )
    x0, kept_x0 = ((x - sigma * eps) / alpha for eps in (raw, kept))
    torch.testing.assert_close(kept_x0, x0.clamp(-1, 1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(x0, kept_x0)
    student = handle.load(px.handle(STUDENT))
    assert torch.equal(student.says({}, None, 1)(x, t), student.base.network(student.unet)(x, t, {}))


def test_a_flat_checkpoint_of_old_names_is_taken_whole(px):
    checkpoint, taken = px.path("px"), px.handle("px").with_name("pipeline")
    want = UNet2DModel.from_pretrained(checkpoint).state_dict()
    got = handle.load(px.handle("px")).unet.state_dict()
    assert want.keys() == got.keys() == pipeline_folder.tensors(checkpoint / "unet").keys()
    assert all(torch.equal(value, got[key]) for key, value in want.items())
    assert {path.name for path in taken.iterdir()} == {"model_index.json", "scheduler", "unet"}


def test_names_of_a_flat_repository_are_dealt_to_its_parts():
    names = ["README.md", "config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors",
             "images/a.png", "model_index.json", "scheduler_config.json"]  # fmt: skip
    assert set(pipeline_folder.inside("unet", names)) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert set(pipeline_folder.inside("scheduler", names)) == {"scheduler_config.json"}
    with pytest.raises(PerflowError, match="scheduler: no such folder"):
        pipeline_folder.inside("scheduler", ["model_index.json", "config.json"])


def test_an_untaught_student_is_trailing_ddim_and_merges_into_a_folder(px, tmp_path):
    pipe = pipeline(px)
    base = pipe.unet.state_dict()
    header = {
        "base": {"name": "px", "sha256": delta.identity(base), "pipeline": "DDPMPipeline"},
        "edges": [1, 0.75, 0.5, 0.25, 0], "path": "diffusion", "prediction": "ddim_eps", "base_prediction": "epsilon",
        "timestep_offset": -1,
    }  # fmt: skip
    zeros = {key: torch.zeros_like(value) for key, value in base.items()}
    perflow.apply_delta(pipe, (zeros, header))
    call = {"batch_size": 3, "num_inference_steps": 4, "output_type": "np"}
    student = pipe(**call, generator=noise_of(3)).images
    pipe.scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False)
    np.testing.assert_allclose(student, pipe(**call, generator=noise_of(3)).images, rtol=0, atol=1e-4)

    artifacts.write_tensors(tmp_path / "delta", zeros, header | {"path": "straight"})
    index = artifacts.read_json(px.path("px/model_index.json"))
    artifacts.write_json(px.path("px/model_index.json"), index | {"_class_name": "DDIMPipeline"})
    merge(tmp_path / "delta", px.path("px"), tmp_path / "merged")
    artifacts.write_json(px.path("px/model_index.json"), index)
    assert artifacts.read_json(tmp_path / "merged/model_index.json")["_class_name"] == "DDPMPipeline"
    merged = DDPMPipeline.from_pretrained(tmp_path / "merged")
    assert type(merged.scheduler) is perflow.PeRFlowScheduler
    want = perflow.apply_delta(pipeline(px), tmp_path / "delta")
    got = merged(**call, generator=noise_of(3)).images
    np.testing.assert_allclose(got, want(**call, generator=noise_of(3)).images, rtol=0, atol=1e-5)


def test_items_are_numbered_and_measured_where_nothing_is_asked_for(px):
    manifest = artifacts.read_json(drawn(px, STUDENT))
    assert [prompt["text"] for prompt in manifest["prompts"][:2]] == ["no. 1", "no. 2"]
    network = px.path("results/extractors/tiny-cnn/extractor.safetensors")
    finish(extractor(px.spec("extractors", "tiny-cnn"), px.dataset, network, px.state("cnn"), "cpu"))
    out = px.path("results/metrics", f"{STUDENT}.json")
    finish(evaluate(px.spec("evaluations", STUDENT), drawn(px, STUDENT), drawn(px, "px"), px.dataset, network, out))
    found = artifacts.read_json(out)["trials"]["window-2"]["metrics"]
    assert set(px.study.params.evaluation.metrics) - found.keys() == {"prompt_accuracy"}


def digits_by_name(study, home):
    """The data set's images with the digit's name as the whole caption."""
    manifest = store.manifest(study.dataset)
    entries = {}
    for split in manifest["files"]:
        table = store.load(study.dataset, split)
        cells = table.data.column("image").to_pylist()
        rows = [
            {"image": cell["bytes"], "text": DIGITS[label]}
            for cell, label in zip(cells, table["label_digit"], strict=True)
        ]
        store.write(home / f"{split}.parquet", rows, [])
        entries[split] = {"file": f"{split}.parquet", "sha256": artifacts.sha256_file(home / f"{split}.parquet")}
    artifacts.write_json(home / "manifest.json", manifest | {"files": entries, "attributes": {}})
    return home / "manifest.json"


def test_a_class_is_a_condition_and_its_null_class_lets_it_be_guided(px, root, tmp_path):
    params = params_of(root, px.home)
    params["bases"] = {"cls": px.study.bases["cls"].model_dump(exclude_none=True)}
    params["students"]["perflow"]["bases"] = ["cls"]
    params["pairs"]["fixed"] |= {"guidance": 3.0, "drop": 0.2}
    (tmp_path / "params.yaml").write_text(dump_params(params))
    study = Study(config.load(tmp_path / "params.yaml"), px.home)
    config.write_specs(study.study, px.home)
    named = digits_by_name(px, tmp_path)
    study = study._replace(home=px.home)
    from perflow.stages.cache import cache
    from perflow.stages.encode import encode

    finish(encode(study.spec("latents", "cls"), px.handle("cls"), named, study.latents("cls")))
    finish(
        cache(study.spec("pairs", "cls-fixed-k2"), px.handle("cls"), study.latents("cls"), study.pairs("cls-fixed-k2"))
    )
    pairs = PairCache.load(study.pairs("cls-fixed-k2"))
    labels = pairs.batch(torch.arange(len(pairs))).condition["label"]
    assert set(labels.tolist()) <= set(range(11))
    assert 0 < int((labels == 10).sum()) < len(pairs)
    teach(study, CLASSED)

    drawer = Drawer.load(study.handle(CLASSED), "cpu", ["seven", "two"], 2, 0)
    trial = Trial(name="t", solver="window", steps=2, guidance=3.0, nfe=4)
    got = drawer.draw(trial, drawer.noise(0))
    scheduler = perflow.PeRFlowScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", num_time_windows=2, timestep_offset=-1
    )
    scheduler.set_timesteps(2)
    x, unet = drawer.noise(0), drawer.model.unet
    with torch.inference_mode():
        for t in scheduler.timesteps:
            own, null = (unet(x, t, torch.tensor(labels)).sample for labels in ([7, 7, 2, 2], [10] * 4))
            x = scheduler.step(null + 3 * (own - null), t, x).prev_sample
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)
    with pytest.raises(PerflowError, match="no class 'a horse'; there are zero, one, two, .*nine$"):
        draw(px.handle("cls"), "a horse", tmp_path / "x.png", None, 2, None, 0, 1)
    draw(px.handle("cls"), "seven", tmp_path / "x.png", None, 2, None, 0, 2)


def test_items_do_not_depend_on_how_many_are_drawn(px):
    trial = Trial(name="t", solver="window", steps=2, guidance=1.0, nfe=2)
    few, many = (Drawer.load(px.handle(STUDENT), "cpu", [""] * count, 1, 0) for count in (3, 21))
    assert many.model.base.chunk == 4
    assert torch.equal(few.draw(trial, few.noise(0)), many.draw(trial, many.noise(0))[:3])


def test_a_base_that_is_told_nothing_takes_neither_prompt_nor_guidance(px, tmp_path):
    with pytest.raises(PerflowError, match="--prompt 'a horse': px draws without a prompt; give --prompt ''"):
        draw(px.handle("px"), "a horse", tmp_path / "x.png", None, 2, None, 0, 1)
    with pytest.raises(PerflowError, match="--guidance 2.0: px knows no condition of no prompt; only 1 is valid"):
        draw(px.handle("px"), "", tmp_path / "x.png", None, 2, 2.0, 0, 1)
    draw(px.handle("px"), "", tmp_path / "x.png", None, 2, None, 0, 2)
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("sampling", "teacher", "guidance"),
            4.5,
            r"sampling.teacher.guidance: must be 1 for 'px', which has no null_class",
        ),
        (("pairs", "fixed", "guidance"), 2.0, r"pairs.fixed.guidance: must be 1 for 'px'.*got 2.0"),
        (("pairs", "fixed", "drop"), 0.1, r"pairs.fixed.drop: must be 0 for 'px'"),
        (("students", "perflow", "trials", "guidance"), [1.0, 2.0], r"students.perflow.trials.guidance: must be 1"),
        (("bases", "px", "family"), "sdxl", None),
        (("bases", "px", "null_class"), 3, None),
    ],
)
def test_guidance_is_refused_when_the_study_is_read(root, tmp_path, place, value, message):
    params = params_of(root, tmp_path)
    *path, last = place
    row = params
    for key in path:
        row = row[key]
    row[last] = value
    (tmp_path / "params.yaml").write_text(dump_params(params))
    if message is None:  # what reads captions, or has a null class, may be guided
        assert config.load(tmp_path / "params.yaml").bases
        return
    with pytest.raises(PerflowError, match=message):
        config.load(tmp_path / "params.yaml")


def test_a_family_without_a_text_model_has_nothing_to_make_conditions_of_again(root, tmp_path):
    params = params_of(root, tmp_path) | {"encoding": {"captions": "recomputed"}}
    (tmp_path / "params.yaml").write_text(dump_params(params))
    message = r"encoding.captions: recomputed is for families with a text model, stable_diffusion, sdxl; 'px' is pixel"
    with pytest.raises(PerflowError, match=message):
        config.load(tmp_path / "params.yaml")


def test_families_are_told_what_they_read(root, tmp_path):
    for change, message in (
        ({"family": "sdxl", "classes": ["a"]}, "bases.px.classes: the family sdxl reads captions, not classes"),
        ({"family": "stable_diffusion", "null_class": 3}, "bases.px.null_class: the family stable_diffusion reads"),
    ):
        params = params_of(root, tmp_path)
        params["bases"]["px"] |= change
        (tmp_path / "params.yaml").write_text(dump_params(params))
        with pytest.raises(PerflowError, match=message):
            config.load(tmp_path / "params.yaml")
    params, _ = read_yaml(root / "workflow/studies/tiny.yaml")
    params["bases"]["eps"]["family"] = "sdxl"
    (tmp_path / "params.yaml").write_text(dump_params(params))
    with pytest.raises(PerflowError, match="bases.eps.family: a sdxl base is taken from a source"):
        config.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("made", "told", "message"),
    [
        ({}, {"classes": ["a"]}, "its network reads no class; take classes and null_class out of the row"),
        ({"classes": 3}, {}, "knows 3 classes; name the others in their order, .*; got no names"),
        (
            {"classes": 3},
            {"classes": ["a", "b", "c"], "null_class": 2},
            "knows 3 classes, 2 of them for none.*got 3 names",
        ),
        ({"thresholding": True}, {}, "its scheduler thresholds samples"),
        ({"prediction_type": "other"}, {}, "prediction_type 'other' is not one of"),
    ],
)
def test_a_network_that_is_not_what_it_is_said_to_be_is_refused(tmp_path, made, told, message):
    with pytest.raises(PerflowError, match=message):
        Pixel(pixel(tmp_path / "px", **made), "cpu", **told)


def test_a_learned_variance_is_refused_and_grey_images_are_read(tmp_path):
    folder = pixel(tmp_path / "px")
    path = folder / "unet/config.json"
    unet = artifacts.read_json(path)
    artifacts.write_json(path, unet | {"out_channels": 6})
    with pytest.raises(PerflowError, match=r"takes 3 channels and says 6;.*learned variance"):
        Pixel(folder)
    artifacts.write_json(path, unet | {"in_channels": 1, "out_channels": 1})
    grey = np.repeat(np.arange(0, 256, dtype=np.uint8).reshape(1, 16, 16, 1), 3, axis=3)
    assert Pixel(folder).encode(grey).shape == (1, 1, 16, 16)
    assert np.array_equal(Pixel(folder).decode(Pixel(folder).encode(grey)), grey)
