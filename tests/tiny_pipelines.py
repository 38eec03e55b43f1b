"""Pipelines of the families that are not trained here, small enough to make and to run in a blink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def sdxl(folder: Path, words: list[str], vae: dict[str, Any] | None = None, **index: Any) -> Path:
    """A random ``StableDiffusionXLPipeline`` of 16 x 16 pixels, with the scheduler that SDXL is published with."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from perflow.models.stable_diffusion import word_tokenizer

    tokenizers = [word_tokenizer(words, 12, folder.with_name(f"{folder.name}-{name}")) for name in "ab"]
    tokenizers[1].pad_token = words[0] + "</w>"  # as SDXL's second tokenizer pads with a word
    common = {
        "vocab_size": len(tokenizers[0]), "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.13025,
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **vae or {},
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=16, **common)),
            text_encoder_2=CLIPTextModelWithProjection(
                CLIPTextConfig(hidden_size=24, projection_dim=12, hidden_act="gelu", **common)
            ),
            tokenizer=tokenizers[0], tokenizer_2=tokenizers[1],
            unet=UNet2DConditionModel(
                sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=40,
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
                addition_time_embed_dim=8, projection_class_embeddings_input_dim=12 + 6 * 8, use_linear_projection=True,
            ),
            scheduler=EulerDiscreteScheduler(**SD, timestep_spacing="leading", steps_offset=1),
            add_watermarker=False, **index,
        )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def sd2(folder: Path, words: list[str], prediction: str = "v_prediction") -> Path:
    """A random ``StableDiffusionPipeline`` of 16 x 16 pixels in the shape of Stable Diffusion 2."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from perflow.models.stable_diffusion import word_tokenizer

    tokenizer = word_tokenizer(words, 12, folder.with_name(f"{folder.name}-tokenizer"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            ),
            text_encoder=CLIPTextModel(CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=24, intermediate_size=16, num_hidden_layers=2, hidden_act="gelu",
                num_attention_heads=2, max_position_embeddings=12, bos_token_id=0, eos_token_id=1,
            )),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
                attention_head_dim=(1, 2), cross_attention_dim=24, use_linear_projection=True,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ),
            scheduler=DDIMScheduler(**SD, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False,
                                    steps_offset=1),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def pixel(folder: Path, classes: int | None = None, old: bool = False, **scheduler: Any) -> Path:
    """A random ``DDPMPipeline`` of 16 x 16 pixels; ``old``: flat and with the names of attention of google/ddpm-*."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=classes,
        )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler(**scheduler)).save_pretrained(folder)
    if old:
        weights = folder / "unet/diffusion_pytorch_model.safetensors"
        named = {}
        for key, value in load_file(weights).items():
            found = [(new, was) for new, was in _OLD.items() if new in key]
            named[key.replace(*found[0]) if found else key] = value
        assert any(".query." in key for key in named)
        save_file(named, folder / weights.name, metadata={"format": "pt"})
        weights.unlink()
        for name in ("unet/config.json", "scheduler/scheduler_config.json"):
            (folder / name).rename(folder / Path(name).name)
            (folder / name).parent.rmdir()
    return folder
