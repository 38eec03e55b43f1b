"""Stable-Diffusion-shaped bases: a CLIP text model, a KL autoencoder, a conditional UNet.

A base is a diffusers ``StableDiffusionPipeline`` folder, read part by part so that a training loads no
text model. Latents are ``(autoencoder mean) * scaling_factor``; images are uint8 [N, H, W, 3].
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.core.chunks import chunked
from perflow.core.guidance import TOLD
from perflow.core.schedule import Schedule
from perflow.errors import PerflowError
from perflow.models import embedding, prediction_type
from perflow.models import folder as pipeline_folder
from perflow.models.parts import Parts

if TYPE_CHECKING:
    from perflow.config.rows import Base


class StableDiffusion(Parts):
    """A ``StableDiffusionPipeline`` folder; its condition is ``text`` [N, L, D].

    PerflowError for a network that is told its guidance: students are, no base is.
    """

    def __init__(self, *where: Any):
        super().__init__(*where)
        if (size := self._config("unet").get(embedding.OPTION)) is not None:
            raise PerflowError(
                f"{self.folder}: its network is told its guidance ({embedding.OPTION} {size}), as a student's may be;"
                " a base is guided by two evaluations"
            )

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
        from transformers import CLIPTextModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        return self._tokenizer("tokenizer"), self._load(CLIPTextModel, "text_encoder")

    def _tokenizer(self, part: str) -> Any:
        """A tokenizer by the class that the pipeline names; another may read its files, and take all words for none."""
        import transformers

        library, name = pipeline_folder.parts(pipeline_folder.index(self.folder)).get(part, ["", ""])
        kind = getattr(transformers, name, None) if library == "transformers" else None
        if kind is None:
            raise PerflowError(f"{self.folder}: its {part} '{library} {name}' is none of transformers")
        return self._read(kind, part)

    @property
    def resolution(self) -> int:
        """Side of an image in pixels, read from the parts' configurations; nothing is loaded."""
        return max(self.latent_shape[1:]) * self._factor

    @property
    def _factor(self) -> int:
        """Pixels along a side of the image for one along a side of the latents."""
        return 2 ** (len(self._config("vae", block_out_channels=list)["block_out_channels"]) - 1)

    def network(self, unet: nn.Module | None = None) -> Any:
        """``network(x, timestep, condition) -> raw output`` of ``unet`` (default: the base's)."""
        unet = self.unet if unet is None else unet
        return lambda x, timestep, condition: unet(
            x, timestep, condition["text"], timestep_cond=condition.get(TOLD), return_dict=False
        )[0]

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Tensor:
        """Images uint8 [N, H, W, 3] -> latents fp32 [N, C, h, w] (the mean of the autoencoder)."""
        shift, scale = self._latent_scale
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)

        def mean(part: Tensor) -> Tensor:
            x = part.to(self.device).float() / 127.5 - 1
            return (self.autoencoder.encode(x).latent_dist.mean - shift) * scale

        return chunked(mean, self.chunk, pixels)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents [N, C, h, w] -> images uint8 [N, H, W, 3], rounded as diffusers rounds them."""
        return to_images(chunked(self.pixels, self.chunk, latents))

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> what they show, [B, 3, H, W] around [-1, 1]; a gradient passes."""
        shift, scale = self._latent_scale
        return self.autoencoder.decode(latents.to(self.device) / scale + shift, return_dict=False)[0]

    @property
    def _latent_scale(self) -> tuple[Any, Any]:
        """Shift and scale of latents: (autoencoder mean - shift) * scale."""
        return 0, self.autoencoder.config.scaling_factor

    @torch.inference_mode()
    def embed(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions -> conditions: ``text`` fp32 [N, L, D], the last hidden state of the text model."""
        return self.condition(self.tokens(captions))

    def tokens(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions -> ``tokens`` int32 [N, L], padded and cut to the text model's length."""
        return {"tokens": token_ids(self.text[0], captions).int()}

    @torch.no_grad()
    def condition(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows [B, ...] of conditions as they are; rows of tokens -> the conditions that ``embed`` gives, to the last
        bit: the text model reads them in its own chunks, in fp32, whatever B is and wherever they are asked for."""
        if "tokens" not in rows:
            return rows
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return self._understood(rows)

    def _understood(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        model = self.text[1]
        return chunked(lambda ids: {"text": model(self._ids(ids))[0]}, self.chunk, rows["tokens"])

    def _ids(self, tokens: Tensor) -> Tensor:
        return tokens.to(self.device).long()


def to_images(pixels: Tensor) -> np.ndarray:
    """Pixels [N, 3, H, W] around [-1, 1] -> uint8 [N, H, W, 3], rounded as diffusers rounds them."""
    image = (pixels / 2 + 0.5).clamp(0, 1)
    return (image.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


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
            blocks, levels, reading = len(row.autoencoder_channels), len(row.channels), row.attention
            heads = [max(1, width // 32) for width in row.channels]
            self.autoencoder = AutoencoderKL(
                sample_size=resolution, latent_channels=4, block_out_channels=tuple(row.autoencoder_channels),
                down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
                layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
            )  # fmt: skip
            self.unet = UNet2DConditionModel(
                sample_size=resolution // 2 ** (blocks - 1), in_channels=4, out_channels=4, layers_per_block=row.layers,
                block_out_channels=tuple(row.channels), norm_num_groups=8,
                attention_head_dim=heads[-1] if reading == 1 else tuple(heads),  # diffusers' name for their number
                cross_attention_dim=row.text.width,
                down_block_types=("DownBlock2D",) * (levels - reading) + ("CrossAttnDownBlock2D",) * reading,
                up_block_types=("CrossAttnUpBlock2D",) * reading + ("UpBlock2D",) * (levels - reading),
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
    """A CLIPTokenizer with one token a word, made by writing its two files; checked word by word.

    A word is what CLIP's tokenizer cuts a caption into, in letters that stand for the bytes of its text.
    """
    from transformers import CLIPTokenizer

    special = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    cutter = CLIPTokenizer(vocab=special, merges=[]).backend_tokenizer
    cut = {
        word: [part for part, _ in cutter.pre_tokenizer.pre_tokenize_str(cutter.normalizer.normalize_str(word))]
        for word in words
    }
    parts = [part for word in words for part in cut[word]]
    merges: dict[tuple[str, str], int] = {}
    for part in sorted(set(parts)):
        letters = [*part[:-1], part[-1] + "</w>"]
        while len(pieces := _merged(letters, merges)) > 1:
            # a new merge ranks last, so it changes no word that is one token already
            merges[pieces[0], pieces[1]] = len(merges)
    vocabulary = dict(special)
    for token in [letter for part in parts for letter in (*part, part[-1] + "</w>")] + [a + b for a, b in merges]:
        vocabulary.setdefault(token, len(vocabulary))
    artifacts.remove_folder(folder)  # what an interrupted run saved there would be read along
    folder.mkdir(parents=True)
    artifacts.write_json(folder / "vocab.json", vocabulary)
    artifacts.write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    artifacts.write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": length, "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    })  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    for word in words:
        if len(tokenizer(word).input_ids) != 2 + len(cut[word]):
            raise PerflowError(f"tokenizer: '{word}' is not one token")
    return tokenizer


def _merged(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: join the neighbours of the lowest rank until none can be joined."""
    while True:
        pairs = enumerate(zip(pieces, pieces[1:], strict=False))
        ranked = [(ranks[pair], i) for i, pair in pairs if pair in ranks]
        if not ranked:
            return pieces
        _, i = min(ranked)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]
