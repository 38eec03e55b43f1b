"""A fine-tune, an adapter and a setting join a study that is made: only what is new runs, and it reaches the table."""

import csv

BASES = """  outlined:
    fine_tune: eps
    dataset: digits
    network: {steps: 2, batch: 8, lr: 1e-3}
  halfway: {scaled: outlined, scale: 0.5}
  v:
"""
SETTINGS = """adapters:
  style: {kind: lora, base: eps, rank: 2, training: {steps: 2, batch: 8, lr: 1e-3}}

settings:
  tuned: {label: on a fine-tune, bases: [halfway], students: [perflow]}
  lora: {label: with a LoRA, bases: [eps], adapter: style, students: [perflow]}

baselines:"""


def test_settings_are_rows_of_the_rules(repository):
    repository.moved()
    repository.edit("workflow/studies/tiny.yaml", "  v:\n", BASES)
    repository.edit("workflow/studies/tiny.yaml", "baselines:", SETTINGS)
    planned = repository.planned()
    deltas = [f"{scene}.eps-perflow-k{windows}-s0" for scene in ("lora-eps", "tuned-halfway") for windows in (1, 2)]
    assert planned["base"] == ["halfway", "outlined"]
    assert planned["adapt"] == ["style"]
    assert planned["transfer"] == sorted([*deltas, "lora-eps.eps"])
    assert planned["evaluate"] == sorted([*planned["transfer"], "halfway", "outlined"])
    assert not planned.keys() & {"fetch", "cache", "train", "export", "extractor"}
    repository.run("results/tables/compatibility.csv")
    with open(repository.home / "results/tables/compatibility.csv") as file:
        lines = list(csv.DictReader(file))
    assert {(line["scene"], line["role"]) for line in lines} == {
        (scene, role) for scene in ("lora-eps", "tuned-halfway") for role in ("teacher", "base", "delta")
    }
    assert {line["scale"] for line in lines if line["setting"] == "tuned"} == {"0.5"}
    assert all(line["verdict"] for line in lines if line["role"] == "delta" and line["steps"] == "2")
    assert "transfer" not in repository.planned()
