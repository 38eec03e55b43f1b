"""Pairs whose two ends are data: closed forms of both, no network asked, and students of them in every role."""

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from perflow import artifacts, config
from perflow.config.plan import pair_evaluations
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import normal
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.latents import Latents
from perflow.models import handle
from perflow.pairs import PairCache, Part
from perflow.stages.cache import cache
from perflow.stages.prompts import prompts
from tests.stages.conftest import cost, drawing, finish, grown, teach

FROM_DATA = {"starts": "data", "ends": "data", "guidance": 1.0, "drop": 0.25, "count": 64}
STRAIGHT = {"windows": 1, "path": "straight", "prediction": "velocity", "bases": ["eps"]}
FLOW, AGAIN, ONCE = "eps-flow-k1-s0", "eps-again-k1-s0", "eps-once-k1-s0"


@pytest.fixture
def params(tiny_params):
    """The 1-rectified flow of data, the 2-rectified flow that it teaches, and that one's distillation."""
    tiny_params["pairs"] |= {
        "real": dict(FROM_DATA),
        "own": {"teacher": "flow", "starts": "data", "guidance": 2.0, "solver": "window", "steps": 2, "count": 32},
        "further": {"teacher": "again", "starts": "data", "guidance": 1.0, "solver": "window", "steps": 2, "count": 32},
    }
    whole = {"solvers": ["window", "rk45"], "steps": [2], "guidance": 1.0}
    tiny_params["students"] |= {
        "flow": STRAIGHT | {"label": "1-rectified flow", "pairs": "real", "method": "piecewise_reflow",
                            "windows": [1, 2], "training": {"steps": 80, "lr": 4e-3},
                            "trials": whole | {"guidance": 2.0}},
        "again": STRAIGHT | {"label": "2-rectified flow", "pairs": "own", "method": "piecewise_reflow",
                             "start": "flow", "trials": whole},
        "once": STRAIGHT | {"label": "2-rectified flow + Distill", "pairs": "further", "method": "distill",
                            "start": "again", "trials": {"solvers": ["window"], "steps": [1], "guidance": 1.0}},
    }  # fmt: skip
    tiny_params["sampling"] |= {"prompts": 4, "per_prompt": 2, "flow": {"items": 4, "substeps": 2, "solver_steps": 4}}
    return tiny_params


def run(study, name, out, **options):
    return cache(study.spec("pairs", name), study.handle("eps"), study.latents("eps"), out, **options)


def tensors(path):
    found = PairCache.load(path)
    return {name: getattr(found, name)[:] for name in ("start", "end", "k", "caption")}


def test_both_ends_are_one_latent_and_one_noise_and_windows_chain(tiny, params, write_params, tmp_path):
    """x_t = alpha_t x0 + sigma_t noise at both edges, with the item's own noise; a window of an item ends where the
    next one of that item starts. So the target of ddim_eps is the noise, and the diffusion path is the schedule's."""
    made = {}
    for count in (64, 128):
        params["pairs"]["real"]["count"] = count
        study = grown(tiny, params, write_params)
        for windows in (1, 2):
            out = tmp_path / f"{count}-{windows}/manifest.json"
            finish(run(study, f"eps-real-k{windows}", out))
            made[count, windows] = PairCache.load(out)
    found, base = made[64, 2], handle.load(tiny.handle("eps"))
    # items 0 to 31 are in the first window, 32 to 63 in the second
    assert torch.equal(found.k, torch.arange(2).repeat_interleave(32))
    assert torch.equal(made[128, 2].end[:][32:64], found.start[:][32:])
    assert torch.equal(made[64, 1].start[:][:32], found.start[:][:32])
    assert torch.equal(made[64, 1].end[:][32:], found.end[:][32:])

    schedule, noise = base.base.schedule, normal(found.start[:].shape[1:], 0, "pair-noise", range(64))
    latents = Latents.of(tiny.latents("eps"), "eps", base.base_sha256, "cpu").latents
    flow = PiecewiseFlow(schedule, Windows.equal(2), "diffusion", "ddim_eps")
    for rows, (t_s, t_e) in ((slice(0, 32), (1.0, 0.5)), (slice(32, 64), (0.5, 0.0))):
        start, end, eps = found.start[:][rows], found.end[:][rows], noise[rows]
        x0 = (end - schedule.sigma(t_e) * eps) / schedule.alpha(t_e)
        assert (latents[None] - x0[:, None]).flatten(2).abs().amax(2).amin(1).max() < 1e-5
        (a_s, s_s), (a_e, s_e) = ((schedule.alpha(t), schedule.sigma(t)) for t in (t_s, t_e))
        torch.testing.assert_close(start - end, ((a_s - a_e) * x0 + (s_s - s_e) * eps).float(), rtol=0, atol=1e-5)
        k = found.k[rows].long()
        torch.testing.assert_close(flow.target(start, end, k), eps, rtol=1e-4, atol=1e-4)
        t = t_s + 0.25 * (t_e - t_s)
        between = schedule.alpha(t) * x0 + schedule.sigma(t) * eps
        torch.testing.assert_close(flow.interpolate(start, end, k, 0.25), between.float(), rtol=1e-4, atol=1e-4)


def test_the_ends_of_windows_have_the_moments_of_noised_data(tiny, params, write_params, tmp_path):
    """Second moments over many pairs: alpha² E x0² + sigma² at an edge, alpha_s alpha_e E x0² + sigma_s sigma_e
    between the two of a window."""
    params["pairs"]["real"]["count"] = 4096
    study = grown(tiny, params, write_params)
    finish(run(study, "eps-real-k2", tmp_path / "manifest.json"))
    found, base = tensors(tmp_path / "manifest.json"), handle.load(tiny.handle("eps"))
    square = float(Latents.of(tiny.latents("eps"), "eps", base.base_sha256, "cpu").latents.square().mean())
    scales = [(float(base.base.schedule.alpha(t)), float(base.base.schedule.sigma(t))) for t in (1.0, 0.5, 0.0)]
    for k in (0, 1):
        start, end = found["start"][found["k"] == k], found["end"][found["k"] == k]
        (a_s, s_s), (a_e, s_e) = scales[k : k + 2]
        assert float(start.square().mean()) == pytest.approx(a_s**2 * square + s_s**2, rel=0.03)
        assert float(end.square().mean()) == pytest.approx(a_e**2 * square + s_e**2, rel=0.03)
        assert float((start * end).mean()) == pytest.approx(a_s * a_e * square + s_s * s_e, rel=0.03)
    dropped = float((found["caption"] == 0).float().mean())
    assert dropped == pytest.approx(0.25, abs=0.04)


def test_no_network_is_asked_and_neither_shards_nor_parts_change_a_byte(tiny, params, write_params, tmp_path):
    study, asked = grown(tiny, params, write_params), []
    unet = type(handle.load(tiny.handle("eps")).unet)
    hook = register_module_forward_hook(lambda module, *_: asked.append(1) if isinstance(module, unet) else None)
    try:
        counted = cost(run(study, "eps-real-k2", tmp_path / "whole/manifest.json"))
        assert not asked
        finish(run(study, "eps-fixed-k1", tmp_path / "fixed/manifest.json"))
        assert asked  # by a teacher's pairs
    finally:
        hook.remove()
    assert counted["teacher_evaluations"] == pair_evaluations(study.study, "eps-real-k2") == 0
    manifest = artifacts.read_json(tmp_path / "whole/manifest.json")
    assert (manifest["teacher"], manifest["solver"], manifest["ends"]) == (None, None, "data")
    assert manifest["teacher_evaluations"] == 0

    finish(run(study, "eps-real-k2", tmp_path / "small/manifest.json", shard_items=7))
    parts = tmp_path / "parts/manifest.json"
    for number in (2, 1):
        finish(run(study, "eps-real-k2", parts, shard_items=9, part=Part(number, 2)))
    finish(run(study, "eps-real-k2", parts, shard_items=9))
    whole = tensors(tmp_path / "whole/manifest.json")
    for other in (tmp_path / "small/manifest.json", parts):
        assert all(torch.equal(value, whole[name]) for name, value in tensors(other).items())


def test_a_flow_of_data_is_taught_drawn_and_teaches(tiny, params, write_params, tmp_path):
    """cache, train, export, sample (on its windows and by RK45, guided); then as the teacher of a 2-rectified flow."""
    study = grown(tiny, params, write_params)
    prompts(study.spec("prompts", "digits"), study.prompts)
    for name in (FLOW, AGAIN, ONCE):
        teach(study, name)
    found, curve = (
        tensors(study.pairs("eps-real-k1")), artifacts.read_jsonl(study.handle(FLOW).with_name("curve.jsonl"))
    )  # fmt: skip
    nothing = float((found["end"] - found["start"]).square().mean())  # what a network that says 0 would lose
    assert curve[-1]["loss"] < 0.7 * nothing
    header = artifacts.read_tensors(study.handle(FLOW).with_name("delta.safetensors"))[1]
    assert (header["edges"], header["prediction"], header["row"]["start"]) == ([1.0, 0.0], "velocity", None)

    out = tmp_path / "m/manifest.json"
    finish(drawing(study, FLOW, "eps", out))
    trials = artifacts.read_json(out)["trials"]
    assert trials["window-2"]["nfe"] == 4  # guided: its network still knows the empty caption
    calls = artifacts.tensors_beside(out, trials["rk45"]["latents"], "evaluations")["evaluations"]
    assert bool((calls % 2 == 0).all())
    assert int(calls.min()) >= 2 * 7

    own = artifacts.read_json(study.pairs("eps-own-k1"))
    assert own["teacher"] == {"name": FLOW, "sha256": handle.load(study.handle(FLOW)).sha256}
    assert own["teacher_evaluations"] == pair_evaluations(study.study, "eps-own-k1") == 32 * 2 * 2


def test_a_study_says_that_no_teacher_made_them(params, write_params):
    study = config.load(write_params(params))
    row = study.pairs["eps-real-k2"].model_dump()
    assert (row["ends"], row["solver"], row["steps"], row["window_steps"], row["teacher"]) == ("data", *[None] * 4)
    assert "ends" not in study.pairs["eps-fixed-k2"].model_dump()
    assert "<- base eps, latents eps  64 pairs, 2 windows from data, 0 teacher evaluations" in config.plan(study)
    models = {model["name"]: model for model in config.summary(study)["models"]}
    said = {name: (models[name].get("ends"), models[name]["guidance_mode"]) for name in (FLOW, AGAIN)}
    assert said == {FLOW: ("data", "CFG-sync"), AGAIN: (None, "CFG-fixed")}


@pytest.mark.parametrize(("more", "says"), [
    ({"guidance": 4.5}, "guidance: ends: data ask no teacher, so it is only 1; got 4.5"),
    ({"guidance": [2.0, 8.0]}, "guidance: ends: data ask no teacher, so it is only 1; got [2.0, 8.0]"),
    ({"teacher": "perflow"}, "teacher: ends: data ask no teacher, so it is not written; got 'perflow'"),
    ({"starts": "trajectory"}, "starts: ends: data ask no teacher, so it is only data; got 'trajectory'"),
    ({"starts": "student", "student": "perflow"}, "starts: ends: data ask no teacher, so it is only data"),
    ({"solver": "ddim"}, "solver: ends: data ask no teacher, so it is not written; got 'ddim'"),
    ({"steps": 4}, "steps: ends: data ask no teacher, so it is not written; got 4"),
    ({"negative": "blurry"}, "negative: ends: data ask no teacher, so it is not written; got 'blurry'"),
    ({"precision": "bf16"}, "precision: ends: data ask no teacher, so it is not written; got 'bf16'"),
    ({"ends": "noise"}, "pairs.real.ends: input should be 'teacher' or 'data'; got 'noise'"),
    ({"ends": "teacher"}, "steps: missing; only ends: data go without it"),
    ({"ends": "teacher", "steps": 4, "solver": None}, "solver: missing; only ends: data go without it"),
])  # fmt: skip
def test_what_makes_no_sense_without_a_teacher_is_one_line(more, says, params, write_params):
    params["pairs"]["real"] |= more
    with pytest.raises(PerflowError) as caught:
        config.load(write_params(params))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
