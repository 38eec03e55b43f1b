"""Features, or statistics of features, that somebody computed already: a file in place of images.

A ``.safetensors`` or ``.npz`` file holds floats under one of these names: ``features`` [N, D], a row for each image (or
``feats``, as clean-fid keeps them), or ``mu`` [D] and ``sigma`` [D, D], mean and covariance (dividing by N - 1), as
clean-fid keeps them. Which network made them is the sha256 of its weights, or of the study's own file of it: text under
``extractor`` in an .npz, key ``extractor`` of perflow's header in a safetensors file. A file that does not say it is
taken at its user's word.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.metrics.standardised import Standardised
from perflow.metrics.trial import Images

SUFFIXES = (".npz", ".safetensors")
_FORMS = (("features",), ("feats",), ("mu", "sigma"))
_MAKER = "extractor"
_HOLDS = "'features' (or 'feats') [N, D], or 'mu' [D] and 'sigma' [D, D]"


@dataclass(frozen=True, eq=False)
class Given:
    """What a file of features holds, checked."""

    path: Path
    sha256: str
    """Of the file."""
    features: np.ndarray
    """[N, D] float64; [0, D] where the file holds statistics."""
    moments: tuple[np.ndarray, np.ndarray] | None
    """Mean [D] and covariance [D, D], float64, in place of features."""
    maker: str | None
    """Hash of the network that the file says made it."""
    said: Mapping[str, str] = field(default_factory=dict)
    """Which network made it, and who said so (``by``)."""

    @property
    def count(self) -> int | None:
        """Number of images; None of statistics, which do not tell."""
        return None if self.moments else len(self.features)

    def described(self) -> dict[str, Any]:
        """As results name it."""
        return {"sha256": self.sha256, "count": self.count, **self.said}

    def by(self, network: Any, about: Mapping[str, Any], named: str | None) -> Given:
        """As features of ``network``, ``about`` it (as of ``load_extractor``); a user may have ``named`` its maker.

        A network of a file of its own, with what standardises it, made features that are standardised; anybody else's
        are the weights', and are standardised here if the network is. PerflowError if neither the file nor its user
        says who made it, or either says another, or if the features are of another number of dimensions.
        """
        own = replace(self, said=self._said(about, named))
        if not isinstance(network, Standardised) or self.maker == about["sha256"]:
            return own
        self._check(len(network.mean))
        if self.moments is None:
            return replace(own, features=network.standardised(self.features))
        mean, covariance = self.moments
        scaled = covariance * np.outer(network.scale, network.scale)
        return replace(own, moments=(network.standardised(mean), scaled))

    def _said(self, about: Mapping[str, Any], named: str | None) -> dict[str, str]:
        own = about["name"]
        if named is not None and named != own:
            raise PerflowError(f"{self.path}: features by '{named}'; everything here is measured by '{own}'")
        hashes = {about["sha256"], about.get("weights", {}).get("sha256")}
        if self.maker is None and named is None:
            raise PerflowError(f"{self.path}: does not say which network made it; if '{own}' did, say so (made by)")
        if self.maker is not None and self.maker not in hashes:
            known = " or ".join(sorted(each[:12] for each in hashes if each))
            raise PerflowError(
                f"{self.path}: says that the network {self.maker[:12]} made it; '{own}' is {known} (of its sha256)"
            )
        return {"made_by": own, "said_by": "the user" if self.maker is None else "the file"}

    def images(self, dimensions: int, **dealt: Any) -> Images:
        """As the extractor would have seen them, with fields of ``Images``; PerflowError unless they have its D."""
        self._check(dimensions)
        return Images(self.features, {}, moments=self.moments, **dealt)

    def _check(self, dimensions: int) -> None:
        if self.features.shape[1] != dimensions:
            raise PerflowError(
                f"{self.path}: features have {self.features.shape[1]} dimensions; the extractor's have {dimensions}"
            )


def read(path: Path, sha256: str | None = None) -> Given:
    """Read a file of features; nothing in it can run.

    PerflowError if it is not the one of ``sha256``, of another form, or not finite.
    """
    if not path.is_file():
        raise PerflowError(f"{path}: no such file of features")
    found = artifacts.sha256_file(path)
    if sha256 not in (None, found):
        raise PerflowError(f"{path}: has sha256 {found}; the study asks for {sha256}")
    return _checked(path, found)


def _checked(path: Path, sha256: str) -> Given:
    arrays, maker = _safetensors(path) if path.suffix == ".safetensors" else _npz(path)
    found = [form for form in _FORMS if all(name in arrays for name in form)]
    if len(found) != 1:
        holds = ", ".join(f"'{name}'" for name in sorted(arrays)) or "nothing"
        raise PerflowError(f"{path}: holds {holds}; a file of features holds {_HOLDS}")
    values = [_floats(path, name, arrays[name]) for name in found[0]]
    if len(values) == 1:
        (features,) = values
        if features.ndim != 2 or 0 in features.shape:
            raise PerflowError(f"{path}: '{found[0][0]}' is {list(features.shape)}; features are [N, D]")
        return Given(path, sha256, features, None, maker)
    mean, covariance = values
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"'mu' is {list(mean.shape)} and 'sigma' {list(covariance.shape)}"
        raise PerflowError(f"{path}: {shapes}; a mean is [D] and a covariance [D, D]")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * np.abs(covariance).max(initial=0)):
        raise PerflowError(f"{path}: 'sigma' is not symmetric, as a covariance is")
    return Given(path, sha256, np.zeros((0, len(mean))), (mean, covariance), maker)


def _floats(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    """As float64; PerflowError for other types, and for what is not finite."""
    if not np.issubdtype(array.dtype, np.floating):
        raise PerflowError(f"{path}: '{name}' is {array.dtype}; features are floats")
    if not np.isfinite(array).all():
        raise PerflowError(f"{path}: '{name}' has values that are not finite, the first at {_first(array)}")
    return array.astype(np.float64)


def _first(array: np.ndarray) -> list[int]:
    return [int(i) for i in np.argwhere(~np.isfinite(array))[0]]


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    tensors, header = artifacts.read_tensors(path)
    maker = header.get(_MAKER)
    if not isinstance(maker, str | None):
        raise PerflowError(f"{path}: '{_MAKER}' of its header is no text")
    return {
        name: (value.double() if value.is_floating_point() else value).numpy() for name, value in tensors.items()
    }, maker


def _npz(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    if not zipfile.is_zipfile(path):
        raise PerflowError(f"{path}: not an .npz archive of numpy")
    arrays = {}
    for member, data in artifacts.read_archive(path).items():
        try:
            arrays[member.removesuffix(".npy")] = np.lib.format.read_array(io.BytesIO(data))
        except (ValueError, TypeError, EOFError, SyntaxError, MemoryError, OverflowError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PerflowError(f"{path}: '{member}' is no array of numbers ({said})") from None
    maker = arrays.pop(_MAKER, None)
    if maker is not None and (maker.ndim != 0 or maker.dtype.kind != "U"):
        raise PerflowError(f"{path}: '{_MAKER}' is {maker.dtype} {list(maker.shape)}; it is text, one sha256")
    return arrays, None if maker is None else str(maker)
