"""A pretrained base goes through the same rule, and an edited checkpoint is taken again."""

import json
import shutil

TAKEN = """  taken:
    family: stable_diffusion
    dataset: digits
    source: {folder: checkpoint}
  v:
"""


def test_a_pretrained_base_is_prepared_and_nothing_else_is_made_again(repository):
    repository.moved()
    shutil.copytree(repository.home / "results/bases/eps/pipeline", repository.root / "checkpoint")
    repository.edit("workflow/studies/tiny.yaml", "  v:\n", TAKEN)
    planned = repository.planned()
    assert planned["base"] == planned["sample"] == ["taken"]
    assert not planned.keys() & {"fetch", "train", "cache", "extractor"}
    repository.run("results/bases/taken/model.json")
    files = [repository.home / f"results/bases/{name}/model.json" for name in ("eps", "taken")]
    assert len({json.loads(file.read_text())["sha256"] for file in files}) == 1
    assert "base" not in repository.planned()

    scheduler = repository.root / "checkpoint/scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"steps_offset": 1', '"steps_offset": 0'))
    assert repository.planned()["base"] == ["taken"]
