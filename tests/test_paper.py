"""The paper's study: what its plan says, and all of it from sources to tables on tiny stand-ins of the same classes."""

import contextlib
import csv
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from perflow import artifacts, cli, config, report, tracking
from perflow.config import TABLES, places, sizes
from perflow.config.load import read_yaml
from perflow.errors import PerflowError
from perflow.models import sources
from perflow.report import comparable
from tests.conftest import dump_params
from tests.stand_ins import stand_in


@pytest.fixture(scope="module")
def paper(root):
    """The study as its file has it."""
    return config.load(root / "workflow/studies/paper.yaml")


def wiring(study, table, name):
    """The verb, the output and the inputs of a row, as the rules wire them."""
    row, results = getattr(study, table)[name], "results"

    def handle(model):
        return f"{results}/{'bases' if model in study.bases else 'students'}/{model}/model.json"

    def data(dataset, split):
        return f"data/{dataset}-{split}/manifest.json"

    def latents(base, dataset):
        return f"{results}/latents/{config.latents_row(study.bases, base, dataset)}/manifest.json"

    def drawn(of):
        return f"{results}/{'transfers' if of in study.transfers else 'samples'}/{of}/manifest.json"

    match table:
        case "splits":
            return "fetch", f"data/{name}/manifest.json", {}
        case "prompts":
            return "prompts", f"{results}/prompts/{name}/manifest.json", {}
        case "bases":
            return "prepare", handle(name), {"dataset": data(row.dataset, "base")}
        case "extractors":
            return (
                "extractor",
                f"{results}/extractors/{name}/extractor.safetensors",
                {"source": str(config.weights(row, Path()))},
            )
        case "latents":
            made_of = {"model": handle(row.base), "dataset": data(row.dataset, "base")}
            return "encode", f"{results}/latents/{name}/manifest.json", made_of
        case "adapters":
            made_of = {"base": handle(row.base), "latents": latents(row.base, row.dataset)}
            made_of |= {"dataset": data(row.dataset, "base")} if row.kind == "controlnet" else {}
            return "adapt", f"{results}/adapters/{name}/adapter.json", made_of
        case "pairs":
            made_of = {"teacher": handle(row.base), "latents": latents(row.base, row.dataset)}
            return "cache", f"{results}/pairs/{name}/manifest.json", made_of
        case "students":
            pairs = {"pairs": f"{results}/pairs/{row.pairs}/manifest.json"} if row.pairs else {}
            verb = "take" if row.source else "train"
            return verb, f"{results}/students/{name}/ema.safetensors", {"start": handle(row.base)} | pairs
        case "deltas":
            made_of = {"student-spec": f"{results}/specs/students/{name}.json", "base": handle(row.base)}
            made_of |= {"weights": f"{results}/students/{name}/ema.safetensors"}
            return "export", f"{results}/students/{name}/delta.safetensors", made_of
        case "samples":
            made_of = {"model": handle(name), "teacher": handle(row.base)}
            return "sample", drawn(name), made_of | {"prompts": f"{results}/prompts/{row.prompts}/manifest.json"}
        case "transfers":
            made_of = {"base": handle(row.base), "model": handle(row.model)}
            made_of |= {"prompts": f"{results}/prompts/{row.prompts}/manifest.json"}
            made_of |= {"dataset": data(row.dataset, row.split)} if row.shows else {}
            made_of |= {"adapter": f"{results}/adapters/{row.adapter}/adapter.json"} if row.adapter else {}
            return "transfer", drawn(name), made_of
    made_of = {"samples": drawn(name), "teacher": drawn(row.base), "dataset": data(row.dataset, row.split)}
    made_of |= {
        kind: f"{results}/extractors/{name}/extractor.safetensors"
        for kind, name in (("extractor", row.extractor), ("clip", row.clip))
    }
    return "evaluate", f"{results}/metrics/{name}.json", made_of


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """The study on stand-ins, made whole by the verbs; returns it and its home."""
    home = tmp_path_factory.mktemp("paper")
    params = stand_in(read_yaml(root / "workflow/studies/paper.yaml")[0], home / "sources")
    (home / "params.yaml").write_text(dump_params(params))
    study = config.load(home / "params.yaml")
    with contextlib.chdir(home):
        config.write_specs(study)
        for table in TABLES:
            for name in getattr(study, table):
                verb, out, made_of = wiring(study, table, name)
                inputs = [part for key, value in made_of.items() for part in (f"--{key}", value)]
                spec = f"results/specs/{table}/{name}.json"
                cli.main([verb, "--spec", spec, "--out", out, "--device", "cpu", *inputs], standalone_mode=False)
        report.collect(places.SUMMARY, "results", root / "workflow/report/published.json")
        tracking.write_ids(places.SUMMARY, "results")
    return study, home


def table(home, name):
    with open(home / f"results/tables/{name}.csv") as file:
        return list(csv.DictReader(file))


def test_the_whole_study_reaches_its_tables(made, paper):
    """Every trial of every row that the real file plans has its numbers: the stand-ins changed sources and counts."""
    study, home = made
    for name in TABLES:
        assert list(getattr(study, name)) == list(getattr(paper, name))
    measured = {(row["model"], row["trial"]) for row in table(home, "rows")}
    assert measured == {(name, trial.name) for name, row in paper.samples.items() for trial in row.trials}
    elsewhere = {(row["setting"], row["model"], row["trial"]) for row in table(home, "compatibility")}
    planned = {(row.setting, row.model, trial.name) for row in paper.transfers.values() for trial in row.trials}
    assert planned <= elsewhere


def test_variety_is_measured_where_several_images_share_a_prompt_and_nowhere_else(made):
    study, home = made
    rows = [*table(home, "main"), *table(home, "compatibility")]
    several = {row["base"] for row in rows if row["metric"] in ("diversity", "vendi")}
    asked = study.params.sampling
    assert several == {name for name, row in study.bases.items() if asked.of(row.dataset).per_prompt > 1}
    assert several == {"sd15-figures", "dreamshaper"}


def test_what_others_taught_is_told_apart_from_what_was_taught_here(made):
    study, home = made
    for name, row in study.students.items():
        header = artifacts.read_header(home / f"results/students/{name}/delta.safetensors")
        taught = artifacts.read_header(home / f"results/students/{name}/ema.safetensors")["steps"]
        assert (header["timestep_offset"], taught) == ((0, 0) if row.source else (-1, 2)), name


def test_the_study_can_be_planned_and_is_refused_where_it_would_run(paper, tmp_path):
    plan = config.plan(paper)
    assert "bases.sd15.source.revision: unpinned; write the commit of stable-diffusion-v1-5/" in plan
    assert "extractors.inception.sha256: unpinned" in plan
    with pytest.raises(PerflowError, match="stable-diffusion-v1-5: no revision is chosen"):
        sources.take(paper.bases["sd15"].source, tmp_path / "into", tmp_path)
    assert "no file" in config.missing(paper, tmp_path)


@pytest.fixture
def read(made, root):
    """The report of the study on stand-ins, whose twin for COCO is said to be a base of the hub."""
    _, home = made
    with contextlib.chdir(home):
        data = report.load(places.SUMMARY, "results", root / "workflow/report/published.json")
    data.study["settings"]["bases"]["sd15-coco"]["source"] = {"hub": "runwayml/stable-diffusion-v1-5"}
    return data


def test_a_published_value_stands_beside_a_measured_one_of_the_same_base_data_and_features(read):
    found = comparable.pairs(read)
    assert {one["line"]["base"] for one in found} == {"sd15-coco"}
    rows = {(one["line"]["method"], one["line"]["steps"], one["published"]["value"]) for one in found}
    own = [("PeRFlow, K=4", 4, 11.31), ("PeRFlow, K=4", 8, 14.16), ("PeRFlow, K=4", 4, 18.59)]
    own += [(name.replace("PeRFlow", "PeRFlow, released weights"), *rest) for name, *rest in own]
    own += [(f"{name}, w=4.5", *rest) for name, *rest in own]
    assert rows == {
        *own, ("LCM-LoRA, released weights + LCM", 4, 23.62), ("InstaFlow 0.9B, released weights, K=1", 1, 13.10),
        ("DPM-Solver++(2M)", 4, 22.36), ("UniPC", 4, 19.57),
    }  # fmt: skip
    for one in found:
        assert one["line"]["metric"] == one["published"]["metric"] == "fd_real"
        assert one["difference"] == one["line"]["value"] - one["published"]["value"]
    assert "14.2" in comparable.beside(read)


@pytest.mark.parametrize(("place", "value"), [
    (("bases", "sd15-coco", "source"), {"hub": "somebody/stable-diffusion-v1-5"}),
    (("bases", "sd15-coco", "source"), {"folder": "runwayml/stable-diffusion-v1-5"}),
    (("datasets", "coco-512", "known_as"), None),
    (("datasets", "coco-512", "known_as"), "COCO-2017"),
    (("extractors", "inception", "kind"), "torchscript"),
])  # fmt: skip
def test_what_differs_in_base_data_or_features_is_never_mixed(read, place, value):
    *way, last = place
    settings = read.study["settings"]
    for name in way:
        settings = settings[name]
    settings[last] = value
    assert comparable.pairs(read) == []
    assert "none stands beside a measured number" in comparable.beside(read)


@pytest.mark.parametrize("key", list(sizes.SHAPES), ids=lambda key: f"{key[0]}-{key[1]}")
def test_operations_are_those_of_the_published_architecture(key):
    """Counted again, without weights, by PyTorch's flop counter; 860 M, 866 M and 2,567 M parameters are published."""
    shape = sizes.SHAPES[key]
    side, width = shape.unet["sample_size"], shape.unet["cross_attention_dim"]
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        unet = UNet2DConditionModel(**{"block_out_channels": (320, 640, 1280, 1280)} | shape.unet)
        told = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)} if key[0] == "sdxl" else None
        x, condition = torch.zeros(1, 4, side, side), torch.zeros(1, 77, width)
        unet(x, torch.zeros(1), condition, added_cond_kwargs=told)
    assert sum(value.numel() for value in unet.parameters()) == shape.parameters
    assert counter.get_total_flops() / 1e12 == pytest.approx(shape.evaluation, rel=1e-3)
    assert key[1] == 8 * side


def test_hours_follow_from_evaluations_and_a_stated_speed(paper, root):
    """409,600 pairs x 8 unguided evaluations x 0.8033 TFLOP; twice as fast a GPU takes half as long."""
    hours = sizes.gpu_hours(paper, "pairs", "sd15-sync-k4", 409600 * 8, tflops=100.0)
    assert hours == pytest.approx(409600 * 8 * 0.8033 / 100 / 3600)
    assert sizes.gpu_hours(paper, "pairs", "sd15-sync-k4", 409600 * 8, 200.0) == pytest.approx(hours / 2)
    trained = sizes.gpu_hours(paper, "students", "sd15-perflow-sd15-k4-s0", 0, tflops=100.0)
    assert trained == pytest.approx(4000 * 1024 * 3 * 0.8033 / 100 / 3600)
    assert sizes.gpu_hours(paper, "students", "sd15-lcm-lora-k50-s0", 0) is None
    assert "GPU h" not in config.plan(config.load(root / "params.yaml"))


def test_pairs_take_the_disk_of_two_latents_each_and_a_condition_a_caption(paper):
    def pairs(dataset, count, condition):
        side = paper.datasets[dataset].resolution // 8
        captions = paper.datasets[dataset].counts["base"]
        return 4 * (count * 2 * 4 * side * side + captions * condition)

    expected = pairs("laion-512", 409600, 77 * 768) + pairs("laion-768", 409600, 77 * 1024)
    expected += pairs("laion-1024", 204800, 77 * 2048 + 1280 + 6)
    assert sizes.disk(paper)["window pairs"] == expected


def test_what_a_source_says_of_its_size_is_planned_and_moves_no_row(tiny_params, write_params):
    source = {"hub": "some/base", "revision": "0" * 40}
    tiny_params["bases"]["eps"] = {"family": "stable_diffusion", "dataset": "digits", "source": source}
    plain = config.load(write_params(tiny_params))
    source["size"] = 3 * 2**30
    said = config.load(write_params(tiny_params))
    assert (sizes.downloads(plain), sizes.downloads(said)) == (
        {f"some/base@{'0' * 40}": None}, {f"some/base@{'0' * 40}": 3 * 2**30},
    )  # fmt: skip
    assert plain.spec("bases", "eps") == said.spec("bases", "eps")


def test_the_page_shows_the_plan_as_it_is_printed(paper, root):
    shown = (root / "docs/paper.md").read_text().split("<!-- plan -->\n```\n")[1].split("\n```\n<!-- /plan -->")[0]
    assert config.plan(paper).endswith(shown)
