"""What docs/bring-my-data.md shows is a study: its entries, its commands, and what it says of Parquet files."""

import re
import shlex

import pytest
from click.testing import CliRunner
from PIL import Image

from perflow import config
from perflow.cli import main
from perflow.config.load import read_yaml
from perflow.datasets.parquet import ParquetTable
from tests.conftest import dump_params

SHA = "4be519611103a162452dd3035eef4aa1c449030a9d2777891b92cb8b598b1e53"


@pytest.fixture
def page(root):
    return (root / "docs/bring-my-data.md").read_text()


@pytest.fixture
def entries(page, tmp_path):
    """The rows that the page shows, block by block, with this machine's paths."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "prompts.csv").write_text("text\n" + "\n".join(f"thing {i}" for i in range(500)))
    here = {"../photos": f"{tmp_path}/photos", "~/photos": f"{tmp_path}/photos", "4be5…": SHA}
    here["file: prompts.csv"] = f"file: {tmp_path}/prompts.csv"
    blocks = []
    for block in re.findall(r"```yaml\n(.+?)```", page, re.DOTALL):
        for ours, theirs in here.items():
            block = block.replace(ours, theirs)
        (tmp_path / "block.yaml").write_text(block)
        blocks.append(read_yaml(tmp_path / "block.yaml")[0])
    Image.new("RGB", (80, 72)).save(tmp_path / "photos/a.png")
    (tmp_path / "photos/metadata.csv").write_text("file_name,text\na.png,a thing\n")
    (tmp_path / "photos/train-0.parquet").write_bytes(b"")
    return blocks


@pytest.mark.parametrize("source", ["parquet", "imagefolder", "hub"])
def test_the_entries_of_the_page_make_a_study_that_can_be_planned(root, entries, page, write_params, source):
    params, _ = read_yaml(root / "workflow/studies/fruits.yaml")
    data = [block["datasets"] for block in entries if "datasets" in block]
    params["datasets"] = next(found for found in data if found["mine"]["source"] == source)
    for block in entries:
        for table in ("bases", "extractors"):
            params[table] = block.get(table, params[table])
        params["sampling"] |= block.get("sampling", {})
    params["pairs"] = {name: row | {"negative": "blurry"} for name, row in params["pairs"].items()}
    path = write_params(dump_params(params))
    study = config.load(path)
    assert study.bases["own"].dataset == "mine"
    assert study.datasets["mine"].source == source
    assert study.extractors["SqueezeNet"].kind == "squeezenet"
    shell = "".join(re.findall(r"```sh\n(.+?)```", page, re.DOTALL))
    plan, run, show, *_ = (line.partition("#")[0].strip() for line in shell.splitlines() if line)
    assert run == f"make study STUDY={plan.removeprefix('perflow plan ')}"
    assert config.places.home(root / plan.split()[-1], root) == root / "studies/mine"
    assert show == "perflow show studies/mine/data/mine-base/manifest.json"
    assert "mine-base" in study.splits
    program, verb, _ = shlex.split(plan)
    done = CliRunner().invoke(main, [verb, str(path)])
    assert (program, done.exit_code) == ("perflow", 0)
    assert "mine-reference" in done.output


def test_images_are_put_into_a_parquet_file_as_the_page_says(tmp_path):
    import datasets
    from datasets.table import embed_table_storage

    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "a.png")
    ds = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]}).cast_column("image", datasets.Image())
    ds.to_parquet(tmp_path / "paths.parquet")
    assert list(ParquetTable((tmp_path / "paths.parquet",), "image").images([0])) == [None]
    ds.with_format("arrow").map(embed_table_storage, batched=True).to_parquet(tmp_path / "whole.parquet")
    assert list(ParquetTable((tmp_path / "whole.parquet",), "image").images([0])) == [(tmp_path / "a.png").read_bytes()]
