"""A network that is told its guidance: the embedding is diffusers', and a matrix of zeros says nothing."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from perflow.core.guidance import TOLD, embedding, guided, told
from perflow.errors import PerflowError

NULL = torch.randn(1, 4, 2)


@pytest.mark.parametrize("size", [4, 32, 256])
def test_the_embedding_is_diffusers(size):
    w = torch.tensor([0.0, 1.0, 2.5, 4.1, 7.5, 100.0], dtype=torch.float64)
    theirs = StableDiffusionPipeline.get_guidance_scale_embedding(None, (w - 1).float(), size)
    torch.testing.assert_close(embedding(w, size), theirs, rtol=0, atol=2e-6)


def test_guidances_of_a_range_are_told_apart():
    ours = embedding(torch.linspace(1, 15, 1000), 256)
    apart = torch.cdist(ours, ours) + 10 * torch.eye(1000)
    assert apart.min() > 0.1
    assert torch.equal(embedding(torch.tensor([1.0]), 6), torch.tensor([[0.0, 0, 0, 1, 1, 1]]))


def test_one_number_is_told_to_every_item_beside_what_it_is_told_anyway():
    condition = {"text": torch.randn(3, 4, 2)}
    found = told(condition, 4.5, 8)
    assert found["text"] is condition["text"]
    assert torch.equal(found[TOLD], told(condition, torch.full((3,), 4.5), 8)[TOLD])
    assert torch.equal(found[TOLD], embedding(torch.full((3,), 4.5), 8))
    assert set(condition) == {"text"}


def test_a_guidance_of_its_own_for_every_item_is_that_of_each_alone():
    def network(x, timestep, condition):
        return torch.sin(x + 0.01 * timestep[:, None] + condition.sum(1))

    x, timestep, condition = torch.randn(4, 2), torch.rand(4) * 999, torch.randn(4, 4, 2)
    w = torch.tensor([1.0, 2.0, 4.5, 7.5])
    each = guided(network, condition, NULL, w)(x, timestep)
    for i, one in enumerate(w.tolist()):
        alone = guided(network, condition[i : i + 1], NULL, one)(x[i : i + 1], timestep[i : i + 1])
        torch.testing.assert_close(each[i : i + 1], alone)
    with pytest.raises(PerflowError, match="needs a null condition"):
        guided(network, condition, None, w)


def test_an_untaught_matrix_leaves_the_network_as_it_is_at_every_guidance(tmp_path):
    from perflow.models.embedding import insert

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=8, cross_attention_dim=12, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    inputs = torch.randn(3, 4, 8, 8), torch.tensor([999.0, 500, 1]), torch.randn(3, 5, 12)
    state = torch.get_rng_state()
    with torch.no_grad():
        before = unet(*inputs).sample
        insert(unet, 16)
        for w in (1.0, 4.5, 15.0):
            assert torch.equal(unet(*inputs, timestep_cond=embedding(torch.full((3,), w), 16)).sample, before)
        assert unet.config.time_cond_proj_dim == 16
        unet.time_embedding.cond_proj.weight.add_(0.1)
        assert not torch.equal(unet(*inputs, timestep_cond=embedding(torch.full((3,), 4.5), 16)).sample, before)
    assert torch.equal(torch.get_rng_state(), state), "it drew global noise"
    unet.save_pretrained(tmp_path)
    wide = UNet2DConditionModel.from_pretrained(tmp_path).state_dict()
    assert torch.equal(wide["time_embedding.cond_proj.weight"], unet.time_embedding.cond_proj.weight)
