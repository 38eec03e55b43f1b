"""The report says what the tables say, the tables what the artifacts say, and the readings follow the numbers."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import numpy
import pytest
from PIL import Image
from scipy import stats

from perflow import artifacts, config, images, report, tracking
from perflow.config import summary as study_summary
from perflow.errors import PerflowError
from perflow.metrics import intervals
from perflow.report import figures, galleries, protocol, reading, sections, words
from perflow.report.drawing import _apart
from perflow.report.study import arms, read_study
from tests import fake_study


@pytest.fixture(scope="session")
def published(root: Path) -> Path:
    return root / "workflow" / "report" / "published.json"


@pytest.fixture(scope="session")
def collected(tmp_path_factory, published: Path) -> Path:
    """The made-up study with its tables; tests that change anything take a copy."""
    home = tmp_path_factory.mktemp("study")
    fake_study.write(home)
    collect(home, published)
    return home


@pytest.fixture
def home(collected: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(collected, tmp_path / "home"))


@pytest.fixture
def data(collected: Path, published: Path) -> report.Report:
    return report.load(collected / "results/specs/study.json", collected / "results", published)


def collect(home: Path, published: Path) -> None:
    """What the verb of this name does."""
    report.collect(home / "results/specs/study.json", home / "results", published)
    tracking.write_ids(home / "results/specs/study.json", home / "results")


def table(home: Path, name: str) -> list[dict[str, str]]:
    with (home / "results/tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def change(path: Path, edit) -> None:
    content = artifacts.read_json(path)
    edit(content)
    artifacts.write_json(path, content)


# --- tables ------------------------------------------------------------------------------------------------


def test_tables_hold_exactly_the_rows_of_the_study(home: Path, published: Path) -> None:
    path = home / "results/specs/study.json"
    dropped = "digits-perflow-sdxl-k8-s0"
    change(path, lambda study: study.update(models=[m for m in study["models"] if m["name"] != dropped]))
    collect(home, published)
    named = [(m["name"], t["name"]) for m in read_study(path)["models"] for t in m["trials"]]
    assert sorted((row["model"], row["trial"]) for row in table(home, "rows")) == sorted(named)
    for name in ("main", "ablation", "windows", "comparisons", "costs", "curves"):
        text = (home / "results/tables" / f"{name}.csv").read_text()
        assert "perflow-sdxl-k4" in text
        assert dropped.removesuffix("-s0") not in text, name
    assert (home / "results/metrics" / f"{dropped}.json").exists()  # it lies there and is not listed


def test_main_table_says_what_the_artifacts_say(collected: Path) -> None:
    study = read_study(collected / "results/specs/study.json")
    measured = {
        m["name"]: artifacts.read_json(collected / f"results/metrics/{m['name']}.json") for m in study["models"]
    }
    lines = table(collected, "main")
    assert len(lines) == 9 * len({(line["key"], line["trial"]) for line in lines})
    for line in lines:
        seeds = sorted((m["seed"], m["name"]) for m in study["models"] if m["name"] in (line["key"],) or
                       m["name"].removesuffix(f"-s{m['seed']}") == line["key"])  # fmt: skip
        found = [measured[name]["trials"][line["trial"]]["metrics"][line["metric"]] for _, name in seeds]
        assert [float(line[b]) for b in ("value", "low", "high")] == [found[0][b] for b in ("value", "low", "high")]
        assert int(line["n_seeds"]) == len(found)
        assert float(line["seed_mean"]) == pytest.approx(mean(one["value"] for one in found))
        if len(found) > 1:
            assert float(line["seed_std"]) == pytest.approx(stdev(one["value"] for one in found))
        else:
            assert line["seed_std"] == ""


def test_metrics_are_named_after_their_extractor(collected: Path) -> None:
    names = {line["metric_name"] for line in table(collected, "main")}
    assert "FD-digits-cnn to teacher" in names
    assert not any(re.search(r"\bFID\b", name) for name in names)


def test_metrics_json_is_flat_and_agrees_with_the_main_table(collected: Path) -> None:
    flat = artifacts.read_json(collected / "results/metrics.json")
    lines = {f"{li['key']}/{li['trial']}/{li['metric']}": float(li["seed_mean"]) for li in table(collected, "main")}
    assert flat
    assert all(value == pytest.approx(lines[name], rel=1e-5) for name, value in flat.items())


@pytest.mark.parametrize("file", ["metrics/digits-perflow-sdxl-k4-s1.json", "metrics/digits.json"])
def test_an_artifact_of_another_spec_is_refused(home: Path, published: Path, file: str) -> None:
    before = (home / "results/metrics.json").read_bytes()
    change(home / "results" / file, lambda content: content.update(spec="of-another-study"))
    with pytest.raises(PerflowError, match=r"of-another-s.*run the workflow again"):
        collect(home, published)
    assert (home / "results/metrics.json").read_bytes() == before


def test_samples_of_another_spec_are_refused(home: Path, published: Path) -> None:
    change(home / "results/samples/digits/manifest.json", lambda content: content.update(spec="of-another-study"))
    loaded = report.load(home / "results/specs/study.json", home / "results", published)
    with pytest.raises(PerflowError, match="made for spec"):
        report.samples(loaded)


@pytest.mark.parametrize("key", ["name", "sha256"])
def test_numbers_of_another_extractor_are_refused(home: Path, published: Path, key: str) -> None:
    change(home / "results/metrics/digits.json", lambda content: content["extractor"].update({key: "another"}))
    with pytest.raises(PerflowError, match="extractor"):
        collect(home, published)


def test_a_missing_artifact_is_named(home: Path, published: Path) -> None:
    (home / "results/metrics/digits.json").unlink()
    with pytest.raises(PerflowError, match=r"digits\.json: cannot be read"):
        collect(home, published)


def test_a_metric_that_is_undefined_for_a_trial_leaves_a_gap(home: Path, published: Path) -> None:
    path = home / "results/metrics/digits-perflow-sdxl-k4-s0.json"
    change(path, lambda content: content["trials"]["window-4"]["metrics"].pop("diversity"))
    change(path, lambda content: content["trials"]["window-4"]["metrics"].pop("fd_teacher"))
    collect(home, published)
    row = next(r for r in table(home, "rows") if r["model"] == path.stem and r["trial"] == "window-4")
    assert row["diversity"] == ""
    assert float(row["recall"]) > 0
    loaded = report.load(home / "results/specs/study.json", home / "results", published)
    assert all(section(loaded) for section in (report.main_table, report.quality, report.ablation_table))


# --- readings ----------------------------------------------------------------------------------------------


def compared(quality: dict[str, float], tmp_path: Path, published: Path, spread: float = 0.01) -> list[dict]:
    """comparisons.csv of the made-up study with other qualities and another spread over seeds."""

    def distance(model: dict, trial: dict) -> float:
        usual = fake_study.distance(model, trial) - 0.01 * model["seed"] - 0.2
        return 0.2 + usual * quality.get(model["entry"], 1.0) + spread * model["seed"]

    report.collect(fake_study.write(tmp_path, distance=distance), tmp_path / "results", published)
    return table(tmp_path, "comparisons")


def verdicts(lines: list[dict], ordering: str, better: str, worse: str) -> set[str]:
    chosen = (line for line in lines if line["ordering"] == ordering)
    return {
        li["verdict"] for li in chosen if better in li["better_key"] and worse in f"{li['worse_key']}/{li['worse']}"
    }


def test_an_ordering_flips_with_the_data(tmp_path: Path, published: Path) -> None:
    good = compared({"perflow-sd15": 0.2}, tmp_path / "good", published)
    bad = compared({"perflow-sd15": 8.0}, tmp_path / "bad", published)
    for ordering in ("training-free-4", "evaluations", "control"):
        assert verdicts(good, ordering, "sd15", "") == {reading.SEEN}, ordering
        assert verdicts(bad, ordering, "sd15", "") == {reading.NOT_SEEN}, ordering
    said = {words.sentence([_typed(li) for li in lines if "sd15" in li["better_key"] and li["ordering"] == "steps-8-4"])
            for lines in (good, bad)}  # fmt: skip
    assert len(said) == 2


def test_equal_methods_differ_within_noise_only(tmp_path: Path, published: Path) -> None:
    same = fake_study.QUALITY["perflow-sdxl"] / fake_study.QUALITY["rectified-diffusion"]
    lines = compared({"rectified-diffusion": same}, tmp_path, published, spread=0.0)
    assert verdicts(lines, "path", "rectified", "sdxl") == {reading.NOISE}


def test_the_spread_over_seeds_widens_the_interval(tmp_path: Path, published: Path) -> None:
    close, wide = (compared({}, tmp_path / str(s), published, spread=s) for s in (0.0001, 0.05))
    for a, b in zip(close, wide, strict=True):
        if int(a["better_seeds"]) > 1 or int(a["worse_seeds"]) > 1:
            assert float(a["high"]) - float(a["low"]) < float(b["high"]) - float(b["low"])


def test_comparisons_are_paired_and_corrected_together(collected: Path) -> None:
    lines = table(collected, "comparisons")
    errors = {}
    for model in read_study(collected / "results/specs/study.json")["models"]:
        for name, trial in artifacts.read_json(collected / f"results/metrics/{model['name']}.json")["trials"].items():
            replicates = trial["metrics"]["fd_teacher"]["replicates"]
            errors[model["name"].removesuffix("-s0"), name] = intervals.standard_error(replicates)
    single = [li for li in lines if li["better_seeds"] == li["worse_seeds"] == "1"]
    assert single
    for li in single:
        alone = errors[li["better_key"], li["better_trial"]], errors[li["worse_key"], li["worse_trial"]]
        assert float(li["error"]) < numpy.hypot(*alone)
    adjusted = intervals.holm([float(li["p"]) for li in lines])
    assert [float(li["p_holm"]) for li in lines] == pytest.approx(list(adjusted))


def test_all_else_equal_means_all_else(home: Path, published: Path) -> None:
    assert verdicts(table(home, "comparisons"), "path", "rectified", "sdxl")
    path = home / "results/specs/students/digits-rectified-diffusion-k4-s0.json"
    change(path, lambda spec: spec["row"]["method"].update(positions=2))
    collect(home, published)
    assert not verdicts(table(home, "comparisons"), "path", "rectified", "sdxl")


def test_the_best_solver_is_the_best_and_is_said_to_be_chosen(collected: Path) -> None:
    main = [line for line in table(collected, "main") if line["metric"] == "fd_teacher" and line["kind"] == "base"]
    lines = [line for line in table(collected, "comparisons") if line["ordering"] == "evaluations"]
    assert lines
    for line in lines:
        rivals = [m for m in main if m["nfe"] == line["better_nfe"] and not m["trial"].startswith("teacher")]
        assert float(line["worse_value"]) == min(float(m["value"]) for m in rivals)
        assert "favours the training-free side" in line["note"]
        assert "trailing spacing only (no spacing search)" in line["note"]


def test_more_is_better_for_accuracy(home: Path, published: Path, tmp_path: Path) -> None:
    content = artifacts.read_json(published)
    content["orderings"] = [item | {"metric": "prompt_accuracy"} for item in content["orderings"]]
    artifacts.write_json(tmp_path / "published.json", content)
    collect(home, tmp_path / "published.json")
    rivals = [m for m in table(home, "main") if m["metric"] == "prompt_accuracy" and m["kind"] == "base"]
    lines = table(home, "comparisons")
    for line in lines:
        if line["ordering"] == "evaluations":
            same = [m for m in rivals if m["nfe"] == line["better_nfe"] and not m["trial"].startswith("teacher")]
            assert float(line["worse_value"]) == max(float(m["value"]) for m in same)
        if line["verdict"] != reading.NOISE:
            assert (line["verdict"] == reading.SEEN) == (float(line["difference"]) > 0)
    assert reading.SEEN in {line["verdict"] for line in lines}


def test_windows_are_compared_with_the_next_smaller_number(collected: Path) -> None:
    lines = [line for line in table(collected, "comparisons") if line["ordering"] == "windows"]
    assert {(line["better_steps"], line["worse_steps"]) for line in lines} == {("2", "1"), ("4", "2"), ("8", "4")}


def test_an_ordering_without_rows_is_not_tested(data: report.Report) -> None:
    assert not (data.tables["comparisons"]["ordering"] == "lcm-4").any()
    section = str(report.readings(data)).split("At 4 steps PeRFlow beats LCM")[0]
    assert section.endswith('<span class="badge none">not tested</span> ')


@pytest.mark.parametrize("metric", ["kid_teacher", "kid_real"])
def test_a_study_may_evaluate_one_metric(tmp_path: Path, root: Path, published: Path, metric: str) -> None:
    spec = fake_study.write(tmp_path)
    results = tmp_path / "results"
    for model in read_study(spec)["models"]:
        change(results / f"metrics/{model['name']}.json", lambda content: _only(content, metric))
    collect(tmp_path, published)
    lines = table(tmp_path, "main")
    assert {line["metric"] for line in lines} == {metric}
    assert len(artifacts.read_json(results / "metrics.json")) == len(lines)
    assert table(tmp_path, "comparisons") == []
    rows = [line for line in report.summary(results).splitlines() if re.search(r"\d \[", line)]
    assert len(rows) == len(lines)
    assert "FD" not in report.summary(results)
    assert {line.count("|") for line in report.markdown(results).split("\n\n")[0].splitlines()} == {6}
    report.render(root / "notebooks/report.ipynb", results, published, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    orderings = artifacts.read_json(published)["orderings"]
    assert page.count("This study does not evaluate its metric, FD-digits-cnn to teacher.") == len(orderings)
    assert page.count('<span class="badge none">not tested</span>') == len(orderings)
    assert len([text for row in Page(page).rows for kind, text in row if kind == "key" and "[" in text]) == len(lines)


def _only(content: dict, metric: str) -> None:
    for trial in content["trials"].values():
        trial["metrics"] = {metric: trial["metrics"][metric]}


def test_distances_below_zero_are_drawn(home: Path, published: Path) -> None:
    def lowered(content: dict) -> None:
        for trial in content["trials"].values():
            trial["metrics"]["kid_teacher"].update(value=-0.001)

    for name in ("digits", "digits-perflow-sdxl-k4-s0"):
        change(home / f"results/metrics/{name}.json", lowered)
    collect(home, published)
    loaded = report.load(home / "results/specs/study.json", home / "results", published)
    assert figures.quality(loaded, "digits", "kid_teacher").axes[0].get_yscale() == "linear"
    assert figures.quality(loaded, "digits", "fd_teacher").axes[0].get_yscale() == "log"
    assert report.quality(loaded, "kid_teacher")
    assert report.ablation(loaded, "kid_teacher")


def _estimates(*seeds: tuple[float, list[float]]) -> list[dict]:
    return [{"value": value, "replicates": list(replicates)} for value, replicates in seeds]


def test_a_difference_of_means_is_the_paired_t_test() -> None:
    rng = numpy.random.default_rng(0)
    groups, common = numpy.arange(120) % 10, rng.standard_normal(120)
    a, b = common + 0.3 * rng.standard_normal(120), common + 0.3 * rng.standard_normal(120) + 0.1
    one, two = (intervals.ratio(values, numpy.ones(120), groups) for values in (a, b))
    found = reading.difference(_estimates(one), _estimates(two), 0.05)
    expected = stats.ttest_rel(*([values[groups == g].mean() for g in range(10)] for values in (a, b)))
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["difference"] == pytest.approx(mean(a) - mean(b))
    assert found["error"] == pytest.approx(abs(found["difference"] / expected.statistic))
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found["error"] < numpy.hypot(*(intervals.standard_error(side.replicates) for side in (one, two))) / 2


def test_seeds_without_noise_of_prompts_are_welchs_t_test() -> None:
    sides = [1.0, 1.2, 1.7], [2.0, 2.1]
    found = reading.difference(*(_estimates(*((v, [v] * 4) for v in values)) for values in sides), 0.05)
    assert found["p"] == pytest.approx(stats.ttest_ind(*sides, equal_var=False).pvalue)


def test_equal_rows_do_not_differ_and_a_constant_difference_is_certain() -> None:
    row, more = _estimates((1.0, [0.5, 1.0, 1.5, 2.0])), _estimates((2.0, [1.5, 2.0, 2.5, 3.0]))
    assert reading.difference(row, row, 0.05)["p"] == 1
    assert reading.difference(more, row, 0.05) == {"difference": 1, "low": 1, "high": 1, "error": 0, "p": 0}


def test_rows_over_other_groups_are_not_compared(home: Path, published: Path) -> None:
    with pytest.raises(PerflowError, match="4 and 5 groups"):
        reading.difference(_estimates((1.0, [0.0] * 4)), _estimates((1.0, [0.0] * 5)), 0.05)
    path = home / "results/metrics/digits-perflow-sd15-k4-s0.json"
    change(path, lambda content: content["trials"]["window-4"]["metrics"]["fd_teacher"].update(replicates=[0.0] * 5))
    with pytest.raises(PerflowError, match=r"digits-perflow-sd15-k4-s0 and digits: 5 and 20 groups"):
        collect(home, published)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ordering: ordering.update(metric="fid"), "no metric 'fid'; there are"),
        (lambda ordering: ordering.update(better={"colour": 1}), "no field 'colour'; there are key, base"),
    ],
)
def test_a_mistake_in_an_ordering_names_what_is_valid(
    home: Path, published: Path, tmp_path: Path, edit, message
) -> None:
    content = artifacts.read_json(published)
    edit(content["orderings"][0])
    artifacts.write_json(tmp_path / "published.json", content)
    with pytest.raises(PerflowError, match=message):
        collect(home, tmp_path / "published.json")


def test_published_figures_all_have_a_source(published: Path) -> None:
    content = artifacts.read_json(published)
    assert all(item["source"] for item in content["figures"] + content["orderings"])
    assert all(len(row) == len(item["columns"]) for item in content["figures"] for row in item["rows"])


def _typed(line: dict[str, str]) -> dict:
    return {
        name: json.loads(value) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", value) else value for name, value in line.items()
    }


# --- text --------------------------------------------------------------------------------------------------


def test_summary_fits_and_agrees_with_the_table(collected: Path) -> None:
    text = report.summary(collected / "results")
    assert all(len(line) <= 110 for line in text.splitlines())
    lines = [line for line in table(collected, "main") if line["metric"] == "fd_teacher"]
    rows = [line for line in text.splitlines() if re.search(r"\d \[", line)]
    assert [words.number(float(line["value"])) for line in lines] == [re.search(r"(\S+) \[", row)[1] for row in rows]


def test_markdown_has_a_row_for_each_method_and_number_of_steps(collected: Path) -> None:
    lines = report.markdown(collected / "results").split("\n\n")[0].splitlines()
    assert len(lines) == 2 + len({(line["key"], line["trial"]) for line in table(collected, "main")})
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


@pytest.mark.parametrize("value", [0.0, 1.0, 9.996, 0.09996, 123456.0, 3.14159e-9, 0.00099951, 2e7])
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(words.number(value)) == pytest.approx(value, rel=6e-3)
    assert len(words.number(value).replace(".", "").lstrip("0")) <= 9


def test_labels_are_moved_apart_as_little_as_possible() -> None:
    assert _apart([0.0, 1.0, 2.0], 0.5) == [0.0, 1.0, 2.0]
    moved = _apart([0.0, 0.0, 0.1, 3.0], 0.5)
    assert all(b - a >= 0.5 - 1e-12 for a, b in zip(moved, moved[1:], strict=False))
    assert mean(moved[:3]) == pytest.approx(mean([0.0, 0.0, 0.1]))
    assert moved[3] == 3.0


# --- the page ----------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Cells of the main tables, and everything the page would load."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.rows, self.inside, self.cell = [], [], False, None
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        found = dict(attributes)
        if tag in ("script", "link", "iframe", "object", "embed", "base"):
            self.loads.append(self.get_starttag_text())
        self.loads += [found[name] for name in ("src", "srcset", "poster", "data") if name in found]
        if tag == "table":
            self.inside = found.get("class") == "results"
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag == "td":
            self.cell = (found.get("class", ""), "")
        if self.cell and tag == "small":
            self.cell = (self.cell[0], self.cell[1] + " ")

    def handle_data(self, text: str) -> None:
        if self.cell is not None:
            self.cell = (self.cell[0], self.cell[1] + text)

    def handle_endtag(self, tag: str) -> None:
        if tag == "td" and self.cell is not None:
            self.rows[-1].append(self.cell)
            self.cell = None
        if tag == "table":
            self.inside = False


@pytest.fixture(scope="session")
def rendered(collected: Path, root: Path, published: Path) -> Path:
    """The folder of the rendered report."""
    report.render(root / "notebooks/report.ipynb", collected / "results", published, collected / "reports/report.html")
    return collected / "reports"


def test_the_page_says_what_the_table_says(rendered: Path, collected: Path) -> None:
    rows = [row for row in Page((rendered / "report.html").read_text()).rows if row]
    said = sorted(text.split()[0] for row in rows for kind, text in row if kind == "key")
    lines = [line for line in table(collected, "main") if line["metric"] == "fd_teacher"]
    assert said == sorted(words.number(float(line["value"])) for line in lines)
    for line in table(collected, "main"):
        if line["metric"] in ("fd_real", "recall", "teacher_mse"):
            assert any(text.split()[:1] == [words.number(float(line["value"]))] for row in rows for _, text in row)


def test_the_page_loads_nothing(rendered: Path) -> None:
    text = (rendered / "report.html").read_text()
    assert text.count("<img") >= 8
    assert all(load.startswith("data:image/") for load in Page(text).loads)
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", text)


def test_the_page_hides_code_and_shows_every_section(rendered: Path, root: Path) -> None:
    text = (rendered / "report.html").read_text()
    assert "report.load(" not in text
    assert "sys.prefix" not in text
    book = json.loads((root / "notebooks/report.ipynb").read_text())
    titles = re.findall(r"^## (.*)$", "\n".join("".join(cell["source"]) for cell in book["cells"]), re.MULTILINE)
    assert len(titles) >= 11
    assert all(re.search(rf"<h2[^>]*>{re.escape(title)}", text) for title in titles)
    assert "This is not the paper" in text


def test_rendering_twice_gives_the_same_bytes(rendered: Path, collected: Path, root: Path, published: Path) -> None:
    again = collected / "again"
    report.render(root / "notebooks/report.ipynb", collected / "results", published, again / "report.html")
    for name in ("report.html", "report.ipynb"):
        assert (again / name).read_bytes() == (rendered / name).read_bytes(), name
    assert sys.prefix not in (again / "report.ipynb").read_text()


def test_a_kernel_of_another_environment_is_refused(collected, root, published, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    with pytest.raises(PerflowError, match=r"failed: AssertionError: this kernel belongs to .*, the study to /another"):
        report.render(root / "notebooks/report.ipynb", collected / "results", published, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_killed_kernel_is_one_line(tmp_path) -> None:
    import nbformat

    cells = [nbformat.v4.new_code_cell("", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("import os; os.kill(os.getpid(), 9)")]  # fmt: skip
    kernel = {"name": "python3", "language": "python", "display_name": "Python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(book, tmp_path / "a.ipynb")
    with pytest.raises(PerflowError, match=r"a\.ipynb: its kernel was killed; the same command"):
        report.render(tmp_path / "a.ipynb", tmp_path, tmp_path, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize("name", ["report", "plane"])
def test_a_notebook_is_prose_and_calls(root: Path, name: str) -> None:
    book = json.loads((root / f"notebooks/{name}.ipynb").read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    text = "\n".join("".join(cell["source"]) for cell in code)
    assert not re.search(r"\b(def|class|lambda|for|while)\b", text)
    assert set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) == {"sys", "perflow"}
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert "".join(code[1]["source"]).index("assert sys.prefix == prefix") < "".join(code[1]["source"]).index("perflow")
    given = re.findall(r"^(\w+) = ", "".join(code[0]["source"]), re.MULTILINE)
    assert given == ["prefix", "study", "results", "published"]


def test_a_column_of_a_gallery_is_one_item(data: report.Report) -> None:
    arms_ = [arm for arm in data.wide() if arm["steps"] == 4]
    pictures = [galleries._row(data, arm, [0, 3, 6])[1] for arm in arms_]
    assert len(pictures) > 5
    for row in pictures[1:]:
        for own, first in zip(row, pictures[0], strict=True):
            assert numpy.array_equal(own[2:], first[2:])  # the fixture marks the trial in the first two lines
    assert not numpy.array_equal(pictures[0][0][2:], pictures[0][1][2:])


def test_what_a_pipeline_is_shown_stands_above_its_samples_item_by_item(tmp_path: Path, published: Path) -> None:
    content = fake_study.study()
    content["transfers"] = [
        fake_study.in_setting(content, "painted", name, task="inpaint", reference="painted-digits.digits")
        for name in ("digits", "digits-perflow-sdxl-k4-s0")
    ]
    fake_study.write(tmp_path, content)
    folder = tmp_path / "results/transfers/painted-digits.digits"
    seen = [numpy.full((8, 8, 3), 40 * i, numpy.uint8) for i in range(len(fake_study.PROMPTS))]
    artifacts.write_archive(folder / "shown.zip", {f"{i:05d}.png": images.png(each) for i, each in enumerate(seen)})
    entry = {"file": "shown.zip", "sha256": artifacts.sha256_file(folder / "shown.zip")}
    artifacts.write_json(folder / "manifest.json", artifacts.read_json(folder / "manifest.json") | {"shown": entry})
    collect(tmp_path, published)
    data = report.load(tmp_path / "results/specs/study.json", tmp_path / "results", published)
    drawn = galleries.elsewhere(data, "painted", "digits", 4)
    assert [text.get_text() for text in drawn.texts][0] == "What the pipeline keeps\ngrey: to be painted"
    captions = [text.get_text().replace("\n", " ") for text in drawn.texts[-len(seen) :]]
    assert captions == [prompt["text"] for prompt in fake_study.PROMPTS]
    mosaic = drawn.axes[0].images[0].get_array()
    cell = 8 * 12  # eight pixels, enlarged to the width of a place
    for i, each in enumerate(seen):
        column = mosaic[:cell, i * (cell + 8) :][:, :cell]
        assert (column == each[0, 0]).all()
    below = mosaic[cell + 8 :][:cell, :cell]
    assert not (below == below[0, 0]).all()  # the teacher's samples
    assert "where the pipeline is shown one: that of the first row." in report.compatibility(data)
    (folder / "shown.zip").write_bytes(b"")
    with pytest.raises(PerflowError, match=r"shown\.zip"):
        galleries.elsewhere(data, "painted", "digits", 4)


def test_large_images_are_made_smaller(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (768, 512)).save(buffer, format="PNG")
    artifacts.write_archive(tmp_path / "large.zip", {"00000.png": buffer.getvalue()})
    assert galleries._read(tmp_path / "large.zip", [0])[0].shape == (128, 192, 3)
    with pytest.raises(PerflowError, match="not a complete archive"):
        galleries._read(tmp_path / "large.zip", [1])


# --- the real study's form ---------------------------------------------------------------------------------


def test_the_made_up_study_has_the_form_of_a_real_one(root: Path) -> None:
    real = study_summary(config.load(root / "workflow/studies/tiny.yaml"))
    made = fake_study.study()
    assert set(made) == set(real)
    assert {frozenset(m) for m in made["models"]} == {frozenset(m) for m in real["models"]}
    assert {frozenset(t) for m in made["models"] for t in m["trials"]} == {
        frozenset(t) for m in real["models"] for t in m["trials"]
    }
    for name in ("pairs", "bases", "extractors", "skipped"):
        assert {frozenset(row) for row in made[name]} == {frozenset(row) for row in real[name]}


@pytest.mark.parametrize("study", ["workflow/studies/tiny.yaml", "params.yaml", "workflow/studies/methods.yaml"])
def test_a_real_study_is_collected_and_shown(root: Path, study: str, tmp_path: Path, published: Path) -> None:
    resolved = config.load(root / study)
    real = json.loads(artifacts.dumps(study_summary(resolved)))
    spec = fake_study.write(tmp_path, copy.deepcopy(real))
    config.write_specs(resolved, tmp_path)
    collect(tmp_path, published)
    loaded = report.load(spec, tmp_path / "results", published)
    for section in (report.opening, report.settings, report.main_table, report.quality, report.ablation,
                    report.ablation_table, report.samples_by_windows, report.readings, report.flow, report.curves,
                    report.samples, report.costs, report.provenance):  # fmt: skip
        assert isinstance(section(loaded), str)
    assert len({(arm.key, arm.trial) for arm in arms(real, tmp_path / "results/specs")}) == len(loaded.wide())


def test_the_report_needs_neither_torch_nor_mlflow() -> None:
    code = "import sys, perflow.report; sys.exit(any(m in sys.modules for m in ('torch', 'mlflow', 'diffusers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_feature_network_that_others_trained_has_no_curve_and_no_accuracy(home: Path, published: Path) -> None:
    (home / "results/extractors/digits-cnn/curve.jsonl").write_text("")
    for model in fake_study.study()["models"]:
        change(home / f"results/metrics/{model['name']}.json", lambda content: content["extractor"].pop("accuracy"))
    collect(home, published)
    report_ = report.load(home / "results/specs/study.json", home / "results", published)
    assert report_.extractor_accuracy() is None
    assert "accuracy on held-out" not in protocol.settings(report_)
    assert not any(row["table"] == "extractors" for row in table(home, "curves"))
    assert "of the bases" in sections.curves(report_)
    assert "of the extractors" not in sections.curves(report_)
