"""Trials: budgets, spacings and teachers expand to rows that say what they are; what cannot be is refused."""

import pytest

from perflow.config import rows
from perflow.config.axis import SPACINGS, even_edges, window_axis
from perflow.core.schedule import Schedule
from perflow.errors import PerflowError
from perflow.models import SCHEDULERS
from tests.config.test_resolve import changed, load, specs


def names(study, model):
    return [trial.name for trial in study.samples[model].trials]


def test_a_budget_buys_each_solver_as_many_steps_as_it_pays(tiny_params, write_params):
    """Guidance doubles a call and Heun's steps, but the last, take two of them."""
    solvers = ["ddim", "dpmpp_3m", "heun"]
    tiny_params["baselines"] = {"solvers": solvers, "evaluations": [2, 6, 16], "guidance": 4.5}
    trials = load(write_params, tiny_params).samples["eps"].trials[2:]
    for trial in trials:
        assert trial.nfe == 2 * SCHEDULERS[trial.solver].evaluations(trial.steps) <= 16
    bought = {solver: [trial.steps for trial in trials if trial.solver == solver] for solver in solvers}
    assert bought == {"ddim": [1, 3, 8], "dpmpp_3m": [1, 3, 8], "heun": [1, 2, 4]}


def test_teachers_of_other_guidance_have_references_of_their_own(tiny_params, write_params):
    before = specs(load(write_params, tiny_params))
    tiny_params["baselines"] |= {"teachers": [4.5, 2.0], "spacings": ["trailing", "karras", [1.0, 0.3]]}
    study = load(write_params, tiny_params)
    assert changed(before, specs(study)) == {"samples"}
    assert names(study, "eps")[:4] == ["teacher", "teacher-2", "teacher-w2", "teacher-2-w2"]
    trials = {trial.name: trial for trial in study.samples["eps"].trials}
    assert len(trials) == 4 + 2 * 3
    assert {name: trials[name].guidance for name in ("ddim-2", "ddim-2-w2", "ddim-2-karras-w2", "teacher-2-w2")} == {
        "ddim-2": 4.5, "ddim-2-w2": 2.0, "ddim-2-karras-w2": 2.0, "teacher-2-w2": 2.0,
    }  # fmt: skip
    assert trials["ddim-2-w2"].teacher == 2.0
    assert trials["ddim-2"].teacher is None


def test_a_teacher_that_only_a_student_names_is_drawn_by_its_base(tiny_params, write_params):
    tiny_params["students"]["perflow"]["trials"]["teachers"] = [7.5]
    study = load(write_params, tiny_params)
    assert "teacher-2-w7.5" in names(study, "eps")
    assert names(study, "eps-perflow-k1-s0") == ["window-1-w7.5", "window-2-w7.5"]
    assert study.samples["eps-perflow-k1-s0"].trials[0].guidance == 1.0


def test_what_a_row_does_not_use_is_not_in_its_spec(tiny_params, write_params):
    study = load(write_params, tiny_params)
    for name, model in study.samples.items():
        for trial in study.spec("samples", name)["row"]["trials"]:
            assert not {"spacing", "teacher"} & trial.keys()
        assert rows.Samples.model_validate(study.spec("samples", name)["row"]) == model


@pytest.mark.parametrize(("given", "message"), [
    ({"steps": [2], "evaluations": [2]}, "steps or evaluations"),
    ({"steps": []}, "steps or evaluations"),
    ({"steps": [2], "spacings": ["even"]}, "a spacing is one of trailing, leading"),
    ({"steps": [2], "spacings": [[0.5, 0.7]]}, "falling times"),
    ({"steps": [2], "spacings": [[1.0, 0.5, 0.2]]}, "3 times for 2 steps"),
    ({"steps": [2], "spacings": ["karras", "karras"]}, "stands twice"),
    ({"steps": [2], "solvers": ["lcm"], "spacings": ["karras"]}, "lcm steps on its own grid"),
])  # fmt: skip
def test_a_trial_that_cannot_be_is_refused(tiny_params, write_params, given, message):
    tiny_params["baselines"] = {"solvers": ["ddim"], **given}
    with pytest.raises(PerflowError, match=message):
        load(write_params, tiny_params)


def test_steps_on_windows_are_trailing_searched_or_times(tiny_params, write_params):
    tiny_params["students"]["perflow"]["trials"]["spacings"] = ["karras"]
    with pytest.raises(PerflowError, match="on windows steps are trailing, best or times"):
        load(write_params, tiny_params)


def test_windows_by_a_rule_become_edges_that_are_even_in_what_it_says():
    schedule = Schedule.scaled_linear()
    for count in (2, 4, 7):
        ((_, edges),) = window_axis("x", {"count": count, "spacing": "log_snr"})
        ends = [float(schedule.log_snr(t)) for t in edges]
        even = [ends[0] + k * (ends[-1] - ends[0]) / count for k in range(count + 1)]
        assert ends == pytest.approx(even, abs=0.06)  # to the nearest timestep, of 1000
    assert window_axis("x", {"count": 4, "spacing": "equal"}) == window_axis("x", 4)
    assert window_axis("x", [{"count": 2, "spacing": "quadratic"}])[0][1] == [1.0, 0.25, 0.0]
    for wrong in ({"count": 4}, {"count": 0, "spacing": "log_snr"}, {"count": 4, "spacing": "even"}):
        with pytest.raises(PerflowError, match=", ".join(SPACINGS)):
            window_axis("x", wrong)


def test_edges_share_the_curvature_equally():
    """Of pieces whose turns are 1, 2 and 1, two windows take 2 each and four windows 1 each."""
    pieces, curvatures = [1.0, 0.8, 0.4, 0.0], [1.0, 4.0, 1.0]
    assert even_edges(pieces, curvatures, 2) == pytest.approx([1, 0.6, 0])
    assert even_edges(pieces, curvatures, 4) == pytest.approx([1, 0.8, 0.6, 0.4, 0])
    assert even_edges([1.0, 0.0], [0.3], 4) == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    with pytest.raises(PerflowError, match="no curvature to share"):
        even_edges([1.0, 0.0], [0.0], 2)
    with pytest.raises(PerflowError, match="too many"):
        even_edges([1.0, 0.999, 0.0], [1.0, 0.0], 4)
