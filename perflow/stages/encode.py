"""encode: the images and captions of a data set through a base's autoencoder and text model, once for all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from perflow import artifacts, latents
from perflow.ahead import helpers
from perflow.artifacts import Spec
from perflow.config.rows import Latents
from perflow.datasets import store
from perflow.loop import Step
from perflow.models import handle

_SPLIT = "base"


def encode(
    spec: Spec, model: Path, dataset: Path, out: Path, device: str = "cpu", shard_items: int = 1024
) -> Iterator[Step]:
    """Write shards beside ``out``, and last ``out``, the manifest of the latents (see :mod:`perflow.latents`).

    A sound shard of this spec, base and data set is kept, so the same command again goes on where it was stopped.
    Shards of whole chunks give the bytes that one pass over all images gives; others differ in the last bits.
    """
    row = Latents.model_validate(spec.row)
    base, data = handle.load(model, device), store.load(dataset, _SPLIT)
    texts = data["text"][:]
    captions = [*([""] if base.base.has_null else []), *sorted(set(texts))]
    number = {caption: i for i, caption in enumerate(captions)}
    made_of = {"spec": spec.hash, "base": base.base_sha256, "dataset": artifacts.sha256_file(dataset)}
    entries = []
    for first in range(0, len(texts), shard_items):
        items = range(first, min(first + shard_items, len(texts)))
        path = out.parent / latents.shard_name(len(entries))
        header = made_of | {"items": [items.start, items.stop]}
        if not artifacts.holds(path, header):
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=row.dtype == "bf16"):
                found = base.base.encode(store.items(data, items, helpers(device))).float()
            caption = torch.tensor([number[text] for text in texts[items.start : items.stop]])
            tensors = {"latents": found.cpu(), "caption": caption.int()}
            artifacts.write_tensors(path, tensors, header | {"sha256": artifacts.tensor_hash(tensors)})
        entries.append({"file": path.name, "sha256": artifacts.sha256_file(path)})
        yield Step("latents", items.stop, len(texts))
    conditions = out.parent / latents.CONDITIONS
    recomputed = row.captions == "recomputed"
    kept = base.base.tokens(captions) if recomputed else base.base.embed(captions)
    artifacts.write_tensors(conditions, kept, {"spec": spec.hash})
    artifacts.write_json(out, {
        "spec": spec.hash, "base": {"name": row.base, "sha256": base.base_sha256}, "dataset": made_of["dataset"],
        "dtype": row.dtype, "count": len(texts), "captions": captions, "shards": entries,
        "conditions": {"file": conditions.name, "sha256": artifacts.sha256_file(conditions)},
        **({"recomputed": True} if recomputed else {}),
    })  # fmt: skip
