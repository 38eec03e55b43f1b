"""CLIP and LPIPS are entries of their own beside the extractor; what does not fit is one line."""

import json

import pytest

from perflow import config
from perflow.config.load import load_params
from perflow.errors import PerflowError
from tests.config.test_resolve import changed, load, specs


@pytest.fixture
def judged(tiny_params):
    """The tiny study with a network of either kind, and metrics that need them."""
    common = {"sha256": "0" * 64}
    tiny_params["extractors"] |= {
        "b32": {"kind": "clip", "weights": "weights/clip-b32", **common},
        "vgg": {"kind": "lpips", "weights": "weights/lpips.pt", **common},
        "v3": {"kind": "inception", "weights": "inception.pt", **common},
        "alexnet": {"kind": "squeezenet", "weights": "w.safetensors", **common},
    }
    tiny_params["evaluation"] |= {"clip": "b32", "lpips": "vgg"}
    tiny_params["evaluation"]["metrics"] += ["clip_score", "lpips_diversity"]
    return tiny_params


def test_they_are_rows_that_evaluations_alone_depend_on(judged, write_params, tmp_path):
    study = load(write_params, judged)
    after = specs(study)
    row = json.loads(after["evaluations", "eps"])["row"]
    assert (row["extractor"], row["clip"], row["lpips"]) == ("tiny-cnn", "b32", "vgg")
    assert "extractor tiny-cnn, clip b32, lpips vgg" in config.plan(study)
    assert config.weights(study.extractors["b32"], tmp_path) == tmp_path / "weights/clip-b32/model.safetensors"
    assert config.weights(study.extractors["vgg"], tmp_path) == tmp_path / "weights/lpips.pt"
    for kind, metric in (("clip", "clip_score"), ("lpips", "lpips_diversity")):
        del judged["evaluation"][kind]
        judged["evaluation"]["metrics"].remove(metric)
    before = specs(load(write_params, judged))
    assert changed(before, after) == {"evaluations"}
    assert not {"clip", "lpips"} & json.loads(before["evaluations", "eps"])["row"].keys()


def test_their_code_is_read_by_rows_that_name_them_alone(judged, write_params):
    study = load(write_params, judged)
    assert "perflow.metrics.clip:restore" in config.study._readers(study, "evaluations", study.evaluations["eps"])
    for kind, metric in (("clip", "clip_score"), ("lpips", "lpips_diversity")):
        del judged["evaluation"][kind]
        judged["evaluation"]["metrics"].remove(metric)
    plain = load(write_params, judged)
    assert "perflow.metrics.clip:restore" not in config.study._readers(plain, "evaluations", plain.evaluations["eps"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clip": None}, "evaluation.clip: missing; clip_score needs it, an entry .* of kind clip; there are b32"),
        ({"lpips": None}, "evaluation.lpips: missing; lpips_diversity needs it, .* of kind lpips; there are vgg"),
        ({"clip": "vgg"}, "evaluation.clip: no extractor of kind clip 'vgg'; there is b32"),
        ({"lpips": "tiny-cnn"}, "evaluation.lpips: no extractor of kind lpips 'tiny-cnn'; there is vgg"),
        ({"metrics": ["fd_teacher", "clip_score"]}, "evaluation.lpips: 'vgg' is for lpips_diversity, which"),
        ({"extractor": "vgg"}, "evaluation.extractor: no extractor 'vgg'; there are tiny-cnn, b32, v3, alexnet"),
        (
            {"extractor": "alexnet", "metrics": ["clip_score", "lpips_diversity", "inception_score"]},
            r"inception_score needs an extractor that tells classes \(classifier, inception, torchscript\); 'alexnet'",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(judged, write_params, changes, says):
    judged["evaluation"] = {key: each for key, each in (judged["evaluation"] | changes).items() if each is not None}
    with pytest.raises(PerflowError, match=says) as raised:
        load(write_params, judged)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("extractor", ["b32", "v3"])
def test_they_may_also_be_the_extractor(judged, write_params, extractor):
    metrics = ["fd_teacher", "clip_score", "lpips_diversity", *(["inception_score"] if extractor == "v3" else [])]
    judged["evaluation"] |= {"extractor": extractor, "metrics": metrics}
    assert load(write_params, judged).evaluations["eps"].extractor == extractor


def test_points_have_no_prompts_to_show(root, write_params):
    given = load_params(root / "workflow/studies/plane.yaml")[0].model_dump(mode="json")
    given["extractors"]["vgg"] = {"kind": "lpips", "weights": "l.pt", "sha256": "0" * 64}
    given["evaluation"] |= {"lpips": "vgg"}
    given["evaluation"]["metrics"].append("lpips_diversity")
    given["sampling"]["prompts"] = 2
    with pytest.raises(PerflowError, match="lpips_diversity is of images; a base of points has none"):
        config.load(write_params(given))
