"""base: train an embedded base from scratch and save it as a real diffusers pipeline folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Base
from perflow.core.denoising import denoising_error, noised
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.loop import Loop, Step
from perflow.models.handle import base_handle
from perflow.models.stable_diffusion import NewStableDiffusion, StableDiffusion, token_ids

_KL = 1e-3
"""Weight of the autoencoder's KL term; the images' squared error has weight 1."""


def base(spec: Spec, dataset: Path, out: Path, state: Path, device: str = "cpu") -> Iterator[Step]:
    """Train autoencoder, then network and text model together, and write ``out``, the base's handle.

    ``dataset`` is the manifest of the images; resumable by ``state``. Beside ``out``: ``pipeline/`` and
    ``curve.jsonl``.
    """
    row = Base.model_validate(spec.row)
    manifest = store.manifest(dataset)
    data = store.load(dataset, "base")
    images, captions = store.images(data), data["text"]
    folder = out.parent / "pipeline"
    new = NewStableDiffusion(row, manifest["resolution"], manifest["words"], folder, spec.seed)

    ids = token_ids(new.tokenizer, [*captions, ""])
    words = Loop(_WordReader(new.text_model, len(new.tokenizer)), row.words, state, "text", device)
    yield from words.run(lambda model, step: _text_loss(model, ids, row.words.batch, spec.seed, step, device))
    new.text_model = words.ema.text.cpu().requires_grad_(True)

    first = Loop(new.autoencoder, row.autoencoder, state, "autoencoder", device)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    yield from first.run(
        lambda model, step: _autoencoder_loss(model, pixels, row.autoencoder.batch, spec.seed, step, device)
    )
    new.autoencoder = first.ema.cpu()
    latents = _latents(new, images, folder, device)

    both = nn.ModuleDict({"unet": new.unet, "text": new.text_model})
    second = Loop(both, row.network, state, "network", device)
    yield from second.run(lambda model, step: _network_loss(model, new, row, latents, ids, spec.seed, step, device))
    new.unet, new.text_model = second.ema["unet"].cpu(), second.ema["text"].cpu()

    shutil.rmtree(folder)  # the tokenizer was written for training; everything is written once more, together
    new.save(folder)
    artifacts.write_jsonl(out.parent / "curve.jsonl", words.curve + first.curve + second.curve)
    sha256 = artifacts.tensor_hash(new.unet.state_dict())
    artifacts.write_json(out, base_handle(spec.name, row.family, folder, row.prediction, sha256, spec.hash, "unet"))


class _WordReader(nn.Module):
    """A text model that must name the words of a caption from its pooled state.

    CLIP's text model comes pretrained; without this the network needs thousands of steps to hear the rarer words.
    """

    def __init__(self, text: nn.Module, words: int):
        super().__init__()
        self.text = text
        self.names = nn.Linear(text.config.hidden_size, words)
        with torch.no_grad():
            self.names.weight.zero_()
            self.names.bias.zero_()


def _text_loss(model: nn.Module, ids: Tensor, batch: int, seed: int, step: int, device: str) -> Tensor:
    """Binary cross-entropy of each word's presence."""
    chosen = ids[torch.randint(len(ids), (batch,), generator=generator(seed, "text", step))].to(device)
    named = model.names(model.text(chosen).pooler_output)
    present = torch.zeros_like(named).scatter_(1, chosen, 1.0)
    return nn.functional.binary_cross_entropy_with_logits(named, present) * named.shape[1]


def _autoencoder_loss(model: nn.Module, pixels: Tensor, batch: int, seed: int, step: int, device: str) -> Tensor:
    rng = generator(seed, "autoencoder", step)
    x = pixels[torch.randint(len(pixels), (batch,), generator=rng)].to(device).float() / 127.5 - 1
    posterior = model.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=rng).to(device)
    image = model.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
    return (image - x).square().mean() + _KL * posterior.kl().mean() / x[0].numel()


def _latents(new: NewStableDiffusion, images: object, folder: Path, device: str) -> Tensor:
    """All latents at unit variance; sets the autoencoder's scaling factor, and saves both for reading back."""
    new.autoencoder.register_to_config(scaling_factor=1.0)
    new.save(folder)
    latents = StableDiffusion(folder, device).encode(images)
    scale = round(1 / float(latents.std()), 5)
    new.autoencoder.register_to_config(scaling_factor=scale)
    return latents * scale


def _network_loss(
    model: nn.Module,
    new: NewStableDiffusion,
    row: Base,
    latents: Tensor,
    ids: Tensor,
    seed: int,
    step: int,
    device: str,
) -> Tensor:
    """Denoising loss with a share of empty captions, the last of ``ids``."""
    found = noised(latents, new.schedule, row.network.batch, row.drop, row.time_power, generator(seed, "network", step))
    caption = torch.where(found.empty, len(ids) - 1, found.item)
    condition = model["text"](ids[caption].to(device))[0]
    output = model["unet"](found.x, found.timestep, condition, return_dict=False)[0]
    return denoising_error(output, found, row.prediction)
