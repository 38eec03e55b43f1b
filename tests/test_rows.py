"""Rows that are not what most are, told as what they are: of as many steps as each sample takes, and of no teacher."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from perflow import artifacts, report, tracking
from perflow.report import card, estimates, figures, galleries, protocol, words
from tests import fake_study

CALLS = 137
ADAPTIVE, FROM_DATA = "perflow-sdxl", "perflow-sd15"


@pytest.fixture(scope="module")
def told(root: Path, tmp_path_factory) -> tuple[Path, report.Report]:
    """The made-up study with RK45 of one entry and another that no teacher taught; its results and its report."""
    home, content = tmp_path_factory.mktemp("told"), fake_study.study()
    for model in content["models"]:
        if model["entry"] == ADAPTIVE:
            own = {"name": "rk45", "solver": "rk45", "steps": 0, "nfe": 0}
            model["trials"].append(model["trials"][0] | own)
        if model["entry"] == FROM_DATA:
            model["ends"] = "data"
    content["settings"]["pairs"]["sync"] |= {"ends": "data", "solver": None, "steps": None}
    path = fake_study.write(home, content)
    for model in content["models"]:
        for file in (f"metrics/{model['name']}.json", f"samples/{model['name']}/manifest.json"):
            found = artifacts.read_json(home / "results" / file)
            for trial in found["trials"].values():
                trial["nfe"] = trial["nfe"] or CALLS
                if "metrics" in trial:
                    mean, apart = float(trial["nfe"]), 0.0 if trial["steps"] else 2.0
                    bounds = {"value": mean, "low": mean - apart, "high": mean + apart}
                    trial["metrics"]["evaluations"] = bounds | {"replicates": [mean] * fake_study.GROUPS}
            artifacts.write_json(home / "results" / file, found)
    published = root / "workflow/report/published.json"
    report.collect(path, home / "results", published)
    tracking.write_ids(path, home / "results")
    return home / "results", report.load(path, home / "results", published)


def table(results: Path, name: str) -> list[dict[str, str]]:
    with (results / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_steps_that_a_solver_chooses_are_no_number_in_any_table(told) -> None:
    results, data = told
    own = [row for row in table(results, "main") if row["trial"] == "rk45"]
    assert {(row["steps"], row["nfe"]) for row in own} == {("0", str(CALLS))}
    for text in (report.summary(results), report.markdown(results)):
        lines = [line for line in text.splitlines() if str(CALLS) in line]
        assert len(lines) == 4  # of 1, 2, 4 and 8 windows
        assert all("adaptive" in line for line in lines)
        assert sum("adaptive" in line for line in text.splitlines()) >= 5  # the legend says what it means
    page = str(report.main_table(data))
    assert page.count("<td>adaptive</td>") == 4
    assert page.count(f"<td>{CALLS}<small>[135, 139]</small></td>") == 4
    assert "adaptive" not in report.headline(results)
    numbered = {"training-free-4", "training-free-8", "steps-8-4", "windows", "reflow-4", "lcm-4"}
    compared = [row for row in table(results, "comparisons") if row["ordering"] in numbered]
    assert compared
    assert not [row for row in compared if "rk45" in (row["better_trial"], row["worse_trial"])]


def test_they_are_drawn_among_evaluations_and_in_a_gallery_of_their_own(told) -> None:
    _, data = told
    image = figures.quality(data, "digits", "fd_teacher")
    calls, steps = ({float(x) for line in axes.lines for x in line.get_xdata()} - {0.0, 1.0} for axes in image.axes[:2])
    assert CALLS in calls
    assert steps == {2.0, 4.0, 8.0}
    assert any("RK45" in text.get_text() for text in image.axes[0].texts)
    assert galleries.shown_steps(data, "digits")[-1] == 0
    named = [text.get_text() for text in galleries.gallery(data, "digits", 0).texts]
    assert [name for name in named if "RK45" in name] == [
        f"PeRFlow (SDXL recipe), K=4 + RK45\nadaptive steps, {CALLS} evaluations"
    ]
    few = galleries.shown_steps(data, "digits")[0]
    assert few > 0
    assert not any("RK45" in text.get_text() for text in galleries.gallery(data, "digits", few).texts)


def test_cards_and_mlflow_say_what_a_sample_took(told) -> None:
    results, _ = told
    said = estimates.trial({"solver": "rk45", "steps": 0, "nfe": CALLS, "guidance": 1.0})
    assert said == f"rk45, adaptive steps, {CALLS} evaluations, guidance 1"
    found = tracking._final_metrics(table(results, "rows"), "digits-perflow-sdxl-k4-s0")
    assert (found["nfe/rk45"], found["evaluations/rk45"], found["evaluations_low/rk45"]) == (CALLS, CALLS, 135)
    assert "nfe/window-4" not in found
    assert [words.in_steps(n) for n in (0, 1, 4)] == ["adaptive steps", "1 step", "4 steps"]


def test_a_student_without_a_teacher_is_no_published_method(told) -> None:
    """It is no row of an ordering that speaks of PeRFlow, and every listing says that it had no teacher."""
    results, data = told
    ends = {row["entry"]: row["ends"] for row in table(results, "main")}
    assert ends == {FROM_DATA: "data"} | {name: "" for name in ends if name != FROM_DATA}
    compared = {row["better_key"] for row in table(results, "comparisons")}
    assert "digits-perflow-sdxl-k4" in compared
    assert not [key for key in compared if FROM_DATA in key]
    assert "<small>starts: data, ends: data, no teacher, CFG-sync</small>" in str(report.main_table(data))
    assert "64 window pairs with no teacher, CFG-sync, starts and ends: data" in str(protocol.settings(data))
    row = {"count": 64, "ends": "data", "solver": None, "window_steps": None, "starts": "data", "dataset": "digits"}
    assert card._pairs(row) == "64 with no teacher, starts and ends: data, data set digits"


def test_other_studies_have_no_column_of_ends(root: Path, tmp_path: Path) -> None:
    path = fake_study.write(tmp_path)
    report.collect(path, tmp_path / "results", root / "workflow/report/published.json")
    assert not [name for name in ("main", "rows", "ablation") if "ends" in table(tmp_path / "results", name)[0]]
