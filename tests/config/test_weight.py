"""A plan counts in the embedded base's seconds; how much heavier another network is, is held to its operations."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perflow import artifacts, config
from perflow.config import rows, sizes, weight
from perflow.config.plan import _seconds
from perflow.models.stable_diffusion import NewStableDiffusion

SHAPES = [([16, 32], 1, 1, 16), ([64, 128], 1, 1, 32), ([96, 160, 224], 2, 2, 32), ([32, 64, 128], 1, 1, 64)]


def operations(row, resolution, folder):
    """FLOP of a call of the network, by PyTorch's counter."""
    unet = NewStableDiffusion(row, resolution, ["a"], folder, 0).unet
    side = unet.config.sample_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(torch.zeros(1, 4, side, side), torch.tensor([0]), torch.zeros(1, row.text.length, row.text.width))
    return counter.get_total_flops()


def test_operations_go_as_they_are_counted(tiny_params, write_params, tmp_path):
    optim = rows.Optim(steps=1, batch=1, lr=1e-3)
    found = []
    for channels, layers, attention, resolution in SHAPES:
        tiny_params["bases"]["eps"] |= {"channels": channels, "layers": layers, "attention": attention}
        tiny_params["datasets"]["digits"]["resolution"] = resolution
        study = config.load(write_params(tiny_params))
        counted = operations(study.bases["eps"].model_copy(update={"words": optim}), resolution, tmp_path / "tokens")
        found.append(((weight.network(study, "eps") - 2 / 3) * 3, counted))
    assert found[0][0] == pytest.approx(1)  # the embedded base itself
    for said, counted in found[1:]:
        assert said == pytest.approx(counted / found[0][1], rel=0.35)


def test_a_plan_follows_the_network_and_says_where_it_cannot(tiny_params, write_params, tmp_path):
    def planned():
        study = config.load(write_params(tiny_params))
        return _seconds(study, "students", "eps-perflow-k2-s0")[0], config.plan(study)

    small, text = planned()
    assert "unknown shape" not in text
    source = tmp_path / "checkpoint"
    tiny_params["bases"]["eps"] = {
        "family": "stable_diffusion", "dataset": "digits", "source": {"folder": str(source)},
    }  # fmt: skip
    unknown, text = planned()
    assert "eps: of unknown shape, counted as the small embedded base" in text
    artifacts.write_json(
        source / "unet/config.json", {"block_out_channels": [320, 640], "layers_per_block": 2, "sample_size": 16}
    )
    known, text = planned()
    assert "unknown shape" not in text
    assert small < unknown < known / 10


def looking(params, tmp_path, **more):
    """Two students that differ in whether their loss looks, by a program of the user's."""
    program = tmp_path / "lpips.pt"
    program.write_bytes(b"")
    params["extractors"]["judge"] = {"kind": "lpips", "weights": str(program), "sha256": "0" * 64}
    common = {
        "label": "a", "pairs": "fixed", "windows": 1, "path": "straight", "prediction": "ddim_eps", "bases": ["eps"],
        "trials": {"solvers": ["window"], "steps": [1], "guidance": 1.0}, **more,
    }  # fmt: skip
    method = {"name": "distill", "perceptual": "judge"}
    params["students"] = {"plain": common | {"method": "distill"}, "looking": common | {"method": method}}


def test_a_loss_that_looks_is_planned_by_its_items_and_its_autoencoder(tiny_params, write_params, tmp_path):
    looking(tiny_params, tmp_path)

    def more(**training):
        """Seconds that looking adds."""
        tiny_params["training"] |= training
        study = config.load(write_params(tiny_params))
        plain, looks = (_seconds(study, "students", f"eps-{entry}-k1-s0")[0] for entry in ("plain", "looking"))
        return looks - plain

    first = more(steps=20, batch=16)
    assert first > 0
    assert more(steps=60) == pytest.approx(3 * first)
    assert more(batch=32) == pytest.approx(6 * first)
    tiny_params["bases"]["eps"]["channels"] = [64, 128]
    assert more() == pytest.approx(6 * first)
    tiny_params["bases"]["eps"]["autoencoder_channels"] = [64, 128]
    assert more() > 6 * first
    assert "judge: programs of unknown size, counted as SqueezeNet" in config.plan(
        config.load(write_params(tiny_params))
    )


def test_a_loss_that_looks_at_a_large_base_decodes_twice_and_back_in_fp32(tiny_params, write_params, tmp_path):
    looking(tiny_params, tmp_path, training={**tiny_params["training"], "precision": "bf16"})
    tiny_params["datasets"]["digits"]["resolution"] = 512
    source = {"hub": "some/base", "revision": "0" * 40}
    tiny_params["bases"] = {"eps": {"family": "stable_diffusion", "dataset": "digits", "source": source}}
    study = config.load(write_params(tiny_params))

    def hours(entry, tflops=None):
        return sizes.gpu_hours(study, "students", f"eps-{entry}-k1-s0", 0, tflops)

    items = study.students["eps-looking-k1-s0"].training.steps * 16
    assert hours("looking", 100.0) - hours("plain", 100.0) == pytest.approx(items * 3 * 2.5145 / 100 / 3600)
    assert hours("plain") == pytest.approx(items * 3 * 0.8033 / sizes.ASSUMED["bf16"] / 3600)
    assert hours("looking") - hours("plain") == pytest.approx(items * 3 * 2.5145 / sizes.ASSUMED["no"] / 3600)
    assert "networks by which a loss looks" in config.plan(study)
