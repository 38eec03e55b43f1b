"""measure: any folder or zip of images, or their features, under a study's protocol."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perflow import artifacts
from perflow.config import rooted
from perflow.config.rows import Evaluation
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.images import every_format
from perflow.metrics import CLIP, LPIPS, NEEDS, given, intervals
from perflow.metrics.given import SUFFIXES, Given
from perflow.metrics.judges import Judges
from perflow.metrics.looking import Viewer
from perflow.metrics.observed import INDEPENDENT, Drawn, labels_wanted, load_extractor, measured, reference_of
from perflow.metrics.trial import Images, Trial

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_LEAST = 2
"""Images in a group that the jackknife leaves out."""


def teachers(samples: Path, base: str) -> Drawn:
    """The samples of ``base``, which hold its teacher's; PerflowError if the manifest lists others, or points."""
    shown = Drawn.read(samples)
    if shown.content.get("model") != base or INDEPENDENT not in shown.trials:
        raise PerflowError(f"{samples}: not the samples of a base, which hold the teacher's; give those of '{base}'")
    if "images" not in shown.trials[INDEPENDENT]:
        raise PerflowError(f"{samples}: holds points on the plane, with which images cannot be compared")
    return shown


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Images of a folder or zip, decoded when they are looked at."""

    sha256: str
    files: list[tuple[str, bytes]]
    where: Path
    size: tuple[int, int]
    """Width and height of the teacher's."""

    @property
    def count(self) -> int:
        return len(self.files)

    def check(self) -> None:
        """PerflowError for one that is no image, or not of the teacher's size, as far as a file's beginning says."""
        for name, data in self.files:
            with self._read(name), Image.open(io.BytesIO(data)) as image:
                there = image.size
            if there != self.size:
                sizes = "{} x {} pixels; the teacher's images have {} x {}".format(*there, *self.size)
                raise PerflowError(f"{self.where}: '{name}' has {sizes}")

    def decode(self, file: tuple[str, bytes]) -> np.ndarray:
        """One of them, uint8 [H, W, 3]; PerflowError if it cannot be read."""
        name, data = file
        with self._read(name):
            return store.decode(data)

    @contextlib.contextmanager
    def _read(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SyntaxError, ValueError):
            raise PerflowError(f"{self.where}: '{name}' cannot be read as an image") from None

    def described(self) -> dict[str, Any]:
        """As results name it."""
        return {"sha256": self.sha256, "count": self.count}


def measure(
    images: Path, row: Evaluation, teacher: Path, dataset: Path, extractor: Path, same_prompts: bool,
    clip: Path | None = None, lpips: Path | None = None, real: Path | None = None, made_by: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """The metrics of ``row`` for the images in a folder or zip, against the samples of the manifest ``teacher``.

    In place of images there may be a file of their features (``perflow.metrics.given``), and ``real`` is one in place
    of the study's real images, or of their statistics; ``made_by`` names the extractor that made them, where they do
    not say it. What needs images, or each real image, is left out then, with the reason.

    The teacher's samples are those of the trial that stands for other noise. With ``same_prompts`` the images, in
    the order of their names (2 before 10), are of the manifest's prompts, as many of each as there: a trial of the
    study measured so gets the numbers that ``evaluate`` gives it. Otherwise they count as independent, groups of
    images are left out in place of groups of prompts, and what needs prompts is left out, with the reason.
    PerflowError if there are too few images, or one is unreadable or not of the teacher's size.
    """
    shown = teachers(teacher, row.base)
    source = _source(images, shown)
    groups = intervals.deal(shown.prompts, row.groups)
    count = int(groups.max()) + 1
    if source.count < _LEAST * count:
        raise PerflowError(
            f"{images}: {source.count} images; intervals from {count} groups need {_LEAST * count} or more"
        )
    if same_prompts and source.count != len(shown.prompts):
        prompts, per_prompt = len(shown.content["prompts"]), shown.content["per_prompt"]
        raise PerflowError(
            f"{images}: {source.count} images; --same-prompts needs {len(shown.prompts)}, {per_prompt} of each of the"
            f" {prompts} prompts of {teacher}"
        )
    known, word = _known(row, real, made_by)
    if made_by is not None and real is None and not isinstance(source, Given):
        raise PerflowError(f"--made-by {made_by}: is for files of features; there is none")

    network, about = load_extractor(row.extractor, extractor, device)
    viewer = Viewer(network, device)
    if isinstance(source, Given):
        source = source.by(network, about, made_by)
    described = {"images": {"path": str(images)} | source.described()}
    if known is not None:
        known = known.by(network, about, word)
        described["real"] = {"path": str(known.path)} | known.described()
    else:
        file = store.split_files(dataset, row.split)[0]
        described["real"] = {"path": str(file), "sha256": artifacts.sha256_file(file)}
    wanted = labels_wanted(shown, network.values) if same_prompts else {}
    judges = Judges.load({CLIP: (row.clip, clip), LPIPS: (row.lpips, lpips)}, device)
    there = dict.fromkeys(_WORDS, False) | {
        "prompts": same_prompts, "attributes": bool(network.values), "classes": True,
        "each_real": known is None or known.moments is None,
        CLIP: CLIP in judges.networks, LPIPS: LPIPS in judges.networks,
    }  # fmt: skip
    # Features alone do not say what an image shows, nor, to an extractor that would read it, whether that is right.
    hidden = {"attributes", CLIP, LPIPS} | ({"prompts"} if network.values else set())
    left_out = _left_out(row.metrics, there, hidden if isinstance(source, Given) else set())
    dealt = {"groups": np.arange(source.count) % count}
    if same_prompts:
        dealt = {"prompts": shown.prompts, "groups": groups}
    other = shown.observe(INDEPENDENT, viewer, groups)
    dimensions = other.features.shape[1]
    judged = {}
    if isinstance(source, Given):
        samples = source.images(dimensions, **dealt)
    else:
        samples = Images(*viewer.see(source.files, source.decode, str(images)), **dealt)
        judged = judges.judged(shown, source.files, source.decode, str(images)) if same_prompts else {}
    reference, accuracy = reference_of(dataset, row.split, viewer, known, dimensions)
    described["real"] |= {"count": known.count if known else len(reference.features)}
    metrics = [metric for metric in row.metrics if metric not in left_out]
    trial = Trial(samples, other, other, reference, wanted, getattr(network, "classify", None), **judged)
    found = measured(trial, metrics, row.confidence)
    left_out |= {metric: "undefined for these images" for metric in metrics if metric not in found}
    entry = shown.trials[INDEPENDENT]["images"]
    own = {"path": str(teacher.parent / entry["file"]), "sha256": entry["sha256"], "count": len(other.features)}
    return described | {
        "teacher": own, "extractor": about | accuracy, "confidence": row.confidence, "groups": count,
        **({"networks": judges.about} if judged else {}),
        "groups_of": "prompts" if same_prompts else "images", "metrics": found, "left_out": left_out,
    }  # fmt: skip


def _source(images: Path, shown: Drawn) -> _Pictures | Given:
    """What is measured: images, or a file of features of them."""
    if images.suffix in SUFFIXES and not images.is_dir():
        found = given.read(images)
        if found.moments:
            raise PerflowError(
                f"{images}: holds a mean and a covariance, of which no interval can be made; give the features"
            )
        return found
    files = _read(images)
    every_format()
    height, width, _ = store.decode(shown.images(INDEPENDENT)[0]).shape
    found = _Pictures(_hash(files), list(files.items()), images, (width, height))
    found.check()
    return found


def _known(row: Evaluation, real: Path | None, made_by: str | None) -> tuple[Given | None, str | None]:
    """What stands for the real images, ``real`` or what the study names, and who is said to have made it."""
    if real is not None:
        return given.read(real), made_by
    if row.given is not None:
        return given.read(rooted(Path(), row.given.features), row.given.sha256), row.given.made_by
    return None, None


def _left_out(metrics: Sequence[str], there: Mapping[str, bool], hidden: set[str]) -> dict[str, str]:
    """Metric -> why it cannot be told, where something it needs is not ``there``, or ``hidden`` in features."""
    found = {}
    for metric in metrics:
        needs = NEEDS.get(metric, ())
        if hidden.intersection(needs):
            found[metric] = "needs images, not their features alone"
        elif absent := [need for need in needs if not there[need]]:
            found[metric] = f"needs {_WORDS[absent[0]]}"
    return found


_WORDS = {
    "each_real": "the features of each real image, not a mean and a covariance",
    "prompts": "to know each image's prompt (--same-prompts)",
    "attributes": "an extractor that reads the prompts' attributes",
    "latents": "latents from the teacher's noise",
    "calls": "to know what each image cost",
    "paths": "the paths of points on the plane",
    CLIP: "a network of kind clip",
    LPIPS: "a network of kind lpips",
}


def _read(path: Path) -> dict[str, bytes]:
    """Image files by name, as a person would number them; PerflowError if there are none."""
    if path.is_dir():
        found = {str(file.relative_to(path)): file for file in path.rglob("*")}
    elif zipfile.is_zipfile(path):
        found = artifacts.read_archive(path)
    else:
        raise PerflowError(f"{path}: {'neither a folder nor a zip' if path.exists() else 'no such folder or zip'}")
    names = [name for name in found if name.lower().endswith(PICTURES) and not _hidden(name)]
    if not names:
        raise PerflowError(f"{path}: no images; known are {', '.join(PICTURES)}")
    chosen = {name: found[name] for name in sorted(names, key=_natural)}
    try:
        return {name: data.read_bytes() if isinstance(data, Path) else data for name, data in chosen.items()}
    except OSError as error:
        raise PerflowError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _hidden(name: str) -> bool:
    """Names such as .cache/a.png and __MACOSX/._a.png, which programs leave behind."""
    return any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)


def _natural(name: str) -> list[int | str]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _hash(given: dict[str, bytes]) -> str:
    """Of the images' bytes in their order, whatever holds them."""
    return artifacts.sha256_bytes("".join(map(artifacts.sha256_bytes, given.values())).encode())
