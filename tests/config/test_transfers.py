"""Fine-tunes, adapters and settings expand to rows whose references are edges."""

import pytest

from perflow import config
from perflow.config.bases import root
from perflow.errors import PerflowError
from tests.stages.test_transfer import compatible


@pytest.fixture
def params(tiny_params):
    return compatible(tiny_params)


def test_a_setting_is_a_row_for_the_base_in_it_and_for_each_delta(params, write_params):
    study = config.load(write_params(params))
    student = "eps-perflow-k2-s0"
    assert set(study.transfers) == {
        f"plain-eps.{student}", f"tuned-outlined.{student}", f"tuned-halfway.{student}", f"low-eps.{student}",
        "lora-eps.eps", f"lora-eps.{student}", "control-eps.eps", f"control-eps.{student}",
        "repaint-eps.eps", f"repaint-eps.{student}", "inpaint-eps.eps", f"inpaint-eps.{student}",
    }  # fmt: skip
    assert set(study.evaluations) == set(study.samples) | set(study.transfers)
    for name, row in study.transfers.items():
        assert row.reference in study.evaluations
        assert study.evaluations[name].base == row.reference
        assert row.trials
    assert study.transfers[f"tuned-halfway.{student}"].reference == "halfway"
    assert study.transfers[f"lora-eps.{student}"].dataset == "outlined"
    halfway = study.bases["halfway"]
    assert (halfway.base, halfway.dataset, halfway.prediction) == ("eps", "outlined", "epsilon")
    assert root(study.bases, "halfway") == root(study.bases, "outlined") == "eps"
    assert "tuned-outlined" in config.plan(study)


def test_strength_leaves_the_steps_that_diffusers_takes(params, write_params):
    params["settings"]["repaint"]["strength"] = 0.4
    study = config.load(write_params(params))
    trials = {trial.name: trial.nfe for trial in study.transfers["repaint-eps.eps-perflow-k2-s0"].trials}
    assert trials == {"window-3": 1}  # int(3 x 0.4) = 1 step; of two steps none is left
    assert any("strength 0.4 leaves no step" in item.why for item in study.skipped)
    teacher = next(t for t in study.transfers["repaint-eps.eps"].trials if t.name == "teacher")
    assert teacher.nfe == 2  # one of four steps, guided


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p["settings"]["plain"].update(bases=["nowhere"]), "settings.plain.bases: no base 'nowhere'"),
        (lambda p: p["settings"]["plain"].update(bases=["v"]), "none of perflow is taught on 'v'"),
        (lambda p: p["settings"]["plain"].update(students=["nobody"]), "settings.plain.students: no student 'nobody'"),
        (lambda p: p["settings"]["lora"].update(adapter="none"), "settings.lora.adapter: no adapter 'none'"),
        (lambda p: p["settings"]["lora"].update(task="inpaint"), "an adapter is tried with text"),
        (lambda p: p["settings"]["repaint"].update(strength=1.0), "settings.repaint.strength"),
        (lambda p: p["adapters"]["style"].pop("rank"), "a lora has a rank"),
        (lambda p: p["adapters"]["edges"].update(rank=3), "a lora has a rank, a controlnet has none"),
        (lambda p: p["adapters"]["style"].update(base="v"), "'style' is trained on 'v', not on 'eps'"),
        (lambda p: p["bases"]["halfway"].update(scaled="eps"), "bases.halfway.scaled: 'eps' is no fine-tune"),
        (lambda p: p["bases"]["outlined"].update(fine_tune="halfway"), "comes from itself"),
        (lambda p: p["bases"]["outlined"].update(fine_tune="gone"), "bases.outlined.fine_tune: no base 'gone'"),
        (lambda p: p["datasets"]["outlined"].update(resolution=32), "images of 32 pixels, the base 'eps' draws 16"),
        (lambda p: p["bases"]["halfway"].update(channels=[8, 16]), "channels: unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_where_and_what_is_valid(edit, message, params, write_params):
    edit(params)
    with pytest.raises(PerflowError, match=message) as error:
        config.load(write_params(params))
    assert "\n" not in str(error.value)


def test_an_edit_of_a_setting_touches_its_rows_only(params, write_params):
    from tests.config.test_resolve import changed, specs

    before = specs(config.load(write_params(params)))
    params["settings"]["repaint"]["strength"] = 0.75
    after = specs(config.load(write_params(params)))
    assert changed(before, after) == {"transfers"}
    assert {name for key, name in before if before[key, name] != after[key, name]} == {
        "repaint-eps.eps", "repaint-eps.eps-perflow-k2-s0",
    }  # fmt: skip
    params["settings"]["repaint"]["label"] = "another label"
    assert specs(config.load(write_params(params))) == after
