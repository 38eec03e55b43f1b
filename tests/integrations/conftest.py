"""A random StableDiffusionPipeline small enough to run in a blink."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

torch.set_num_threads(1)

LETTERS = "abcd"  # the whole language: one-letter words need no merges


@pytest.fixture(scope="session")
def parts():
    """The networks and the tokenizer of a tiny pipeline, as keyword arguments."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    # transformers reads vocab= and merges= (it ignores the older vocab_file= and merges_file=)
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}</w>" for letter in LETTERS)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=8)
    assert tokenizer("a b")["input_ids"] == [0, 2, 3, 1]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8,
                bos_token_id=0,
                eos_token_id=1,
            )
        )
    return {
        "unet": unet.eval(),
        "vae": vae.eval(),
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@pytest.fixture
def pipeline(parts):
    """Build a pipeline, with a UNet of its own, around a scheduler."""
    from diffusers import StableDiffusionPipeline

    def build(scheduler, kind=StableDiffusionPipeline, **more):
        pipe = kind(**parts | {"unet": copy.deepcopy(parts["unet"])} | more, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class OnDisk(NamedTuple):
    """A base's folder, a student's delta of it, and what the delta's header says."""

    base: Path
    delta: Path
    header: dict


@pytest.fixture
def on_disk(pipeline, tmp_path):
    """Write a base as a pipeline folder and a student's delta of it; keywords change the header."""
    from diffusers import DDIMScheduler

    from perflow import artifacts
    from perflow.delta import identity

    def write(**said):
        pipe = pipeline(DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
        pipe.save_pretrained(tmp_path / "base")
        base = pipe.unet.state_dict()
        random = torch.Generator().manual_seed(3)
        change = {key: 0.1 * value * torch.randn(value.shape, generator=random) for key, value in base.items()}
        header = {
            "base": {"name": "tiny", "origin": None, "sha256": identity(base)}, "student": "tiny-student",
            "edges": [1, 0.75, 0.5, 0.25, 0], "path": "diffusion", "prediction": "ddim_eps",
            "base_prediction": "epsilon", "timestep_offset": -1, "guidance": 1.0,
            "sha256": artifacts.tensor_hash(change),
        }  # fmt: skip
        artifacts.write_tensors(tmp_path / "delta.safetensors", change, header | said)
        return OnDisk(tmp_path / "base", tmp_path / "delta.safetensors", header | said)

    return write


def draw(pipe, steps=4, guidance=1.0):
    """Images fp32 [1, H, W, 3] of a fixed noise."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    call = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "np"}
    call["generator"] = torch.Generator().manual_seed(1)  # of schedulers that add noise
    return torch.from_numpy(pipe("a b", latents=noise, **call).images)
