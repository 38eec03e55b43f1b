"""Every mistake in params.yaml is one line that names the place and what is valid."""

import subprocess
import sys

import pytest

from perflow import config
from perflow.errors import PerflowError


def at(params: dict, path: str, value: object) -> dict:
    """Set params[a][b][c] = value for path "a.b.c"."""
    *parents, last = path.split(".")
    for key in parents:
        params = params[key]
    params[last] = value
    return params


PRETRAINED = {"family": "stable_diffusion", "dataset": "digits"}
MISTAKES = [
    ("colour", 1, ["colour", "unknown key", "datasets, bases"]),
    ("training.learning_rate", 1.0, ["training.learning_rate", "unknown key", "steps, batch, lr"]),
    ("training.steps", "many", ["training.steps", "integer", "'many'"]),
    ("training.steps", True, ["training.steps", "integer"]),
    ("training.lr", "1e-05", ["training.lr", "number", "'1e-05'"]),
    ("training.lr", -1.0, ["training.lr", "greater than 0"]),
    ("training.decay", "linear", ["training.decay", "'constant' or 'cosine'", "'linear'"]),
    ("students.perflow.windows", 0, ["students.perflow.windows", "whole number from 1", "0"]),
    ("students.perflow.windows", [2, 2], ["students.perflow.windows", "twice"]),
    ("students.perflow.windows", [], ["students.perflow.windows", "empty"]),
    ("students.perflow.windows", [1, 0.5, 0.5, 0], ["students.perflow.windows", "fall from 1 to 0"]),
    ("students.perflow.windows", [0.9, 0.5, 0], ["students.perflow.windows", "fall from 1 to 0"]),
    ("students.perflow.windows", "four", ["students.perflow.windows", "whole number", "'four'"]),
    ("students.perflow.trials.steps", [1], ["eps-perflow-k2-s0", "no number in steps [1] goes with its 2 windows"]),
    ("students.perflow.trials.solvers", ["ddimm"], ["no solver 'ddimm'", "window, ddim"]),
    ("students.perflow.bases", ["sd15"], ["students.perflow.bases", "no base 'sd15'", "eps, v"]),
    ("students.perflow.pairs", "none", ["students.perflow.pairs", "no pairs 'none'", "fixed, path"]),
    ("students.perflow.prediction", "eps", ["students.perflow.prediction", "'ddim_eps'", "'velocity'"]),
    ("students.perflow.method", "reflow", ["no method 'reflow'", "piecewise_reflow, consistency, distill"]),
    ("students.perflow.method", {"name": "piecewise_reflow", "loss": "l2"}, ["method.loss", "positions, weighting"]),
    ("students.perflow.method", {"name": "piecewise_reflow", "positions": 1}, ["positions", "from 2"]),
    ("students.perflow.method", {"name": "piecewise_reflow", "power": 0.0}, ["power is a number above 0", "0.0"]),
    ("students.perflow.method", {"name": "piecewise_reflow", "penalty": "l1"}, ["method.penalty", "'mse' or 'huber'"]),
    ("students.perflow.method", "consistency", ["students.perflow.path", "consistency needs diffusion", "'straight'"]),
    ("students.distilled.method", "consistency", ["students.distilled.prediction", "consistency needs ddim_eps"]),
    ("students.perflow.trials.guidance", -1.0, ["students.perflow.trials.guidance", "greater than or equal to 0"]),
    ("students.perflow.trials.guidance", [4.0, -1.0], ["students.perflow.trials.guidance", "-1.0"]),
    ("students.distilled.trials.solvers", ["window", "ddim"], ["ddim reads what a base says", "[window, rk45]"]),
    ("pairs.fixed.solver", "window", ["pairs.fixed.solver", "no solver 'window'", "ddim, dpmpp_2m, heun"]),
    ("pairs.fixed.solver", "rk45", ["pairs.fixed.solver", "no solver 'rk45'", "ddim, dpmpp_2m, heun"]),
    ("pairs.fixed.starts", "noise", ["pairs.fixed.starts", "'trajectory', 'mixture' or 'student'"]),
    ("bases.eps.family", "sd3", ["bases.eps.family", "no family 'sd3'", "stable_diffusion"]),
    ("bases.eps.dataset", "laion", ["bases.eps.dataset", "no dataset 'laion'", "digits"]),
    ("datasets.digits.source", "mnist", ["datasets.digits.source", "no dataset source 'mnist'", "digits"]),
    ("evaluation.extractor", "inception", ["evaluation.extractor", "no extractor 'inception'", "tiny-cnn"]),
    (
        "extractors.tiny-cnn.kind",
        "squeezenet",
        ["extractors.tiny-cnn", "squeezenet has weights and sha256, and no dataset"],
    ),
    (
        "extractors.tiny-cnn",
        {"kind": "vgg", "weights": "a", "sha256": "0" * 64},
        ["no kind 'vgg'", "squeezenet"],
    ),
    (
        "extractors.tiny-cnn",
        {"kind": "squeezenet", "weights": "a", "sha256": "0"},
        ["extractors.tiny-cnn.sha256", "'0'"],
    ),
    ("extractors.tiny-cnn", {}, ["extractors.tiny-cnn", "classifier has dataset and training", "got nothing"]),
    (
        "extractors.tiny-cnn",
        {"kind": "squeezenet", "weights": "a", "sha256": "0" * 64},
        ["evaluation.metrics: prompt_accuracy needs", "'tiny-cnn' (squeezenet) reads no attributes"],
    ),
    ("evaluation.metrics", ["fid"], ["evaluation.metrics", "no metric 'fid'", "fd_teacher"]),
    ("study", "../escape", ["study", "a name is letters"]),
    ("students.perflow.trials.steps", [2, 2], ["students.perflow.trials.steps", "twice"]),
    ("students.perflow.seeds", {40: 3}, ["students.perflow.seeds", "no number of windows '40'", "1, 2"]),
    ("students.perflow.bases", [], ["students.perflow.bases", "at least 1"]),
    ("students.perflow.method", {"name": ["distill"]}, ["no method", "consistency, distill"]),
    ("students.perflow.windows", [2, 0], ["students.perflow.windows", "whole number from 1"]),
    ("baselines.steps", [2000], ["baselines.steps", "less than or equal to 1000"]),
    ("bases.eps.channels", [10, 20], ["bases.eps.channels", "multiple of 8"]),
    ("bases.eps.colour", 1, ["bases.eps.colour", "unknown key", "channels", "words"]),
    ("bases.eps.source", {"folder": "x"}, ["bases.eps.channels", "unknown key", "known here: family, dataset, source"]),
    ("bases.eps", PRETRAINED | {"source": {}}, ["bases.eps.source", "one of folder, hub and file", "none"]),
    (
        "bases.eps",
        PRETRAINED | {"source": {"folder": "x", "hub": "a/b"}},
        ["one of folder, hub and file", "folder, hub"],
    ),
    ("bases.eps", PRETRAINED | {"source": {"hub": "a/b", "revision": "main"}}, ["a commit", "'main'"]),
    ("bases.eps", PRETRAINED | {"source": {"file": "x.safetensors"}}, ["file goes with config"]),
    ("bases.eps", PRETRAINED | {"source": {"file": "x.safetensors", "config": "x"}}, ["prediction: epsilon or v"]),
    ("bases.eps", PRETRAINED | {"source": {"folder": "x", "sha256": "abc"}}, ["bases.eps.source.sha256", "pattern"]),
    ("bases.eps", PRETRAINED | {"source": {"path": "x"}}, ["bases.eps.source.path", "unknown key", "folder, hub"]),
]


@pytest.mark.parametrize(("path", "value", "says"), MISTAKES, ids=[f"{p}={v}" for p, v, _ in MISTAKES])
def test_a_mistake_is_one_line_with_place_and_what_is_valid(path, value, says, tiny_params, write_params):
    at(tiny_params, path, value)
    file = write_params(tiny_params)
    with pytest.raises(PerflowError) as caught:
        config.load(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    for part in says:
        assert part in message


TEXTS = [
    ("study: a\nstudy: b\n", ["line 2", "'study' stands twice"]),
    ("study: [1, 2\n", ["line 2"]),
    ("- a\n- b\n", ["mapping"]),
    ("", ["mapping"]),
    ("study: \x00", ["not valid YAML"]),
]


@pytest.mark.parametrize(("text", "says"), TEXTS)
def test_broken_yaml_is_one_line(text, says, write_params):
    with pytest.raises(PerflowError) as caught:
        config.load(write_params(text))
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)


def test_a_missing_or_unreadable_file_is_one_line(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(PerflowError, match="cannot be read"):
            config.load(path)
    (tmp_path / "latin.yaml").write_bytes(b"study: caf\xe9\n")
    with pytest.raises(PerflowError, match="UTF-8"):
        config.load(tmp_path / "latin.yaml")


def test_two_rows_with_one_name_are_refused(tiny_params, write_params):
    # The base "eps" with the entry "a-b" and a base "eps-a" with the entry "b" meet in one name.
    tiny_params["bases"]["eps-a"] = tiny_params["bases"]["eps"]
    tiny_params["students"] = {
        "a-b": tiny_params["students"]["perflow"] | {"bases": ["eps"], "windows": 1},
        "b": tiny_params["students"]["perflow"] | {"bases": ["eps-a"], "windows": 1},
    }
    with pytest.raises(PerflowError, match="two rows with one name, 'eps-a-b-k1-s0'"):
        config.load(write_params(tiny_params))


@pytest.mark.parametrize(("text", "value"), [("1e-05", 1e-5), ("1.e-4", 1e-4), ("2E-3", 2e-3), (".5", 0.5)])
def test_an_unquoted_float_in_any_notation_is_a_number(text, value, root, write_params):
    tiny = (root / "workflow/studies/tiny.yaml").read_text()
    study = config.load(write_params(tiny.replace("batch: 16, lr: 1e-3", f"batch: 16, lr: {text}")))
    assert study.params.training.lr == value


def test_the_command_line_prints_that_line_alone_and_fails(tiny_params, write_params):
    at(tiny_params, "evaluation.metrics", ["fid"])
    done = subprocess.run(
        [sys.executable, "-m", "perflow", "plan", write_params(tiny_params)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("perflow: ")


def test_a_name_made_of_names_may_become_too_long(tiny_params, write_params):
    tiny_params["students"]["p" * 80] = tiny_params["students"].pop("perflow")
    with pytest.raises(PerflowError, match=r"params.yaml: a name is letters, .*at most 81"):
        config.load(write_params(tiny_params))


def test_every_study_that_ships_resolves(root):
    for path in [root / "params.yaml", *(root / "workflow/studies").glob("*.yaml")]:
        study = config.load(path)
        assert study.students
        assert "total:" in config.plan(study)
