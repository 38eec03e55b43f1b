"""A pretrained base is the checkpoint, wherever it came from, and teaches what the same base teaches."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import TokenizersBackend

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.integrations import single_file
from perflow.models import folder as pipeline_folder
from perflow.models import handle
from perflow.models.stable_diffusion import StableDiffusion
from perflow.stages.prepare import prepare
from tests.hub import COMMIT, serve
from tests.stages.conftest import grown, teach


@pytest.fixture
def taken(tiny, tiny_params, write_params):
    """Give the tiny study another base, "taken", from a source; returns (study, what prepare is called with)."""

    def write(source, **more):
        tiny_params["bases"]["taken"] = {"family": "stable_diffusion", "dataset": "digits", "source": source} | more
        tiny_params["students"]["perflow"] |= {"bases": ["eps", "taken"], "windows": 2}
        study = grown(tiny, tiny_params, write_params)
        return study, (study.spec("bases", "taken"), study.dataset, study.handle("taken"))

    return write


@pytest.fixture
def checkpoint(tiny):
    """A pipeline folder."""
    return tiny.handle("eps").parent / "pipeline"


def same_model(study, tmp_path=None):
    got, want = handle.load(study.handle("taken")), handle.load(study.handle("eps"))
    assert got.sha256 == want.sha256
    for part in ("unet", "autoencoder"):
        tensors = getattr(want.base, part).state_dict()
        for key, value in getattr(got.base, part).state_dict().items():
            assert torch.equal(value, tensors[key]), (part, key)
    words = ["a red handwritten seven", ""]
    assert torch.equal(got.base.embed(words)["text"], want.base.embed(words)["text"])
    return True


def test_a_folder_teaches_the_same_student_to_the_byte(taken, checkpoint):
    study, call = taken({"folder": str(checkpoint)})
    prepare(*call)
    assert same_model(study)
    teach(study, "taken-perflow-k2-s0")
    deltas = [study.handle(f"{base}-perflow-k2-s0").with_name("delta.safetensors") for base in ("eps", "taken")]
    assert len({artifacts.tensor_hash(load_file(path)) for path in deltas}) == 1
    header = artifacts.read_header(deltas[1])["base"]
    assert header == artifacts.read_header(deltas[0])["base"] | {"name": "taken"}
    assert (header["origin"], header["pipeline"]) == (None, "StableDiffusionPipeline")
    assert artifacts.read_jsonl(call[2].with_name("curve.jsonl")) == []


def test_a_variant_alone_is_taken_under_the_plain_name_and_pickles_are_left(taken, checkpoint):
    weights = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    (checkpoint / "unet/diffusion_pytorch_model.bin").write_bytes(b"never read")
    (checkpoint / "unconnected.py").write_text("raise SystemExit")
    study, call = taken({"folder": str(checkpoint)})
    prepare(*call)
    there = {path.name for path in (call[2].parent / "pipeline/unet").iterdir()}
    assert there == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert handle.load(call[2]).sha256 == artifacts.read_json(study.handle("eps"))["sha256"]
    shutil.copyfile(checkpoint / "unet/diffusion_pytorch_model.fp16.safetensors", checkpoint / "unet/other.safetensors")
    with pytest.raises(PerflowError, match=r"unet: which weights are meant\? There are diffusion.*, other"):
        prepare(*call)


@pytest.mark.parametrize("part", ["../../../escaped", "/tmp/escaped", "unet/../../escaped"])
def test_a_checkpoint_cannot_name_a_part_outside_its_folder(part, taken, checkpoint):
    index = artifacts.read_json(checkpoint / "model_index.json")
    artifacts.write_json(checkpoint / "model_index.json", index | {part: ["diffusers", "UNet2DConditionModel"]})
    _, call = taken({"folder": str(checkpoint)})
    with pytest.raises(PerflowError, match=r"model_index\.json: '.*escaped' is no part's name"):
        prepare(*call)


def test_prompts_are_read_by_the_tokenizer_that_the_checkpoint_names(checkpoint):
    """CLIPTokenizer reads these files without complaint, and takes every prompt for the empty one."""
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "red": 2, "blue": 3, "seven": 4}
    own = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[(word, words[word]) for word in list(words)[:2]]
    )
    shutil.rmtree(checkpoint / "tokenizer")
    named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": 12}
    TokenizersBackend(tokenizer_object=own, **named).save_pretrained(checkpoint / "tokenizer")
    index = artifacts.read_json(checkpoint / "model_index.json")
    artifacts.write_json(checkpoint / "model_index.json", index | {"tokenizer": ["transformers", "TokenizersBackend"]})
    prompts = ["red seven", "blue seven"]
    got = StableDiffusion(checkpoint).embed(prompts)["text"]
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    want, _ = pipe.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert not torch.equal(got[0], got[1])
    artifacts.write_json(checkpoint / "model_index.json", index | {"tokenizer": ["own_code", "Reader"]})
    with pytest.raises(PerflowError, match="its tokenizer 'own_code Reader' is none of transformers"):
        StableDiffusion(checkpoint).embed(prompts)


def test_a_half_precision_checkpoint_is_known_by_its_values(taken, checkpoint):
    path = checkpoint / "unet/diffusion_pytorch_model.safetensors"
    half = {key: value.half() for key, value in load_file(path).items()}
    artifacts.write_tensors(path, half, {})
    study, call = taken({"folder": str(checkpoint)})
    prepare(*call)
    values = {key: value.float() for key, value in half.items()}
    assert artifacts.read_json(call[2])["sha256"] == artifacts.tensor_hash(values)
    teach(study, "taken-perflow-k2-s0")
    handle.load(study.handle("taken-perflow-k2-s0"))  # its delta is known to be of this base


def test_a_single_file_is_the_same_base(taken, checkpoint, tmp_path):
    network = pipeline_folder.tensors(checkpoint / "unet")
    tensors = single_file.tensors(checkpoint, pipeline_folder.index(checkpoint), network)
    artifacts.write_tensors(tmp_path / "one.safetensors", tensors, {})
    study, call = taken({"file": str(tmp_path / "one.safetensors"), "config": str(checkpoint)}, prediction="epsilon")
    prepare(*call)
    assert same_model(study)
    artifacts.write_tensors(tmp_path / "one.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(PerflowError, match=r"one\.safetensors: does not hold the architecture"):
        prepare(*call)
    (tmp_path / "one.ckpt").write_bytes(b"")
    study, call = taken({"file": str(tmp_path / "one.ckpt"), "config": str(checkpoint)}, prediction="epsilon")
    with pytest.raises(PerflowError, match="pickled checkpoints are not read"):
        prepare(*call)


def test_what_the_row_says_is_compared_with_the_checkpoint(taken, checkpoint, tiny):
    known = artifacts.read_json(tiny.handle("eps"))["sha256"]
    prepare(*taken({"folder": str(checkpoint), "sha256": known})[1])
    for source, more, message in (
        ({"sha256": "0" * 64}, {}, f"bases.taken.source.sha256: 0{{64}}, but the checkpoint's values hash to {known}"),
        ({}, {"prediction": "v"}, "bases.taken.prediction: v, but the checkpoint predicts epsilon"),
        ({"folder": str(checkpoint / "unet")}, {}, "unet: not a diffusers pipeline folder"),
    ):
        call = taken({"folder": str(checkpoint)} | source, **more)[1]
        call[2].unlink(missing_ok=True)
        with pytest.raises(PerflowError, match=message):
            prepare(*call)
        assert not call[2].exists()


def test_another_resolution_is_refused_with_what_to_set(taken, checkpoint):
    config = checkpoint / "unet/config.json"
    artifacts.write_json(config, artifacts.read_json(config) | {"sample_size": 16})
    with pytest.raises(PerflowError, match=r"images of 32 pixels, .* has 16; set datasets.digits.resolution: 32"):
        prepare(*taken({"folder": str(checkpoint)})[1])


@pytest.fixture
def hub(root, checkpoint, tmp_path):
    """Serve the checkpoint as the repository some/base; yields (environment, paths that were asked for)."""
    with serve(checkpoint, "some/base", tmp_path / "hf") as served:
        yield served.environment | {"PYTHONPATH": str(root)}, served.asked


def by_command(study, environment):
    call = [
        "prepare", "--spec", study.path("results/specs/bases/taken.json"), "--dataset", study.dataset,
        "--out", study.handle("taken"),
    ]  # fmt: skip
    command = [sys.executable, "-m", "perflow", *map(str, call)]
    return subprocess.run(command, cwd=study.home, env=environment, capture_output=True, text=True)


def test_a_hub_repository_is_fetched_at_its_commit_without_pickles(taken, hub, checkpoint):
    environment, asked = hub
    (checkpoint / "unet/diffusion_pytorch_model.bin").write_bytes(b"never read")
    (checkpoint / "whole.safetensors").write_bytes(b"not part of the pipeline")
    study, _ = taken({"hub": "some/base", "revision": COMMIT})
    done = by_command(study, environment)
    assert done.returncode == 0, done.stderr
    assert same_model(study)
    assert artifacts.read_json(study.handle("taken"))["origin"] == {"hub": "some/base", "revision": COMMIT}
    assert not [path for path in asked if path.endswith((".bin", "whole.safetensors"))]
    before = len(asked)
    shutil.rmtree(study.handle("taken").parent)
    assert by_command(study, environment).returncode == 0  # again, from the hub's cache
    assert not [path for path in asked[before:] if path.endswith(".safetensors")]


def test_what_the_hub_does_not_give_is_one_line_that_says_what_to_do(root, taken, hub, checkpoint, tmp_path):
    environment, asked = hub

    def said(place, environment, revision=COMMIT):
        done = by_command(taken({"hub": place, "revision": revision})[0], environment)
        assert done.returncode == 1
        *_, line = done.stderr.strip().splitlines()
        assert f"{place}@{revision}: cannot be fetched from the hub" in line
        assert "Traceback" not in done.stderr
        return line

    assert "no such repository, or a private one: check its name" in said("some/other", environment)
    assert "the repository has no such commit" in said("some/base", environment, "d" * 40)
    silent = said("some/base", environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "HF_HUB_OFFLINE=1 takes what was fetched before, HF_ENDPOINT names a mirror" in silent
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    assert f"with a network run once hf download some/base --revision {COMMIT}" in said("some/base", offline)

    study, _ = taken({"hub": "some/base", "revision": COMMIT})
    assert by_command(study, environment).returncode == 0
    shutil.rmtree(study.handle("taken").parent)
    before = len(asked)
    done = by_command(study, offline)
    assert done.returncode == 0, done.stderr
    assert same_model(study)
    assert len(asked) == before

    with serve(checkpoint, "some/base", tmp_path / "empty", gated=True) as refused:
        closed = said("some/base", refused.environment | {"PYTHONPATH": str(root)})
    address = refused.environment["HF_ENDPOINT"]
    assert f"accept its conditions at {address}/some/base, then log in (hf auth login) or set HF_TOKEN" in closed


def test_a_relative_path_starts_at_the_root_that_is_given(taken, checkpoint):
    study, call = taken({"folder": checkpoint.name})
    prepare(*call, root=checkpoint.parent)
    assert same_model(study)
    with pytest.raises(PerflowError, match="pipeline: not a diffusers pipeline folder"):
        prepare(*call, root=checkpoint.parent / "elsewhere")
