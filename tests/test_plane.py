"""Points on the plane go through the stages of the images: a flow from data, its reflow, PeRFlow, samples, numbers."""

import shutil

import numpy as np
import pytest
import torch

from perflow import artifacts, config, record, report
from perflow.config.load import load_params
from perflow.config.rows import Trial
from perflow.config.study import TABLES
from perflow.core.fields import velocity_field
from perflow.core.velocity import rk45
from perflow.errors import PerflowError
from perflow.models import handle
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache
from perflow.stages.cache import cache
from perflow.stages.encode import encode
from perflow.stages.evaluate import evaluate
from perflow.stages.export import export
from perflow.stages.extractor import extractor
from perflow.stages.fetch import fetch
from perflow.stages.prompts import prompts
from perflow.stages.rectify import rectify
from perflow.stages.sample import sample
from perflow.stages.train import train
from tests.conftest import ROOT, dump_params
from tests.digits import fetch_digits
from tests.stages.conftest import Study, finish

FEW = {"steps": 30, "batch": 32, "lr": 4e-3, "ema": 0.9}
REFLOW, PERFLOW = "transfer-reflow-k1-s0", "transfer-perflow-k2-s0"


def params():
    """The study of the plane, cut down to seconds; nothing converges."""
    found = load_params(ROOT / "workflow/studies/plane.yaml")[0].model_dump(mode="json")
    found["bases"] = {name: found["bases"][name] for name in ("transfer", "ring-vp")}
    found["students"] = {name: found["students"][name] | {"bases": ["transfer"]} for name in ("reflow", "perflow")}
    found["students"]["perflow"]["windows"] = 2
    for data in found["datasets"].values():
        data["counts"] = {"base": 64, "extractor": 1, "reference": 40}
    for base in found["bases"].values():
        base |= {"network": FEW, "width": 16}
    for pairs in found["pairs"].values():
        pairs |= {"steps": 8, "count": 24}
    found["training"] = FEW
    found["sampling"] |= {"per_prompt": 40, "flow": {"items": 6, "substeps": 2, "solver": "rk45", "solver_steps": 1}}
    found["sampling"]["teacher"]["steps"] = 8
    found["baselines"]["steps"] = [1, 4]
    found["evaluation"]["groups"] = 8
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two flows, and two students of one."""
    home = tmp_path_factory.mktemp("plane")
    (home / "params.yaml").write_text(dump_params(params()))
    made = Study(config.load(home / "params.yaml"), home)
    config.write_specs(made.study, home)
    for name in made.study.splits:
        finish(fetch(made.spec("splits", name), split(made, name), made.state(name)))
    for name in made.study.prompts:
        prompts(made.spec("prompts", name), made.path("results/prompts", name, "manifest.json"))
    for name, row in made.study.bases.items():
        points = split(made, f"{row.dataset}-base")
        finish(rectify(made.spec("bases", name), points, made.handle(name), made.state(name)))
        if name in made.study.latents:
            finish(encode(made.spec("latents", name), made.handle(name), points, made.latents(name)))
    for student in (REFLOW, PERFLOW):
        teach(made, student, home / "results")
    finish(extractor(
        made.spec("extractors", "coordinates"), split(made, "ring-extractor"), home / "e.safetensors", made.state("e")
    ))  # fmt: skip
    return made


def split(made, name):
    return made.path("data", name, "manifest.json")


def teach(made, student, results):
    """A student, its pairs and its handle below ``results``."""
    row = made.study.students[student]
    pairs, folder = results / "pairs" / row.pairs / "manifest.json", results / "students" / student
    finish(cache(made.spec("pairs", row.pairs), made.handle("transfer"), made.latents("transfer"), pairs))
    weights = folder / "ema.safetensors"
    finish(train(made.spec("students", student), made.handle("transfer"), pairs, weights, folder / "state"))
    shutil.rmtree(folder / "state")
    export(
        made.spec("deltas", student), made.path("results/specs/students", f"{student}.json"), weights,
        made.handle("transfer"), folder / "delta.safetensors",
    )  # fmt: skip


def draw(made, model, out):
    row = made.study.samples[model]
    finish(sample(
        made.spec("samples", model), made.handle(model), made.handle(row.base),
        made.path("results/prompts", row.prompts, "manifest.json"), out / "manifest.json", out / "state",
    ))  # fmt: skip
    return artifacts.read_json(out / "manifest.json")


def test_the_same_command_twice_gives_the_same_bytes(made, tmp_path):
    again = tmp_path / "model.json"
    finish(rectify(made.spec("bases", "transfer"), split(made, "flipped-base"), again, tmp_path / "state"))
    assert again.read_bytes() == made.handle("transfer").read_bytes()
    teach(made, PERFLOW, tmp_path)
    for name in ("pairs/transfer-first-k2/manifest.json", f"students/{PERFLOW}/ema.safetensors"):
        assert (tmp_path / name).read_bytes() == made.path("results", name).read_bytes()
    for folder in ("one", "two"):
        draw(made, "ring-vp", tmp_path / folder)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_compiled_networks_make_the_same_pairs_and_the_same_student_up_to_rounding(made, tmp_path):
    row, counters = made.study.students[PERFLOW], torch._dynamo.utils.counters["stats"]
    pairs, weights = tmp_path / "pairs/manifest.json", tmp_path / "ema.safetensors"
    counters.clear()
    finish(cache(
        made.spec("pairs", row.pairs), made.handle("transfer"), made.latents("transfer"), pairs, compile=True
    ))  # fmt: skip
    made_of = counters["unique_graphs"]
    assert made_of > 0
    ours, theirs = (PairCache.load(path).batch(torch.arange(24)) for path in (pairs, made.pairs(row.pairs)))
    assert torch.equal(ours.start[ours.k == 0], theirs.start[theirs.k == 0])
    torch.testing.assert_close(ours.end, theirs.end, rtol=1e-4, atol=1e-4)
    finish(train(
        made.spec("students", PERFLOW), made.handle("transfer"), made.pairs(row.pairs), weights, tmp_path / "state",
        compile=True,
    ))  # fmt: skip
    assert counters["unique_graphs"] > made_of
    ours, theirs = (
        artifacts.read_tensors(path)[0] for path in (weights, made.path("results/students", PERFLOW, "ema.safetensors"))
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def test_pairs_start_where_the_flow_starts_and_end_where_it_ends(made):
    model = handle.load(made.handle("transfer"))
    whole = PairCache.load(made.pairs("transfer-first-k1"))
    pairs = whole.batch(torch.arange(24))
    assert torch.equal(pairs.start, model.noise(made.study.seed, "pair-noise", range(24)))
    velocity = velocity_field(lambda x, t: model.unet(x, t), model.flow, 0)
    x = pairs.start
    for step in range(8):
        x = x - velocity(x, torch.full((24,), 1 - step / 8, dtype=torch.float64)) / 8
    torch.testing.assert_close(pairs.end, x, rtol=1e-4, atol=1e-4)


def test_points_are_measured_with_their_paths(made, tmp_path):
    manifest = draw(made, "transfer", tmp_path / "transfer")
    reflowed = draw(made, REFLOW, tmp_path / "reflow")
    assert set(reflowed["trials"]) == {"window-1", "window-2", "window-5", "window-100", "rk45"}
    assert "images" not in manifest["trials"]["teacher"]
    finish(evaluate(
        made.spec("evaluations", REFLOW), tmp_path / "reflow/manifest.json", tmp_path / "transfer/manifest.json",
        split(made, "flipped-reference"), made.path("e.safetensors"), tmp_path / "metrics.json",
    ))  # fmt: skip
    trials = artifacts.read_json(tmp_path / "metrics.json")["trials"]
    for name, trial in trials.items():
        assert set(trial["metrics"]) == set(made.study.params.evaluation.metrics), name
    paths = artifacts.read_tensors(tmp_path / "reflow/window-5.safetensors")[0]["paths"]
    assert paths.shape == (40, 6, 2)
    cost = float((paths[:, -1] - paths[:, 0]).square().sum(1).mean())
    assert trials["window-5"]["metrics"]["transport_square"]["value"] == pytest.approx(cost, rel=1e-5)
    assert trials["window-1"]["metrics"]["straightness"]["value"] == pytest.approx(0, abs=1e-8)
    # common noise: the random coupling is the same for every trial
    assert len({trial["metrics"]["crossing_random"]["value"] for trial in trials.values()}) == 1
    calls = artifacts.read_tensors(tmp_path / "reflow/rk45.safetensors")[0]["evaluations"].double()
    assert trials["rk45"]["nfe"] == round(float(calls.mean())) >= 13
    assert trials["rk45"]["metrics"]["evaluations"]["value"] == pytest.approx(float(calls.mean()))


def test_rk45_of_a_trial_is_rk45_of_its_flow(made, tmp_path):
    drawer = Drawer.load(made.handle("ring-vp"), "cpu", [""], 30, 5)
    noise = drawer.noise(0)
    trial = Trial(name="rk45", solver="rk45", steps=0, guidance=1.0, nfe=0)
    paths, calls = drawer.trace(trial, noise)
    field = velocity_field(lambda x, t: drawer.model.unet(x, t), drawer.model.flow, 0)
    exact = rk45(field, noise, 1.0, 0.0)
    torch.testing.assert_close(paths[:, -1], exact.end, rtol=1e-4, atol=1e-4)
    assert abs(calls - exact.evaluations).max() <= 6
    torch.testing.assert_close(drawer.draw(trial, noise), paths[:, -1])


def test_a_step_of_the_reverse_sde_has_noise_of_its_item(made):
    trial = Trial(name="sde-4", solver="sde", steps=4, guidance=1.0, nfe=4)
    many, few = (Drawer.load(made.handle("ring-vp"), "cpu", [""], count, 5) for count in (200, 20))
    torch.testing.assert_close(many.trace(trial, many.noise(0))[0][:20], few.trace(trial, few.noise(0))[0])
    euler = trial.model_copy(update={"solver": "window"})
    assert not np.allclose(few.trace(trial, few.noise(0))[0], few.trace(euler, few.noise(0))[0])


def test_a_flow_is_not_trained_on_images(made, tmp_path, root):
    fetch_digits(tmp_path / "manifest.json", {"base": 4})
    with pytest.raises(PerflowError, match="holds images"):
        finish(rectify(made.spec("bases", "transfer"), tmp_path / "manifest.json", tmp_path / "m.json", tmp_path))


def test_the_guarantees_are_reported(made, root):
    """Every row through the stages, then the tables and the figures of the notebook."""
    results = made.path("results")
    for model in made.study.samples:
        draw(made, model, results / "samples" / model)
    for model, row in made.study.evaluations.items():
        finish(evaluate(
            made.spec("evaluations", model), results / "samples" / model / "manifest.json",
            results / "samples" / row.base / "manifest.json", split(made, f"{row.dataset}-reference"),
            made.path("e.safetensors"), results / "metrics" / f"{model}.json",
        ))  # fmt: skip
    for table in TABLES:
        for name in getattr(made.study, table):
            record.write(made.home / config.places.record(table, name), "spec", {}, [])
    (results / "extractors/coordinates/curve.jsonl").write_text("")
    published = root / "workflow/report/published.json"
    report.collect(results / "specs/study.json", results, published)
    artifacts.write_text(results / "tables/runs.csv", "row,run\n")
    data = report.load(results / "specs/study.json", results, published)
    assert report.plane.flows(data) == ["transfer"]
    table = report.plane.guarantees(data)
    for said in ("random coupling", "1-rectified flow", "2-rectified flow", "PeRFlow, K=2", "crossing probability"):
        assert said in table
    verdicts = report.plane.verdicts(data)
    assert verdicts.count("does not rise") == 3 * 2  # costs x steps of the chain
    assert verdicts.count("straightness S falls") == 1
    assert set(report.plane.pictures(data)) == {"trajectories-transfer", "interpolations", "diffusions"}
    assert "46.39 %" in report.published(data, "Rectified flow on the plane")
    assert report.samples(data) == ""  # points have no galleries
    main = data.main
    assert (main[main["trial"] == "rk45"]["nfe"] >= 13).all()
