"""A distillation that also looks: InstaFlow's second step, through the real stages, on a program of the user's own."""

import numpy as np
import pytest
import torch
from torch import nn

from perflow import artifacts, config
from perflow.core.learner import Learner
from perflow.core.rng import generator
from perflow.errors import PerflowError
from perflow.methods.distill import Distill
from perflow.metrics.perceived import apart
from perflow.models import handle
from perflow.pairs import PairCache
from perflow.stages import train as stage
from perflow.stages.extractor import extractor
from tests.stages.conftest import finish, grown, teach

PLAIN, LOOKING = "eps-plain-k1-s0", "eps-looking-k1-s0"


class Blurred(nn.Module):
    """Mean absolute difference of blurred images."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d((a.float() - b.float()) / 255, 4).abs().mean((1, 2, 3))


@pytest.fixture
def looking(tiny, tiny_params, write_params, tmp_path):
    torch.jit.script(Blurred()).save(str(tmp_path / "lpips.pt"))
    sha256 = artifacts.sha256_file(tmp_path / "lpips.pt")
    tiny_params["extractors"]["judge"] = {"kind": "lpips", "weights": str(tmp_path / "lpips.pt"), "sha256": sha256}
    common = {
        "pairs": "fixed", "windows": 1, "path": "straight", "prediction": "ddim_eps", "bases": ["eps"],
        "trials": {"solvers": ["window"], "steps": [1], "guidance": 1.0},
    }  # fmt: skip
    tiny_params["students"] = {
        "plain": common | {"label": "a", "method": "distill"},
        "looking": common | {"label": "b", "method": {"name": "distill", "perceptual": "judge", "weight": 200.0}},
    }
    study = grown(tiny, tiny_params, write_params)
    network = study.path("results/extractors/judge/extractor.safetensors")
    finish(extractor(study.spec("extractors", "judge"), tmp_path / "lpips.pt", network, study.state("j")))
    teach(study, PLAIN)
    return study, network


def _train(study, network, out, state, student=LOOKING):
    row = study.study.students[student]
    base, pairs = study.handle("eps"), study.pairs(row.pairs)
    return stage.train(study.spec("students", student), base, pairs, out, state, perceptual=network)


def _flow(model):
    from perflow.core.piecewise import PiecewiseFlow
    from perflow.core.windows import Windows

    return PiecewiseFlow(model.base.schedule, Windows.equal(1), "straight", "ddim_eps", model.base.prediction)


def test_interrupted_it_ends_with_the_same_bytes_which_are_not_the_plain_ones(looking, tmp_path, monkeypatch):
    from perflow.loop import Loop

    study, network = looking
    finish(_train(study, network, tmp_path / "a/ema.safetensors", tmp_path / "state-a"))
    looked, plain = (
        artifacts.read_tensors(path)[0]["conv_out.weight"]
        for path in (tmp_path / "a/ema.safetensors", study.handle(PLAIN).with_name("ema.safetensors"))
    )
    assert not torch.equal(looked, plain)

    monkeypatch.setattr(stage, "Loop", lambda *a: Loop(*a, save_seconds=0))
    for step in _train(study, network, tmp_path / "b/ema.safetensors", tmp_path / "state-b"):
        if step.step == 9:
            break
    finish(_train(study, network, tmp_path / "b/ema.safetensors", tmp_path / "state-b"))
    assert (tmp_path / "a/ema.safetensors").read_bytes() == (tmp_path / "b/ema.safetensors").read_bytes()


def test_the_loss_is_the_plain_one_and_so_much_of_what_images_differ(looking):
    study, network = looking
    model = handle.load(study.handle("eps"))
    cache = PairCache.load(study.pairs("eps-fixed-k1"))
    batch = cache.batch(torch.arange(12))
    learner = Learner(model.base.network(model.unet), _flow(model), apart("judge", network, model.base.pixels, "cpu"))
    losses = [
        Distill(**options).loss(learner, learner, batch, generator(0)).item()
        for options in ({}, {"perceptual": "judge"}, {"perceptual": "judge", "weight": 3.0})
    ]
    said = learner.says(batch.start, batch.k, batch.k * 0.0, batch.condition)
    end = batch.start + (learner.flow.step(batch.start, said, batch.k, 0.0, 1.0) - batch.start)
    scale = model.base.autoencoder.config.scaling_factor
    with torch.no_grad():
        shown = [model.base.autoencoder.decode(x / scale).sample for x in (end, batch.end)]
    pools = [nn.functional.avg_pool2d(side.double(), 4).numpy() for side in shown]
    far = np.abs(pools[0] - pools[1]).mean() / 2
    assert losses[1] - losses[0] == pytest.approx(far, rel=1e-4)
    assert losses[2] - losses[0] == pytest.approx(3 * far, rel=1e-4)


def test_against_its_gradient_images_come_nearer_by_what_it_says(looking):
    """From the student's weights through step, decoder and program and back."""
    study, network = looking
    model = handle.load(study.handle("eps"))
    cache = PairCache.load(study.pairs("eps-fixed-k1"))
    batch = cache.batch(torch.arange(12))
    learner = Learner(model.base.network(model.unet), _flow(model), apart("judge", network, model.base.pixels, "cpu"))
    weights = list(model.unet.requires_grad_(True).parameters())

    def far():
        plain, looked = (Distill(perceptual=by).loss(learner, learner, batch, generator(0)) for by in (None, "judge"))
        return looked - plain

    before = far()
    slopes = torch.autograd.grad(before, weights, allow_unused=True)
    square = sum(float(slope.square().sum()) for slope in slopes if slope is not None)
    rate = 0.05 * before.item() / square
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            if slope is not None:
                weight -= rate * slope
        assert (before - far()).item() == pytest.approx(0.05 * before.item(), rel=0.3)
    assert all(parameter.grad is None for parameter in model.base.autoencoder.parameters())


def test_a_network_that_is_asked_for_is_given_and_no_other(looking, tmp_path):
    study, network = looking
    for student, given in ((LOOKING, None), (PLAIN, network)):
        with pytest.raises(PerflowError, match="--perceptual given"):
            finish(_train(study, given, tmp_path / "o/ema.safetensors", tmp_path / "s", student))


def test_it_is_an_edge_of_the_row_and_rows_without_it_are_as_they_were(looking):
    study, _ = looking
    assert study.study.students[PLAIN].method == {"name": "distill"}
    assert study.study.students[LOOKING].method == {"name": "distill", "perceptual": "judge", "weight": 200.0}
    prints = {name: study.study.spec("students", name)["fingerprint"] for name in (PLAIN, LOOKING)}
    assert prints[PLAIN] != prints[LOOKING]
    assert "pairs eps-fixed-k1, extractor judge" in config.plan(study.study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": {"name": "distill", "perceptual": "tiny-cnn"}}, "no extractor of kind lpips or squeezenet"),
        ({"method": {"name": "distill", "perceptual": "judge"}, "windows": 2}, "at which only one window ends; got 2"),
        ({"method": {"name": "distill", "weight": 2.0}}, "weight is that of perceptual"),
        ({"method": {"name": "distill", "perceptual": "judge", "weight": 0.0}}, "weight is a number above 0"),
        ({"method": {"name": "piecewise_reflow", "perceptual": "judge"}}, "unknown option of piecewise_reflow"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change, said, tiny_params, write_params):
    tiny_params["extractors"]["judge"] = {"kind": "lpips", "weights": "lpips.pt", "sha256": "0" * 64}
    tiny_params["students"]["perflow"] |= {"windows": 1} | change
    with pytest.raises(PerflowError, match=said):
        config.load(write_params(tiny_params))


def test_what_teaches_does_not_judge(tiny_params, write_params):
    tiny_params["extractors"] = {"alex": {"kind": "squeezenet", "weights": "a.safetensors", "sha256": "0" * 64}}
    tiny_params["evaluation"] |= {"extractor": "alex", "metrics": ["fd_teacher"]}
    tiny_params["students"]["perflow"] |= {"windows": 1, "method": {"name": "distill", "perceptual": "alex"}}
    with pytest.raises(PerflowError, match="what teaches cannot judge"):
        config.load(write_params(tiny_params))
