"""A card's code runs as it stands, and its numbers are those of the files."""

import re

import pytest
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

from perflow import artifacts
from perflow.cli import main
from perflow.errors import PerflowError
from perflow.integrations import apply_delta
from perflow.report import card
from tests.integrations.conftest import draw

STRAIGHT = {"path": "straight", "edges": [1, 0.6, 0]}
LCM = {
    "edges": None,
    "trial": {
        "solver": "lcm",
        "steps": 3,
        "guidance": 1.0,
        "scheduler": {"class": "LCMScheduler", "original_inference_steps": 40},
    },
}
ROW = {
    "pairs": "tiny-pairs", "method": {"name": "piecewise_reflow", "positions": 3}, "seed": 7,
    "training": {"steps": 41, "batch": 9},
}  # fmt: skip


def run(*call):
    done = CliRunner().invoke(main, [str(part) for part in call])
    if done.exception:
        raise PerflowError(str(done.exception.code)) if isinstance(done.exception, SystemExit) else done.exception
    return done.output


def code_of(text):
    """The card's program, without its last line, which draws."""
    program = re.search(r"```python\n(.+?)```", text, re.DOTALL)[1]
    *before, last = program.splitlines()
    assert last.startswith("image = pipe(")
    return "\n".join(before), last


@pytest.fixture
def measured(on_disk, tmp_path):
    """A delta where a study keeps it, with the specs and numbers that belong to it."""
    results = tmp_path / "results"
    rows = {
        "deltas": {}, "evaluations": {"confidence": 0.9},
        "samples": {"dataset": "tiny-data", "sampling": {"prompts": 33, "per_prompt": 6}},
    }  # fmt: skip
    specs = {}
    for table, row in rows.items():
        spec = {"table": table, "name": "tiny-student", "seed": 0, "row": row}
        artifacts.write_json(results / f"specs/{table}/tiny-student.json", spec)
        specs[table] = artifacts.spec_hash(spec)
    pairs = {
        "count": 77,
        "solver": "heun",
        "window_steps": 5,
        "guidance": 3.5,
        "starts": "data",
        "dataset": "tiny-data",
    }
    artifacts.write_json(
        results / "specs/pairs/tiny-pairs.json", {"table": "pairs", "name": "tiny-pairs", "seed": 0, "row": pairs}
    )
    trial = {
        "solver": "window", "steps": 6, "nfe": 12, "guidance": 2.5,
        "metrics": {"fd_teacher": {"value": 0.4321, "low": 0.3456, "high": 0.5678, "replicates": []}},
    }  # fmt: skip
    metrics = {
        "spec": specs["evaluations"], "model": "tiny-student", "flow": None, "trials": {"window-6": trial},
        "extractor": {"name": "tiny-cnn", "sha256": "0", "accuracy": {"digit": 0.876}},
    }  # fmt: skip
    artifacts.write_json(results / "metrics/tiny-student.json", metrics)
    own = {"base": "tiny", "trials": [trial], "spec": specs["evaluations"]}
    ranked = own | {"name": "cut", "label": "as a LoRA of rank 2", "model": "tiny-student", "rank": 2, "spec": "cut",
                    "task": "text", "adapter": None, "strength": 1.0}  # fmt: skip
    artifacts.write_json(
        results / "specs/study.json", {"models": [own | {"name": "tiny-student"}], "transfers": [ranked]}
    )
    files = on_disk(spec=specs["deltas"], row=ROW)
    delta = results / "students/tiny-student/delta.safetensors"
    delta.parent.mkdir(parents=True)
    files.delta.rename(delta)
    return files._replace(delta=delta), results


def test_numbers_are_those_of_the_study_the_delta_lies_in(measured):
    files, results = measured
    text = run("card", files.delta)
    for said in (
        "| FD-tiny-cnn to teacher | 0.432 [0.346, 0.568] |", "windows, 6 steps, 12 evaluations, guidance 2.5",
        "90% interval", "33 prompts of the data set tiny-data, 6 images each", "digit 0.876",
        "77 of heun, 5 steps a window, guidance 3.5", "41 steps of 9, seed 7", "piecewise_reflow (positions 3)",
        files.header["base"]["sha256"], "4, at 1 0.75 0.5 0.25 0", "| path in a window | diffusion |",
    ):  # fmt: skip
        assert said in text, said
    path = results / "metrics/tiny-student.json"
    changed = artifacts.read_json(path)
    changed["trials"]["window-6"]["metrics"]["fd_teacher"]["value"] = 9.87
    artifacts.write_json(path, changed)
    assert "9.87 [0.346, 0.568]" in run("card", files.delta)


def test_a_rank_that_was_tried_stands_with_its_error_and_its_numbers(measured, tmp_path):
    files, results = measured
    whole = "| whole | 0 | on its base | tiny | windows, 6 steps, 12 evaluations, guidance 2.5 | 0.432 [0.346, 0.568] |"
    out = tmp_path / "lora.safetensors"
    error = re.search(r"relative error (\S+)", run("lora", files.delta, "--rank", 2, "--out", out).splitlines()[-1])[1]
    line = f"| 2 | {error} | as a LoRA of rank 2 | tiny | windows, 6 steps, 12 evaluations, guidance 2.5 |"
    cards = (("card", files.delta), ("card", out, "--results", results))
    for call in cards:
        text = run(*call)
        assert whole in text
        assert f"{line} not measured |" in text
    metrics = artifacts.read_json(results / "metrics/tiny-student.json") | {"spec": "cut"}
    metrics["trials"]["window-6"]["metrics"]["fd_teacher"] |= {"value": 0.9876, "low": 0.8765}
    artifacts.write_json(results / "metrics/cut.json", metrics)
    for call in cards:
        assert f"{line} 0.988 [0.876, 0.568] |" in run(*call)
    run("lora", files.delta, "--rank", 3, "--out", out)
    assert "As a LoRA of rank 3: not measured." in run("card", out, "--results", results)


def test_a_guidance_for_each_window_is_told_and_not_put_into_a_call_that_takes_one(on_disk):
    files = on_disk(guidance=[7.5, 4.0, 4.0, 4.0])
    text = run("card", files.delta)
    assert "guidance_scale=7.5)" in text
    assert "It is meant for a guidance a window, 7.5, 4, 4, 4; a pipeline's call takes the first." in text


def test_numbers_of_another_row_are_refused(measured):
    files, results = measured
    path = results / "metrics/tiny-student.json"
    artifacts.write_json(path, artifacts.read_json(path) | {"spec": "0"})
    with pytest.raises(PerflowError, match="its metrics of 'tiny-student' were made for another spec"):
        run("card", files.delta)


def test_nothing_is_claimed_where_nothing_was_measured(measured, tmp_path):
    files, _ = measured
    loose = tmp_path / "loose.safetensors"
    files.delta.rename(loose)
    assert "Nothing was measured of this." in run("card", loose)


def test_a_merged_folder_claims_the_numbers_only_of_what_was_measured(measured, tmp_path):
    files, _ = measured
    for name, more, claims in (("whole", (), True), ("half", ("--scale", "0.5"), False)):
        run("apply", files.delta, "--base", files.base, "--out", tmp_path / name, *more)
        text = (tmp_path / name / "README.md").read_text()
        assert ("0.432 [0.346, 0.568]" in text) == claims
        assert ("Nothing was measured" in text) != claims


@pytest.mark.parametrize("said", [{}, STRAIGHT, LCM])
def test_the_code_of_a_delta_and_of_a_merged_folder_make_the_same_pipeline(on_disk, tmp_path, said):
    files = on_disk(**said)
    run("apply", files.delta, "--base", files.base, "--out", tmp_path / "out")
    images = []
    for text in (run("card", files.delta, "--base", files.base), (tmp_path / "out/README.md").read_text()):
        program, last = code_of(text)
        made = {}
        exec(program, made)
        steps = 3 if files.header["edges"] is None else len(files.header["edges"]) - 1
        assert f"num_inference_steps={steps}" in last
        assert "guidance_scale=1.0" in last
        images.append(draw(made["pipe"]))
    assert float((images[0] - images[1]).abs().max()) < 1e-4


@pytest.mark.parametrize("said", [STRAIGHT, LCM])
def test_the_code_of_a_lora_sets_the_students_scheduler(on_disk, tmp_path, said):
    pytest.importorskip("peft")
    files = on_disk(**said)
    run("lora", files.delta, "--rank", "2", "--out", tmp_path / "lora.safetensors")
    text = run("card", tmp_path / "lora.safetensors", "--base", files.base)
    assert "A LoRA of rank 2, cut from the student's delta with a relative error of" in text
    made = {}
    exec(code_of(text)[0], made)
    want = apply_delta(StableDiffusionPipeline.from_pretrained(files.base), files.delta).scheduler
    scheduler = made["pipe"].scheduler
    assert type(scheduler) is type(want)
    asked = (
        "windows", "path", "prediction_type", "base_prediction", "timestep_offset", "beta_end",
        "original_inference_steps",
    )  # fmt: skip
    assert all(scheduler.config.get(key) == want.config.get(key) for key in asked)
    assert made["pipe"].unet.peft_config
    assert draw(made["pipe"]).isfinite().all()


def test_a_card_is_written_whole_or_refused(on_disk, tmp_path):
    files = on_disk()
    run("card", files.delta, "--out", tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == run("card", files.delta)
    with pytest.raises(PerflowError, match="its header names no base"):
        run("card", files.base / "unet/diffusion_pytorch_model.safetensors")
    assert card.study_of(files.delta, files.header) is None
