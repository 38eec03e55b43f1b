"""What the table of settings says, on made-up numbers whose truth is known."""

import numpy
import pandas

from perflow.report import compatibility_markdown, transfers
from perflow.report.reading import NOISE
from perflow.report.transfers import CLOSER, FARTHER

GROUPS = 20


def estimate(value: float, seed: int, spread: float = 0.01) -> dict:
    """A value with replicates that share most of their noise with those of other models."""
    common, own = (numpy.random.default_rng(s).standard_normal(GROUPS) for s in (0, seed))
    return {"value": value, "low": value - 1, "high": value + 1,
            "replicates": (value + 0.5 * common + spread * own).tolist()}  # fmt: skip


def trial(name: str, steps: int, stream: int = 0) -> dict:
    solver = name.partition("-")[0] if "-" in name and name != "teacher-2" else "ddim"
    return {"name": name, "solver": solver, "steps": steps, "nfe": steps, "guidance": 1.0, "stream": stream}


def model(name: str, kind: str, base: str, trials: list[dict]) -> dict:
    return {"name": name, "kind": kind, "base": base, "entry": name, "label": name, "seed": 0, "windowed": True,
            "windows": 4, "edges": [1, 0.75, 0.5, 0.25, 0], "trials": trials}  # fmt: skip


def transfer(setting: str, base: str, of: dict, reference: str, **more) -> dict:
    return {"name": f"{setting}-{base}.{of['name']}", "setting": setting, "label": setting, "base": base, "scale": 1.0,
            "task": "text", "adapter": None, "strength": 1.0, "rank": None, "model": of["name"],
            "reference": reference, "trials": of["trials"]} | more  # fmt: skip


def study() -> tuple[dict, dict]:
    """Two settings: a fine-tune, whose teacher is its own samples, and a LoRA, whose teacher is drawn in it."""
    few = [trial("teacher", 32), trial("teacher-2", 32, 1), trial("ddim-4", 4), trial("heun-4", 4)]
    root, tuned = (model(name, "base", name, few) for name in ("root", "tuned"))
    good, bad, same = (model(name, "student", "root", [trial("window-4", 4)]) for name in ("good", "bad", "same"))
    own = model("own", "student", "tuned", [trial("window-4", 4)])
    students = (good, bad, same)
    lora = [transfer("lora", "root", of, "lora-root.root", adapter="x") for of in (root, *students)]
    content = {
        "models": [root, tuned, *students, own],
        "transfers": [*(transfer("tune", "tuned", of, "tuned") for of in students), *lora],
        "extractor": "cnn",
        "settings": {},
    }
    values = {"teacher": 0.0, "teacher-2": 1.0, "ddim-4": 5.0, "heun-4": 4.0}
    measured = {}
    for place in (*content["models"], *content["transfers"]):
        who = place.get("model", place["name"])
        trials = {}
        for i, each in enumerate(place["trials"]):
            value = values.get(each["name"], {"good": 2.0, "bad": 6.0, "same": 4.001, "own": 1.5}.get(who))
            metrics = {"fd_teacher": estimate(value, 1 + i + 10 * len(who))}
            metrics["prompt_accuracy"] = estimate(1 - value / 10, 1 + i + 10 * len(who))
            trials[each["name"]] = {"metrics": metrics}
        measured[place["name"]] = {"trials": trials}
    return content, measured


def lines() -> list[dict]:
    return transfers.rows(*study(), 0.05)


def test_every_setting_has_its_teacher_its_base_and_its_deltas():
    found = {(line["scene"], line["role"], line["model"]) for line in lines()}
    assert found == {
        *(("tune-tuned", role, "tuned") for role in ("teacher", "base")), ("tune-tuned", "own", "own"),
        *(("lora-root", role, "root") for role in ("teacher", "base")),
        *((scene, "delta", name) for scene in ("tune-tuned", "lora-root") for name in ("good", "bad", "same")),
    }  # fmt: skip


def test_a_delta_is_held_against_the_best_of_the_base_at_as_many_steps():
    verdicts = {"good": CLOSER, "bad": FARTHER, "same": NOISE, "own": CLOSER}
    for line in lines():
        if line["role"] in ("delta", "own"):
            assert line["against"] == "heun-4"
            assert line["verdict"] == verdicts[line["model"]], line
        else:
            assert line["against"] is line["verdict"] is None


def test_more_is_better_for_accuracy_and_the_correction_is_by_metric():
    for line in lines():
        if line["verdict"]:
            assert line["p_holm"] >= line["p"]
            better = line["difference"] > 0 if line["metric"] == "prompt_accuracy" else line["difference"] < 0
            assert (line["verdict"] == CLOSER) is (better and line["p_holm"] < 0.05)


def test_where_the_base_has_no_trial_of_as_many_steps_nothing_is_compared():
    content, measured = study()
    for place in content["transfers"]:
        for each in place["trials"]:
            if each["name"] == "window-4":
                each["steps"] = 3
    found = [line for line in transfers.rows(content, measured, 0.05) if line["role"] == "delta"]
    assert found
    assert all(line["verdict"] is None for line in found)


def test_a_study_without_settings_has_an_empty_table():
    content, measured = study()
    assert transfers.rows(content | {"transfers": []}, measured, 0.05) == []


def test_all_settings_stand_together_with_the_base_that_deltas_are_held_against(tmp_path):
    (tmp_path / "tables").mkdir()
    pandas.DataFrame(lines()).to_csv(tmp_path / "tables/compatibility.csv", index=False)
    table = [line for line in compatibility_markdown(tmp_path).splitlines() if line.startswith("|")]
    rows = {row[0]: row for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)}
    assert rows["setting"][1:] == [
        "steps", "without a delta", "good, K=4", "bad, K=4", "same, K=4", "own, K=4, taught there",
    ]  # fmt: skip
    assert rows["tune: tuned, s = 1"][1:] == ["4", "4.00", "2.00 ▲", "6.00 ▼", "4.00", "1.50 ▲"]
    assert rows["lora: root, s = 1"][1:] == ["4", "4.00", "2.00 ▲", "6.00 ▼", "4.00", ""]


def test_a_sentence_counts_where_a_delta_helps_and_where_it_harms(tmp_path):
    (tmp_path / "tables").mkdir()
    pandas.DataFrame(lines()).to_csv(tmp_path / "tables/compatibility.csv", index=False)
    said = [line for line in compatibility_markdown(tmp_path).splitlines() if line.startswith("- ")]
    places = "(tune: tuned, s = 1; lora: root, s = 1)"
    assert said == [
        f"- good, K=4, 4 steps: of 2 settings better in 2 {places}, worse in 0, else within the noise.",
        f"- bad, K=4, 4 steps: of 2 settings better in 0, worse in 2 {places}, else within the noise.",
        "- same, K=4, 4 steps: of 2 settings better in 0, worse in 0, else within the noise.",
    ]
