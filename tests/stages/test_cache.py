"""Pairs are a function of (seed, index): shards, interruption and damage change nothing."""

import resource
import threading
import time

import pytest
import torch

from perflow import artifacts
from perflow.core.fields import base_field
from perflow.core.guidance import guided
from perflow.core.rng import normal
from perflow.core.solvers import SOLVERS
from perflow.errors import PerflowError
from perflow.models import handle
from perflow.pairs import PairCache, Part
from perflow.stages.cache import _Work, cache
from tests.stages.conftest import cost, finish, grown


def run(tiny, name, base, out, **options):
    return cache(tiny.spec("pairs", name), tiny.handle(base), tiny.latents(base), out, **options)


def content(path) -> dict[str, torch.Tensor]:
    found = PairCache.load(path)
    order = torch.argsort(found.k, stable=True)  # a trajectory's shard holds all its windows
    return {name: getattr(found, name)[order] for name in ("start", "end", "k", "caption")}


@pytest.mark.parametrize(("name", "base"), [("eps-fixed-k2", "eps"), ("v-path-k2", "v")])
def test_bytes_do_not_depend_on_the_number_of_shards(tiny, name, base, tmp_path):
    whole = content(tiny.pairs(name))
    finish(run(tiny, name, base, tmp_path / "m/manifest.json", shard_items=23))
    small = content(tmp_path / "m/manifest.json")
    assert len(list((tmp_path / "m").glob("shard-*"))) > 2
    for key, value in whole.items():
        if name == "eps-fixed-k2" or key == "k":
            assert torch.equal(value, small[key]), key
        else:  # within a window the trajectories come in item order in both
            assert torch.equal(value, small[key]), key


def test_interrupted_it_resumes_shard_by_shard_to_the_same_bytes(tiny, tmp_path):
    whole, broken = tmp_path / "whole/manifest.json", tmp_path / "broken/manifest.json"
    finish(run(tiny, "eps-fixed-k2", "eps", whole, shard_items=16))
    for _, step in zip(range(3), run(tiny, "eps-fixed-k2", "eps", broken, shard_items=16), strict=False):
        assert step.step
    assert not broken.exists()
    times = {path: path.stat().st_mtime_ns for path in broken.parent.glob("shard-*")}
    assert len(times) == 3
    finish(run(tiny, "eps-fixed-k2", "eps", broken, shard_items=16))
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {p.name: p.read_bytes() for p in whole.parent.iterdir()} == {
        p.name: p.read_bytes() for p in broken.parent.iterdir()
    }


def test_a_full_disk_while_the_next_shard_is_solved_ends_it_in_one_line_and_it_resumes(tiny, tmp_path):
    whole, broken = tmp_path / "whole/manifest.json", tmp_path / "broken/manifest.json"
    finish(run(tiny, "eps-fixed-k2", "eps", whole, shard_items=16))
    going, (most, hard) = (
        run(tiny, "eps-fixed-k2", "eps", broken, shard_items=16),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    assert [next(going).step, next(going).step] == [1, 2]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            PerflowError, match=r"^\S*shard-00002.safetensors: cannot be written .*run the same command"
        ):
            finish(going)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    times = {path.name: path.stat().st_mtime_ns for path in broken.parent.iterdir()}
    assert sorted(times) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    finish(run(tiny, "eps-fixed-k2", "eps", broken, shard_items=16))
    assert {name: (broken.parent / name).stat().st_mtime_ns for name in times} == times
    assert {p.name: p.read_bytes() for p in whole.parent.iterdir()} == {
        p.name: p.read_bytes() for p in broken.parent.iterdir()
    }


def test_a_shard_is_written_while_the_next_one_is_solved_and_no_third_is_begun(tiny, tmp_path, monkeypatch):
    """The first write is held until the second shard is solved: were it not beside it, it would be held for ever."""
    begun, second, held = [], threading.Event(), []
    solve, write = _Work.solve, artifacts.write_tensors

    def solving(self, items, crossed):
        begun.append(int(items[0]))
        found = solve(self, items, crossed)
        if len(begun) == 2:
            second.set()
        return found

    def writing(path, tensors, header):
        if path.name == "shard-00000.safetensors":
            held.append(second.wait(60))
            time.sleep(0.2)  # long enough for a third to be begun, if nothing kept it from that
            held.append(len(begun))
        write(path, tensors, header)

    monkeypatch.setattr(_Work, "solve", solving)
    monkeypatch.setattr(artifacts, "write_tensors", writing)
    finish(run(tiny, "eps-fixed-k2", "eps", tmp_path / "manifest.json", shard_items=16))
    assert held == [True, 2]
    assert len(begun) == 8


def test_stopped_in_the_middle_of_a_shard_the_one_before_is_whole_and_nothing_else_is_there(
    tiny, tmp_path, monkeypatch
):
    """Ctrl-C comes to the thread that solves; the one that writes ends what it began."""
    solve = _Work.solve

    def stopped(self, items, crossed):
        if int(items[0]) == 16:
            raise KeyboardInterrupt
        return solve(self, items, crossed)

    monkeypatch.setattr(_Work, "solve", stopped)
    with pytest.raises(KeyboardInterrupt):
        finish(run(tiny, "eps-fixed-k2", "eps", tmp_path / "m/manifest.json", shard_items=16))
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["shard-00000.safetensors"]
    assert artifacts.read_tensors(tmp_path / "m/shard-00000.safetensors")[0]["k"].shape == (16,)


def test_parts_made_apart_and_gathered_are_the_cache(tiny, tmp_path):
    """Bytes of one job; what gathers them asks the teacher nothing."""
    whole, parts = tmp_path / "whole/manifest.json", tmp_path / "parts/manifest.json"
    options = {"shard_items": 24}
    counted = cost(run(tiny, "eps-fixed-k2", "eps", whole, **options))
    made = [cost(run(tiny, "eps-fixed-k2", "eps", parts, part=Part(i, 3), **options)) for i in (3, 1, 2)]
    assert not parts.exists()
    assert sum(one["teacher_evaluations"] for one in made) == counted["teacher_evaluations"]
    times = {path: path.stat().st_mtime_ns for path in parts.parent.glob("shard-*")}
    assert len(times) == 6
    assert cost(run(tiny, "eps-fixed-k2", "eps", parts, **options)) == counted
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for path in whole.parent.iterdir():
        assert (parts.parent / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", ["flip", "truncate", "other spec"])
def test_a_damaged_shard_is_never_trained_on_and_is_rebuilt(tiny, damage):
    manifest = tiny.pairs("eps-fixed-k2")
    shard = next(manifest.parent.glob("shard-*"))
    sound = shard.read_bytes()
    if damage == "flip":
        shard.write_bytes(sound[:-5] + bytes([sound[-5] ^ 1]) + sound[-4:])
    elif damage == "truncate":
        shard.write_bytes(sound[:-8])
    else:
        tensors, header = artifacts.read_tensors(shard)
        artifacts.write_tensors(shard, tensors, header | {"spec": "another"})
    with pytest.raises(PerflowError, match=f"{shard.name}: altered or truncated.*delete .*manifest.json"):
        PairCache.load(manifest)
    manifest.unlink()
    finish(run(tiny, "eps-fixed-k2", "eps", manifest))
    assert shard.read_bytes() == sound
    PairCache.load(manifest)


def test_starts_are_noised_latents_and_ends_are_the_teachers_solution(tiny):
    """One pair recomputed by hand from the index alone."""
    row, manifest = tiny.study.pairs["eps-fixed-k2"], tiny.pairs("eps-fixed-k2")
    found, teacher = PairCache.load(manifest), handle.load(tiny.handle("eps"))
    item = 100  # in the second window: 64 pairs each
    assert found.k[item] == 1
    start, k = found.start[item : item + 1], 1
    schedule, noise = teacher.base.schedule, normal(start.shape[1:], 0, "pair-noise", [item])
    latent = (start - schedule.sigma(0.5) * noise) / schedule.alpha(0.5)
    from perflow.datasets import store

    latents = teacher.base.encode(store.images(store.load(tiny.dataset, "base")))
    assert (latents - latent).flatten(1).abs().amax(1).min() < 1e-5
    condition = found.told(found.caption[item : item + 1].long())
    field = base_field(
        guided(teacher.base.network(), condition, found.told(torch.tensor([0])), row.guidance),
        schedule,
        "epsilon",
    )
    times = [0.5, 0.25, 0.0]
    torch.testing.assert_close(
        SOLVERS["ddim"](field, start, times, schedule), found.end[item : item + 1], rtol=1e-4, atol=1e-5
    )
    assert k == 1


def test_trajectory_windows_meet(tiny):
    found = PairCache.load(tiny.pairs("v-path-k2"))
    first, second = found.k == 0, found.k == 1
    assert torch.equal(found.end[first], found.start[second])
    assert torch.equal(found.caption[first], found.caption[second])


def test_a_mixture_is_half_trajectories_and_half_noised_data_in_every_window(tiny, tiny_params, write_params, tmp_path):
    """Its halves are the pairs that those starts give, item by item; it costs as much as either."""
    made, counted = {}, {}
    for starts in ("data", "trajectory", "mixture"):
        tiny_params["pairs"]["fixed"]["starts"] = starts
        study = grown(tiny, tiny_params, write_params)
        counted[starts] = cost(run(study, "eps-fixed-k2", "eps", tmp_path / starts / "manifest.json", shard_items=20))
        made[starts] = PairCache.load(tmp_path / starts / "manifest.json")
    mixed, whole = made["mixture"], made["trajectory"]
    assert counted["mixture"] == counted["data"] == counted["trajectory"]
    assert [int((mixed.k == k).sum()) for k in (0, 1)] == [64, 64]
    ends, starts = mixed.end[mixed.k == 0], mixed.start[mixed.k == 1]
    meet = (ends[:, None] - starts[None]).flatten(2).abs().amax(2) == 0
    assert int(meet.any(1).sum()) == int(meet.any(0).sum()) == 32
    for k in (0, 1):  # items 0 to 31 are trajectories in both
        ours, theirs = mixed.start[mixed.k == k][:32], whole.start[whole.k == k][:32]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_captions_are_dropped_by_index_at_the_rate_asked_for(tiny, tmp_path):
    assert bool((PairCache.load(tiny.pairs("eps-fixed-k2")).caption > 0).all())
    caption = PairCache.load(tiny.pairs("v-path-k2")).caption
    assert 0 < int((caption == 0).sum()) < 0.35 * len(caption)


def test_an_altered_base_is_refused_by_name(tiny, tmp_path):
    weights = tiny.handle("eps").with_name("pipeline") / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(PerflowError, match=r"diffusion_pytorch_model.safetensors: altered.*delete .*model.json"):
        finish(run(tiny, "eps-fixed-k2", "eps", tmp_path / "manifest.json"))


def test_each_window_has_its_own_solver_and_steps(tiny, tiny_params, write_params, tmp_path):
    """A window of a mixed cache is that window of a cache made with its solver throughout."""
    made, counted = {}, {}
    tiny_params["students"]["perflow"]["windows"] = 2
    for name, solver, steps in (("mixed", ["heun", "ddim"], [1, 3]), ("heun", "heun", 2), ("ddim", "ddim", 6)):
        tiny_params["pairs"]["fixed"] |= {"solver": solver, "steps": steps}
        study = grown(tiny, tiny_params, write_params)
        counted[name] = cost(run(study, "eps-fixed-k2", "eps", tmp_path / name / "manifest.json"))[
            "teacher_evaluations"
        ]
        made[name] = PairCache.load(tmp_path / name / "manifest.json")
    for k, name in enumerate(("heun", "ddim")):
        assert torch.equal(made["mixed"].end[made["mixed"].k == k], made[name].end[made[name].k == k])
    assert counted["mixed"] == (counted["heun"] + counted["ddim"]) / 2


def test_half_precision_is_the_networks_alone(tiny, tiny_params, write_params, tmp_path):
    """Starts have the bytes of fp32; ends are fp32, off by what a bf16 network may be. Other specs are as they were."""
    plain, before = tiny.pairs("eps-fixed-k2"), tiny.spec("pairs", "eps-fixed-k2")
    assert "precision" not in before.row
    tiny_params["pairs"]["fixed"]["precision"] = "bf16"
    study, made = grown(tiny, tiny_params, write_params), tmp_path / "manifest.json"
    finish(run(study, "eps-fixed-k2", "eps", made))
    half, full = PairCache.load(made).batch(torch.arange(128)), PairCache.load(plain).batch(torch.arange(128))
    assert torch.equal(half.start, full.start)
    assert half.end.dtype == torch.float32
    assert not torch.equal(half.end, half.end.bfloat16().float())
    off = (half.end - full.end).square().mean() / (full.end - full.start).square().mean()
    assert 1e-10 < off < 1e-3
