"""measure: any folder or zip of images under a study's protocol."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from perflow import artifacts
from perflow.config.rows import Evaluation
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics import CLIP, LPIPS, NEEDS, intervals
from perflow.metrics.judges import Judges
from perflow.metrics.observed import INDEPENDENT, Drawn, labels_wanted, load_extractor, measured, observe_real
from perflow.metrics.trial import Images, Trial

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
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


def measure(
    images: Path, row: Evaluation, teacher: Path, dataset: Path, extractor: Path, same_prompts: bool,
    clip: Path | None = None, lpips: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The metrics of ``row`` for the images in a folder or zip, against the samples of the manifest ``teacher``.

    The teacher's samples are those of the trial that stands for other noise. With ``same_prompts`` the images, in
    the order of their names (2 before 10), are of the manifest's prompts, as many of each as there: a trial of the
    study measured so gets the numbers that ``evaluate`` gives it. Otherwise they count as independent, groups of
    images are left out in place of groups of prompts, and what needs prompts is left out, with the reason.
    PerflowError if there are too few images, or one is unreadable or not of the teacher's size.
    """
    shown = teachers(teacher, row.base)
    given = _read(images)
    pixels = np.stack(_decoded(images, given, shown))
    groups = intervals.deal(shown.prompts, row.groups)
    count = int(groups.max()) + 1
    if len(pixels) < _LEAST * count:
        raise PerflowError(
            f"{images}: {len(pixels)} images; intervals from {count} groups need {_LEAST * count} or more"
        )
    if same_prompts and len(pixels) != len(shown.prompts):
        prompts, per_prompt = len(shown.content["prompts"]), shown.content["per_prompt"]
        raise PerflowError(
            f"{images}: {len(pixels)} images; --same-prompts needs {len(shown.prompts)}, {per_prompt} of each of the"
            f" {prompts} prompts of {teacher}"
        )

    network, about = load_extractor(row.extractor, extractor)
    wanted = labels_wanted(shown, network.values) if same_prompts else {}
    judges = Judges.load({CLIP: (row.clip, clip), LPIPS: (row.lpips, lpips)})
    there = dict.fromkeys(_WORDS, False) | {
        "prompts": same_prompts, "attributes": bool(network.values), "classes": True,
        CLIP: CLIP in judges.networks, LPIPS: LPIPS in judges.networks,
    }  # fmt: skip
    left_out = {
        metric: f"needs {_WORDS[absent[0]]}"
        for metric in row.metrics
        if (absent := [need for need in NEEDS.get(metric, ()) if not there[need]])
    }
    dealt = {"prompts": shown.prompts, "groups": groups} if same_prompts else {"groups": np.arange(len(pixels)) % count}
    samples = Images(*network.observe(pixels), **dealt)
    other = shown.observe(INDEPENDENT, network, groups)
    reference = store.split_files(dataset, row.split)[0]
    real, accuracy = observe_real(dataset, row.split, network)
    metrics = [metric for metric in row.metrics if metric not in left_out]
    judged = judges.judged(shown, pixels) if same_prompts else {}
    trial = Trial(samples, other, other, real, wanted, getattr(network, "classify", None), **judged)
    found = measured(trial, metrics, row.confidence)
    left_out |= {metric: "undefined for these images" for metric in metrics if metric not in found}
    entry = shown.trials[INDEPENDENT]["images"]
    return {
        "images": _described(images, _hash(given), samples),
        "teacher": _described(teacher.parent / entry["file"], entry["sha256"], other),
        "real": _described(reference, artifacts.sha256_file(reference), real),
        "extractor": about | accuracy, "confidence": row.confidence, "groups": count,
        **({"networks": judges.about} if judged else {}),
        "groups_of": "prompts" if same_prompts else "images", "metrics": found, "left_out": left_out,
    }  # fmt: skip


_WORDS = {
    "prompts": "to know each image's prompt (--same-prompts)",
    "attributes": "an extractor that reads the prompts' attributes",
    "latents": "latents from the teacher's noise",
    "calls": "to know what each image cost",
    "paths": "the paths of points on the plane",
    CLIP: "a network of kind clip",
    LPIPS: "a network of kind lpips",
}


def _described(path: Path, sha256: str, images: Images) -> dict[str, Any]:
    return {"path": str(path), "sha256": sha256, "count": len(images.features)}


def _read(path: Path) -> dict[str, bytes]:
    """Image files by name, as a person would number them; PerflowError if there are none."""
    if path.is_dir():
        found = {str(file.relative_to(path)): file for file in path.rglob("*")}
    elif zipfile.is_zipfile(path):
        found = artifacts.read_archive(path)
    else:
        raise PerflowError(f"{path}: {'neither a folder nor a zip' if path.exists() else 'no such folder or zip'}")
    names = [name for name in found if name.lower().endswith(SUFFIXES) and not _hidden(name)]
    if not names:
        raise PerflowError(f"{path}: no images; known are {', '.join(SUFFIXES)}")
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


def _decoded(path: Path, given: dict[str, bytes], shown: Drawn) -> list[np.ndarray]:
    """Every image, uint8 [H, W, 3], of the size of the teacher's."""
    entry = shown.trials[INDEPENDENT]["images"]
    first = next(iter(artifacts.read_archive(artifacts.beside(shown.path, entry)).values()))
    height, width, _ = store.decode(first).shape
    images = []
    for name, data in given.items():
        try:
            images.append(store.decode(data))
        except (OSError, SyntaxError, ValueError):
            raise PerflowError(f"{path}: '{name}' cannot be read as an image") from None
        if images[-1].shape[:2] != (height, width):
            there = "{1} x {0}".format(*images[-1].shape)
            raise PerflowError(f"{path}: '{name}' has {there} pixels; the teacher's images have {width} x {height}")
    return images


def _hash(given: dict[str, bytes]) -> str:
    """Of the images' bytes in their order, whatever holds them."""
    return artifacts.sha256_bytes("".join(map(artifacts.sha256_bytes, given.values())).encode())
