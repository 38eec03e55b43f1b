"""Every command and every program of the pages about deltas runs, in order, on a tiny model."""

import re
import shlex

import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from perflow import artifacts, config
from perflow.cli import main
from perflow.integrations.merge import merge
from perflow.models import PIPELINES


@pytest.fixture
def here(on_disk, tmp_path, monkeypatch):
    """A folder with the files the pages speak of: base, delta, a fine-tune as one file, published weights."""
    files = on_disk()
    zero = {key: torch.zeros_like(value) for key, value in artifacts.read_tensors(files.delta)[0].items()}
    zero["conv_in.weight"] += 0.01
    artifacts.write_tensors(
        tmp_path / "tuning.safetensors", zero, files.header | {"sha256": artifacts.tensor_hash(zero)}
    )
    merge(tmp_path / "tuning.safetensors", files.base, tmp_path / "checkpoint.safetensors")
    published = UNet2DConditionModel.from_pretrained(files.base / "unet")
    published.load_state_dict(artifacts.read_tensors(files.delta)[0])
    published.save_pretrained(tmp_path / "published", variant="v0-1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", ["use-a-delta.md", "accelerate-my-fine-tune.md"])
def test_what_a_page_says_runs(here, root, tmp_path, page):
    blocks = re.findall(r"```(sh|python)\n(.+?)```", (root / "docs" / page).read_text(), re.DOTALL)
    assert {kind for kind, _ in blocks} == {"sh", "python"}
    for kind, text in blocks:
        if kind == "python":
            exec(text, {})
            continue
        for line in text.splitlines():
            program, *call = shlex.split(line)
            assert program == "perflow"
            done = CliRunner().invoke(main, call)
            assert done.exit_code == 0, (line, done.exception)


def test_the_rows_a_page_shows_are_rows_of_a_study(root, tiny_params, write_params):
    page = (root / "docs/accelerate-my-fine-tune.md").read_text()
    shown, families = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    tiny_params["bases"] |= yaml.safe_load(shown)["bases"]
    assert config.load(write_params(tiny_params)).bases["mine"].source.kind == "folder"
    said = yaml.safe_load(re.sub("dataset: .*", "dataset: digits", families.replace("<commit>", "c" * 40)))
    tiny_params["bases"] |= said["bases"]
    tiny_params["students"]["perflow"]["bases"] = ["eps", "xl", "cifar", "classes"]
    tiny_params["pairs"]["fixed"]["guidance"] = tiny_params["sampling"]["teacher"]["guidance"] = 1.0
    assert {row.family for row in config.load(write_params(tiny_params)).bases.values()} == set(
        PIPELINES
    )  # those of checkpoints


def test_the_pages_are_linked_and_their_verbs_are_all_there(root):
    pages = [(root / "docs" / name).read_text() for name in ("use-a-delta.md", "accelerate-my-fine-tune.md")]
    readme = (root / "README.md").read_text()
    assert "docs/use-a-delta.md" in readme
    assert "docs/accelerate-my-fine-tune.md" in readme
    for verb in ("apply", "lora", "card", "adopt"):
        assert f"perflow {verb}" in "".join(pages)


def test_a_fine_tune_as_one_file_becomes_a_folder_with_its_values(here, tmp_path):
    pipe = StableDiffusionPipeline.from_single_file("checkpoint.safetensors", config="base")
    base = StableDiffusionPipeline.from_pretrained("base").unet.state_dict()
    torch.testing.assert_close(pipe.unet.state_dict()["conv_in.weight"], base["conv_in.weight"] + 0.01)
