"""The paper's study with everything real replaced by something tiny of the same class, so that all of it runs.

Checkpoints become random pipelines of 16 x 16 pixels (Stable Diffusion saying epsilon and v, SDXL), released weights
random ones in the same layouts, images digits in Parquet files, Inception a small TorchScript program with the same
entrance, CLIP a small one of the same class. Rows, names and references stay as the study's file has them; counts are
cut down.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import torch
from torch import Tensor, nn

from perflow import artifacts, lora
from perflow.config import rows
from perflow.datasets.digits import Digits, words
from perflow.metrics import clip
from perflow.models import folder as pipeline_folder
from tests.tiny_clip import tiny_clip
from tests.tiny_pipelines import sdxl

SIDE = 16
_OPTIM: dict[str, Any] = {"steps": 1, "batch": 1, "lr": 1e-3}
_CAPTIONS = ("caption", "prompt")


class Small(nn.Module):
    """Random weights behind the interface of FID's Inception: ``layers`` from normalised pixels to a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 7, 13), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, 8] of normalised pixels."""
        return self.layers(x)


def stable_diffusion(folder: Path, prediction: str, seed: int) -> Path:
    """A random ``StableDiffusionPipeline`` of 16 x 16 pixels."""
    from perflow.models.stable_diffusion import NewStableDiffusion

    optim = rows.Optim(**_OPTIM)
    row = rows.Base(
        family="stable_diffusion", dataset="d", prediction=prediction, channels=[8, 16], autoencoder_channels=[8, 16],
        words=optim, autoencoder=optim, network=optim,
    )  # fmt: skip
    made = NewStableDiffusion(row, SIDE, words(), folder.with_name(f"{folder.name}-new"), seed)
    made.save(folder)
    return folder


def images(path: Path, count: int) -> Path:
    """A Parquet file of digits, whose caption stands in a column under each of the names that the study uses."""
    items = list(Digits(SIDE, {"base": count}, 0).rows("base"))
    cells = [{"bytes": item["image"], "path": None} for item in items]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    text = pyarrow.array([item["text"] for item in items])
    parquet.write_table(pyarrow.table({"image": pyarrow.array(cells, kind), **dict.fromkeys(_CAPTIONS, text)}), path)
    return path


def change(folder: Path, seed: int, matrices: bool = False) -> dict[str, Tensor]:
    """A small random delta of the UNet in a pipeline folder; ``matrices``: of nothing but those."""
    rng = torch.Generator().manual_seed(seed)
    weights = pipeline_folder.tensors(folder / pipeline_folder.NETWORK)
    found = {name: 0.01 * torch.randn(value.shape, generator=rng) for name, value in sorted(weights.items())}
    return {name: value if value.ndim in (2, 4) or not matrices else 0 * value for name, value in found.items()}


def released(folder: Path, held: str, out: Path, seed: int) -> Path:
    """Random released weights of the UNet in a pipeline folder, in the layout that ``held`` says."""
    delta = change(folder, seed, matrices=held == "lora")
    if held == "lora":
        tensors = lora.kohya_names(lora.cut(delta, 4)[0])
    else:
        weights = pipeline_folder.tensors(folder / pipeline_folder.NETWORK)
        tensors = {name: value + (weights[name] if held == "weights" else 0) for name, value in delta.items()}
    artifacts.write_tensors(out, tensors, {})
    return out


def inception(path: Path) -> Path:
    """A program with Inception's entrance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.jit.script(Small()).save(str(path))
    return path


def stand_in(params: dict[str, Any], home: Path) -> dict[str, Any]:
    """``params``, the paper's study, made small in place: sources in ``home``, counts cut, nothing renamed."""
    home.mkdir(parents=True, exist_ok=True)
    table, program = images(home / "images.parquet", 256), inception(home / "inception.pt")
    by_class: dict[tuple[str, str], Path] = {}
    for name, base in params["bases"].items():
        kind = base["family"], base.get("prediction", "epsilon"), base["source"]["hub"]
        if kind not in by_class:
            place = home / f"checkpoint-{len(by_class)}"
            own = base["family"] == "sdxl"
            by_class[kind] = sdxl(place, words()) if own else stable_diffusion(place, kind[1], len(by_class))
        params["bases"][name] = base | {"source": {"folder": str(by_class[kind])}}
    for dataset in params["datasets"].values():
        reference = min(dataset["counts"]["reference"], 48)
        dataset |= {"resolution": SIDE, "files": [str(table)], "bad_items": 0}
        dataset["counts"] = {"base": min(dataset["counts"]["base"], 64), "reference": reference}
    for name, student in params["students"].items():
        if "source" in student:
            folder = Path(params["bases"][student["bases"][0]]["source"]["folder"])
            out = home / f"{name}.safetensors"
            released(folder, student["source"]["held"], out, len(name))
            student["source"] = student["source"] | {"weights": str(out)}
        else:
            student["training"] = {"steps": 2, "batch": 4, "precision": "no", "warmup": 1}
    for adapter in params["adapters"].values():
        adapter["training"] = _OPTIM | {"steps": 2, "batch": 4}
    for pairs in params["pairs"].values():
        pairs |= {"count": 16, "steps": 8}
    extractor = params["extractors"]["inception"]
    extractor |= {"weights": str(program), "sha256": artifacts.sha256_file(program)}
    judge = tiny_clip(home / "clip", words())
    params["extractors"]["clip"] |= {"weights": str(judge), "sha256": clip.pinned(judge / "model.safetensors")}
    sampling = params["sampling"]
    sampling |= {"prompts": 8, "teacher": sampling["teacher"] | {"steps": 3}}
    sampling["flow"] = {"items": 4, "substeps": 2, "solver": "heun", "solver_steps": 8}
    for name, asked in sampling["datasets"].items():
        sampling["datasets"][name] = {"prompts": 6} | ({"per_prompt": 2} if "per_prompt" in asked else {})
    params["evaluation"]["groups"] = 4
    return params
