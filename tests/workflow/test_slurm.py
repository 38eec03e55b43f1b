"""profiles/slurm through Snakemake's own plugin, and a Slurm that is a few lines of Python.

Not part of ``make test``: the plugin comes with ``pip install -e '.[cluster]'``.
"""

import os
import re
import stat
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake_executor_plugin_slurm")

PAIRS, STUDENT = "results/pairs/eps-fixed-k2", "results/students/eps-perflow-k2-s0"


def test_the_profile_submits_what_rules_ask_for_and_a_preempted_training_ends_with_the_same_bytes(
    repository, tmp_path, monkeypatch
):
    repository.moved()
    before = repository.hashes("results/pairs", "results/students")
    commands, slurm = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    (slurm / "jobs").mkdir(parents=True)
    (slurm / "preempt").write_text("train")
    script = Path(__file__).with_name("slurm.py").read_text()
    for name in ("sbatch", "srun", "sacct", "sacctmgr", "scancel", "sinfo"):
        (commands / name).write_text(f"#!{sys.executable}\n{script}")
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("SLURM", str(slurm))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    for path in [*(repository.home / PAIRS).iterdir(), repository.home / STUDENT / "ema.safetensors"]:
        path.unlink()
    repository.run(
        f"{STUDENT}/ema.safetensors", "--workflow-profile", "profiles/slurm", "--config", "parts=2", "processes=1",
        "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "20",
    )  # fmt: skip
    jobs = [job for job in sorted((slurm / "jobs").iterdir(), key=lambda job: int(job.name))]
    calls = [(job / "call").read_text().split("\n") for job in jobs]
    assert [next(re.findall(r"rule_([a-z]+)", word)[0] for word in call if "rule_" in word) for call in calls] == [
        "part", "part", "cache", "train",
    ]  # fmt: skip
    for call in calls:
        words = " ".join(call)
        assert "-A perflow -p gpu" in words
        assert {"--gpus=1", "--nodes=1", "--requeue", "--mem", "-t"} <= set(call)
    assert "--mem 128000 " in " ".join(calls[-1])
    assert [(job / "preempted").exists() for job in jobs] == [False, False, False, True]
    assert repository.hashes("results/pairs", "results/students") == before
