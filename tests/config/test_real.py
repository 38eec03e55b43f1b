"""Features of real images that a study names: rows of their data set alone change; what does not fit is one line."""

import pytest

from perflow import config
from perflow.errors import PerflowError

REAL = {"features": "coco.npz", "sha256": "0" * 64}


def load(write_params, params):
    return config.load(write_params(params))


def test_only_what_is_measured_against_them_changes(tiny_params, write_params, tmp_path):
    before = config.specs(load(write_params, tiny_params))
    tiny_params["evaluation"]["real"] = {"digits": REAL | {"made_by": "tiny-cnn"}}
    study = load(write_params, tiny_params)
    changed = {path.parent.name for path, content in config.specs(study).items() if before[path] != content}
    assert changed == {"evaluations", "specs"}
    row = study.spec("evaluations", "eps")["row"]
    assert row["real"] == {"digits": REAL | {"made_by": "tiny-cnn"}}
    assert all("real" not in content.get("row", {}) for content in before.values())
    assert config.missing(study, tmp_path) == f"evaluation.real.digits.features: no file {tmp_path / 'coco.npz'}"
    (tmp_path / "coco.npz").touch()
    assert config.missing(study, tmp_path) is None


def test_each_row_holds_those_of_its_own_data_set(tiny_params, write_params):
    tiny_params["datasets"]["others"] = tiny_params["datasets"]["digits"]
    tiny_params["evaluation"]["real"] = {"others": REAL}
    study = load(write_params, tiny_params)
    assert all(row.given is None and not row.real for row in study.evaluations.values())


@pytest.mark.parametrize(
    ("real", "says"),
    [
        ({"coco": REAL}, "evaluation.real.coco: no dataset 'coco'; there is digits"),
        (
            {"digits": REAL | {"made_by": "v3"}},
            "evaluation.real.digits.made_by: everything is measured by evaluation.extractor, 'tiny-cnn'; got 'v3'",
        ),
        ({"digits": {"features": "coco.npz"}}, "evaluation.real.digits.sha256"),
        ({"digits": REAL | {"sha256": "0"}}, "evaluation.real.digits.sha256"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny_params, write_params, real, says):
    tiny_params["evaluation"]["real"] = real
    with pytest.raises(PerflowError, match=says):
        load(write_params, tiny_params)
