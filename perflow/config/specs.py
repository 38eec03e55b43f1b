"""results/specs/: what the stages, the report and the tracker read of a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.config import places
from perflow.config.rows import AnyBase, Scaled, Student, Tuned
from perflow.config.study import TABLES, Study
from perflow.fingerprint import fingerprint


def write_specs(study: Study, home: str | Path = ".", label: str = ".") -> None:
    """Write results/specs/ below ``home``; a file whose content is unchanged is not touched.

    ``label`` is what the study's home is called in MLflow: "." for the repository's own study.
    """
    for place, text in _texts(study, label).items():
        path = os.path.join(home, place)
        try:
            with open(path, "rb") as file:
                same = file.read() == text.encode()
        except FileNotFoundError:
            same = False
        if not same:
            artifacts.write_text(path, text, durable=False)


def specs(study: Study, label: str = ".") -> dict[Path, dict[str, Any]]:
    """Every file of results/specs/ and its content."""
    return {place: artifacts.loads(text) for place, text in _texts(study, label).items()}


def _texts(study: Study, label: str) -> dict[Path, str]:
    """Every file of results/specs/ as it is written, each put into words once: with a thousand rows that counts."""
    rows = {
        (table, name): artifacts.dumps(study.spec(table, name)) for table in TABLES for name in getattr(study, table)
    }
    hashes: dict[str, dict[str, str]] = {table: {} for table in TABLES}
    for (table, name), text in rows.items():
        hashes[table][name] = artifacts.sha256_bytes(text.encode())
    return {places.spec(*row): text for row, text in rows.items()} | {
        places.SUMMARY: artifacts.dumps(_summary(study, label, hashes))
    }


def summary(study: Study, label: str = ".") -> dict[str, Any]:
    """results/specs/study.json: what the report and the tracker list, and nothing they would have to guess."""
    return specs(study, label)[places.SUMMARY]


def _summary(study: Study, label: str, hashes: dict[str, dict[str, str]]) -> dict[str, Any]:
    params = study.params
    return {
        "name": study.name,
        "seed": study.seed,
        "home": label,
        "settings": params.model_dump(mode="json"),
        "params_text": study.text,
        "extractor": params.evaluation.extractor,
        "teacher": params.sampling.teacher.model_dump(),
        "models": [_model_summary(study, name, hashes) for name in study.samples],
        "transfers": [_transfer_summary(study, name, hashes) for name in study.transfers],
        "adapters": [{"name": n, "spec": hashes["adapters"][n]} for n in study.adapters],
        "pairs": [{"name": n, "base": row.base, "spec": hashes["pairs"][n]} for n, row in study.pairs.items()],
        "bases": [{"name": n, "spec": hashes["bases"][n]} for n in study.bases],
        "extractors": [{"name": n, "spec": hashes["extractors"][n]} for n in study.extractors],
        "skipped": [item._asdict() for item in study.skipped],
        "fingerprint": fingerprint("perflow.tracking", *_report_modules()),
    }


def _report_modules() -> list[str]:
    return [f"perflow.report.{path.stem}" for path in sorted((Path(__file__).parents[1] / "report").glob("*.py"))]


def _model_summary(study: Study, name: str, hashes: dict[str, dict[str, str]]) -> dict[str, Any]:
    samples = study.samples[name]
    common = {
        "name": name,
        "base": samples.base,
        "trials": [trial.model_dump() for trial in samples.trials],
        "windowed": samples.windowed,
        "spec": hashes["evaluations"][name],
        "samples_spec": hashes["samples"][name],
    }
    if name in study.bases:
        return common | {
            "kind": "base", "entry": "training-free", "label": "training-free", "windows": None, "edges": None,
            "seed": 0, "pairs": None, "method": None, "path": None, "prediction": study.bases[name].prediction,
            "starts": None, "guidance_mode": None, "links": [], "model_spec": hashes["bases"][name],
        }  # fmt: skip
    student, entry = study.students[name], study.entries[name]
    pairs = study.pairs[student.pairs] if student.pairs else None
    return common | {
        "kind": "student", "entry": entry, "label": study.params.students[entry].label,
        "windows": len(student.edges) - 1, "edges": student.edges, "seed": student.seed, "pairs": student.pairs,
        "method": student.method["name"] if student.method else None,
        "path": student.path, "prediction": student.prediction,
        "starts": pairs.starts if pairs else None,
        "guidance_mode": _guidance_mode(study, student.pairs) if student.pairs else _released_mode(student),
        "links": _links(study, name),
        "model_spec": hashes["students"][name],
    } | ({"ends": pairs.ends} if pairs and pairs.ends == "data" else {})  # fmt: skip


def _transfer_summary(study: Study, name: str, hashes: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A model in a setting: what of its row tables show, and what it was made for."""
    row = study.transfers[name]
    base = study.bases[row.base]
    return row.model_dump(include={"setting", "model", "base", "task", "adapter", "strength", "rank", "reference"}) | {
        "name": name,
        "label": study.params.settings[row.setting].label,
        "scale": _scale(study, base),
        "trials": [trial.model_dump() for trial in row.trials],
        "spec": hashes["evaluations"][name],
        "samples_spec": hashes["transfers"][name],
    }


def _scale(study: Study, base: AnyBase) -> float:
    """How far a base lies from the one it descends from, towards its fine-tune: 0 is that base, 1 the fine-tune."""
    if isinstance(base, Scaled):
        return base.scale
    tuned_from = getattr(base, "tuned_from", None)
    elsewhere = tuned_from is not None and getattr(study.bases[tuned_from], "source", None) != base.source
    return 1.0 if elsewhere or isinstance(base, Tuned) else 0.0


def _links(study: Study, name: str) -> list[str]:
    """The students a student rests on, by its start, its teacher, its window starts and theirs, each once."""
    student = study.students[name]
    if student.pairs is None:
        return []
    pairs = study.pairs[student.pairs]
    direct = [other for other in (student.start, pairs.teacher, pairs.student) if other]
    return list(dict.fromkeys([*direct, *(far for near in direct for far in _links(study, near))]))


def _released_mode(student: Student) -> str | None:
    """What is known of the guidance of a student that others taught: whether it is told it."""
    return "CFG-embedded" if student.told else None


def _guidance_mode(study: Study, pairs: str) -> str:
    """CFG-fixed if any teacher of the chain was guided: its guidance is then in the student's weights; CFG-embedded if
    they hold that of a range."""
    row = study.pairs[pairs]
    if row.guidance != 1:
        return "CFG-embedded" if isinstance(row.guidance, list) else "CFG-fixed"
    teacher = study.students[row.teacher] if row.teacher else None
    return _guidance_mode(study, teacher.pairs) if teacher and teacher.pairs and not teacher.told else "CFG-sync"
