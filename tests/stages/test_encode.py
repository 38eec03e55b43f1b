"""Latents are what the base's autoencoder gives, once; shards, interruption and damage change nothing."""

import pytest
import torch

from perflow import artifacts
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.latents import Latents
from perflow.models import handle
from perflow.stages.cache import cache
from perflow.stages.encode import encode
from tests.stages.conftest import finish, grown


def run(study, out, **options):
    return encode(study.spec("latents", "eps"), study.handle("eps"), study.dataset, out, **options)


def test_they_are_the_bases_latents_and_conditions(tiny):
    found, base, data = (
        Latents.load(tiny.latents("eps")), handle.load(tiny.handle("eps")).base, store.load(tiny.dataset, "base"),
    )  # fmt: skip
    assert torch.equal(found.latents, base.encode(store.images(data)))
    assert [found.captions[i] for i in found.caption] == data["text"][:]
    assert found.captions[0] == ""
    assert torch.equal(found.conditions["text"], base.embed(found.captions)["text"])


def test_interrupted_or_damaged_they_are_made_again_shard_by_shard_to_the_same_bytes(tiny, tmp_path):
    whole, broken = tmp_path / "whole/manifest.json", tmp_path / "broken/manifest.json"
    finish(run(tiny, whole, shard_items=128))
    stage = run(tiny, broken, shard_items=128)
    for _ in range(2):
        next(stage)
    stage.close()
    assert not broken.exists()
    first, second = sorted(broken.parent.glob("latents-*"))
    second.write_bytes(second.read_bytes()[:-9])
    kept = first.stat().st_mtime_ns
    finish(run(tiny, broken, shard_items=128))
    assert first.stat().st_mtime_ns == kept
    assert {p.name: p.read_bytes() for p in whole.parent.iterdir()} == {
        p.name: p.read_bytes() for p in broken.parent.iterdir()
    }
    assert torch.equal(Latents.load(whole).latents, Latents.load(tiny.latents("eps")).latents)


def test_half_precision_is_near_and_says_so(tiny, tiny_params, write_params, tmp_path):
    exact = Latents.load(tiny.latents("eps")).latents
    tiny_params["encoding"] = {"dtype": "bf16"}
    finish(run(grown(tiny, tiny_params, write_params), tmp_path / "manifest.json"))
    found = Latents.load(tmp_path / "manifest.json")
    assert found.manifest["dtype"] == "bf16"
    assert found.latents.dtype == torch.float32
    assert 0 < (found.latents - exact).norm() / exact.norm() < 0.05


def test_latents_of_another_base_are_refused(tiny, tmp_path):
    with pytest.raises(PerflowError, match="latents of another base"):
        finish(cache(tiny.spec("pairs", "v-path-k2"), tiny.handle("v"), tiny.latents("eps"), tmp_path / "m.json"))
    artifacts.write_json(tmp_path / "none.json", {})
    with pytest.raises(PerflowError, match="none.json: not a manifest of latents"):
        Latents.load(tmp_path / "none.json")
