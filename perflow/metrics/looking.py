"""How a feature network looks at images: each is prepared alone, by any thread, and the network sees chunks of them."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from perflow import artifacts
from perflow.ahead import helpers, mapped
from perflow.datasets import store
from perflow.errors import PerflowError

Seen = tuple[np.ndarray, dict[str, np.ndarray]]
"""Features, float64 [N, D], and labels [N] by attribute."""
Item = TypeVar("Item")

_BLOCK = 128
"""Images that are held at once: whole chunks of every network here, so that a block is seen as a part of the whole."""


class Looks(ABC):
    """A feature network of any kind."""

    values: Mapping[str, Sequence[str]] = {}
    """Attribute -> the values it tells apart; empty if it reads none."""

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One uint8 image [H, W, 3] as ``look`` takes it; PerflowError if the network cannot read it."""
        return image

    @abstractmethod
    def look(self, prepared: np.ndarray) -> Seen:
        """Prepared images [N, ...], in padded chunks of one size, so that a row does not depend on how many there are.

        Computed where the network is; what is returned is on the CPU.
        """

    def observe(self, images: np.ndarray) -> Seen:
        """uint8 images [N, H, W, 3] that are in memory."""
        return self.look(np.stack([self.prepare(image) for image in images]))


def expect(reader: str, image: np.ndarray, *shape: int | str) -> None:
    """PerflowError naming ``reader`` unless ``image`` is uint8 of ``shape``; a letter stands for any number."""
    fits = image.ndim == len(shape) and all(
        isinstance(want, str) or want == size for want, size in zip(shape, image.shape, strict=True)
    )
    if image.dtype != np.uint8 or not fits:
        said = f"({', '.join(map(str, shape))})"
        raise PerflowError(f"{reader}: images are {image.dtype} {image.shape}, it reads uint8 {said}")


@dataclass(frozen=True)
class Viewer(Generic[Item]):
    """A network that looks at sets of any number of encoded images; a few blocks of them are held at a time.

    With a ``folder`` it looks at a set once: features are kept there by content. A file is named after the network, the
    kind of device and the images' bytes, so it holds for whoever comes with the same; one that is broken is made again.
    It belongs to no row, and may be deleted at any time.
    """

    network: Looks
    device: str = "cpu"
    """Where the network is."""
    sha256: str = ""
    """Of the extractor's file."""
    folder: Path | None = None

    def see(
        self, images: Sequence[Item], decode: Callable[[Item], np.ndarray] = store.decode, where: str = "images"
    ) -> Seen:
        """The N ``images`` through ``decode``; those whose features are kept are bytes.

        PerflowError naming ``where`` they are from if there are none, or if they are of several sizes.
        """
        if self.folder is None:
            return self._look(images, decode, where)
        content = artifacts.sha256_bytes("".join([self.device, *map(artifacts.sha256_bytes, images)]).encode())
        path = self.folder / f"{self.sha256[:16]}-{content[:32]}.safetensors"
        with contextlib.suppress(PerflowError):
            kept, _ = artifacts.read_tensors(path)
            features = kept.pop("features").numpy()
            return features, {name: labels.numpy() for name, labels in kept.items()}
        features, labels = self._look(images, decode, where)
        tensors = {name: torch.from_numpy(value) for name, value in {"features": features, **labels}.items()}
        header = {"extractor": self.sha256, "images": content, "sha256": artifacts.tensor_hash(tensors)}
        artifacts.write_tensors(path, tensors, header)
        return features, labels

    def _look(self, images: Sequence[Item], decode: Callable[[Item], np.ndarray], where: str) -> Seen:
        def prepare(data: Item) -> tuple[tuple[int, ...], np.ndarray]:
            image = decode(data)
            return image.shape[:2], self.network.prepare(image)

        if not len(images):
            raise PerflowError(f"{where}: there are no images")
        prepared = mapped(prepare, images, helpers(self.device))
        parts, shape = [], None
        with _fp32():
            while block := list(islice(prepared, _BLOCK)):
                shape = shape or block[0][0]
                if other := next((found for found, _ in block if found != shape), None):
                    sizes = " and ".join(f"{width} x {height}" for height, width in (shape, other))
                    raise PerflowError(f"{where}: images of {sizes} pixels; those of one set have one size")
                parts.append(self.network.look(np.stack([image for _, image in block])))
        features, labels = zip(*parts, strict=True)
        return np.concatenate(features), {name: np.concatenate([each[name] for each in labels]) for name in labels[0]}


@contextlib.contextmanager
def _fp32() -> Iterator[None]:
    """Convolutions of a GPU without TF32, which PyTorch allows them unless told otherwise: others compare these numbers
    with theirs."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def placed(part: Tensor, network: Any) -> Tensor:
    """``part`` where the weights of a module are."""
    return part.to(next(network.parameters()).device)
