"""What rows on bases of real size cost: arithmetic on shapes that are published. Nothing here was measured.

Operations are counted by PyTorch's flop counter on the architectures (a test counts them again, without weights). How
many a GPU does in a second is an assumption, which ``perflow plan --tflops`` replaces.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from perflow.config import rows
from perflow.config.bases import latents_row, root
from perflow.config.study import Study
from perflow.methods import configuration


class Shape(NamedTuple):
    """A published architecture at its resolution, one item."""

    name: str
    unet: dict[str, Any]
    """What diffusers' ``UNet2DConditionModel`` is built with, where it differs from its defaults."""
    parameters: int
    """Of the UNet."""
    evaluation: float
    """TFLOP of one forward pass of the UNet."""
    encode: float
    """TFLOP of the autoencoder on an image."""
    decode: float
    """TFLOP of the autoencoder on latents."""
    condition: int
    """Numbers of a caption's condition."""
    tokens: int
    """Bytes of a caption's tokens."""


_SDXL_BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}  # fmt: skip
SHAPES = {
    ("stable_diffusion", 512): Shape(
        "Stable Diffusion 1.5", {"sample_size": 64, "cross_attention_dim": 768},
        859_520_964, 0.8033, 1.1167, 2.5145, 77 * 768, 4 * 77,
    ),
    ("stable_diffusion", 768): Shape(
        "Stable Diffusion 2.1",
        {"sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
         "use_linear_projection": True},
        865_910_724, 2.1491, 2.6091, 5.7543, 77 * 1024, 4 * 77,
    ),
    ("sdxl", 1024): Shape(
        "Stable Diffusion XL",
        {"sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
         "use_linear_projection": True, **_SDXL_BLOCKS},
        2_567_463_684, 6.7612, 4.8790, 10.4704, 77 * 2048 + 1280 + 6, 2 * 4 * 77 + 1,
    ),
}  # fmt: skip
"""(family, resolution) -> the architecture that a pretrained base of it is taken to have."""
_LATENT = 4
"""Channels of latents, an eighth as high and wide as images."""
TRAINED = 3
"""Forward passes that a training item costs: one, and a backward one of twice that."""

LOOKED = 3
"""Passes of the autoencoder's decoder for an item whose loss looks: of what is said, of what is wanted, and back to the
latents of what is said; its weights have no gradient."""

ASSUMED = {"no": 23.0, "bf16": 346.0}
"""TFLOP a second of one H100 by precision: 35 % of what its data sheet says (67 in fp32, 989 in bf16, dense)."""


def training_passes(row: Any) -> int:
    """Forward passes that an item of a row's training costs: ``TRAINED``, and those of its method without gradients."""
    method = getattr(row, "method", None)
    return TRAINED + (configuration(method["name"]).passes - 1 if method else 0)


def real(study: Study, base: str | None) -> Shape | None:
    """The shape of a base that was trained elsewhere, or descends from one; None for a small or an embedded one."""
    row = study.bases.get(base or "")
    if row is None or not isinstance(study.bases[root(study.bases, str(base))], rows.Pretrained):
        return None
    return SHAPES.get((row.family, study.datasets[row.dataset].resolution))


def gpu_hours(study: Study, table: str, name: str, evaluations: int, tflops: float | None = None) -> float | None:
    """GPU hours of a row by the arithmetic above; None for one that is not of real size, or asks for no GPU.

    ``evaluations`` are what the networks of pairs, samples and transfers are asked; ``tflops`` a second replaces what
    is assumed.
    """
    row = getattr(study, table)[name]
    base = name if table == "bases" else getattr(row, "base", None)
    if (shape := real(study, base)) is None:
        return None
    work, looked, precision = 0.0, 0.0, "no"
    match table:
        case "latents":
            work = study.datasets[row.dataset].counts["base"] * shape.encode
            precision = "bf16" if row.dtype == "bf16" else "no"
        case "pairs":
            work, precision = evaluations * shape.evaluation, row.precision
        case "samples" | "transfers":
            work = evaluations * shape.evaluation + images(study, row) * shape.decode
        case "students" | "adapters" | "bases":
            training = getattr(row, "network" if table == "bases" else "training", None)
            if training is not None:
                work = training.steps * training.batch * training_passes(row) * shape.evaluation
                precision = training.precision
                if getattr(row, "perceptual", None):
                    looked = training.steps * training.batch * LOOKED * shape.decode  # in fp32, whatever the rest is
    seconds = work / (tflops or ASSUMED[precision]) + looked / (tflops or ASSUMED["no"])
    return seconds / 3600 if work else None


def images(study: Study, row: rows.Samples | rows.Transfer) -> int:
    """Images of all trials of a model, or of one in a setting."""
    if isinstance(row, rows.Transfer):
        return len(row.trials) * study.prompts[row.prompts].count * row.per_prompt
    return len(row.trials) * row.sampling.prompts * row.sampling.per_prompt


def captions(study: Study, latents: str) -> dict[str, int] | None:
    """Bytes of a data set's captions as a base is told them, by what is kept of them (``encoding.captions``), all of
    them being different; None of a base that reads no text, or whose text model has no shape here."""
    row = study.latents[latents]
    trained = study.bases[root(study.bases, row.base)]
    if shape := real(study, row.base):
        each = {"stored": 4 * shape.condition, "recomputed": shape.tokens}
    elif isinstance(trained, rows.Base):
        each = {"stored": 4 * trained.text.length * trained.text.width, "recomputed": 4 * trained.text.length}
    else:
        return None
    return {kept: study.datasets[row.dataset].counts["base"] * size for kept, size in each.items()}


def disk(study: Study) -> dict[str, float]:
    """Bytes by what they are, of what is made on bases of real size; what is at most so much says it."""
    found = dict.fromkeys(
        ("images of data sets, at most", "latents and conditions", "window pairs", "networks, fp32",
         "images and latents drawn, at most", "states of trainings, while they run, the largest"), 0.0)  # fmt: skip
    pixels, pairs, weights, drawn = list(found)[0], list(found)[2], list(found)[3], list(found)[4]
    seen = {row.dataset for name, row in study.bases.items() if real(study, name)}
    for name in seen:
        entry = study.datasets[name]
        found[pixels] += sum(entry.counts.values()) * 3 * entry.resolution**2
    for name, row in study.latents.items():
        if real(study, row.base):
            count = study.datasets[row.dataset].counts["base"]
            found["latents and conditions"] += count * 4 * _latents(study, row.dataset) + _kept(study, name)
    for row in study.pairs.values():
        if real(study, row.base):
            seen_by = latents_row(study.bases, row.base, row.dataset)
            found[pairs] += 4 * 2 * row.count * _latents(study, row.dataset) + _kept(study, seen_by)
    for name in study.bases:
        if shape := real(study, name):
            found[weights] += 4 * shape.parameters
    states = [0.0]
    for row in study.students.values():
        if shape := real(study, row.base):
            found[weights] += 2 * 4 * shape.parameters  # the averaged weights, and the delta
            states.append(4 * 4 * shape.parameters if row.training else 0.0)
    found["states of trainings, while they run, the largest"] = max(states)
    for row in (*study.samples.values(), *study.transfers.values()):
        if real(study, row.base):
            side = study.datasets[row.dataset].resolution
            found[drawn] += images(study, row) * (3 * side**2 + 4 * _latents(study, row.dataset))
    return {name: size for name, size in found.items() if size}


def _kept(study: Study, latents: str) -> int:
    """Bytes of what is kept of a data set's captions, at most, with its latents and again with each row of pairs."""
    return (captions(study, latents) or {}).get(study.latents[latents].captions, 0)


def _latents(study: Study, dataset: str) -> int:
    return _LATENT * (study.datasets[dataset].resolution // 8) ** 2


def downloads(study: Study) -> dict[str, int | None]:
    """What is fetched from the hub, or was to be put beside the repository from there -> bytes, None where nobody says.

    Only what the study's file says: the hub is not asked.
    """
    found: dict[str, int | None] = {}
    for base in study.bases.values():
        if isinstance(base, rows.Pretrained) and base.source.hub:
            where = f"{base.source.hub}@{base.source.revision}"
            found[where] = found.get(where) or base.source.size
    for recipe in study.params.students.values():
        if recipe.source and recipe.source.hub:
            found[recipe.source.hub] = found.get(recipe.source.hub) or recipe.source.size
    for entry in study.datasets.values():
        if isinstance(entry, rows.HubDataset):
            found[f"{entry.hub}@{entry.revision} (data set)"] = None
    return found
