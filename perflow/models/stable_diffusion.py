"""Stable-Diffusion-shaped bases: a CLIP text model, a KL autoencoder, a conditional UNet.

A base is a diffusers ``StableDiffusionPipeline`` folder, read part by part so that a training loads no
text model. Latents are ``(autoencoder mean) * scaling_factor``; images are uint8 [N, H, W, 3].
"""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.core.chunks import chunked
from perflow.core.schedule import Schedule
from perflow.errors import PerflowError
from perflow.models import PREDICTION_TYPES, prediction_type

if TYPE_CHECKING:
    from perflow.config.rows import Base

_CHUNK = 128


class StableDiffusion:
    """A pipeline folder whose parts load on first use, in fp32 (weights) on ``device``."""

    def __init__(self, folder: str | Path, device: str = "cpu"):
        self.folder, self.device = Path(folder), device
        path = self.folder / "scheduler" / "scheduler_config.json"
        self.scheduler_config = artifacts.read_object(path, "a scheduler's configuration")
        kind = self.scheduler_config.get("prediction_type", "epsilon")
        if kind not in PREDICTION_TYPES:
            raise PerflowError(f"{self.folder}: prediction_type '{kind}' is not one of {', '.join(PREDICTION_TYPES)}")
        self.prediction = PREDICTION_TYPES[kind]

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule of the checkpoint, never an assumed one."""
        from diffusers import DDIMScheduler

        return Schedule(DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod.double())

    @cached_property
    def unet(self) -> nn.Module:
        """The network."""
        from diffusers import UNet2DConditionModel

        return self._load(UNet2DConditionModel, "unet")

    @cached_property
    def autoencoder(self) -> nn.Module:
        """The autoencoder."""
        from diffusers import AutoencoderKL

        return self._load(AutoencoderKL, "vae")

    @cached_property
    def text(self) -> tuple[Any, nn.Module]:
        """Tokenizer and text model."""
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        return self._read(CLIPTokenizer, "tokenizer"), self._load(CLIPTextModel, "text_encoder")

    def _load(self, kind: Any, part: str) -> nn.Module:
        model = self._read(kind, part, use_safetensors=True, torch_dtype=torch.float32)
        return model.to(self.device).eval().requires_grad_(False)

    def _read(self, kind: Any, part: str, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self.folder / part, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise PerflowError(f"{self.folder / part}: cannot be loaded as {kind.__name__} ({reason})") from None

    @property
    def resolution(self) -> int:
        """Side of an image in pixels, read from the parts' configurations; nothing is loaded."""
        what, unet, vae = "the configuration of this part", self.folder / "unet", self.folder / "vae"
        size = artifacts.read_object(unet / "config.json", what, sample_size=int | list)["sample_size"]
        levels = len(artifacts.read_object(vae / "config.json", what, block_out_channels=list)["block_out_channels"])
        return max(size if isinstance(size, list) else [size]) * 2 ** (levels - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[channels, height, width] of a latent."""
        config = self.unet.config
        size = config.sample_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return config.in_channels, height, width

    def network(self, unet: nn.Module | None = None) -> Any:
        """``network(x, timestep, condition) -> raw output`` of ``unet`` (default: the base's)."""
        unet = self.unet if unet is None else unet
        return lambda x, timestep, condition: unet(x, timestep, condition, return_dict=False)[0]

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Tensor:
        """Images uint8 [N, H, W, 3] -> latents fp32 [N, C, h, w] (the mean of the autoencoder)."""
        scale = self.autoencoder.config.scaling_factor
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)

        def mean(part: Tensor) -> Tensor:
            x = part.to(self.device).float() / 127.5 - 1
            return self.autoencoder.encode(x).latent_dist.mean * scale

        return chunked(mean, _CHUNK, pixels)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents [N, C, h, w] -> images uint8 [N, H, W, 3], rounded as diffusers rounds them."""
        scale = self.autoencoder.config.scaling_factor

        def pixels(part: Tensor) -> Tensor:
            return self.autoencoder.decode(part.to(self.device) / scale, return_dict=False)[0]

        image = (chunked(pixels, _CHUNK, latents) / 2 + 0.5).clamp(0, 1)
        return (image.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)

    @torch.inference_mode()
    def embed(self, captions: list[str]) -> Tensor:
        """Captions -> conditions fp32 [N, L, D]: the last hidden state of the text model."""
        tokenizer, model = self.text
        return chunked(lambda ids: model(ids.to(self.device))[0], _CHUNK, token_ids(tokenizer, captions))


def token_ids(tokenizer: Any, captions: list[str]) -> Tensor:
    """Token ids [N, L], padded and cut to the model's length."""
    return tokenizer(
        captions, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


class NewStableDiffusion:
    """Untrained parts of an embedded base, and how they are saved as a pipeline folder."""

    def __init__(self, row: Base, resolution: int, words: list[str], folder: Path, seed: int):
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        self.tokenizer = word_tokenizer(words, row.text.length, folder / "tokenizer")
        self.scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing",
            prediction_type=prediction_type(row.prediction),
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.text_model = CLIPTextModel(CLIPTextConfig(
                vocab_size=len(self.tokenizer), hidden_size=row.text.width, intermediate_size=4 * row.text.width,
                num_hidden_layers=row.text.layers, num_attention_heads=row.text.heads,
                max_position_embeddings=row.text.length, bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id,
            ))  # fmt: skip
            # CLIP's own initial scale (0.02) leaves a text model this small deaf to its words.
            nn.init.normal_(self.text_model.get_input_embeddings().weight, std=1.0)
            blocks = len(row.autoencoder_channels)
            self.autoencoder = AutoencoderKL(
                sample_size=resolution, latent_channels=4, block_out_channels=tuple(row.autoencoder_channels),
                down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
                layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
            )  # fmt: skip
            self.unet = UNet2DConditionModel(
                sample_size=resolution // 2 ** (blocks - 1), in_channels=4, out_channels=4, layers_per_block=1,
                block_out_channels=tuple(row.channels), norm_num_groups=8,
                attention_head_dim=max(1, row.channels[-1] // 32),  # diffusers' name for the number of heads
                cross_attention_dim=row.text.width,
                down_block_types=("DownBlock2D",) * (len(row.channels) - 1) + ("CrossAttnDownBlock2D",),
                up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (len(row.channels) - 1),
            )  # fmt: skip
        self.schedule = Schedule(self.scheduler.alphas_cumprod.double())

    def save(self, folder: Path) -> None:
        """Write the ``StableDiffusionPipeline`` folder (safetensors)."""
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline(
            vae=self.autoencoder, text_encoder=self.text_model, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=self.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        with artifacts.writing(folder):
            pipeline.save_pretrained(folder, safe_serialization=True)


def word_tokenizer(words: list[str], length: int, folder: Path) -> Any:
    """A CLIPTokenizer with one token a word, made by writing its two files; checked word by word."""
    from transformers import CLIPTokenizer

    merges: list[tuple[str, str]] = []
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for word in sorted(set(words)):
        pieces = _merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:  # a new merge ranks last, so it changes no word that is one token already
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    for token in [letter for word in words for letter in (*word, word[-1] + "</w>")] + [a + b for a, b in merges]:
        vocabulary.setdefault(token, len(vocabulary))
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run saved there would be read along
    folder.mkdir(parents=True)
    artifacts.write_json(folder / "vocab.json", vocabulary)
    artifacts.write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    artifacts.write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": length, "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    })  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    for word in words:
        if len(tokenizer(word).input_ids) != 3:
            raise PerflowError(f"tokenizer: '{word}' is not one token")
    return tokenizer


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: join the neighbours of the lowest rank until none can be joined."""
    while True:
        ranked = [
            (merges.index(pair), i) for i, pair in enumerate(zip(pieces, pieces[1:], strict=False)) if pair in merges
        ]
        if not ranked:
            return pieces
        _, i = min(ranked)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
