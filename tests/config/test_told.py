"""A guidance that networks are told: which rows go together, what they cost, and what is said of the others."""

import pytest

from perflow import config
from perflow.config.plan import pair_evaluations, plan
from perflow.errors import PerflowError


@pytest.fixture
def told(tiny_params):
    """The tiny study with a range of guidance, one student that is told it, and one that is taught by that one."""
    tiny_params["pairs"] |= {
        "skips": {"starts": "data", "guidance": [2.0, 8.0], "solver": "ddim", "steps": 20, "count": 120},
        "further": {"starts": "data", "guidance": 3.0, "solver": "window", "teacher": "guided", "steps": 2, "count": 8},
    }
    common = {"label": "l", "path": "diffusion", "prediction": "ddim_eps", "bases": ["eps"], "method": "distill"}
    tiny_params["students"] |= {
        "guided": common | {
            "pairs": "skips", "windows": 2, "guidance_embedding": 32,
            "trials": {"solvers": ["window", "dpmpp_2m"], "steps": [2, 4], "guidance": 4.5},
        },
        "after": common | {
            "pairs": "further", "windows": 1, "trials": {"solvers": ["window"], "steps": [1], "guidance": 1.0}
        },
    }  # fmt: skip
    return tiny_params


def test_one_evaluation_a_step_and_a_teacher_that_is_told_costs_one(told, write_params):
    study = config.load(write_params(told))
    student = "eps-guided-k2-s0"
    assert study.students[student].told.model_dump() == {"size": 32, "least": 2.0, "most": 8.0}
    assert [trial.nfe for trial in study.samples[student].trials] == [2, 4, 2, 4]
    assert study.deltas[student].trial.nfe == 2
    assert pair_evaluations(study, "eps-skips-k2") == 60 * 20 * 2
    assert pair_evaluations(study, "eps-further-k1") == 8 * 2
    models = {model["name"]: model["guidance_mode"] for model in config.summary(study)["models"]}
    assert (models[student], models["eps-after-k1-s0"]) == ("CFG-embedded", "CFG-fixed")
    assert "w=2 to 8" in plan(study)


def test_budgets_of_evaluations_and_guidance_by_window(told, write_params):
    told["students"]["guided"]["trials"] = {"solvers": ["window"], "evaluations": [2, 4], "guidance": [7.5, 4.0]}
    study = config.load(write_params(told))
    assert [(trial.steps, trial.nfe) for trial in study.samples["eps-guided-k2-s0"].trials] == [(2, 2), (4, 4)]


def test_rows_without_it_say_nothing_of_it(tiny_params, write_params):
    study = config.load(write_params(tiny_params))
    assert not [name for name in study.students if "told" in study.spec("students", name)["row"]]


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("students", "guided", "guidance_embedding"), None, "guidance_embedding: goes with pairs of a range"),
        (("pairs", "skips", "guidance"), 4.5, "guidance_embedding: goes with pairs of a range"),
        (("pairs", "skips", "guidance"), [8.0, 2.0], r"guidance is one number, or \[least, most\] of a range; got"),
        (("pairs", "skips", "guidance"), [1.0, 2.0, 3.0], r"\[least, most\]"),
        (("students", "guided", "guidance_embedding"), 33, "multiple of 2"),
        (("students", "guided", "rank"), 4, "what loads a LoRA has no place for it"),
        (("students", "guided", "trials", "guidance"), 1.0, "is told its guidance, from 2 to 8; got 1.0"),
        (("students", "guided", "trials", "guidance"), [9.0, 4.0], "is told its guidance, from 2 to 8"),
        (("pairs", "further", "guidance"), 1.0, "'guided' is told its guidance, from 2 to 8; got 1.0"),
        (("students", "after", "start"), "guided", "it starts from 'guided', which has 32; got None"),
    ],
)
def test_what_does_not_go_together_is_one_line(where, value, said, told, write_params):
    *path, last = where
    place = told
    for key in path:
        place = place[key]
    place[last] = value
    if isinstance(value, list) and "trials" in where:
        place["solvers"] = ["window"]
    with pytest.raises(PerflowError, match=said) as error:
        config.load(write_params(told))
    assert "\n" not in str(error.value)


def test_negative_prompts_are_those_of_the_range(told, write_params, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a {i}" for i in range(16)))
    told["sampling"]["prompt_list"] = {"file": str(tmp_path / "prompts.txt"), "negative": "blurred"}
    told["students"] = {"guided": told["students"]["guided"]}
    with pytest.raises(PerflowError, match="guidance of 'eps-guided-k2-s0' is in its weights"):
        config.load(write_params(told))
    told["pairs"]["skips"]["negative"] = "blurred"
    config.load(write_params(told))


def test_who_is_taught_by_a_told_student_is_led_away_from_what_that_one_was(told, write_params, tmp_path):
    """A told network hears no negative prompt, so its pupil's pairs cannot say another."""
    (tmp_path / "prompts.txt").write_text("\n".join(f"a {i}" for i in range(16)))
    told["sampling"]["prompt_list"] = {"file": str(tmp_path / "prompts.txt"), "negative": "blurred"}
    told["pairs"]["skips"]["negative"] = "blurred"
    told["students"] = {name: told["students"][name] for name in ("guided", "after")}
    config.load(write_params(told))
    told["pairs"]["further"]["negative"] = "ugly"
    with pytest.raises(PerflowError, match="negative: its teacher 'eps-guided-k2-s0' is told its guid"):
        config.load(write_params(told))


@pytest.fixture
def released(told):
    """The same, where the student that is told its guidance was taught elsewhere."""
    kept = {
        key: told["students"]["guided"][key] for key in ("label", "path", "prediction", "bases", "windows", "trials")
    }
    told["students"]["guided"] = kept | {"source": {"weights": "w", "held": "weights", "guidance": [2.0, 8.0]}}
    del told["pairs"]["skips"]
    return told


def test_a_released_network_that_is_told_it_costs_as_little_and_says_the_same(released, write_params):
    study = config.load(write_params(released))
    student = "eps-guided-k2-s0"
    assert study.students[student].told.model_dump() == {"size": None, "least": 2.0, "most": 8.0}
    assert [trial.nfe for trial in study.samples[student].trials] == [2, 4, 2, 4]
    assert pair_evaluations(study, "eps-further-k1") == 8 * 2
    models = {model["name"]: model["guidance_mode"] for model in config.summary(study)["models"]}
    assert models[student] == "CFG-embedded"
    assert "released weights, diffusion, ddim_eps, guidance 2 to 8" in plan(study)
    released["students"]["guided"]["source"].pop("guidance")
    plain = config.load(write_params(released))
    assert "guidance" not in plain.spec("students", student)["row"]["source"]
    assert {model["name"]: model["guidance_mode"] for model in config.summary(plain)["models"]}[student] is None


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("pairs", "further", "guidance"), 9.0, "'guided' is told its guidance, from 2 to 8; got 9.0"),
        (("students", "guided", "trials", "guidance"), 1.0, "is told its guidance, from 2 to 8; got 1.0"),
        (
            ("students", "after", "start"),
            "guided",
            "guidance_embedding: missing; it starts from 'guided', whose network",
        ),
        (("students", "guided", "source", "guidance"), [2.0], r"\[least, most\] of a range; got \[2.0\]"),
        (("students", "guided", "source", "held"), "lora", "source.guidance: no LoRA holds how"),
        (("students", "guided", "guidance_embedding"), 32, "was taught elsewhere and has no guidance_embedding"),
    ],
)
def test_what_does_not_go_with_a_released_network_is_one_line(where, value, said, released, write_params):
    *path, last = where
    place = released
    for key in path:
        place = place[key]
    place[last] = value
    with pytest.raises(PerflowError, match=said):
        config.load(write_params(released))
