"""A row that names a student is an edge of the DAG: it resolves, it counts, and it never closes a circle."""

import pytest

from perflow import config
from perflow.config.plan import pair_evaluations
from perflow.errors import PerflowError
from tests.config.test_resolve import changed, load, specs

REFLOW = {
    "label": "reflow", "pairs": "fixed", "windows": 1, "path": "straight", "prediction": "ddim_eps",
    "method": "piecewise_reflow", "bases": ["eps"], "trials": {"solvers": ["window"], "steps": [4], "guidance": 1.0},
}  # fmt: skip
AGAIN = {"teacher": "reflow", "solver": "window", "starts": "trajectory", "guidance": 1.0, "steps": 4, "count": 64}


@pytest.fixture
def chain(tiny_params):
    """Reflow, reflow of the reflow, and a distillation of that; and a halving from 4 windows to 1."""
    pairs, students = tiny_params["pairs"], tiny_params["students"]
    pairs["again"] = AGAIN
    pairs["thrice"] = AGAIN | {"teacher": "reflow-2"}
    students["reflow"] = REFLOW
    students["reflow-2"] = REFLOW | {"pairs": "again", "start": "reflow"}
    students["one-step"] = REFLOW | {"pairs": "thrice", "start": "reflow-2", "method": "distill"}
    students["pd-4"] = REFLOW | {"windows": 4, "path": "diffusion", "method": "distill"}
    for teacher, k in ((4, 2), (2, 1)):
        pairs[f"halve-{teacher}"] = AGAIN | {"teacher": f"pd-{teacher}", "starts": "data", "steps": teacher}
        students[f"pd-{k}"] = students["pd-4"] | {"windows": k, "pairs": f"halve-{teacher}", "start": f"pd-{teacher}"}
    return tiny_params


def edges(study: config.Study) -> dict[str, set[str]]:
    """Row -> the rows it needs, as the rules read them."""
    needs = {name: {row.teacher or row.base} for name, row in study.pairs.items()}
    return needs | {name: {row.start or row.base, row.pairs} for name, row in study.students.items()}


def after(study: config.Study, row: str) -> set[str]:
    """Everything that is made anew when ``row`` is."""
    found, needs = {row}, edges(study)
    while more := {name for name, needed in needs.items() if needed & found} - found:
        found |= more
    return found - {row}


def test_a_chain_resolves_into_its_edges(chain, write_params):
    needs = edges(load(write_params, chain))
    assert needs["eps-reflow-k1-s0"] == {"eps", "eps-fixed-k1"}
    assert needs["eps-again-k1"] == {"eps-reflow-k1-s0"}
    assert needs["eps-reflow-2-k1-s0"] == {"eps-reflow-k1-s0", "eps-again-k1"}
    assert needs["eps-one-step-k1-s0"] == {"eps-reflow-2-k1-s0", "eps-thrice-k1"}
    assert needs["eps-halve-4-k2"] == {"eps-pd-4-k4-s0"}
    assert needs["eps-pd-1-k1-s0"] == {"eps-pd-2-k2-s0", "eps-halve-2-k1"}


def test_an_edit_of_the_first_link_reaches_every_later_one(chain, write_params):
    study = load(write_params, chain)
    before = specs(study)
    chain["students"]["reflow"] = REFLOW | {"method": {"name": "piecewise_reflow", "penalty": "huber"}}
    edited = specs(load(write_params, chain))
    assert {key for key in before if before[key] != edited[key]} == {("students", "eps-reflow-k1-s0")}
    assert after(study, "eps-reflow-k1-s0") == {
        "eps-again-k1", "eps-reflow-2-k1-s0", "eps-thrice-k1", "eps-one-step-k1-s0",
    }  # fmt: skip
    chain["pairs"]["again"] = AGAIN | {"steps": 8}
    assert changed(edited, specs(load(write_params, chain))) == {"pairs"}


def test_the_teachers_evaluations_count_along_the_chain(chain, write_params):
    study = load(write_params, chain)
    assert pair_evaluations(study, "eps-again-k1") == 64 * 4
    assert pair_evaluations(study, "eps-halve-4-k2") == 64 * 2
    chain["pairs"]["again"] = AGAIN | {"guidance": 3.0}
    assert pair_evaluations(load(write_params, chain), "eps-again-k1") == 64 * 4 * 2
    assert "teacher eps-reflow-k1-s0" in config.plan(study)
    assert "start eps-reflow-k1-s0" in config.plan(study)


def test_the_guidance_of_a_chain_is_that_of_its_first_pairs(chain, write_params):
    def mode(params):
        models = config.summary(load(write_params, params))["models"]
        return {model["name"]: model["guidance_mode"] for model in models}["eps-one-step-k1-s0"]

    assert mode(chain) == "CFG-fixed"
    chain["pairs"]["fixed"]["guidance"] = 1.0
    assert mode(chain) == "CFG-sync"


def test_what_a_chain_rests_on_is_listed_once(chain, write_params):
    models = {model["name"]: model["links"] for model in config.summary(load(write_params, chain))["models"]}
    assert models["eps-one-step-k1-s0"] == ["eps-reflow-2-k1-s0", "eps-reflow-k1-s0"]
    assert models["eps-pd-1-k1-s0"] == ["eps-pd-2-k2-s0", "eps-pd-4-k4-s0"]
    assert models["eps-reflow-k1-s0"] == models["eps"] == []


def test_of_several_windows_a_link_means_the_same_ones_or_those_it_names(chain, write_params):
    chain["students"]["reflow"] = REFLOW | {"windows": [1, 2], "seeds": 3}
    needs = edges(load(write_params, chain))
    assert needs["eps-again-k1"] == {"eps-reflow-k1-s0"}
    chain["students"]["reflow-2"] |= {"windows": [1, 2], "seeds": 2}
    needs = edges(load(write_params, chain))
    assert needs["eps-again-k2"] == {"eps-reflow-k2-s0"}
    assert needs["eps-reflow-2-k2-s1"] == {"eps-reflow-k2-s0", "eps-again-k2"}
    chain["students"]["one-step"]["start"] = "reflow-k2"
    assert edges(load(write_params, chain))["eps-one-step-k1-s0"] == {"eps-reflow-k2-s0", "eps-thrice-k1"}


def test_a_student_without_windows_makes_pairs_with_a_solver(chain, write_params):
    chain["students"]["reflow"] = REFLOW | {"trials": {"solvers": ["ddim"], "steps": [4], "guidance": 1.0}}
    chain["pairs"]["again"] = AGAIN | {"solver": "dpmpp_2m", "steps": 6}
    study = load(write_params, chain)
    assert study.pairs["eps-again-k1"].window_steps == 6


CIRCLES = [
    ("reflow", "start", "reflow", "students.reflow: learns from itself (reflow from reflow); a chain must begin"),
    ("reflow", "start", "one-step", "reflow from one-step from reflow-2 from reflow); a chain must begin at a base"),
    ("reflow", "pairs", "thrice", "students.reflow: learns from itself (reflow from reflow-2 from reflow)"),
    ("pd-4", "pairs", "halve-2", "students.pd-4: learns from itself (pd-4 from pd-2 from pd-4)"),
]


@pytest.mark.parametrize(("entry", "field", "value", "says"), CIRCLES)
def test_a_circle_is_refused_in_one_line(entry, field, value, says, chain, write_params):
    chain["students"][entry] = chain["students"][entry] | {field: value}
    with pytest.raises(PerflowError) as caught:
        load(write_params, chain)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


MISTAKES = [
    ("students", "reflow-2", {"start": "reflo"}, ["students.reflow-2.start: no student 'reflo'", "reflow, reflow-2"]),
    ("pairs", "path", {"teacher": "nobody"}, ["pairs.path.teacher: no student 'nobody'", "pd-4-k4"]),
    ("students", "reflow-2", {"start": "perflow", "windows": 4, "trials": REFLOW["trials"]}, [
        "students.reflow-2.start: 'perflow' has several windows and not k4", "perflow-k1, perflow-k2",
    ]),
    ("students", "reflow-2", {"start": "distilled"}, ["'distilled' is not taught on the base 'eps', only on v"]),
    ("students", "reflow-2", {"prediction": "velocity"}, ["starts from 'reflow', which says ddim_eps", "'velocity'"]),
    ("pairs", "again", {"solver": "ddim"}, ["pairs.again.solver: the teacher 'reflow' is sampled on its windows: w"]),
    ("pairs", "halve-4", {"steps": 3}, ["pairs.halve-4.steps: 3 are too few, 4 windows need at least 4"]),
    ("pairs", "halve-4", {"steps": 5}, ["pairs.halve-4.steps: 5 of the teacher fall unevenly on 2 windows: [3, 2]"]),
]  # fmt: skip


@pytest.mark.parametrize(("table", "entry", "change", "says"), MISTAKES)
def test_a_mistake_in_a_chain_is_one_line(table, entry, change, says, chain, write_params):
    chain[table][entry] = chain[table][entry] | change
    with pytest.raises(PerflowError) as caught:
        load(write_params, chain)
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)
