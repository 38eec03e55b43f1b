"""A small study, made whole by the verbs themselves, and handed to tests as a copy in the working directory."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from perflow import cli, config, report, tracking
from perflow.config.load import read_yaml
from tests.conftest import ROOT, dump_params

STUDENT, PAIRS = "eps-perflow-k2-s0", "eps-fixed-k2"
BASE = "results/bases/eps/model.json"
DATA, SEEN, REAL = (f"data/digits-{split}/manifest.json" for split in ("base", "extractor", "reference"))
"""The manifests of the splits: for the base, the extractor, and to compare with."""
PROMPTS, LATENTS = "results/prompts/digits/manifest.json", "results/latents/eps/manifest.json"
COMMANDS = [
    *(("fetch", "splits", Path(manifest).parent.name, manifest, {}) for manifest in (DATA, SEEN, REAL)),
    ("prompts", "prompts", "digits", PROMPTS, {}),
    ("base", "bases", "eps", BASE, {"dataset": DATA}),
    ("extractor", "extractors", "cnn", "results/extractors/cnn/extractor.safetensors", {"source": SEEN}),
    ("encode", "latents", "eps", LATENTS, {"model": BASE, "dataset": DATA}),
    ("cache", "pairs", PAIRS, f"results/pairs/{PAIRS}/manifest.json", {"teacher": BASE, "latents": LATENTS}),
    ("train", "students", STUDENT, f"results/students/{STUDENT}/ema.safetensors",
     {"start": BASE, "pairs": f"results/pairs/{PAIRS}/manifest.json"}),
    ("export", "deltas", STUDENT, f"results/students/{STUDENT}/delta.safetensors",
     {"student-spec": f"results/specs/students/{STUDENT}.json", "base": BASE,
      "weights": f"results/students/{STUDENT}/ema.safetensors"}),
    *(("sample", "samples", model, f"results/samples/{model}/manifest.json",
       {"model": handle, "teacher": BASE, "prompts": PROMPTS})
      for model, handle in (("eps", BASE), (STUDENT, f"results/students/{STUDENT}/model.json"))),
    *(("evaluate", "evaluations", model, f"results/metrics/{model}.json",
       {"samples": f"results/samples/{model}/manifest.json", "teacher": "results/samples/eps/manifest.json",
        "dataset": REAL, "extractor": "results/extractors/cnn/extractor.safetensors"})
      for model in ("eps", STUDENT)),
]  # fmt: skip


class Made(NamedTuple):
    """The study's file and its home, which is the working directory."""

    params: Path
    home: Path

    @property
    def study(self) -> config.Study:
        """The study as its file says now."""
        return config.load(self.params)

    def edit(self, old: str, new: str) -> None:
        """Change the study's file."""
        text = self.params.read_text()
        assert old in text
        self.params.write_text(text.replace(old, new))


def small() -> dict:
    """The tiny study with one base and one student."""
    params = read_yaml(ROOT / "workflow/studies/tiny.yaml")[0]
    del params["bases"]["v"], params["students"]["distilled"], params["pairs"]["path"]
    params["students"]["perflow"]["windows"] = 2
    params["extractors"] = {"cnn": params["extractors"].pop("tiny-cnn")}
    params["evaluation"] = {"extractor": "cnn", "metrics": ["fd_teacher", "prompt_accuracy"], "groups": 4}
    params["sampling"] |= {"prompts": 8, "per_prompt": 2}
    return params


def make(params: dict, home: Path, steps: list = COMMANDS) -> None:
    """Make a study, or some of its rows, with the verbs."""
    (home / "params.yaml").write_text(dump_params(params))
    with contextlib.chdir(home):
        config.write_specs(config.load("params.yaml"))
        for verb, table, name, out, inputs in steps:
            options = [part for key, value in inputs.items() for part in (f"--{key}", value)]
            log = f"logs/{verb}/{name}.log"
            arguments = [verb, "--spec", f"results/specs/{table}/{name}.json", "--out", out, "--log", log, *options]
            cli.main(arguments, standalone_mode=False)
        if steps is COMMANDS:
            report.collect("results/specs/study.json", "results", ROOT / "workflow/report/published.json")
            tracking.write_ids("results/specs/study.json", "results")
            Path("reports").mkdir()
            for name in ("reports/report.html", "reports/report.ipynb"):
                Path(name).write_text("{}\n")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Path:
    """The home of the small study, which nobody changes."""
    home = tmp_path_factory.mktemp("kept")
    make(small(), home)
    return home


@pytest.fixture
def made(made_once, tmp_path, monkeypatch) -> Made:
    """A copy that a test may damage, as the working directory."""
    home = tmp_path / "home"
    shutil.copytree(made_once, home)
    monkeypatch.chdir(home)
    return Made(home / "params.yaml", home)
