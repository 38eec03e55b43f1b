"""ΔW of low rank: each matrix of a delta cut by its singular values, under the names that programs load.

A LoRA holds matrices only. What a delta changes besides (biases, the scales of norms) is dropped, and the error says
how much that is. Convolutions [out, in, h, w] count as matrices [out, in h w], as every program reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from perflow import original
from perflow.errors import PerflowError


class Pair(NamedTuple):
    """Two factors of a matrix or convolution: ``up @ down``; fp32.

    ``down`` is [r, in] or [r, in, h, w], ``up`` is [out, r] or [out, r, 1, 1].
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Spectrum:
    """How much of a delta each rank holds, in squared Frobenius norms (Eckart and Young, 1936)."""

    squares: dict[str, Tensor]
    """Module -> squared singular values [r], falling; fp64."""
    sizes: dict[str, int]
    """Module -> numbers that one rank of its factors takes."""
    dropped: dict[str, float]
    """Tensors that are no matrices -> squared norm."""

    @property
    def full(self) -> int:
        """The rank that holds every matrix whole."""
        return max((len(values) for values in self.squares.values()), default=0)

    @property
    def dropped_share(self) -> float:
        """Norm of what no rank holds, relative to the whole delta's; in [0, 1]."""
        return self._relative(sum(self.dropped.values()))

    def error(self, rank: int) -> float:
        """‖ΔW - LoRA‖ / ‖ΔW‖ over all tensors, those that are dropped included; in [0, 1]."""
        tail = sum(float(values[rank:].sum()) for values in self.squares.values())
        return self._relative(tail + sum(self.dropped.values()))

    def numbers(self, rank: int) -> int:
        """Count of numbers in a LoRA of ``rank``."""
        return sum(size * min(rank, len(self.squares[name])) for name, size in self.sizes.items())

    def _relative(self, square: float) -> float:
        total = sum(float(values.sum()) for values in self.squares.values()) + sum(self.dropped.values())
        return (square / total) ** 0.5 if total else 0.0


def cut(change: Mapping[str, Tensor], rank: int = 0) -> tuple[dict[str, Pair], Spectrum]:
    """The best approximation of rank ``rank`` of each matrix of a delta, and the error of every rank.

    A matrix of a smaller full rank is kept whole. PerflowError for a delta without matrices.
    """
    pairs: dict[str, Pair] = {}
    found = Spectrum({}, {}, {})
    for name, value in change.items():
        if not name.endswith(".weight") or value.ndim not in (2, 4):
            found.dropped[name] = float(value.double().square().sum())
            continue
        module = name.removesuffix(".weight")
        matrix = value.double().flatten(1)
        squares, left = _left(matrix)
        found.squares[module], found.sizes[module] = squares, sum(matrix.shape)
        if rank:
            pairs[module] = _pair(value, matrix, squares[:rank], left[:, :rank])
    if not found.squares:
        raise PerflowError("delta: has no matrices, so no LoRA can hold it")
    return pairs, found


def _left(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values [r] and left singular vectors [m, r] of a matrix [m, n], r = min(m, n); fp64.

    By the smaller Gram matrix, in which a wide convolution costs seconds instead of minutes: factors are
    projections on orthonormal vectors, so at full rank they give the matrix back even where it is near singular.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    values, vectors = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if tall:
        vectors = torch.linalg.qr(matrix @ vectors).Q
    return values, vectors


def _pair(value: Tensor, matrix: Tensor, squares: Tensor, left: Tensor) -> Pair:
    """Factors of equal norm, so that half precision holds both."""
    root = squares.sqrt().sqrt()
    down = (left.T @ matrix) * torch.where(root > 0, 1 / root, 0)[:, None]
    up = left * root
    if value.ndim == 4:
        return Pair(down.reshape(-1, *value.shape[1:]).float(), up[..., None, None].float())
    return Pair(down.float(), up.float())


def diffusers_names(pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
    """As diffusers' ``load_lora_weights`` (peft) reads them: ``unet.<module>.lora_A.weight`` and ``lora_B``."""
    return {
        f"unet.{module}.lora_{which}.weight": factor
        for module, pair in pairs.items()
        for which, factor in (("A", pair.down), ("B", pair.up))
    }


def kohya_names(pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
    """As ComfyUI, AUTOMATIC1111 and kohya's scripts read them: ``lora_unet_<module>``, with alpha = rank.

    A module is called as diffusers calls it, in SDXL as the original release does: kohya trains SDXL in that form.
    """
    names = [f"{module}.weight" for module in pairs]
    sizes = original.told_sizes(names)
    named: dict[str, Tensor] = {}
    for name, pair in zip(names, pairs.values(), strict=True):
        module = (original.network_name(name, names) if sizes else name).removesuffix(".weight")
        key = "lora_unet_" + module.replace(".", "_")
        named[f"{key}.lora_down.weight"], named[f"{key}.lora_up.weight"] = pair
        named[f"{key}.alpha"] = torch.tensor(float(pair.down.shape[0]))
    return named


LAYOUTS = {"diffusers": diffusers_names, "kohya": kohya_names}
