"""A low-rank student changes matrices by products of that rank, and nothing else; its LoRA file holds all of it."""

import pytest
import torch
from torch import nn

from perflow import artifacts, lora
from perflow.models import handle, low_rank
from tests.stages.conftest import grown, teach

RANK, STUDENT = 2, "eps-thin-k2-s0"


@pytest.fixture
def thin(tiny, tiny_params, write_params):
    tiny_params["students"] = {
        "thin": tiny_params["students"]["perflow"] | {"windows": 2, "rank": RANK, "label": "thin"}
    }
    study = grown(tiny, tiny_params, write_params)
    teach(study, STUDENT)
    return study


def test_the_delta_is_of_that_rank_and_the_lora_is_the_delta(thin):
    folder = thin.handle(STUDENT).parent
    change, header = artifacts.read_tensors(folder / "delta.safetensors")
    assert header["row"]["rank"] == RANK
    matrices = {name: value for name, value in change.items() if name.endswith(".weight") and value.ndim in (2, 4)}
    for name, value in change.items():
        if name not in matrices:
            assert not value.any(), name
    spectra = {name: torch.linalg.svdvals(value.double().flatten(1)) for name, value in matrices.items()}
    assert sum(float(s[0]) > 1e-5 for s in spectra.values()) > len(spectra) / 2  # it learnt
    for name, values in spectra.items():
        assert float(values[RANK:].sum()) < 1e-3 * float(values[0]) + 1e-5, name
    file = artifacts.read_json(thin.handle(STUDENT))["lora"]
    tensors, about = artifacts.read_tensors(artifacts.beside(thin.handle(STUDENT), file))
    assert about["lora"]["rank"] == RANK
    assert about["lora"]["relative_error"] < 1e-3
    module = next(name.removesuffix(".weight") for name in matrices if "to_q" in name)
    product = tensors[f"unet.{module}.lora_B.weight"] @ tensors[f"unet.{module}.lora_A.weight"]
    torch.testing.assert_close(product, change[f"{module}.weight"], rtol=1e-3, atol=1e-6)
    assert set(lora.diffusers_names(lora.cut(change, RANK)[0])) == set(tensors)


def test_base_and_delta_are_the_student(thin):
    weights = artifacts.read_tensors(thin.handle(STUDENT).with_name("ema.safetensors"))[0]
    loaded = handle.load(thin.handle(STUDENT)).unet.state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-5, atol=1e-6)


def test_a_network_starts_as_it_was_and_has_its_own_names_again():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(2, 3, 4, 4)
    said = network(x)
    low_rank.insert(network, 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), said)
    free = [name for name, value in network.named_parameters() if value.requires_grad]
    assert free
    assert all(name.endswith((".down", ".up")) for name in free)
    found = low_rank.merged(network)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)
