"""The sections that answer a question say what the numbers say, and stand only where a study asks it."""

from __future__ import annotations

import copy
import csv
import re
from html import unescape
from pathlib import Path

import pytest

from perflow import artifacts, report, tracking
from perflow.report.gain import gain_cells
from perflow.report.questions import measured_of
from tests import fake_study


@pytest.fixture
def shown(root: Path, tmp_path: Path):
    """Write, change and load a made-up study: ``change(model, metrics file)`` before it is collected."""

    def show(change=lambda model, content: None, distance=fake_study.distance, study=None) -> report.Report:
        published, content = root / "workflow/report/published.json", study or fake_study.study()
        spec = fake_study.write(tmp_path, content, distance)
        for model in content["models"]:
            path = tmp_path / f"results/metrics/{model['name']}.json"
            found = artifacts.read_json(path)
            change(model, found)
            artifacts.write_json(path, found)
        report.collect(spec, tmp_path / "results", published)
        tracking.write_ids(spec, tmp_path / "results")
        return report.load(spec, tmp_path / "results", published)

    return show


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def searched(favourite: str = "dpmpp_2m"):
    """Every trial has a distance on development samples, the smallest that of a favourite solver."""

    def change(model, content):
        for trial in content["trials"].values():
            score = trial["metrics"]["fd_teacher"]["value"] + 100 * (trial["solver"] not in (favourite, "window"))
            trial["searched"] = {"name": "karras", "tried": {"karras": score}, "times": [1.0], "evaluations": 10}

    return change


def control(factor: float):
    """Guidance distillation at ``factor`` times its usual distance."""

    def distance(model, trial):
        return fake_study.distance(model, trial) * (factor if model["entry"] == fake_study.CONTROL else 1)

    return distance


@pytest.mark.parametrize(("factor", "said"), [(3.0, "closer to its teacher at"), (0.1, "farther from its teacher at")])
def test_the_region_is_where_the_difference_is(shown, factor, said):
    page = report.gain(shown(searched(), control(factor)))
    sentence = text(page).split("straightening (PeRFlow, learnt guidance) is ")[1].split(".")[0]
    assert sentence.startswith(said)
    assert "guidance 4" in sentence
    assert page.count('<table class="results"') == 1
    trials = sum(len(model["trials"]) for model in fake_study.study()["models"])
    assert f"trials with searched steps: {trials}; {10 * trials:,} network evaluations in all" in text(page)


def test_development_samples_choose_and_the_samples_shown_do_not(shown):
    """ddim is the worse solver on the samples shown; where it was better in development, it is the one that counts."""
    for favourite in ("ddim", "dpmpp_2m"):
        data = shown(searched(favourite))
        cells = gain_cells(data, measured_of(data), "fd_teacher")
        sides = [sides for (_, guidance, _), sides in cells.items() if guidance == 4.5]
        names = ("training-free", "guidance-distilled")
        assert {cell[name].solver for cell in sides for name in names if name in cell} == {favourite}
        assert all(arm.nfe <= budget for (_, _, budget), sides in cells.items() for arm in sides.values())


@pytest.mark.parametrize(
    ("entry", "side"), [(fake_study.CONTROL, "guidance-distilled"), ("perflow-sdxl", "PeRFlow, learnt guidance")]
)
def test_a_student_that_is_told_its_guidance_stands_where_one_that_learnt_a_single_one_does(shown, entry, side):
    """Either costs one evaluation a step: told or not, the cells are the same but for the word."""

    def cells(study):
        data = shown(searched(), study=study)
        found = gain_cells(data, measured_of(data), "fd_teacher")
        return {place: {name: (arm.key, arm.trial) for name, arm in sides.items()} for place, sides in found.items()}

    study = fake_study.study()
    (method,) = {model["method"] for model in study["models"] if model["entry"] == entry}
    for model in study["models"]:
        if model["method"] == method:
            model["guidance_mode"] = "CFG-embedded" if model["entry"] == entry else "CFG-sync"
    told = cells(study)
    assert any(entry in sides[side][0] for sides in told.values() if side in sides)
    once = copy.deepcopy(study)
    for model in once["models"]:
        model["guidance_mode"] = {"CFG-embedded": "CFG-fixed"}.get(model["guidance_mode"], model["guidance_mode"])
    assert told == cells(once)


def test_no_search_no_question(shown):
    data = shown()
    assert report.gain(data) == ""
    assert report.starts(data) == ""


def test_rows_of_other_teachers_are_never_held_against_each_other(shown):
    study = fake_study.study()
    weak = next(model for model in study["models"] if model["entry"] == fake_study.CONTROL)
    for trial in weak["trials"]:
        trial["teacher"] = 2.0
    data = shown(searched(), study=study)
    cells = gain_cells(data, measured_of(data), "fd_teacher")
    assert all("guidance-distilled" not in sides for (_, guidance, _), sides in cells.items() if guidance == 4.5)
    with open(data.results / "tables/comparisons.csv") as file:
        assert not any("Guidance distilled" in row["better"] + row["worse"] for row in csv.DictReader(file))
    assert ", w=2" in text(report.main_table(data))


def test_more_steps_that_do_harm_are_named(shown):
    def distance(model, trial):
        harm = 10 if (model["entry"], trial["steps"]) == ("perflow-sd15", 8) else 1
        return fake_study.distance(model, trial) * harm

    page = text(report.monotone(shown(distance=distance)))
    assert "1 line of" in page
    assert "get worse somewhere with more steps" in page
    line = page.split("PeRFlow (SD 1.5 recipe), K=4")[1]
    assert line.split("worse from ")[1].startswith("4 to 8")
    assert "No line gets worse with more steps" in text(report.monotone(shown()))


def test_starts_are_compared_with_data_starts_and_gaps_are_shown(shown):
    study = copy.deepcopy(fake_study.study())
    for model in study["models"]:
        if model["entry"] == "rectified-diffusion":
            model["starts"] = "trajectory"

    def gaps(model, content):
        if content["flow"]:
            windows = range(model["windows"])
            content["flow"]["start_gap"] = [{"value": 0.5 + k, "low": 0.4, "high": 0.6} for k in windows]

    data = shown(gaps, study=study)
    page = text(report.starts(data))
    line = page.split("Rectified diffusion, phased, K=4")[1].split("K=4")[0]
    assert "starts: trajectory, CFG-fixed" in line
    assert "0.50 1.5 2.5 3.5" in line
    assert "seen" in line
    assert "start_gap_low" in data.tables["windows"].columns


def test_each_student_is_held_against_the_first_at_the_same_cost(shown):
    """Made-up distances: with K=4 the first entry (1.2) lies between the diffusion path (0.8) and CFG-sync (3.0)."""
    study = fake_study.study()
    students = [model for model in study["models"] if model["kind"] == "student"]
    four = next(model for model in students if (model["entry"], model["windows"]) == ("perflow-sdxl", 4))
    study["models"].remove(four)
    study["models"].insert(1, four)
    page = report.rivals(shown(study=study))
    assert "PeRFlow (SDXL recipe), K=4 is the first student" in text(page)
    rows = re.findall(r"<tr><td.*?</tr>", page)
    said = {tuple(text(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)[:2]): row for row in rows}
    assert '<span class="badge yes">' in said["Rectified diffusion, phased, K=4", "4"]
    assert '<span class="badge no">' in said["PeRFlow (SD 1.5 recipe), K=4", "4"]
    for steps in ("4", "8"):  # with 8 the seeds' spread is as large as the difference; its sign is not
        assert "<td>−" in said["Rectified diffusion, phased, K=4", steps]
        assert "<td>+" in said["PeRFlow (SD 1.5 recipe), K=4", steps]
    assert not any(label.startswith("PeRFlow (SDXL recipe), K=4") for label, _ in said)
    alone = copy.deepcopy(study)
    alone["models"] = alone["models"][:2]
    alone["pairs"] = [row for row in alone["pairs"] if row["name"] == four["pairs"]]
    assert report.rivals(shown(study=alone)) == ""


def test_steps_that_are_adaptive_are_no_equal_cost(shown):
    study = fake_study.study()
    for model in study["models"]:
        if model["kind"] == "student" and model["windowed"]:
            model["trials"].append(fake_study._trial("rk45", 0, 1.0))
    assert "RK45" not in report.rivals(shown(study=study))


def frugal(count: int) -> dict:
    """The made-up study and the same recipe again with other pairs: ``count`` of them."""
    study = copy.deepcopy(fake_study.study())
    settings = study["settings"]
    settings["pairs"]["few"] = settings["pairs"]["fixed"] | {"count": count}
    settings["students"]["few"] = settings["students"]["rectified-diffusion"] | {"label": "Few", "pairs": "few"}
    model = fake_study._student("few", settings["students"]["few"], 4, 0)
    study["models"].append(model)
    study["pairs"].append({"name": model["pairs"], "base": "digits", "spec": "pairs-few"})
    return study


def test_what_a_teacher_evaluation_buys_is_asked_of_rows_that_differ_in_their_pairs_alone(shown):
    """64 evaluations a pair: each row against the one of its kind that spent most, whichever entry that is."""
    spent = text(report.budget(shown(study=frugal(16))))
    assert "Few, K=4 16 pairs, solver ddim steps 32 in all windows 4 1,024 25 %" in spent
    assert "64 pairs, solver ddim steps 32 in all windows 4 4,096 100 %" in spent
    for steps in (4, 8):  # the made-up distance of Few is larger, and hardly any noise is its own
        line = spent.split(f"16 pairs, solver ddim steps 32 in all windows {steps} ")[1].split(" pairs, ")[0]
        assert "not seen" in line
    turned = text(report.budget(shown(study=frugal(640))))
    assert "Few, K=4 640 pairs, solver ddim steps 32 in all windows 4 40,960 100 %" in turned
    assert "64 pairs, solver ddim steps 32 in all windows 4 4,096 10 %" in turned
    line = turned.split(" 64 pairs, solver ddim steps 32 in all windows 4 ")[1].split(" pairs, ")[0]
    assert line.count("seen") == 1
    assert "not seen" not in line


def test_rows_that_differ_in_more_than_pairs_are_no_question_of_budget(shown):
    assert report.budget(shown()) == ""
    other = frugal(16)
    other["settings"]["students"]["few"]["prediction"] = "velocity"
    assert report.budget(shown(study=other)) == ""


def test_an_answer_as_markdown_has_the_open_text_and_the_numbers_of_its_tables(shown):
    """Read back, its table is the page's: the same cells in the same places; what is folded away is left out."""
    page = report.gain(shown(searched(), control(3.0)))
    said = report.as_markdown(page)
    assert said.startswith("## Where the gain comes from\n\n")
    assert "straightening (PeRFlow, learnt guidance) is closer to its teacher at" in said
    assert not re.search(r"<\w|base64|trials with searched steps", said)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    open_table = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", open_table, flags=re.DOTALL)
    cells = [[unescape(text(cell)) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]
    assert [line for line in lines if set("".join(line)) != set("-:")] == cells
    assert all(len(line) == len(lines[0]) for line in lines)


def test_markdown_tells_text_from_signs():
    section = (
        '<h2 id="a">A &amp; B</h2><table><thead><tr><th>x</th><th>y</th></tr></thead><tr><td>1|2</td></tr></table>'
    )
    assert report.as_markdown(section, level=3) == "### A & B\n\n| x | y |\n|---|---:|\n| 1\\|2 |  |"
