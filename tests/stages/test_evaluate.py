"""evaluate: numbers that equal independent ones, from files that belong together and are intact."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.spatial.distance import pdist
from torchvision.models import squeezenet1_0

from perflow import artifacts
from perflow import metrics as registry
from perflow.artifacts import Spec, sha256_file
from perflow.config.rows import Evaluation
from perflow.datasets import store
from perflow.datasets.digits import Digits, attributes
from perflow.errors import PerflowError
from perflow.metrics.features import restore
from perflow.metrics.intervals import deal
from perflow.metrics.looking import Viewer
from perflow.metrics.observed import load_extractor, observe_real
from perflow.metrics.squeezenet import restore as squeezenet
from perflow.stages.evaluate import evaluate
from perflow.stages.extractor import extractor
from tests.digits import fetch_digits

METRICS = {
    name: place
    for name, place in registry.METRICS.items()
    if not {"paths", "clip", "lpips"} & set(registry.NEEDS.get(name, ()))
}
"""Those that images have without a network beside the extractor."""

PROMPTS, PER_PROMPT, GROUPS = 12, 3, 4
ITEMS = PROMPTS * PER_PROMPT


class Home:
    """A folder with a data set, an extractor and the samples of a base and a student."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset, self.extractor = root / "data" / "manifest.json", root / "extractor.safetensors"

    def samples(self, model: str) -> Path:
        return self.root / "samples" / model / "manifest.json"

    def change(self, which: str, **changes) -> None:
        content = json.loads(self.samples(which).read_text())
        artifacts.write_json(self.samples(which), content | changes)

    def run(self, model: str = "student", metrics: tuple[str, ...] = tuple(METRICS), out: str = "out.json", **given):
        real = {"real": {"d": given["row"]}} if "row" in given else {}
        row = {"model": model, "base": "base", "dataset": "d", "extractor": "x", "metrics": list(metrics)} | real
        spec = Spec("evaluations", model, 0, row | {"groups": GROUPS, "confidence": 0.9}, "hash")
        Evaluation.model_validate(spec.row)
        paths = self.samples(model), self.samples("base"), self.dataset, self.extractor, self.root / out
        self.steps = list(evaluate(spec, *paths, real=given.get("file")))
        return json.loads((self.root / out).read_text())

    def observed(self, model: str, trial: str):
        """Features and labels, read without the stage."""
        tensors, header = artifacts.read_tensors(self.extractor)
        return restore(tensors, header["architecture"]).observe(self.pixels(model, trial))

    def pixels(self, model: str, trial: str) -> np.ndarray:
        """A trial's images, read without the stage."""
        files = artifacts.read_archive(self.samples(model).with_name(f"{trial}.zip"))
        return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files.values()])


def write_trial(folder: Path, name: str, stream: int, images: list[bytes], latents: torch.Tensor) -> dict:
    artifacts.write_archive(folder / f"{name}.zip", {f"{i:05d}.png": data for i, data in enumerate(images)})
    artifacts.write_tensors(folder / f"{name}.safetensors", {"latents": latents}, {})
    entry = {"solver": "ddim", "steps": 4, "nfe": 8, "guidance": 4.5, "stream": stream}
    for kind, suffix in (("images", "zip"), ("latents", "safetensors")):
        file = f"{name}.{suffix}"
        entry[kind] = {"file": file, "sha256": sha256_file(folder / file)}
    return entry


def write_flow(folder: Path, rng: np.random.Generator) -> dict:
    tensors = {
        name: torch.from_numpy(rng.uniform(size=(6, 2)).astype(np.float32))
        for name in ("straightness", "teacher_straightness", "endpoint_error")
    }
    artifacts.write_tensors(folder / "flow.safetensors", tensors | {"items": torch.arange(0, ITEMS, ITEMS // 6)}, {})
    sha256 = sha256_file(folder / "flow.safetensors")
    return {"file": "flow.safetensors", "sha256": sha256, "edges": [1.0, 0.5, 0.0], "path": "straight"}


def write_samples(home: Home, model: str, trials: dict[str, int], flow: bool) -> None:
    """Images that show what the prompts ask for, but for every fifth."""
    rows = list(Digits(16, {"base": 1, "extractor": 1, "reference": 400}, seed=9).rows("reference"))
    prompts = [{name: row[name] for name in ("text", "digit", "fg", "bg")} for row in rows[:PROMPTS]]
    rng = np.random.default_rng(list(model.encode()))
    described, folder = {}, home.samples(model).parent
    for name, stream in trials.items():
        chosen = [rows[i // PER_PROMPT if i % 5 else rng.integers(400)]["image"] for i in range(ITEMS)]
        latents = torch.from_numpy(rng.standard_normal((ITEMS, 4, 2, 2)).astype(np.float32))
        described[name] = write_trial(folder, name, stream, chosen, latents)
    content = {"spec": "s", "model": model, "base": "base", "prompts": prompts, "per_prompt": PER_PROMPT}
    measured = write_flow(folder, rng) if flow else None
    artifacts.write_json(home.samples(model), content | {"trials": described, "flow": measured})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Home:
    return build(tmp_path_factory.mktemp("study"))


def build(root: Path) -> Home:
    """A data set, a trained extractor, and samples of both models."""
    home = Home(root)
    counts = {"base": 1, "extractor": 300, "reference": 50}
    fetch_digits(home.dataset, counts)
    training = {"steps": 60, "batch": 64, "lr": 4e-3, "ema": 0.9}
    row = Spec("extractors", "x", 0, {"dataset": "d", "training": training}, "extractor")
    list(extractor(row, home.dataset, home.extractor, home.root / "state"))
    write_samples(home, "base", {"teacher": 0, "teacher-2": 1, "ddim-4": 0}, flow=False)
    write_samples(home, "student", {"window-2": 0, "window-4": 0}, flow=True)
    return home


@pytest.fixture
def home(made, tmp_path) -> Home:
    """A copy that a test may damage."""
    for path in made.root.rglob("*"):
        if path.is_file() and not path.match("*.json") or path.name == "manifest.json":
            copy = tmp_path / path.relative_to(made.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return Home(tmp_path)


@pytest.fixture(scope="module")
def found(made):
    return made.run()


def test_the_file_says_what_was_measured_and_with_what(made, found):
    assert (found["spec"], found["model"]) == ("hash", "student")
    network, _ = load_extractor("x", made.extractor)
    accuracy = observe_real(made.dataset, "reference", Viewer(network))[1]["accuracy"]
    assert 0 < accuracy["fg"] <= 1
    assert found["extractor"] == {"name": "x", "sha256": sha256_file(made.extractor), "accuracy": accuracy}
    assert list(found["trials"]) == ["window-2", "window-4"]
    for trial in found["trials"].values():
        assert {key: trial[key] for key in ("solver", "steps", "nfe", "guidance")} == {
            "solver": "ddim", "steps": 4, "nfe": 8, "guidance": 4.5,
        }  # fmt: skip
        for estimate in trial["metrics"].values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
            assert len(estimate["replicates"]) == GROUPS
    assert [(step.step, step.total) for step in made.steps][-1][0] == made.steps[-1].total


def test_frechet_distances_equal_those_of_clean_fid(made, found):
    from cleanfid.fid import frechet_distance

    def moments(features):
        return features.mean(0), np.cov(features.T)

    own, _ = made.observed("student", "window-2")
    other, _ = made.observed("base", "teacher-2")
    tensors, header = artifacts.read_tensors(made.extractor)
    network = restore(tensors, header["architecture"])
    real, _ = network.observe(store.images(store.load(made.dataset, "reference")))
    metrics = found["trials"]["window-2"]["metrics"]
    for name, reference in (("fd_teacher", other), ("fd_real", real)):
        expected = frechet_distance(*moments(own), *moments(reference))
        assert metrics[name]["value"] == pytest.approx(expected, rel=1e-3)
    kept = deal(np.arange(ITEMS) // PER_PROMPT, GROUPS) != 1
    expected = frechet_distance(*moments(own[kept]), *moments(other[kept]))
    assert metrics["fd_teacher"]["replicates"][1] == pytest.approx(expected, rel=1e-3)


def test_accuracy_and_error_equal_those_counted_from_the_files(made, found):
    manifest = json.loads(made.samples("student").read_text())
    right = asked = 0
    _, predicted = made.observed("student", "window-4")
    for item in range(ITEMS):
        prompt = manifest["prompts"][item // PER_PROMPT]
        specified = {name: prompt[name] for name in attributes() if prompt[name] is not None}
        asked += bool(specified)
        right += bool(specified) and all(
            attributes()[name][predicted[name][item]] == value for name, value in specified.items()
        )
    metrics = found["trials"]["window-4"]["metrics"]
    assert 0 < right < asked
    assert metrics["prompt_accuracy"]["value"] == pytest.approx(right / asked)
    own, teacher = (
        artifacts.read_tensors(made.samples(model).with_name(f"{trial}.safetensors"))[0]["latents"].double()
        for model, trial in (("student", "window-4"), ("base", "teacher"))
    )
    expected = float((own - teacher).square().sum() / teacher.square().sum())
    assert metrics["teacher_mse"]["value"] == pytest.approx(expected)


def test_the_flow_is_the_mean_over_its_items(made, found):
    tensors, _ = artifacts.read_tensors(made.samples("student").with_name("flow.safetensors"))
    assert found["flow"]["edges"] == [1.0, 0.5, 0.0]
    for name in ("straightness", "teacher_straightness", "endpoint_error"):
        values = [window["value"] for window in found["flow"][name]]
        assert values == pytest.approx(tensors[name].double().mean(0).tolist())
        columns = tensors[name].double().numpy().T
        dealt = np.array([0, 1, 2, 3, 0, 1])  # six prompts to four groups
        for window, column in zip(found["flow"][name], columns, strict=True):
            left = [column[dealt != group].mean() for group in range(GROUPS)]
            reach = stats.t.ppf(0.95, GROUPS - 1) * np.sqrt((GROUPS - 1) * np.var(left))
            assert (window["low"], window["high"]) == pytest.approx((column.mean() - reach, column.mean() + reach))


def test_the_teacher_is_measured_against_its_other_noise(made):
    found = made.run("base", out="base.json")
    trials = {name: trial["metrics"] for name, trial in found["trials"].items()}
    assert list(trials) == ["ddim-4", "teacher", "teacher-2"]
    assert trials["teacher"]["teacher_mse"]["value"] == trials["teacher-2"]["teacher_mse"]["value"] == 0
    assert trials["ddim-4"]["teacher_mse"]["value"] > 0
    floor = trials["teacher"]["fd_teacher"]["value"]
    assert floor > 0.01
    assert trials["teacher-2"]["fd_teacher"]["value"] == pytest.approx(floor)
    assert trials["teacher"]["precision"]["value"] == trials["teacher-2"]["recall"]["value"]
    assert found["flow"] is None


def test_metrics_are_those_asked_for_and_the_bytes_are_the_same(made):
    made.run(metrics=("recall", "kid_real"), out="a.json")
    made.run(metrics=("recall", "kid_real"), out="b.json")
    assert (made.root / "a.json").read_bytes() == (made.root / "b.json").read_bytes()
    trials = json.loads((made.root / "a.json").read_text())["trials"]
    assert all(sorted(trial["metrics"]) == ["kid_real", "recall"] for trial in trials.values())


def test_what_is_undefined_is_left_out(home):
    nothing = [{"text": "a", "digit": None, "fg": None, "bg": None}] * PROMPTS
    for model in ("base", "student"):
        home.change(model, prompts=nothing)
    for trial in home.run()["trials"].values():
        assert sorted(trial["metrics"]) == sorted(set(METRICS) - {"prompt_accuracy"})


@pytest.mark.parametrize(
    "file",
    [
        "samples/student/window-4.zip",
        "samples/student/window-4.safetensors",
        "samples/student/flow.safetensors",
        "samples/base/teacher.zip",
        "samples/base/teacher-2.safetensors",
        "data/reference.parquet",
    ],
)
def test_an_altered_file_is_refused_by_name_and_nothing_is_written(home, file):
    path = home.root / file
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PerflowError, match=path.name):
        home.run()
    assert not (home.root / "out.json").exists()


def test_an_extractor_that_is_none_is_refused(home):
    artifacts.write_tensors(home.extractor, {"a": torch.zeros(1)}, {"spec": "other"})
    with pytest.raises(PerflowError, match="not an extractor"):
        home.run()


def test_a_network_without_attributes_counts_every_sample(home):
    torch.manual_seed(0)
    weights = home.root / "weights.safetensors"
    artifacts.write_tensors(weights, squeezenet1_0(weights=None).state_dict(), {})
    row = {"kind": "squeezenet", "weights": weights.name, "sha256": sha256_file(weights)}
    list(extractor(Spec("extractors", "x", 0, row, "hash"), weights, home.extractor, home.root / "state"))
    metrics = home.run(metrics=("kid_teacher", "diversity"))["trials"]["window-2"]["metrics"]
    own, other = (
        squeezenet(artifacts.read_tensors(home.extractor)[0], {}).observe(home.pixels(model, trial))[0]
        for model, trial in (("student", "window-2"), ("base", "teacher-2"))
    )
    spreads = [
        np.mean([pdist(part).mean() for part in features.reshape(PROMPTS, PER_PROMPT, -1)]) for features in (own, other)
    ]
    assert metrics["diversity"]["value"] == pytest.approx(spreads[0] / spreads[1])
    assert list(metrics) == ["diversity", "kid_teacher"]


def test_samples_of_another_model_are_refused(home):
    home.change("student", model="somebody")
    with pytest.raises(PerflowError, match="'somebody', not of 'student'"):
        home.run()


def test_samples_for_other_prompts_are_refused(home):
    content = json.loads(home.samples("base").read_text())
    home.change("base", prompts=content["prompts"][::-1])
    with pytest.raises(PerflowError, match="different prompts"):
        home.run()


def test_a_missing_teacher_is_named(home):
    trials = json.loads(home.samples("base").read_text())["trials"]
    home.change("base", trials={"teacher": trials["teacher"]})
    with pytest.raises(PerflowError, match="no trial teacher-2; there are teacher"):
        home.run()


def test_a_trial_from_noise_the_teacher_never_saw_is_refused(home):
    trials = json.loads(home.samples("student").read_text())["trials"]
    trials["window-2"]["stream"] = 5
    home.change("student", trials=trials)
    with pytest.raises(PerflowError, match="stream 5"):
        home.run()


def test_too_few_images_are_refused(home):
    for model in ("base", "student"):
        home.change(model, per_prompt=PER_PROMPT + 1)
    with pytest.raises(PerflowError, match=f"{ITEMS} images"):
        home.run()


def test_an_attribute_the_extractor_does_not_know_is_refused(home):
    content = json.loads(home.samples("base").read_text())
    content["prompts"][0]["fg"] = "purple"
    for model in ("base", "student"):
        home.change(model, prompts=content["prompts"])
    with pytest.raises(PerflowError, match="'purple', which the extractor does not know; it knows red, green"):
        home.run()


def real_features(home: Home, **arrays: np.ndarray) -> dict:
    """What ``Home.run`` takes in place of the real images: their features, or what is made of them."""
    tensors, header = artifacts.read_tensors(home.extractor)
    features, _ = restore(tensors, header["architecture"]).observe(store.images(store.load(home.dataset, "reference")))
    path = home.root / "real.npz"
    np.savez(path, **(arrays or {"features": features}))
    return {"file": path, "row": {"features": "real.npz", "sha256": sha256_file(path), "made_by": "x"}}


def test_features_of_the_real_images_give_the_numbers_that_the_images_give(home):
    """Bit for bit; from their mean and covariance to rounding, of fewer images than features."""
    whole = home.run()
    given = real_features(home)
    found = home.run(**given)
    assert found["trials"] == whole["trials"]
    assert found["extractor"] == whole["extractor"]
    sha256 = given["row"]["sha256"]
    named = {"name": "real.npz", "sha256": sha256, "made_by": "x", "said_by": "the user"}
    assert (found["real"], "real" in whole) == (named | {"count": 50}, False)
    features = np.load(given["file"])["features"]
    known = real_features(home, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    found = home.run(metrics=("fd_real", "fd_teacher"), **known)
    assert found["real"] == named | {"count": None, "sha256": known["row"]["sha256"]}
    for trial, content in found["trials"].items():
        wanted = whole["trials"][trial]["metrics"]["fd_real"]
        assert content["metrics"]["fd_real"]["value"] == pytest.approx(wanted["value"], rel=1e-6)
        np.testing.assert_allclose(content["metrics"]["fd_real"]["replicates"], wanted["replicates"], rtol=1e-6)
    with pytest.raises(PerflowError, match="real.npz: holds a mean and a covariance; kid_real needs the features"):
        home.run(metrics=("kid_real",), **known)


def test_features_of_real_images_go_with_the_row_that_names_them(home):
    given = real_features(home)
    with pytest.raises(PerflowError, match="--real: goes with a row that names features of real images; none was"):
        home.run(row=given["row"])
    with pytest.raises(PerflowError, match="--real: goes with .*; the row names none, and .*real.npz was given"):
        home.run(file=given["file"])
    with pytest.raises(PerflowError, match="real.npz: has sha256 .*; the study asks for 0000"):
        home.run(file=given["file"], row=given["row"] | {"sha256": "0" * 64})
    with pytest.raises(PerflowError, match="does not say which network made it; if 'x' did, say so"):
        home.run(file=given["file"], row={key: given["row"][key] for key in ("features", "sha256")})
    with pytest.raises(PerflowError, match="features have 3 dimensions; the extractor's have 64"):
        home.run(**real_features(home, features=np.ones((9, 3))))
