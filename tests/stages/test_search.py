"""A search for steps: what is found is the best of what was tried, on samples that are not shown."""

import math

import pytest
import torch

from perflow import artifacts, config
from perflow.config.rows import Trial
from perflow.errors import PerflowError
from perflow.models.drawer import Drawer
from perflow.stages.sample import development_prompts
from tests.stages.conftest import cost, drawing, finish, grown

MODELS = ("eps", "eps-perflow-k2-s0")


@pytest.fixture
def searched(tiny, tiny_params, write_params):
    """The tiny study with steps searched for, on the base and on a student's windows, and its samples of both."""
    from perflow.stages.extractor import extractor

    params = tiny_params
    params["sampling"]["search"] = {"prompts": 6, "per_prompt": 2, "metric": "fd_teacher", "rounds": 1}
    params["baselines"] = {"solvers": ["dpmpp_2m", "heun"], "evaluations": [6], "spacings": ["best", "trailing"]}
    params["students"]["perflow"]["trials"] |= {"steps": [2, 4], "spacings": ["best"], "teachers": [2.0]}
    other = grown(tiny, params, write_params)
    features = other.path("results/extractors/tiny-cnn/extractor.safetensors")
    finish(extractor(other.spec("extractors", "tiny-cnn"), other.dataset, features, other.state("x")))
    outs, costs = {}, {}
    for model in MODELS:
        outs[model] = other.path("results/samples", model, "manifest.json")
        costs[model] = cost(
            drawing(other, model, "eps", outs[model], extractor=features, captions=other.dataset)
        )  # fmt: skip
    return other, outs, costs


def test_the_best_of_what_was_tried_is_drawn_and_its_cost_counted(searched):
    study, outs, costs = searched
    for model in MODELS:
        manifest = artifacts.read_json(outs[model])
        found = {name: entry["searched"] for name, entry in manifest["trials"].items() if "searched" in entry}
        assert all(("-best" in name) == (name in found) for name in manifest["trials"])
        assert costs[model] == {"search_evaluations": sum(one["evaluations"] for one in found.values())}
        for name, one in found.items():
            trial = manifest["trials"][name]
            tried = {key: math.inf if value is None else value for key, value in one["tried"].items()}
            assert tried[one["name"]] == min(tried.values())
            assert (one["times"], len(one["times"])) == (trial["spacing"], trial["steps"])
            assert one["evaluations"] == trial["nfe"] * one["items"] * len(tried)
    base = artifacts.read_json(outs["eps"])["trials"]
    assert {name: (trial["steps"], trial["nfe"]) for name, trial in base.items() if "best" in name} == {
        "dpmpp_2m-3-best": (3, 6), "heun-2-best": (2, 6),
    }  # fmt: skip
    assert len(base["dpmpp_2m-3-best"]["searched"]["tried"]) >= 6
    student = artifacts.read_json(outs[MODELS[1]])["trials"]
    assert set(student["window-2-best-w2"]["searched"]["tried"]) == {"trailing"}  # a step a window has no choice
    assert len(student["window-4-best-w2"]["searched"]["tried"]) > 1
    reached = student["window-4-best-w2"]["spacing"]
    assert {1.0, 0.5} <= {round(t, 9) for t in reached}


def test_what_was_found_gives_the_same_samples_when_it_is_named(searched):
    study, outs, _ = searched
    manifest = artifacts.read_json(outs["eps"])
    trial = manifest["trials"]["dpmpp_2m-3-best"]
    drawer = Drawer.load(study.handle("eps"), "cpu", [prompt["text"] for prompt in manifest["prompts"]], 4, 0)
    named = Trial(name="x", **{key: trial[key] for key in Trial.model_fields if key in trial})
    kept = artifacts.read_tensors(outs["eps"].with_name(trial["latents"]["file"]))[0]["latents"]
    assert torch.equal(drawer.draw(named, drawer.noise(0)), kept)


def test_development_samples_are_others_than_those_shown(searched):
    study, outs, _ = searched
    shown = {prompt["text"] for prompt in artifacts.read_json(outs["eps"])["prompts"]}
    found = set(development_prompts(study.dataset, 6, shown))
    assert len(found) == 6
    assert not found & shown
    drawers = [
        Drawer.load(study.handle("eps"), "cpu", ["a handwritten digit"], 3, 0, stream=at)
        for at in ("noise", "development")
    ]
    noise = [drawer.noise(stream) for drawer in drawers for stream in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(noise) for b in noise[:i])
    with pytest.raises(PerflowError, match=r"sampling.search.prompts: 9999 captions"):
        development_prompts(study.dataset, 9999, shown)


def test_a_search_needs_its_recipe_and_its_feature_network(tiny, tiny_params, write_params):
    params = tiny_params
    params["baselines"]["spacings"] = ["best"]
    with pytest.raises(PerflowError, match="sampling.search: missing; 'eps' has trials of spacing best"):
        config.load(write_params(params))
    params["sampling"]["search"] = {}
    other = grown(tiny, params, write_params)
    out = other.path("results/samples/eps/manifest.json")
    with pytest.raises(PerflowError, match="needs an --extractor"):
        finish(drawing(other, "eps", "eps", out))
