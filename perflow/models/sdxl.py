"""Bases in the shape of Stable Diffusion XL: two text models, and a network that is also told sizes.

The condition is what ``StableDiffusionXLPipeline`` gives its UNet: ``text`` [N, L, D1 + D2], the states of both text
models before their last layer; ``pooled`` [N, P], the second one's projection; ``sizes`` [N, 6], height and width
before cropping, top and left of the crop, height and width aimed at (arXiv 2307.01952, section 2.2).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.core.chunks import chunked
from perflow.core.guidance import TOLD
from perflow.errors import PerflowError
from perflow.models.folder import INDEX
from perflow.models.stable_diffusion import StableDiffusion, token_ids

_SIZES = 6


class SDXL(StableDiffusion):
    """A ``StableDiffusionXLPipeline`` folder.

    The autoencoder is kept in fp32, as every part is: the published one overflows in half precision, which its
    ``force_upcast`` says. PerflowError for a network that is told other things, such as the refiner.
    """

    def __init__(self, *where: Any):
        super().__init__(*where)
        unet = self._config("unet", addition_embed_type=str, addition_time_embed_dim=int,
                            projection_class_embeddings_input_dim=int)  # fmt: skip
        pooled = self._config("text_encoder_2", projection_dim=int)["projection_dim"]
        takes = unet["projection_class_embeddings_input_dim"]
        if (unet["addition_embed_type"], takes) != ("text_time", pooled + _SIZES * unet["addition_time_embed_dim"]):
            raise PerflowError(f"{self.folder}: its network is not told {_SIZES} sizes, as SDXL's is (a refiner?)")

    @cached_property
    def text_2(self) -> tuple[Any, nn.Module]:
        """The second tokenizer and text model."""
        from transformers import CLIPTextModelWithProjection

        return self._tokenizer("tokenizer_2"), self._load(CLIPTextModelWithProjection, "text_encoder_2")

    def network(self, unet: nn.Module | None = None) -> Any:
        """``network(x, timestep, condition) -> raw output`` of ``unet`` (default: the base's)."""
        unet = self.unet if unet is None else unet

        def says(x: Tensor, timestep: Tensor, condition: dict[str, Tensor]) -> Tensor:
            added = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"]}
            told = condition.get(TOLD)
            return unet(x, timestep, condition["text"], timestep_cond=told, added_cond_kwargs=added, return_dict=False)[
                0
            ]

        return says

    def tokens(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions -> ``tokens`` and ``tokens_2`` int32 [N, L], and which of them are ``empty`` [N]."""
        second = token_ids(self.text_2[0], captions).int()
        return super().tokens(captions) | {"tokens_2": second, "empty": torch.tensor([not text for text in captions])}

    def _understood(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Conditions, fp32. The empty one is what guidance starts from: zeros where the pipeline's
        ``force_zeros_for_empty_prompt`` says so. Sizes are those of a whole image of the base's resolution."""
        found = chunked(self._read_text, self.chunk, rows["tokens"], rows["tokens_2"])
        if artifacts.read_object(self.folder / INDEX, "a pipeline's index").get("force_zeros_for_empty_prompt", True):
            empty = rows["empty"].to(self.device)
            found = {
                name: value.masked_fill(empty.reshape(-1, *[1] * (value.ndim - 1)), 0) for name, value in found.items()
            }
        height, width = (side * self._factor for side in self.latent_shape[1:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=self.device)
        return found | {"sizes": sizes.repeat(len(rows["tokens"]), 1)}

    def _read_text(self, *ids: Tensor) -> dict[str, Tensor]:
        states, pooled = [], None
        for (_, model), part in zip((self.text, self.text_2), ids, strict=True):
            said = model(self._ids(part), output_hidden_states=True)
            states.append(said.hidden_states[-2])
            pooled = said[0]
        return {"text": torch.cat(states, dim=-1), "pooled": pooled}

    @property
    def _latent_scale(self) -> tuple[Any, Any]:
        config, scale = self.autoencoder.config, self.autoencoder.config.scaling_factor
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return 0, scale
        mean, std = (
            torch.tensor(config[name], device=self.device).reshape(1, -1, 1, 1)
            for name in ("latents_mean", "latents_std")
        )
        return mean, scale / std
