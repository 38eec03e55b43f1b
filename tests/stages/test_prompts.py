"""What is drawn: lists of the user's own in every kind of file, and negative prompts that guidance leads away from."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from perflow import artifacts, config
from perflow.config.rows import Trial
from perflow.core.condition import take
from perflow.core.guidance import guided
from perflow.errors import PerflowError
from perflow.models import schedulers
from perflow.models.drawer import Drawer
from perflow.pairs import PairCache
from perflow.stages.cache import cache
from perflow.stages.prompts import prompts
from perflow.stages.sample import sample
from tests.stages.conftest import finish, grown

LINES = [("a red digit", "blue"), ("a blue digit", ""), ("a red digit", "green"), ("a green digit", "red, yellow")]


def write(folder, kind):
    path = folder / f"list.{kind}"
    if kind == "txt":
        path.write_text("\n\n".join(text for text, _ in LINES) + "\n")
    elif kind == "csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("text", "away"), *LINES])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "away": away}) + "\n" for text, away in LINES))
    else:
        parquet.write_table(pa.table({"text": [text for text, _ in LINES], "away": [away for _, away in LINES]}), path)
    return path


def chosen(study, home):
    row = study.spec("prompts", "own")
    prompts(row, home / "prompts.json", home)
    content = artifacts.read_json(home / "prompts.json")
    return [prompt["text"] for prompt in content["prompts"]], content["negatives"]


@pytest.fixture
def listed(tiny, tiny_params, write_params):
    """The tiny study with a list; base "eps" alone, taught without guidance in its weights."""

    def make(count=3, student=False, **given):
        tiny_params["sampling"] |= {"prompts": count, "per_prompt": 2, "prompt_list": given}
        tiny_params["pairs"]["fixed"]["guidance"] = 4.5 if student else 1.0
        return grown(tiny, tiny_params, write_params)

    return make


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_a_list_gives_its_different_prompts_in_order(listed, tmp_path, kind):
    file = write(tmp_path, kind).name
    texts, negatives = chosen(listed(file=file), tmp_path)
    assert texts == ["a red digit", "a blue digit", "a green digit"]
    assert negatives == ["", "", ""]
    assert chosen(listed(file=file, negative="dark"), tmp_path)[1] == ["dark"] * 3
    if kind != "txt":
        assert chosen(listed(file=file, negative_column="away"), tmp_path)[1] == ["blue", "", "red, yellow"]


@pytest.mark.parametrize(("given", "message"), [
    ({"file": "list.csv", "column": "prompt"}, r"no column 'prompt'; there are text, away"),
    ({"file": "list.csv", "count": 4}, r"sampling.prompts: 4 asked for, list.csv has 3 different ones"),
    ({"file": "list.toml"}, r"known are .csv, .jsonl, .parquet, .txt"),
    ({"file": "gone.txt"}, r"gone.txt: cannot be read"),
    ({"file": "odd.jsonl"}, r"odd.jsonl: prompt 2 is no text; got 7"),
    ({"file": "bad.jsonl"}, r"bad.jsonl: not a readable jsonl file"),
])  # fmt: skip
def test_a_mistake_in_a_list_is_one_line(listed, tmp_path, given, message):
    write(tmp_path, "csv")
    (tmp_path / "odd.jsonl").write_text('{"text": "a"}\n{"text": 7}\n{"text": "b"}')
    (tmp_path / "bad.jsonl").write_text('{"text": "a"\n')
    with pytest.raises(PerflowError, match=message):
        chosen(listed(**given), tmp_path)


def test_guidance_leads_away_from_each_prompts_own_negative(listed, tmp_path):
    study = listed(file=write(tmp_path, "csv").name, negative_column="away")
    chosen(study, tmp_path)
    out = tmp_path / "samples/manifest.json"
    finish(
        sample(
            study.spec("samples", "eps"),
            study.handle("eps"),
            study.handle("eps"),
            tmp_path / "prompts.json",
            out,
            out.with_name("state"),
        )
    )
    manifest = artifacts.read_json(out)
    assert manifest["negatives"] == ["blue", "", "red, yellow"]
    drawn = artifacts.read_tensors(out.with_name("ddim-2.safetensors"))[0]["latents"]
    trial = next(trial for trial in study.study.samples["eps"].trials if trial.name == "ddim-2")
    drawer = Drawer.load(study.handle("eps"), "cpu", ["a red digit", "a blue digit", "a green digit"], 2, 0)
    base, noise = drawer.model.base, drawer.noise(0)
    away = take(base.embed(["blue", "", "red, yellow"]), torch.arange(3).repeat_interleave(2))
    field = guided(base.network(), drawer.conditions, away, trial.guidance)
    with torch.inference_mode():
        wanted = schedulers.draw(trial.scheduler, trial.steps, base.scheduler_config, field, noise, [])
        plain = drawer.draw(trial, noise)
    torch.testing.assert_close(drawn, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn[2:4], plain[2:4], rtol=1e-4, atol=1e-4)  # its negative is the empty prompt
    assert (drawn[:2] - plain[:2]).abs().max() > 1e-2


def test_negative_prompts_are_not_read_without_guidance(tiny):
    trial = Trial(name="t", solver="window", steps=2, guidance=1.0, nfe=2)
    with_negative, without = (Drawer.load(tiny.handle("eps-perflow-k2-s0"), "cpu", ["a red digit"], 2, 0, away)
                              for away in (["a blue digit"], [""]))  # fmt: skip
    assert torch.equal(*(each.draw(trial, each.noise(0)) for each in (with_negative, without)))


def test_a_student_whose_guidance_is_in_its_weights_takes_no_other_negative(listed, tiny_params, tmp_path):
    file = write(tmp_path, "csv").name
    for given, said in (({"negative": "dark"}, "'dark'"), ({"negative_column": "away"}, "the column 'away'")):
        with pytest.raises(PerflowError, match=f"negative prompts {said}, but .* in its weights, away from ''"):
            listed(file=file, student=True, **given)
    tiny_params["pairs"]["fixed"]["negative"] = "dark"
    assert listed(file=file, student=True, negative="dark").study.students
    with pytest.raises(PerflowError, match="away from 'dark' .pairs.negative.; make them equal"):
        listed(file=file, student=True)


def test_pairs_are_made_away_from_their_negative(tiny, tiny_params, write_params, tmp_path):
    tiny_params["pairs"]["fixed"]["negative"] = "a blue digit"
    tiny_params["sampling"]["prompt_list"] = {"file": "x.txt", "negative": "a blue digit"}
    study = grown(tiny, tiny_params, write_params)
    out = tmp_path / "pairs/manifest.json"
    finish(cache(study.spec("pairs", "eps-fixed-k2"), study.handle("eps"), study.latents("eps"), out))
    plain, away = PairCache.load(tiny.pairs("eps-fixed-k2")), PairCache.load(out)
    assert torch.equal(plain.start[:], away.start[:])
    assert (plain.end[:] - away.end[:]).abs().max() > 1e-3
    assert away.manifest["negative"] == "a blue digit"


def test_a_file_that_is_not_there_is_named_before_anything_runs(listed, tmp_path):
    study = listed(file="gone.txt").study
    assert config.missing(study, tmp_path) == f"sampling.prompt_list.file: no file {tmp_path / 'gone.txt'}"
