"""CLIP gives transformers' own similarities; the score is the published one; a folder is pinned as a whole."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from perflow.errors import PerflowError
from perflow.metrics import clip
from perflow.metrics.alignment import clip_score
from perflow.metrics.judges import cosines
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without
from tests.tiny_clip import tiny_clip

TEXTS = ["a red seven", "a blue two on a green field", "", "seven " * 30]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_clip(
        tmp_path_factory.mktemp("clip") / "model", ["a", "red", "blue", "green", "seven", "two", "on", "field"]
    )


@pytest.fixture
def folder(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made, tmp_path / "model")


def taken(folder):
    return clip.restore(clip.tensors(folder / "model.safetensors"), {})


def test_cosines_are_the_logits_of_transformers_without_their_scale(made, rng):
    """Of images that are resized and cropped, and texts that are empty or too long."""
    images = rng.integers(0, 256, (19, 40, 52, 3), dtype=np.uint8)
    network = taken(made)
    features, labels = network.observe(images)
    assert (features.shape, features.dtype, labels) == ((19, 8), np.float64, {})
    texts = network.embed(TEXTS)
    found = np.stack([cosines(features, np.broadcast_to(text, features.shape)) for text in texts], axis=1)
    model = CLIPModel.from_pretrained(made, local_files_only=True, use_safetensors=True)
    told = CLIPTokenizer.from_pretrained(made, local_files_only=True)(
        TEXTS, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    seen = CLIPImageProcessor.from_pretrained(made, local_files_only=True)(images=list(images), return_tensors="pt")
    with torch.no_grad():
        wanted = (model(**told, **seen).logits_per_image / model.logit_scale.exp()).numpy()
    assert wanted.std() > 0.05
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_row_does_not_depend_on_the_others_and_survives_being_kept(made, rng):
    images = rng.integers(0, 256, (18, 32, 32, 3), dtype=np.uint8)
    network = taken(made)
    again = clip.restore(network.state_dict(), network.architecture())
    assert (again.observe(images)[0][:1] == network.observe(images[:1])[0]).all()
    assert (again.embed(TEXTS)[:1] == network.embed(TEXTS[:1])).all()


def test_half_precision_weights_and_old_checkpoints_buffers_are_read(folder, rng):
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    wanted = taken(folder).observe(images)[0]
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, folder / "model.safetensors")
    np.testing.assert_allclose(taken(folder).observe(images)[0], wanted, rtol=0.02, atol=0.02)


def test_the_score_is_a_hundred_times_the_cosine_and_every_sample_is_cut_at_zero():
    samples = image_set(np.zeros((4, 1)), per_prompt=2)
    trial = Trial(samples, samples, samples, samples, {}, agreement=np.array([0.3, -0.5, 0.1, 0.0]))
    assert clip_score(trial).value == pytest.approx((30 + 0 + 10 + 0) / 4)


def test_replicates_leave_prompts_out(rng):
    samples, values = image_set(np.zeros((44, 1)), per_prompt=2), rng.uniform(-0.2, 1, 44)
    found = clip_score(Trial(samples, samples, samples, samples, {}, agreement=values))
    assert len(found.replicates) == 4
    for group, replicate in enumerate(found.replicates):
        kept = without(samples, group)
        reduced = Trial(kept, kept, kept, kept, {}, agreement=values[samples.groups != group])
        assert replicate == pytest.approx(clip_score(reduced).value)


def test_the_hash_is_what_sha256sum_says_and_every_file_that_is_read_counts(folder):
    weights = folder / "model.safetensors"
    names = sorted(path.name for path in folder.iterdir())
    before = clip.pinned(weights)
    lines = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    assert before == hashlib.sha256(lines).hexdigest()
    (folder / "README.md").write_text("not read")
    assert clip.pinned(weights) == before
    for name in names:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole + b" ")
        assert clip.pinned(weights) != before
        (folder / name).write_bytes(whole)


def test_what_is_no_clip_is_refused_in_one_line(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)

    def refused(says, **files):
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(PerflowError, match=says) as raised:
            taken(folder)
        assert "\n" not in str(raised.value)

    save_file({name: tensor for name, tensor in tensors.items() if name != "logit_scale"}, weights)
    refused("no tensor 'logit_scale'")
    save_file(tensors | {"more": torch.zeros(1)}, weights)
    refused("an unknown tensor 'more'")
    save_file(tensors | {"text_projection.weight": torch.zeros(3, 3)}, weights)
    refused("not a CLIPModel .*text_projection.weight")
    save_file(tensors, weights)
    kept = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("config", "tokenizer_config")}
    refused(
        "tokenizer_class 'T5Tokenizer'", tokenizer_config=kept["tokenizer_config"] | {"tokenizer_class": "T5Tokenizer"}
    )
    refused("model_type 'siglip'", config=kept["config"] | {"model_type": "siglip"})
    refused("no JSON object", config=[])
    (folder / "preprocessor_config.json").unlink()
    refused("model: no preprocessor_config.json")
