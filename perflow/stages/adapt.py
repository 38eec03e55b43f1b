"""adapt: train a LoRA or a ControlNet beside a base that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Adapter
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.images import edges
from perflow.latents import Latents
from perflow.lessons import lesson
from perflow.loop import Loop, Step
from perflow.models import adapters, handle


def adapt(
    spec: Spec, base: Path, latents: Path, out: Path, state: Path, dataset: Path | None = None, device: str = "cpu"
) -> Iterator[Step]:
    """Write ``out``, what the adapter is, its files in a folder beside it, and ``curve.jsonl``; resumable by ``state``.

    A LoRA becomes ``lora/pytorch_lora_weights.safetensors``, a ControlNet a diffusers folder ``controlnet/``. A
    ControlNet is shown the edges of the very image that is to be drawn, of ``dataset``; a LoRA needs none.
    """
    row = Adapter.model_validate(spec.row)
    model = handle.load(base, device)
    data = Latents.of(latents, model.name, model.base_sha256, device)
    seed = generator(spec.seed, "adapter", spec.name).initial_seed()
    folder = out.parent / row.kind
    if row.kind == "lora":
        loop = Loop(adapters.with_lora(model.unet, row.rank, seed), row.training, state, row.kind, device)
    else:
        images = store.images(store.load(dataset, "base"))
        loop = Loop(adapters.new_controlnet(model.unet, images.shape[1], seed), row.training, state, row.kind, device)
        shown = torch.from_numpy(edges(images)).permute(0, 3, 1, 2)

    def loss(network: nn.Module, step: int) -> Tensor:
        def says(x: Tensor, t: Tensor, condition: dict[str, Tensor], item: Tensor) -> Tensor:
            if row.kind == "lora":
                return model.base.network(network)(x, t, condition)
            picture, text = shown[item].to(device).float() / 255, condition["text"]
            down, middle = network(x, t, text, controlnet_cond=picture, return_dict=False)
            return model.unet(
                x, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle,
                return_dict=False,
            )[0]  # fmt: skip

        rng = generator(spec.seed, "adapt", spec.name, step)
        return lesson(model.base, data, says, row.training.batch, row.drop, row.time_power, rng)

    yield from loop.run(loss)
    about = {"spec": spec.hash, "base": {"name": row.base, "sha256": model.base_sha256}}
    if row.kind == "lora":
        artifacts.write_tensors(folder / "pytorch_lora_weights.safetensors", adapters.lora_tensors(loop.ema), about)
    else:
        with artifacts.writing(folder):
            loop.ema.cpu().save_pretrained(folder, safe_serialization=True)
    artifacts.write_jsonl(out.with_name("curve.jsonl"), loop.curve)
    files = {path.name: artifacts.sha256_file(path) for path in sorted(folder.iterdir())}
    artifacts.write_json(out, about | {"kind": row.kind, "name": spec.name, "folder": folder.name, "files": files})
