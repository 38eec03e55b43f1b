"""measure: a trial's own images get evaluate's numbers; others get those of independent images; mistakes get a line."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from perflow import artifacts
from perflow.cli import main
from perflow.config.rows import Evaluation
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics import NEEDS
from perflow.metrics.features import restore
from perflow.stages.measure import _WORDS, measure
from tests.stages.test_evaluate import GROUPS, ITEMS, METRICS, Home, build

ROW = {"model": "base", "base": "base", "dataset": "d", "extractor": "x", "metrics": list(METRICS), "groups": GROUPS}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Home:
    return build(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def evaluated(made):
    """What evaluate says of a student's trial."""
    return made.run()["trials"]["window-4"]["metrics"]


def run(made: Home, images: Path, same_prompts: bool = False, **changes) -> dict:
    row = Evaluation.model_validate(ROW | {"confidence": 0.9} | changes)
    return measure(images, row, made.samples("base"), made.dataset, made.extractor, same_prompts)


def unpacked(made: Home, folder: Path, name: str = "{}.png") -> Path:
    """The student's images in a folder, in order."""
    with zipfile.ZipFile(made.samples("student").with_name("window-4.zip")) as archive:
        for i, member in enumerate(sorted(archive.namelist())):
            file = folder / name.format(i)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(member))
    return folder


def test_a_trial_of_the_study_gets_its_own_numbers(made, evaluated, tmp_path):
    """From its archive, and from a folder whose names a person would count: 2 before 10."""
    archive = made.samples("student").with_name("window-4.zip")
    found = run(made, archive, same_prompts=True)
    unknown = {
        "teacher_mse": "needs latents from the teacher's noise",
        "evaluations": "needs to know what each image cost",
    }
    assert found["metrics"] == {name: one for name, one in evaluated.items() if name not in unknown}
    undefined = {name: "undefined for these images" for name in METRICS.keys() - evaluated.keys()}
    assert found["left_out"] == undefined | unknown
    again = run(made, unpacked(made, tmp_path / "images"), same_prompts=True)
    assert again["metrics"] == found["metrics"]
    assert again["images"]["sha256"] == found["images"]["sha256"]


def test_the_result_names_what_was_compared(made):
    found = run(made, made.samples("student").with_name("window-4.zip"))
    archive = made.samples("base").with_name("teacher-2.zip")
    reference = made.dataset.with_name("reference.parquet")
    assert found["teacher"] == {"path": str(archive), "sha256": artifacts.sha256_file(archive), "count": ITEMS}
    assert found["real"] == {"path": str(reference), "sha256": artifacts.sha256_file(reference), "count": 50}
    assert found["extractor"]["sha256"] == artifacts.sha256_file(made.extractor)
    assert (found["groups"], found["groups_of"], found["confidence"]) == (GROUPS, "images", 0.9)


def test_without_prompts_images_are_independent(made, evaluated):
    found = run(made, made.samples("student").with_name("window-4.zip"))
    needs = "needs to know each image's prompt (--same-prompts)"
    assert {name for name, why in found["left_out"].items() if why == needs} == {
        "diversity", "vendi", "prompt_accuracy",
    }  # fmt: skip
    for name in ("fd_teacher", "fd_real", "precision", "recall", "density", "coverage"):
        assert found["metrics"][name]["value"] == pytest.approx(evaluated[name]["value"], rel=1e-5)
    assert found["metrics"]["fd_real"]["replicates"] != evaluated["fd_real"]["replicates"]
    own, _ = made.observed("student", "window-4")
    kernel = (own @ own.T / own.shape[1] + 1) ** 3
    usual = (kernel.sum() - np.trace(kernel)) / (ITEMS * (ITEMS - 1))
    prompts = np.arange(ITEMS) // 3
    known = np.mean(
        [kernel[np.ix_(prompts == p, prompts == q)][~np.eye(3, dtype=bool) if p == q else ...].mean()
         for p in range(12) for q in range(12)]
    )  # fmt: skip
    for name in ("kid_teacher", "kid_real"):
        assert found["metrics"][name]["value"] - evaluated[name]["value"] == pytest.approx(usual - known)


def test_any_number_of_images_and_what_is_no_image_do_not_matter(made, tmp_path):
    folder = unpacked(made, tmp_path / "images", "a/{}.PNG")
    (folder / "a" / "35.PNG").unlink()
    expected = run(made, folder)
    assert expected["images"]["count"] == ITEMS - 1
    (folder / "captions.txt").write_text("words")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "b.png").write_bytes(b"left behind")
    assert run(made, folder) == expected


def test_mistakes_are_one_line(made, tmp_path):
    folder = unpacked(made, tmp_path / "images")
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(folder / "0.png", few)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no zip")
    for images, says in (
        (few, f"few: 1 images; intervals from {GROUPS} groups need {2 * GROUPS} or more"),
        (tmp_path / "empty", "empty: no images; known are .png, .jpg"),
        (tmp_path / "text.txt", "text.txt: neither a folder nor a zip"),
        (tmp_path / "absent", "absent: no such folder or zip"),
    ):
        with pytest.raises(PerflowError, match=says):
            run(made, images)
    (folder / "7.png").unlink()
    with pytest.raises(PerflowError, match=r"35 images; --same-prompts needs 36, 3 of each of the 12 prompts"):
        run(made, folder, same_prompts=True)
    Image.new("RGB", (20, 16)).save(folder / "7.png")
    with pytest.raises(PerflowError, match=r"'7.png' has 20 x 16 pixels; the teacher's images have 16 x 16"):
        run(made, folder)
    whole = (folder / "8.png").read_bytes()
    for broken in (b"", b"not an image", whole[: len(whole) // 2]):
        (folder / "7.png").write_bytes(broken)
        with pytest.raises(PerflowError, match="'7.png' cannot be read as an image"):
            run(made, folder)
    row = Evaluation.model_validate(ROW)
    with pytest.raises(PerflowError, match="not the samples of a base"):
        measure(folder, row, made.samples("student"), made.dataset, made.extractor, False)


def file_of(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def test_features_of_images_get_the_numbers_that_the_images_get(made, tmp_path):
    """Bit for bit; what one would have to look at images for is left out, in a line each."""
    archive = made.samples("student").with_name("window-4.zip")
    whole = run(made, archive)
    features, _ = made.observed("student", "window-4")
    sha256 = artifacts.sha256_file(made.extractor)
    path = file_of(tmp_path / "mine.npz", features=features, extractor=sha256)
    found = run(made, path)
    assert found["images"] == {
        "path": str(path), "sha256": artifacts.sha256_file(path), "count": ITEMS, "made_by": "x", "said_by": "the file",
    }  # fmt: skip
    assert found["metrics"] == whole["metrics"]
    assert found["teacher"] == whole["teacher"]
    kept = tmp_path / "mine.safetensors"
    artifacts.write_tensors(kept, {"features": torch.from_numpy(features)}, {"extractor": sha256})
    assert run(made, kept)["metrics"] == whole["metrics"]
    told = run(made, path, same_prompts=True)
    same = run(made, archive, same_prompts=True)["metrics"]
    hidden = {"diversity", "vendi", "prompt_accuracy"}
    assert told["metrics"] == {name: one for name, one in same.items() if name not in hidden}
    looking = "needs images, not their features alone"
    assert {name for name, why in told["left_out"].items() if why == looking} == hidden


def test_features_or_statistics_stand_for_the_real_images(made, tmp_path):
    archive = made.samples("student").with_name("window-4.zip")
    whole = run(made, archive)
    tensors, header = artifacts.read_tensors(made.extractor)
    features, _ = restore(tensors, header["architecture"]).observe(store.images(store.load(made.dataset, "reference")))
    path = file_of(tmp_path / "real.npz", feats=features)
    row = Evaluation.model_validate(ROW | {"confidence": 0.9})
    given = (archive, row, made.samples("base"), made.dataset, made.extractor, False)
    found = measure(*given, real=path, made_by="x")
    assert (found["metrics"], found["extractor"]) == (whole["metrics"], whole["extractor"])
    assert found["real"] == {
        "path": str(path), "sha256": artifacts.sha256_file(path), "count": 50, "made_by": "x", "said_by": "the user",
    }  # fmt: skip
    known = file_of(tmp_path / "known.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    found = measure(*given, real=known, made_by="x")
    assert found["metrics"]["fd_real"]["value"] == pytest.approx(whole["metrics"]["fd_real"]["value"], rel=1e-6)
    assert found["left_out"]["kid_real"] == "needs the features of each real image, not a mean and a covariance"
    assert found["metrics"].keys() == whole["metrics"].keys() - {"kid_real", "energy_real"}
    assert found["real"]["count"] is None
    own = {"d": {"features": str(path), "sha256": artifacts.sha256_file(path), "made_by": "x"}}
    assert run(made, archive, real=own)["metrics"] == whole["metrics"]


def test_mistakes_with_features_are_one_line(made, tmp_path):
    features, _ = made.observed("student", "window-4")
    silent = file_of(tmp_path / "silent.npz", features=features)
    few = file_of(tmp_path / "few.npz", features=features[:3], extractor=artifacts.sha256_file(made.extractor))
    wide = file_of(tmp_path / "wide.npz", features=np.ones((40, 9)), extractor=artifacts.sha256_file(made.extractor))
    for path, says in (
        (silent, "silent.npz: does not say which network made it; if 'x' did, say so"),
        (few, "few.npz: 3 images; intervals from 4 groups need 8 or more"),
        (wide, "wide.npz: features have 9 dimensions; the extractor's have 64"),
        (file_of(tmp_path / "mu.npz", mu=np.ones(64), sigma=np.eye(64)), "mu.npz: holds a mean and a covariance, of"),
        (tmp_path / "gone.npz", "gone.npz: no such file of features"),
    ):
        with pytest.raises(PerflowError, match=says):
            run(made, path)
    row, archive = Evaluation.model_validate(ROW), made.samples("student").with_name("window-4.zip")
    with pytest.raises(PerflowError, match="--made-by x: is for files of features; there is none"):
        measure(archive, row, made.samples("base"), made.dataset, made.extractor, False, made_by="x")


@pytest.fixture
def study(made, tmp_path) -> Path:
    """The files where a study has them; returns the base's samples manifest."""
    results = tmp_path / "results"
    shutil.copytree(made.samples("base").parents[1], results / "samples")
    shutil.copytree(made.dataset.parent, tmp_path / "data" / "d-reference")
    (results / "extractors" / "x").mkdir(parents=True)
    shutil.copy(made.extractor, results / "extractors" / "x" / "extractor.safetensors")
    spec = {"table": "evaluations", "name": "base", "seed": 0, "row": ROW | {"confidence": 0.9}, "fingerprint": "f"}
    artifacts.write_json(results / "specs" / "evaluations" / "base.json", spec)
    return results / "samples" / "base" / "manifest.json"


def test_the_verb_finds_the_study_around_the_samples_and_prints_a_table(study, made, evaluated, tmp_path):
    archive, out = made.samples("student").with_name("window-4.zip"), tmp_path / "out.json"
    given = ["measure", str(archive), "--against", str(study), "--same-prompts", "--out", str(out)]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["metrics"]["fd_teacher"] == evaluated["fd_teacher"]
    lines = {line.split("  ")[0]: line for line in result.output.splitlines()}
    assert "90% interval" in lines["metric"]
    value = evaluated["fd_teacher"]
    assert f"{value['value']:.3g}" in lines["FD-x to teacher"]
    assert f"{value['low']:.3g} to {value['high']:.3g}" in lines["FD-x to teacher"]
    assert written["extractor"]["sha256"][:12] in lines["features"]
    assert "36 images" in lines["teacher"]
    assert "intervals: jackknife over 4 groups of prompts" in lines
    assert "left out: relative latent MSE" in result.output
    assert "FID" not in result.output


def test_the_verb_takes_features_and_says_on_whose_word(study, made, tmp_path):
    features, _ = made.observed("student", "window-4")
    path = file_of(tmp_path / "mine.npz", features=features)
    given = ["measure", str(path), "--against", str(study), "--real", str(path), "--made-by", "x"]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = {line.split("  ")[0]: line for line in result.output.splitlines()}
    assert "36 images by x, says the user" in lines["images"]
    assert "36 images by x, says the user" in lines["real"]
    assert "left out: prompt accuracy (x): needs images, not their features alone" in result.output


def test_the_verb_names_the_spec_it_misses(study):
    (study.parents[2] / "specs" / "evaluations" / "base.json").unlink()
    result = CliRunner().invoke(main, ["measure", ".", "--against", str(study)])
    assert result.exit_code == 1
    assert "specs/evaluations/base.json is missing; give a study's results/samples/<base>/manifest.json" in str(
        result.output
    )


def test_every_need_of_a_metric_has_words_or_is_met_by_any_images():
    needs = {need for found in NEEDS.values() for need in found}
    assert needs <= {*_WORDS, "classes"}
