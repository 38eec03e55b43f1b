"""Pictures of images: PNG bytes, and grids that show small ones large."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def every_format() -> None:
    """Make Pillow know all its formats, before threads decode: two that load them at the same time may miss one."""
    Image.init()


def png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def scatter(points: np.ndarray, side: int = 256, reach: float = 6.0) -> np.ndarray:
    """Points [N, 2] as dark dots on white, uint8 [side, side, 3]; those farther out than ``reach`` are left out."""
    places = np.rint((points + reach) / (2 * reach) * (side - 1))
    places = places[((places >= 0) & (places < side)).all(1)].astype(int)
    picture = np.full((side, side, 3), 255, np.uint8)
    picture[side - 1 - places[:, 1], places[:, 0]] = (31, 41, 55)
    return picture


def tile(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The first rows x columns of images [N, H, W, 3] side by side, white where there are fewer.

    Images below 64 pixels are enlarged by whole pixels.
    """
    scale = max(1, 64 // images.shape[1])
    chosen = images[: rows * columns].repeat(scale, axis=1).repeat(scale, axis=2)
    blank = np.full((rows * columns - len(chosen), *chosen.shape[1:]), 255, np.uint8)
    height, width = chosen.shape[1:3]
    grid = np.concatenate([chosen, blank]).reshape(rows, columns, height, width, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)


def edges(images: np.ndarray) -> np.ndarray:
    """Edges of images, white on black, both uint8 [N, H, W, 3]: what a small ControlNet is shown.

    The length of the gradient by central differences, of the channel in which it is longest, a full step being 255.
    """
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    strength = np.hypot(down, across).max(axis=-1, keepdims=True).clip(0, 255)
    return strength.round().astype(np.uint8).repeat(3, axis=-1)
