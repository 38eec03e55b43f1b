"""How long a base's networks take beside the embedded one's, in whose CPU seconds a plan counts.

The operations of a convolutional network go about as, level by level, its width squared times the area it is applied
to, times its blocks. Of the embedded base's time they are a third; the rest is what a call costs whatever is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perflow import artifacts
from perflow.config import rows
from perflow.config.bases import root
from perflow.config.splits import rooted
from perflow.config.study import Study
from perflow.errors import PerflowError
from perflow.models import OPTIONS

_Shape = tuple[Sequence[int], int, int]
_NETWORK = (16, 32), 1, 8
_AUTOENCODER = (24, 32), 1, 16
"""The embedded base of the default study: widths, blocks of a level, side of what goes in."""
_OPERATIONS = 1 / 3


def network(study: Study, base: str) -> float | None:
    """How many times as long an evaluation of a base's network takes; None where its shape is not known here."""
    name = root(study.bases, base)
    row = study.bases[name]
    if isinstance(row, rows.Base):
        side = study.datasets[row.dataset].resolution // 2 ** (len(row.autoencoder_channels) - 1)
        return _times((row.channels, row.layers, side), _NETWORK)
    return _read(row, "unet", _NETWORK) if isinstance(row, rows.Pretrained) else 1.0


def autoencoder(study: Study, base: str) -> float | None:
    """The same of an image through a base's autoencoder; 0 of a base on pixels, which has none."""
    row = study.bases[root(study.bases, base)]
    side = study.datasets[row.dataset].resolution
    if isinstance(row, rows.Base):
        return _times((row.autoencoder_channels, 1, side), _AUTOENCODER)
    if OPTIONS.get(row.family):
        return 0.0
    return _read(row, "vae", _AUTOENCODER, side)


def unknown(study: Study) -> list[str]:
    """Bases that are counted as the embedded one, for nobody can say here what they are."""
    decoded = {row.base for row in study.students.values() if row.perceptual}
    return [
        name
        for name in study.bases
        if network(study, name) is None or (name in decoded and autoencoder(study, name) is None)
    ]


def _read(row: rows.Pretrained, part: str, plain: _Shape, side: int | None = None) -> float | None:
    """From the configuration of a part of a checkpoint that lies on this machine; ``side``: what it does not say."""
    folder = row.source.folder or row.source.config
    if folder is None:
        return None
    path = rooted(Path(), folder) / part / "config.json"
    keys = {"block_out_channels": list, "layers_per_block": int} | ({"sample_size": int} if side is None else {})
    try:
        found = artifacts.read_object(path, "a network's configuration", **keys)
    except PerflowError:
        return None
    return _times((found["block_out_channels"], found["layers_per_block"], side or found["sample_size"]), plain)


def _times(shape: _Shape, plain: _Shape) -> float:
    return 1 - _OPERATIONS + _OPERATIONS * _work(*shape) / _work(*plain)


def _work(widths: Sequence[int], blocks: int, side: int) -> float:
    """A level takes a block more on the way up, and its joins another."""
    return (blocks + 2) * sum((width * side / 2**level) ** 2 for level, width in enumerate(widths))
