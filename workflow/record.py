"""Let DVC record what a study made: what ``make record`` does after the run.

The study of params.yaml is the stage of dvc.yaml. Any other gets the same stage in a folder beside its file:
workflow/studies/tiny.yaml in workflow/studies/tiny/dvc.yaml, with a dvc.lock of its own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def check(root: Path, study: Path) -> None:
    """Exit with one line, before anything runs, if nothing could be recorded in the end."""
    if not study.is_relative_to(root):
        sys.exit(f"perflow: {study} cannot be recorded: a study's file must lie in the repository, {root}")
    asked = _dvc(root, "stage", "list", "--name-only", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if asked.returncode:
        reason = (asked.stdout.strip().splitlines() or ["it said nothing"])[-1].removeprefix("ERROR: ")
        sys.exit(f"perflow: recording needs DVC and a git repository ({reason}); make reproduce runs without them")


def record(root: Path, study: Path, home: Path) -> int:
    """Record the finished study that lives in ``home``; returns DVC's status."""
    folder = root if home == root else study.with_suffix("")
    if folder != root:
        folder.mkdir(exist_ok=True)
        (folder / "dvc.yaml").write_text(_stage_file(root, study, home, folder), encoding="utf-8")
    name = (folder / "dvc.yaml").relative_to(root).as_posix()
    status = _dvc(root, "commit", "--force", "--quiet", f"{name}:study").returncode
    if status == 0:
        print(f"recorded in {name.removesuffix('yaml')}lock: git commit it, dvc push to share")  # noqa: T201
    return status


def _dvc(root: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=False, **options)


def _stage_file(root: Path, study: Path, home: Path, folder: Path) -> str:
    """The repository's dvc.yaml, said of another study."""
    import yaml

    file, own = study.relative_to(root).as_posix(), home.relative_to(root).as_posix()
    content = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    stage = content["stages"]["study"]
    stage = {"wdir": Path(os.path.relpath(root, folder)).as_posix()} | stage
    stage |= {"cmd": f"{stage['cmd']} --study {shlex.quote(file)}", "desc": f"The study of {file}, from data to report"}
    stage["params"] = [{file: None}]
    for kind in ("outs", "metrics"):
        stage[kind] = [{f"{own}/{path}": options for path, options in out.items()} for out in stage[kind]]
    for plot in (plot for named in content["plots"] for plot in named.values()):
        plot["y"] = {f"{stage['wdir']}/{own}/{path}": column for path, column in plot["y"].items()}
    head = f"# Made from the repository's dvc.yaml by make record STUDY={file}: edit that one, and record again.\n"
    return head + yaml.safe_dump(content | {"stages": {"study": stage}}, sort_keys=False, allow_unicode=True, width=120)
