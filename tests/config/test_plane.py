"""Flows on the plane in a study: what they may be solved with, and what cannot be."""

import pytest

from perflow import config
from perflow.config.load import load_params
from perflow.config.rows import Flow
from perflow.errors import PerflowError


@pytest.fixture
def params(root):
    return load_params(root / "workflow/studies/plane.yaml")[0].model_dump(mode="json")


def test_the_chain_of_reflows_is_rows(root):
    study = config.load(root / "workflow/studies/plane.yaml")
    assert all(isinstance(base, Flow) for base in study.bases.values())
    assert study.pairs["moons-first-k4"].window_steps == 24
    assert study.pairs["moons-second-k1"].teacher == study.students["moons-reflow-again-k1-s0"].start
    assert study.samples["moons-reflow-k1-s0"].trials[-1].model_dump() == {
        "name": "rk45", "solver": "rk45", "steps": 0, "guidance": 1.0, "nfe": 0, "stream": 0, "scheduler": None,
    }  # fmt: skip
    sde = {name: [trial.name for trial in row.trials if trial.solver == "sde"] for name, row in study.samples.items()}
    assert {name for name, trials in sde.items() if trials} == {"ring-vp", "ring-subvp", "ring-ve"}
    assert {item.row for item in study.skipped if item.row.endswith("sde")} == {
        "ring sde", "moons sde", "transfer sde", "ring-constant sde",
    }  # fmt: skip
    assert "rectify" in "".join(config.study._readers(study, "bases", study.bases["ring"]))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("students.perflow.prediction", "ddim_eps", "has path straight and prediction velocity"),
        ("students.reflow.path", "diffusion", "has path straight and prediction velocity"),
        ("pairs.first.solver", "ddim", "pairs.first.solver: no solver 'ddim'; there is window"),
        ("pairs.first.steps", 90, "do not meet the edge 0.75"),
        ("sampling.teacher.solver", "ddim", "sampling.teacher.solver: no solver 'ddim'; there is window"),
        ("sampling.flow.solver", "heun", "sampling.flow.solver: no solver 'heun'; there is rk45"),
        ("baselines.solvers", ["unipc"], "baselines.solvers: no solver 'unipc'; there are window, rk45, sde"),
        ("bases.ring.start", "cube", "bases.ring.start"),
        ("bases.ring.interpolation", "cosine", "bases.ring.interpolation"),
        ("bases.ring.channels", [8, 8], "bases.ring.channels: unknown key; known here: family, dataset, start"),
        ("evaluation.metrics", ["diversity"], "diversity needs several prompts; sampling.prompts is 1"),
        ("extractors.coordinates.sha256", "0" * 64, "an extractor of kind coordinates has dataset, and no"),
    ],
)
def test_what_a_flow_cannot_be_is_one_line(params, write_params, place, value, said):
    *where, last = place.split(".")
    inside = params
    for part in where:
        inside = inside[part]
    inside[last] = value
    with pytest.raises(PerflowError, match=said) as error:
        config.load(write_params(params))
    assert "\n" not in str(error.value)


def test_images_have_no_paths(tiny_params, write_params):
    tiny_params["evaluation"]["metrics"].append("crossing")
    with pytest.raises(PerflowError, match="crossing is of points"):
        config.load(write_params(tiny_params))


def test_rk45_needs_a_velocity(tiny_params, write_params):
    tiny_params["students"]["perflow"]["trials"]["solvers"] = ["rk45"]
    with pytest.raises(PerflowError, match="rk45 reads a velocity; got prediction 'ddim_eps'"):
        config.load(write_params(tiny_params))
    tiny_params["students"]["perflow"] |= {"prediction": "velocity", "path": "diffusion"}
    with pytest.raises(PerflowError, match=r"rk45 reads dx/dt, .* got path 'diffusion'"):
        config.load(write_params(tiny_params))


def test_a_student_of_rk45_alone_is_on_its_windows(tiny_params, write_params):
    """So it is exported with them, and as a teacher it is solved on them: what it says is no epsilon."""
    tiny_params["students"]["perflow"] |= {
        "prediction": "velocity", "trials": {"solvers": ["rk45"], "steps": [2], "guidance": 1.0},
    }  # fmt: skip
    tiny_params["pairs"]["own"] = {"teacher": "perflow", "guidance": 1.0, "solver": "window", "steps": 2, "count": 8}
    tiny_params["students"]["further"] = tiny_params["students"]["perflow"] | {"pairs": "own"}
    study = config.load(write_params(tiny_params))
    assert study.deltas["eps-perflow-k2-s0"].windowed
    assert study.samples["eps-perflow-k2-s0"].windowed
    assert "1 trials, 0 evaluations and those of rk45, as it goes" in config.plan(study)
    tiny_params["pairs"]["own"]["solver"] = "ddim"
    with pytest.raises(PerflowError, match="the teacher 'perflow' is sampled on its windows: window; got 'ddim'"):
        config.load(write_params(tiny_params))


def test_the_evaluations_of_images_are_a_metric(tiny_params, write_params):
    tiny_params["evaluation"]["metrics"].append("evaluations")
    assert "evaluations" in config.load(write_params(tiny_params)).evaluations["eps"].metrics
