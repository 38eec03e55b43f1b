"""CLIP and LPIPS beside the extractor: taken in by their hash, asked by evaluate and measure, and only where named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from perflow import artifacts, record
from perflow.artifacts import Spec
from perflow.config.rows import Evaluation
from perflow.errors import PerflowError
from perflow.metrics import clip
from perflow.metrics.features import restore
from perflow.stages.evaluate import evaluate
from perflow.stages.extractor import extractor
from perflow.stages.measure import measure
from tests.metrics.test_perceptual import Apart
from tests.stages.test_evaluate import GROUPS, PER_PROMPT, PROMPTS, Home, build
from tests.tiny_clip import tiny_clip

ROW = {"model": "student", "base": "base", "dataset": "d", "extractor": "x", "groups": GROUPS, "confidence": 0.9,
       "clip": "c", "lpips": "l", "metrics": ["clip_score", "lpips_diversity", "inception_score"]}  # fmt: skip


def take_in(kind: str, source: Path, weights: Path, sha256: str, out: Path) -> Path:
    """The stage, for a row that names these weights."""
    row = {"kind": kind, "weights": str(weights), "sha256": sha256}
    list(extractor(Spec("extractors", kind, 0, row, "hash"), source, out, out.parent / "state"))
    return out


class Judged(Home):
    """With a CLIP and an LPIPS."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.folder, self.program = root / "clip-model", root / "lpips.pt"
        self.clip, self.lpips = root / "c/extractor.safetensors", root / "l/extractor.safetensors"

    def evaluate(self, **changes) -> dict:
        row = ROW | changes
        files = {kind: getattr(self, kind) for kind in ("clip", "lpips") if row[kind] is not None}
        paths = self.samples(row["model"]), self.samples("base"), self.dataset, self.extractor
        list(evaluate(Spec("evaluations", row["model"], 0, row, "hash"), *paths, self.root / "m/out.json", **files))
        return json.loads((self.root / "m/out.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Judged:
    root = tmp_path_factory.mktemp("judged")
    build(root)
    home = Judged(root)
    texts = [prompt["text"] for prompt in json.loads(home.samples("base").read_text())["prompts"]]
    tiny_clip(home.folder, sorted({word for text in texts for word in text.split()}))
    torch.jit.script(Apart()).save(str(home.program))
    weights = home.folder / "model.safetensors"
    take_in("clip", weights, home.folder, clip.pinned(weights), home.clip)
    take_in("lpips", home.program, home.program, artifacts.sha256_file(home.program), home.lpips)
    return home


@pytest.fixture(scope="module")
def found(home) -> dict:
    return home.evaluate()


def test_the_clip_score_is_what_transformers_gives_for_the_manifests_prompts(home, found):
    prompts = json.loads(home.samples("student").read_text())["prompts"]
    texts = [prompt["text"] for prompt in prompts for _ in range(PER_PROMPT)]
    model = CLIPModel.from_pretrained(home.folder, local_files_only=True, use_safetensors=True)
    tokenizer = CLIPTokenizer.from_pretrained(home.folder, local_files_only=True)
    images = CLIPImageProcessor.from_pretrained(home.folder, local_files_only=True)
    with torch.no_grad():
        logits = model(
            **tokenizer(texts, padding=True, truncation=True, max_length=12, return_tensors="pt"),
            **images(images=list(home.pixels("student", "window-2")), return_tensors="pt"),
        ).logits_per_image
        own = (logits / model.logit_scale.exp()).diagonal().numpy()
    assert own.min() < 0 < own.max()
    estimate = found["trials"]["window-2"]["metrics"]["clip_score"]
    assert estimate["value"] == pytest.approx(np.maximum(100 * own, 0).mean(), rel=1e-4)
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert len(estimate["replicates"]) == GROUPS


def test_lpips_within_a_prompt_is_the_programs_mean_over_pairs(home, found):
    images = home.pixels("student", "window-4").astype(float).reshape(PROMPTS, PER_PROMPT, -1, 3)
    weights = np.array([1, 2, 4])
    pairs = [(0, 1), (0, 2), (1, 2)]
    wanted = np.mean([(np.abs(part[i] - part[j]) * weights).mean() for part in images for i, j in pairs])
    assert found["trials"]["window-4"]["metrics"]["lpips_diversity"]["value"] == pytest.approx(wanted)


def test_the_score_of_classes_is_that_of_the_extractors_heads_on_the_images(home, found):
    tensors, header = artifacts.read_tensors(home.extractor)
    pixels = torch.from_numpy(home.pixels("student", "window-4")).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        _, logits = restore(tensors, header["architecture"])(pixels)
    heads = [part.double().softmax(1).numpy() for part in logits.values()]
    joint = np.stack([np.multiply.outer(np.outer(a, b), c).ravel() for a, b, c in zip(*heads, strict=True)])
    wanted = np.exp(np.mean([entropy(row, joint.mean(0)) for row in joint]))
    assert wanted > 1.5
    assert found["trials"]["window-4"]["metrics"]["inception_score"]["value"] == pytest.approx(wanted, rel=1e-4)


def test_the_result_says_which_networks_judged_and_names_no_file_beside_it(home, found):
    weights = home.folder / "model.safetensors"
    assert found["networks"]["clip"] == {
        "name": "c", "sha256": artifacts.sha256_file(home.clip),
        "weights": {"name": "clip-model", "sha256": clip.pinned(weights)},
    }  # fmt: skip
    assert found["networks"]["lpips"]["weights"]["sha256"] == artifacts.sha256_file(home.program)
    assert record.named(home.root / "m/out.json") == []


def test_a_row_without_them_says_nothing_of_them(home):
    row = Evaluation.model_validate(ROW | {"clip": None, "lpips": None})
    assert not {"clip", "lpips"} & row.model_dump().keys()
    assert "networks" not in home.evaluate(clip=None, lpips=None, metrics=["kid_teacher"])


def test_ones_own_images_get_the_same_numbers(home, found):
    row = Evaluation.model_validate(ROW | {"model": "base"})
    images = home.samples("student").with_name("window-2.zip")
    files = home.samples("base"), home.dataset, home.extractor
    own = measure(images, row, *files, True, home.clip, home.lpips)
    assert own["metrics"] == found["trials"]["window-2"]["metrics"]
    assert own["networks"] == found["networks"]
    own = measure(images, row, *files, False, home.clip, home.lpips)
    assert list(own["metrics"]) == ["inception_score"]
    assert set(own["left_out"].values()) == {"needs to know each image's prompt (--same-prompts)"}


def test_a_file_that_is_missing_or_of_another_kind_is_refused(home):
    spec, without = (Spec("evaluations", "student", 0, ROW | more, "hash") for more in ({}, {"clip": None}))
    paths = home.samples("student"), home.samples("base"), home.dataset, home.extractor, home.root / "no.json"
    with pytest.raises(PerflowError, match="--clip: goes with a row that names .* and .* was given"):
        list(evaluate(without, *paths, clip=home.clip, lpips=home.lpips))
    with pytest.raises(PerflowError, match="--lpips: .* none was given"):
        list(evaluate(spec, *paths, clip=home.clip))
    with pytest.raises(PerflowError, match="not a network of kind clip"):
        list(evaluate(spec, *paths, clip=home.lpips, lpips=home.lpips))
    assert not (home.root / "no.json").exists()


def test_a_folder_with_another_hash_is_refused(home, tmp_path):
    weights = home.folder / "model.safetensors"
    with pytest.raises(PerflowError, match=f"has sha256 {clip.pinned(weights)}; extractors.clip asks for 000"):
        take_in("clip", weights, home.folder, "0" * 64, tmp_path / "extractor.safetensors")
