"""A delta in other people's places: on fine-tunes, with adapters, in other pipelines, by the real stages."""

import io
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from perflow import artifacts, delta
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.images import edges
from perflow.models import handle
from perflow.stages.adapt import adapt
from perflow.stages.blend import blend
from perflow.stages.encode import encode
from perflow.stages.evaluate import evaluate
from perflow.stages.extractor import extractor
from perflow.stages.prompts import prompts
from perflow.stages.transfer import transfer
from perflow.stages.tune import tune
from tests.digits import fetch_digits
from tests.stages.conftest import Study, drawing, finish

STUDENT = "eps-perflow-k2-s0"
OPTIM = {"steps": 6, "batch": 8, "lr": 1e-3}


def compatible(params: dict) -> dict:
    """The tiny study with a fine-tune, that scaled, two adapters, and a setting of every kind."""
    params["datasets"]["outlined"] = params["datasets"]["digits"] | {"style": "outlined"}
    params["bases"] |= {
        "outlined": {"fine_tune": "eps", "dataset": "outlined", "network": OPTIM},
        "halfway": {"scaled": "outlined", "scale": 0.5},
    }
    params["adapters"] = {
        "style": {"kind": "lora", "base": "eps", "dataset": "outlined", "rank": 2, "training": OPTIM},
        "edges": {"kind": "controlnet", "base": "eps", "training": OPTIM},
    }
    common = {"label": "x", "bases": ["eps"], "students": ["perflow"]}
    params["students"]["perflow"]["windows"] = 2
    params["students"]["perflow"]["trials"]["steps"] = [2, 3]
    params["settings"] = {
        "plain": common,
        "tuned": common | {"bases": ["outlined", "halfway"]},
        "low": common | {"rank": 2},
        "lora": common | {"adapter": "style"},
        "control": common | {"adapter": "edges"},
        "repaint": common | {"task": "image", "strength": 0.5},
        "inpaint": common | {"task": "inpaint"},
    }
    return params


@pytest.fixture(scope="session")
def elsewhere(root, made, tmp_path_factory) -> Study:
    """The tiny study's data, base and student, with fine-tune, scaled fine-tune and adapters made beside them."""
    from perflow import config
    from perflow.config.load import read_yaml
    from tests.conftest import dump_params

    home = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(made.home, home, dirs_exist_ok=True)
    params = home / "params.yaml"
    params.write_text(dump_params(compatible(read_yaml(root / "workflow/studies/tiny.yaml")[0])))
    study = Study(config.load(params), home)
    config.write_specs(study.study, home)
    for name, row in study.study.datasets.items():
        if name != "digits":
            fetch_digits(data(study, name), row.counts, style=row.style or "plain")
            prompts(study.spec("prompts", name), asked(study, name))
    for name, row in study.study.latents.items():
        if row.base == "eps" and row.dataset != "digits":
            finish(encode(study.spec("latents", name), study.handle("eps"), data(study, row.dataset),
                          study.latents(name)))  # fmt: skip
    finish(tune(study.spec("bases", "outlined"), study.handle("eps"), study.latents("eps.outlined"),
                study.handle("outlined"), study.state("t")))  # fmt: skip
    blend(study.spec("bases", "halfway"), study.handle("eps"), study.handle("outlined"), study.handle("halfway"))
    for name, row in study.study.adapters.items():
        seen = study.latents("eps" if row.dataset == "digits" else f"eps.{row.dataset}")
        shown = {"dataset": data(study, row.dataset)} if row.kind == "controlnet" else {}
        finish(adapt(study.spec("adapters", name), study.handle("eps"), seen, adapter(study, name),
                     study.state(name), **shown))  # fmt: skip
    return study


def data(study: Study, name: str):
    return study.path("data", name, "manifest.json")


def asked(study: Study, dataset: str):
    return study.path("results/prompts", dataset, "manifest.json")


def adapter(study: Study, name: str):
    return study.path("results/adapters", name, "adapter.json")


def draw(study: Study, name: str, out=None):
    """Run one transfer; its manifest and the latents of its trials."""
    row = study.study.transfers[name]
    out = out or study.path("results/transfers", name, "manifest.json")
    given = {"adapter": adapter(study, row.adapter)} if row.adapter else {}
    given |= {"dataset": data(study, row.dataset)} if row.shows else {}
    finish(transfer(study.spec("transfers", name), study.handle(row.base), study.handle(row.model),
                    asked(study, row.prompts), out, **given))  # fmt: skip
    return out, latents(out)


def latents(manifest):
    entries = artifacts.read_json(manifest)["trials"]
    return {
        name: artifacts.tensors_beside(manifest, entry["latents"], "latents")["latents"]
        for name, entry in entries.items()
    }


def test_a_setting_that_changes_nothing_draws_what_the_stage_draws(elsewhere, tmp_path):
    """Text to image on the student's own base, by diffusers' pipeline: the same items from the same noise."""
    out = tmp_path / "m/manifest.json"
    finish(drawing(elsewhere, STUDENT, "eps", out))  # fmt: skip
    own = latents(out)
    found = draw(elsewhere, f"plain-eps.{STUDENT}")[1]
    assert found.keys() == own.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, own[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scene", "references"),
    [("lora-eps", 2), ("control-eps", 2), ("repaint-eps", 2), ("inpaint-eps", 2), ("low-eps", 0),
     ("tuned-outlined", 0)],
)  # fmt: skip
def test_a_delta_is_drawn_in_every_setting(elsewhere, scene, references, tmp_path):
    own = draw(elsewhere, f"plain-eps.{STUDENT}", tmp_path / "plain/manifest.json")[1]["window-2"]
    manifest, found = draw(elsewhere, f"{scene}.{STUDENT}", tmp_path / "a/manifest.json")
    assert artifacts.read_json(manifest)["base"] == (f"{scene}.eps" if references else scene.removeprefix("tuned-")
                                                     .removeprefix("low-"))  # fmt: skip
    assert all(bool(torch.isfinite(value).all()) for value in found.values())
    assert not torch.allclose(found["window-2"], own, atol=1e-3)
    _, again = draw(elsewhere, f"{scene}.{STUDENT}", tmp_path / "b/manifest.json")
    assert all(torch.equal(found[name], again[name]) for name in found)
    if references:
        _, base = draw(elsewhere, f"{scene}.eps", tmp_path / "c/manifest.json")
        assert {"teacher", "teacher-2"} <= base.keys()


@pytest.mark.parametrize("setting", ["control", "repaint", "inpaint"])
def test_the_base_keeps_the_pictures_that_the_pipeline_was_shown(elsewhere, setting, tmp_path):
    """Of another caption to start from, its own otherwise; the half that is to be painted is one grey."""
    path, _ = draw(elsewhere, f"{setting}-eps.eps", tmp_path / "base/manifest.json")
    manifest = artifacts.read_json(path)
    with zipfile.ZipFile(artifacts.beside(path, manifest["shown"])) as archive:
        seen = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in sorted(archive.namelist())]
    table = store.load(data(elsewhere, "digits"), elsewhere.study.transfers[f"{setting}-eps.eps"].split)
    captions, pixels = table["text"], store.images(table)
    texts = [prompt["text"] for prompt in manifest["prompts"]]
    assert len(seen) == len(texts)
    own = [pixels[captions.index(text)] for text in texts]
    for i, picture in enumerate(seen):
        if setting == "control":
            assert np.array_equal(picture, edges(own[i][None])[0])
        elif setting == "repaint":
            assert np.array_equal(picture, own[(i + 1) % len(own)])
        else:
            half = picture.shape[1] // 2
            assert np.array_equal(picture[:, :half], own[i][:, :half])
            assert (picture[:, half:] == 127).all()
    path, _ = draw(elsewhere, f"{setting}-eps.{STUDENT}", tmp_path / "student/manifest.json")
    assert "shown" not in artifacts.read_json(path)


def test_a_transfer_is_measured_against_the_teacher_of_its_setting(elsewhere, tmp_path):
    dataset = elsewhere.dataset
    network = tmp_path / "extractor.safetensors"
    finish(extractor(elsewhere.spec("extractors", "tiny-cnn"), dataset, network, elsewhere.state("x")))
    teacher, _ = draw(elsewhere, "inpaint-eps.eps")
    found, _ = draw(elsewhere, f"inpaint-eps.{STUDENT}")
    out = tmp_path / "metrics.json"
    spec = elsewhere.spec("evaluations", f"inpaint-eps.{STUDENT}")
    finish(evaluate(spec, found, teacher, dataset, network, out))
    measured = artifacts.read_json(out)["trials"]["window-2"]["metrics"]
    assert measured["teacher_mse"]["value"] > 0
    with pytest.raises(PerflowError, match=r"holds samples of 'inpaint-eps.eps-perflow-k2-s0', not of"):
        finish(evaluate(spec, found, found, dataset, network, out))


def test_a_scaled_fine_tune_lies_on_the_line_and_a_fine_tune_keeps_everything_but_the_network(elsewhere):
    base, halfway, tuned = (handle.network_tensors(elsewhere.handle(name)) for name in ("eps", "halfway", "outlined"))
    assert any(not torch.equal(base[key], tuned[key]) for key in base)
    for key in base:
        torch.testing.assert_close(halfway[key], (base[key] + tuned[key]) / 2, rtol=1e-5, atol=1e-6)
    loaded = handle.load(elsewhere.handle("halfway"))
    assert loaded.sha256 == delta.identity(loaded.unet.state_dict())
    folders = [elsewhere.handle(name).with_name("pipeline") for name in ("eps", "outlined", "halfway")]
    for part in ("vae", "text_encoder", "tokenizer", "scheduler"):
        bytes_of = [{p.name: p.read_bytes() for p in (folder / part).iterdir()} for folder in folders]
        assert bytes_of[0] == bytes_of[1] == bytes_of[2]


def test_an_untrained_adapter_changes_nothing_and_a_trained_one_leaves_the_base_alone(elsewhere):
    from perflow.models.adapters import new_controlnet, with_lora

    base = handle.load(elsewhere.handle("eps"))
    x, t = torch.randn(2, *base.base.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([9.0, 99])
    condition = base.base.embed(["a red digit", ""])["text"].clone()
    own = base.unet(x, t, condition, return_dict=False)[0]
    lora = with_lora(base.unet, 2, 0)
    torch.testing.assert_close(lora(x, t, condition, return_dict=False)[0], own)
    control = new_controlnet(base.unet, base.base.resolution, 0)
    down, middle = control(x, t, condition, controlnet_cond=torch.rand(2, 3, 16, 16), return_dict=False)
    assert all(not bool(value.any()) for value in (*down, middle))
    weights, about = artifacts.read_tensors(
        adapter(elsewhere, "style").parent / "lora/pytorch_lora_weights.safetensors"
    )
    assert about["base"]["sha256"] == base.sha256
    assert any(bool(value.any()) for name, value in weights.items() if ".lora_B." in name)


def test_an_altered_adapter_is_refused(elsewhere, tmp_path):
    copied = tmp_path / "style"
    shutil.copytree(adapter(elsewhere, "style").parent, copied)
    file = copied / "lora/pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(PerflowError, match="pytorch_lora_weights"):
        finish(transfer(elsewhere.spec("transfers", f"lora-eps.{STUDENT}"), elsewhere.handle("eps"),
                        elsewhere.handle(STUDENT), asked(elsewhere, "outlined"),
                        tmp_path / "m.json", adapter=copied / "adapter.json"))  # fmt: skip


def test_edges_are_where_neighbours_differ():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :, 4:, 1] = 255
    found = edges(image)
    assert found.shape == image.shape
    assert (found[0, :, 3:5] == 255).all()
    assert not found[0, :, :3].any()
    assert not found[0, :, 5:].any()
    assert not edges(np.full((1, 4, 4, 3), 77, np.uint8)).any()
