"""What a card says of a delta as a LoRA: of each rank its error, and what the study measured with it."""

import pytest

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.report import ranks
from tests import fake_study

STUDENT = "digits-perflow-sdxl-k4-s0"
ERRORS = {4: 0.625, 16: 0.125}


def distance(model, trial):
    """A LoRA of rank r is 1 / r farther than the whole delta."""
    return 2 / trial["steps"] + (1 / model["rank"] if model.get("rank") else 0)


@pytest.fixture
def results(tmp_path):
    """A study that tries one student at two ranks on its base and at one on a fine-tune, where it is also whole."""
    content = fake_study.study()
    content["transfers"] = [
        *(fake_study.in_setting(content, f"rank-{rank}", STUDENT, rank=rank) for rank in (4, 16)),
        fake_study.in_setting(content, "tuned", STUDENT, base="tuned", reference="tuned", name=f"tuned.{STUDENT}"),
        fake_study.in_setting(content, "tuned-4", STUDENT, base="tuned", reference="tuned", rank=4, name="tuned-4.x"),
        fake_study.in_setting(content, "edges", STUDENT, adapter="edges", name=f"edges.{STUDENT}"),
    ]
    fake_study.write(tmp_path, content, distance)
    return tmp_path / "results"


def cells(text):
    """The table's heading, and its rows as dictionaries."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def shown(results, errors=ERRORS):
    return cells(ranks.section(ranks.ranked(STUDENT, results), errors, "digits-cnn"))


def test_each_rank_stands_after_the_whole_delta_on_the_same_base_and_no_other_setting_does(results):
    rows = shown(results)
    assert list(dict.fromkeys((row["base"], row["rank"], row["relative error"]) for row in rows)) == [
        ("digits", "whole", "0"), ("digits", "16", "0.125"), ("digits", "4", "0.625"),
        ("tuned", "whole", "0"), ("tuned", "4", "0.625"),
    ]  # fmt: skip
    assert {row["setting"] for row in rows} == {"on its base", "rank-16", "rank-4", "tuned", "tuned-4"}


def test_values_and_intervals_are_those_of_the_metrics_of_the_setting(results):
    for row in shown(results):
        steps = int(row["trial"].split(", ")[1].split()[0])
        value, interval = row["FD-digits-cnn to teacher"].split(maxsplit=1)
        want = 2 / steps + (0 if row["rank"] == "whole" else 1 / int(row["rank"]))
        assert float(value) == pytest.approx(want, rel=5e-3)
        low, high = map(float, interval.strip("[]").split(", "))
        assert low < want < high


def test_a_lora_is_told_of_its_own_rank_alone(results):
    assert {row["rank"] for row in shown(results, {16: 0.125})} == {"whole", "16"}
    assert {row["base"] for row in shown(results, {16: 0.125})} == {"digits"}
    text = ranks.section(ranks.ranked(STUDENT, results), {8: 0.3}, "digits-cnn")
    assert text.startswith("As a LoRA of rank 8: not measured.")


def test_what_is_not_measured_yet_or_never_says_so(results):
    (results / f"metrics/rank-4-digits.{STUDENT}.json").unlink()
    for row in shown(results):
        missing = (row["base"], row["rank"]) == ("digits", "4")
        assert (row["FD-digits-cnn to teacher"] == "not measured") is missing
    other = ranks.ranked("digits-rectified-diffusion-k4-s0", results)
    assert other == []
    assert ranks.section(other, {}, "digits-cnn").startswith("As a LoRA: not measured.")


def test_metrics_of_another_row_are_refused(results):
    path = results / f"metrics/rank-4-digits.{STUDENT}.json"
    artifacts.write_json(path, artifacts.read_json(path) | {"spec": "0"})
    with pytest.raises(PerflowError, match=r"rank-4.*json: was made for another spec"):
        ranks.ranked(STUDENT, results)
