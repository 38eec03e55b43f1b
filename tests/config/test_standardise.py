"""An entry may have its features standardised: its row says by what, its metrics' names say it."""

import pytest

from perflow import config
from perflow.errors import PerflowError
from perflow.report.comparable import _kinds
from perflow.report.study import features, metric_name

SQUEEZENET = {"kind": "squeezenet", "weights": "w.safetensors", "sha256": "0" * 64}


@pytest.fixture
def measured(tiny_params):
    """The tiny study, measured in SqueezeNet's features."""
    tiny_params["extractors"]["SqueezeNet"] = dict(SQUEEZENET)
    tiny_params["evaluation"] |= {"extractor": "SqueezeNet", "metrics": ["fd_teacher", "kid_teacher"]}
    return tiny_params


def load(write_params, params):
    return config.load(write_params(params))


def test_the_row_says_by_what_and_names_say_that_they_are_standardised(measured, write_params):
    plain = load(write_params, measured)
    assert "standardise" not in plain.spec("extractors", "SqueezeNet")["row"]
    assert features(config.summary(plain)) == "SqueezeNet"
    measured["extractors"]["SqueezeNet"]["standardise"] = "digits"
    study = load(write_params, measured)
    row = study.spec("extractors", "SqueezeNet")["row"]
    assert row["standardise"] == "digits"
    summary = config.summary(study)
    assert metric_name("kid_teacher", features(summary)) == "KID-SqueezeNet-standardised to teacher"
    kinds = [list(_kinds(config.summary(each)["settings"])) for each in (plain, study)]
    assert kinds == [["squeezenet"], []]
    assert plain.spec("evaluations", "eps") == study.spec("evaluations", "eps")


@pytest.mark.parametrize(
    ("entry", "changes", "says"),
    [
        ("SqueezeNet", {"standardise": "photos"}, "extractors.SqueezeNet.standardise: no dataset of images 'photos'"),
        ("SqueezeNet", {"kind": "inception", "standardise": "digits"}, "standardise is for squeezenet and torchscript"),
        ("tiny-cnn", {"standardise": "digits"}, "an extractor of kind classifier has its own way"),
    ],
)
def test_what_cannot_be_standardised_is_refused(measured, write_params, entry, changes, says):
    measured["extractors"][entry] = measured["extractors"][entry] | changes
    with pytest.raises(PerflowError, match=says):
        load(write_params, measured)
