"""Axes expand to named rows; a spec changes exactly when what its stage reads changes."""

import json

import pytest

from perflow import config, fingerprint
from perflow.config import TABLES, plan
from perflow.config.plan import pair_evaluations
from perflow.errors import PerflowError


def specs(study: config.Study) -> dict[tuple[str, str], str]:
    """Every spec of a study as text."""
    return {(t, n): json.dumps(study.spec(t, n), sort_keys=True) for t in TABLES for n in getattr(study, t)}


def changed(before: dict, after: dict) -> set[str]:
    """Tables in which a spec that exists before and after differs."""
    return {key[0] for key in before.keys() & after.keys() if before[key] != after[key]}


def load(write_params, params: dict) -> config.Study:
    return config.load(write_params(params))


def test_one_line_ablates_the_number_of_windows(tiny_params, write_params):
    before = specs(load(write_params, tiny_params))
    tiny_params["students"]["perflow"]["windows"] = [1, 2, 3]
    tiny_params["students"]["perflow"]["trials"]["steps"] = [1, 2, 4]
    tiny_params["students"]["perflow"]["trials"]["steps"] = [1, 2]
    with pytest.raises(PerflowError, match="eps-perflow-k3-s0"):
        load(write_params, tiny_params)
    tiny_params["students"]["perflow"]["windows"] = [1, 2, [1, 0.3, 0]]
    after = specs(load(write_params, tiny_params))
    assert changed(before, after) == set()
    assert {name for _, name in after.keys() - before.keys()} == {"eps-fixed-e0.3", "eps-perflow-e0.3-s0"}
    tiny_params["students"]["perflow"]["windows"] = [1]
    fewer = specs(load(write_params, tiny_params))
    assert changed(before, fewer) == set()
    assert {name for _, name in before.keys() - fewer.keys()} == {"eps-fixed-k2", "eps-perflow-k2-s0"}


@pytest.mark.parametrize(
    ("path", "value", "tables"),
    [
        (("evaluation", "groups"), 8, {"evaluations"}),
        (("evaluation", "metrics"), ["fd_teacher"], {"evaluations"}),
        (("sampling", "prompts"), 8, {"prompts", "samples"}),
        (("datasets", "digits", "counts", "reference"), 128, {"splits"}),
        (("encoding",), {"dtype": "bf16"}, {"latents"}),
        (("training", "lr"), 5e-4, {"students"}),
        (("pairs", "fixed", "guidance"), 2.0, {"pairs"}),
        (("extractors", "tiny-cnn", "training", "steps"), 10, {"extractors"}),
        (("bases", "v", "drop"), 0.2, {"bases"}),
        (("students", "perflow", "label"), "another label", set()),
    ],
)
def test_an_edit_changes_the_specs_of_its_readers_only(path, value, tables, tiny_params, write_params):
    before = specs(load(write_params, tiny_params))
    place = tiny_params
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert changed(before, specs(load(write_params, tiny_params))) == tables


def test_seeds_by_number_of_windows(tiny_params, write_params):
    tiny_params["students"]["perflow"]["seeds"] = {2: 3}
    students = load(write_params, tiny_params).students
    assert [n for n in students if "perflow" in n] == [
        "eps-perflow-k1-s0", "eps-perflow-k2-s0", "eps-perflow-k2-s1", "eps-perflow-k2-s2",
    ]  # fmt: skip
    assert students["eps-perflow-k2-s2"].seed == 2


def test_no_bases_means_every_base_and_each_gets_its_own_pairs(tiny_params, write_params):
    del tiny_params["students"]["perflow"]["bases"]
    study = load(write_params, tiny_params)
    assert {"eps-perflow-k2-s0", "v-perflow-k2-s0"} <= study.students.keys()
    assert {"eps-fixed-k2", "v-fixed-k2"} <= study.pairs.keys()


def test_equal_edges_and_the_same_edges_written_out_give_the_same_windows(tiny_params, write_params):
    tiny_params["students"]["perflow"]["windows"] = [4, [1, 0.75, 0.5, 0.25, 0]]
    tiny_params["students"]["perflow"]["trials"]["steps"] = [4]
    students = load(write_params, tiny_params).students
    assert students["eps-perflow-k4-s0"].edges == students["eps-perflow-e0.75_0.5_0.25-s0"].edges


def test_what_an_axis_cannot_do_is_skipped_and_listed(tiny_params, write_params):
    study = load(write_params, tiny_params)
    assert [item.row for item in study.skipped] == ["eps-perflow-k2-s0 window-1"]
    assert "eps-perflow-k2-s0 window-1: 1 steps cannot cross 2 windows" in config.plan(study)


def test_guidance_doubles_the_network_evaluations(tiny_params, write_params):
    study = load(write_params, tiny_params)
    trials = {trial.name: trial for trial in study.samples["eps"].trials}
    assert trials["ddim-2"].nfe == 2 * 2
    assert study.samples["eps-perflow-k2-s0"].trials[0].nfe == 2


def test_guidance_may_be_given_by_window(tiny_params, write_params):
    entry = tiny_params["students"]["perflow"]
    entry |= {"windows": 2, "trials": {"solvers": ["window"], "steps": [2, 5], "guidance": [7.5, 1.0]}}
    study = load(write_params, tiny_params)
    trials = study.samples["eps-perflow-k2-s0"].trials
    assert [trial.guidance for trial in trials] == [[7.5, 1.0]] * 2
    assert [trial.nfe for trial in trials] == [2 + 1, 3 * 2 + 2]  # five steps: three in the noisier window
    entry["windows"] = [1, 2]
    with pytest.raises(PerflowError, match=r"'eps-perflow-k1-s0' has 1 windows.*\[7.5, 1.0\] is for 2 windows"):
        load(write_params, tiny_params)
    entry |= {"windows": 2, "trials": entry["trials"] | {"solvers": ["window", "ddim"]}}
    with pytest.raises(PerflowError, match=r"the solvers \['window', 'ddim'\]; guidance"):
        load(write_params, tiny_params)
    entry["trials"] = entry["trials"] | {"solvers": ["window"], "guidance": 1.0}
    tiny_params["baselines"]["guidance"] = [7.5, 1.0]
    with pytest.raises(PerflowError, match="baselines.guidance: a base has no windows; give one number"):
        load(write_params, tiny_params)


def test_specs_are_rewritten_only_when_they_change(tiny_params, write_params, tmp_path):
    study = load(write_params, tiny_params)
    config.write_specs(study, tmp_path)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "results/specs").rglob("*.json")}
    assert len(files) == sum(len(getattr(study, t)) for t in TABLES) + 1
    config.write_specs(study, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_an_extractor_that_others_trained_is_a_row_of_its_own(tiny_params, write_params):
    before = specs(load(write_params, tiny_params))
    tiny_params["extractors"]["SqueezeNet"] = {"kind": "squeezenet", "weights": "w.safetensors", "sha256": "0" * 64}
    assert changed(before, specs(load(write_params, tiny_params))) == set()
    tiny_params["evaluation"] |= {"extractor": "SqueezeNet", "metrics": ["fd_teacher", "diversity"]}
    study = load(write_params, tiny_params)
    assert changed(before, specs(study)) == {"evaluations"}
    assert "SqueezeNet" in config.plan(study)
    assert "<- weights w.safetensors  squeezenet, sha256 000000000000" in config.plan(study)


def test_every_stage_with_a_spec_is_fingerprinted_with_its_plug_ins(tiny_params, write_params, monkeypatch):
    study = load(write_params, tiny_params)
    before = specs(study)
    real = fingerprint._text

    def edited(name: str) -> str:
        return real(name) + ("\nx = 1" if name == "perflow.methods.distill" else "")

    monkeypatch.setattr(fingerprint, "_text", edited)
    fingerprint.fingerprint.cache_clear()
    after = specs(study)
    fingerprint.fingerprint.cache_clear()
    assert {key for key in before if before[key] != after[key]} == {("students", "v-distilled-k2-s0")}


def test_lcm_steps_on_the_edges_its_student_was_taught_on(tiny_params, write_params):
    entry = tiny_params["students"]["perflow"]
    entry |= {
        "path": "diffusion",
        "method": "consistency",
        "windows": [4, 20],
        "trials": {"solvers": ["lcm"], "steps": [1, 8]},
    }
    study = load(write_params, tiny_params)
    taught = study.samples["eps-perflow-k20-s0"].trials
    assert [trial.scheduler["original_inference_steps"] for trial in taught] == [20, 20]
    assert study.deltas["eps-perflow-k20-s0"].trial == taught[1]
    assert [item.row for item in study.skipped] == ["eps-perflow-k4-s0 lcm-8"]
    assert taught[0].scheduler["class"] == "LCMScheduler"
    for windows in (3, [1, 0.3, 0]):
        entry["windows"] = windows
        with pytest.raises(PerflowError, match=r"cannot be sampled with lcm.* number must divide 1000, as 50 does"):
            load(write_params, tiny_params)


def test_a_method_says_what_it_needs_of_its_row(tiny_params, write_params):
    tiny_params["students"]["perflow"]["method"] = "consistency"
    with pytest.raises(
        PerflowError, match=r"students.perflow.path: the method consistency needs diffusion; got 'straight'"
    ):
        load(write_params, tiny_params)


def test_steps_and_solvers_may_be_one_a_window_and_are_counted(tiny_params, write_params):
    """What is planned is the sum over the windows; heun asks twice a step, guidance twice a call."""
    tiny_params["pairs"]["fixed"] |= {"steps": [3, 2], "solver": ["heun", "ddim"], "guidance": 4.5, "count": 10}
    tiny_params["students"]["perflow"]["windows"] = 2
    study = load(write_params, tiny_params)
    assert study.pairs["eps-fixed-k2"].window_steps == [3, 2]
    assert pair_evaluations(study, "eps-fixed-k2") == 5 * (3 * 2 + 2) * 2
    assert "2 windows x 3-2 heun-ddim" in plan(study)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("steps", [3, 2, 1], r"pairs.fixed.steps: \[3, 2, 1\] is for 3 windows; 'eps-fixed-k2' has 2"),
        ("solver", ["ddim"], r"pairs.fixed.solver: \['ddim'\] is for 1 windows; 'eps-fixed-k2' has 2"),
        ("solver", ["ddim", "euler"], r"pairs.fixed.solver: no 'euler'|euler"),
    ],
)
def test_a_list_of_another_length_than_the_windows_is_refused(field, value, says, tiny_params, write_params):
    tiny_params["pairs"]["fixed"][field] = value
    tiny_params["students"]["perflow"]["windows"] = 2
    with pytest.raises(PerflowError, match=says):
        load(write_params, tiny_params)
