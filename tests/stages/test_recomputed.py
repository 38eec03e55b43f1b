"""Captions kept as tokens: whoever needs their conditions gets, to the last bit, those that would have been stored."""

import shutil

import pytest
import torch

from perflow import artifacts, config
from perflow.config import sizes
from perflow.core.condition import take
from perflow.errors import PerflowError
from perflow.latents import Latents
from perflow.lessons import lesson
from perflow.models import handle
from perflow.pairs import PairCache
from perflow.stages.sample import sample
from tests.stages.conftest import Study, finish, grown, teach

STUDENT, PAIRS = "eps-perflow-k2-s0", "eps-fixed-k2"


@pytest.fixture
def both(tiny, tiny_params, write_params, tmp_path):
    """The tiny study as it is, its captions stored, and beside it one that keeps tokens, with its pairs and student."""
    shutil.copytree(tiny.home, tmp_path / "tokens", ignore=shutil.ignore_patterns("latents", "pairs", "students"))
    tiny_params["encoding"] = {"captions": "recomputed"}
    tiny_params["sampling"]["flow"]["starts"] = 16
    tokens = grown(Study(tiny.study, tmp_path / "tokens"), tiny_params, write_params)
    teach(tokens, STUDENT)
    return tiny, tokens


def test_conditions_of_tokens_are_the_stored_ones_however_many_are_asked_for_and_wherever(both):
    stored, kept = (Latents.load(study.latents("eps")) for study in both)
    assert (stored.recomputed, kept.recomputed) == (False, True)
    assert stored.captions == kept.captions
    assert {name: (rows.dtype, rows.shape) for name, rows in kept.conditions.items()} == {
        "tokens": (torch.int32, stored.conditions["text"].shape[:2])
    }
    base = handle.load(both[0].handle("eps")).base
    for asked in ([0], [5, 0, 5], list(range(len(stored.captions)))):
        want = take(stored.conditions, torch.tensor(asked))
        with torch.autocast("cpu", torch.bfloat16):  # as a training in half precision asks
            found = base.condition(take(kept.conditions, torch.tensor(asked)))
        assert torch.equal(found["text"], want["text"])
        assert base.condition(want) is want
    weight = torch.ones(found["text"].shape[-1], requires_grad=True)
    (found["text"] @ weight).sum().backward()  # what a network reads it may keep for its backward pass
    assert not found["text"].requires_grad
    assert weight.grad.abs().sum() > 0


def test_pairs_student_and_starts_are_the_same_to_the_last_bit(both, tmp_path):
    stored, tokens = both
    ours, theirs = (PairCache.load(study.pairs(PAIRS)) for study in (tokens, stored))
    for name in ("start", "end", "k", "caption"):
        assert torch.equal(getattr(ours, name)[:], getattr(theirs, name)[:]), name
    files = [path.parent / "conditions.safetensors" for path in (tokens.pairs(PAIRS), stored.pairs(PAIRS))]
    assert artifacts.layout(files[0]).keys() == {"tokens"}
    headers = [artifacts.read_header(path)["captions"] for path in files]
    assert headers[0] == len(headers[1]) > 1
    for name in ("ema.safetensors", "delta.safetensors"):
        ours, theirs = (artifacts.read_tensors(study.handle(STUDENT).with_name(name))[0] for study in (tokens, stored))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    own = []
    for study in both:
        out = tmp_path / study.home.name / "manifest.json"
        finish(sample(tokens.spec("samples", STUDENT), study.handle(STUDENT), study.handle("eps"), study.prompts, out,
                      out.with_name("state"), pairs=study.pairs(PAIRS)))  # fmt: skip
        entry = artifacts.read_json(out)["flow"]["starts"]
        own.append(artifacts.tensors_beside(out, entry, "own", "taught"))
    assert all(torch.equal(own[0][name], own[1][name]) for name in ("own", "taught"))


def test_a_base_learns_the_same_lesson(both):
    """What a fine-tune and an adapter learn from."""
    model = handle.load(both[0].handle("eps"))
    network = model.base.network(model.unet)

    def loss(study):
        says = lambda x, timestep, condition, items: network(x, timestep, condition)  # noqa: E731
        data = Latents.load(study.latents("eps"))
        return lesson(model.base, data, says, 16, 0.2, 0.7, torch.Generator().manual_seed(3))

    assert torch.equal(*map(loss, both))


def test_a_study_says_it_or_is_as_it_was_and_its_plan_shows_both(tiny_params, write_params):
    stored = config.load(write_params(tiny_params))
    tiny_params["encoding"] = {"captions": "recomputed"}
    tokens = config.load(write_params(tiny_params))
    assert "captions" not in stored.spec("latents", "eps")["row"]
    assert tokens.spec("latents", "eps")["row"]["captions"] == "recomputed"
    of = sizes.captions(tokens, "eps")
    assert of == sizes.captions(stored, "eps") == {"stored": 256 * 12 * 32 * 4, "recomputed": 256 * 12 * 4}
    assert "captions stored: at most 384 KiB, in each row of pairs again (recomputed: 12 KiB)" in config.plan(stored)
    assert "captions recomputed: at most 12 KiB, in each row of pairs again (stored: 384 KiB)" in config.plan(tokens)
    tiny_params["encoding"] = {"captions": "guessed"}
    with pytest.raises(PerflowError, match=r"encoding.captions: .*'stored' or 'recomputed'"):
        config.load(write_params(tiny_params))
