"""A plan counts in the embedded base's seconds; how much heavier another network is, is held to its operations."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perflow import artifacts, config
from perflow.config import rows, weight
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
