"""Killed anywhere, the same command ends with the same bytes; a damaged file is named and mended."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.workflow import faults


@pytest.fixture
def repository(repository):
    """The copy, with an MLflow database of its own to come."""
    return repository.moved()


KILLS = [
    ("base", "results/bases/v", "base v · network"),
    ("cache", "results/pairs/v-path-k2", "rule cache"),
    ("train", "results/students/eps-perflow-k2-s0", "train eps-perflow-k2-s0 · train"),
    ("sample", "results/samples/eps-perflow-k2-s0", "sample eps-perflow-k2-s0 · window-2"),
]


@pytest.mark.parametrize(("verb", "folder", "moment"), KILLS, ids=[kill[0] for kill in KILLS])
def test_kill_9_then_the_same_command_gives_the_same_bytes(verb, folder, moment, reference, repository):
    shutil.rmtree(repository.home / folder)
    running = subprocess.Popen(
        repository.command(), cwd=repository.root, env=repository.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    for line in running.stdout:
        if moment in line:
            break
    if verb == "cache":
        time.sleep(4)  # in its imports or at work: it says nothing before its first shard
    assert running.poll() is None, "it ended before it could be killed"
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (repository.home / folder / "manifest.json").exists() or verb not in ("cache", "sample")
    repository.run()
    assert repository.hashes() == reference.hashes()
    assert repository.planned() == {}


def test_snakemake_alone_killed_leaves_no_orphans_work_behind(reference, repository):
    """The job lives on as an orphan; the next run is told who holds the row, or finds its result."""
    shutil.rmtree(repository.home / "results/students/eps-perflow-k2-s0")
    running = subprocess.Popen(
        repository.command(), cwd=repository.root, env=repository.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    for line in running.stdout:
        if "train eps-perflow-k2-s0 · train" in line:
            break
    tree = subprocess.run(
        ["pgrep", "-g", str(running.pid), "-f", "snakemake"], capture_output=True, text=True, check=True
    )
    for pid in tree.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    running.wait()
    first = repository.run(check=False)
    if first.returncode:
        assert "in use by process" in first.stdout
        time.sleep(5)
        repository.run()
    assert repository.hashes() == reference.hashes()


def test_two_runs_at_once_are_told_apart(repository):
    shutil.rmtree(repository.home / "results/students/eps-perflow-k2-s0")
    first = subprocess.Popen(repository.command(), cwd=repository.root, env=repository.environment(), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    for line in first.stdout:
        if "Building DAG" in line:
            break
    second = repository.run(check=False)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert second.returncode != 0
    assert f"is at work in process {first.pid}" in second.stdout


@pytest.mark.parametrize(
    "victim",
    [
        "results/pairs/eps-fixed-k2/shard-00000.safetensors",
        "results/bases/eps/pipeline/unet/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_flipped_bit_stops_the_run_by_name_and_one_deletion_mends_it(victim, reference, repository):
    shutil.rmtree(repository.home / "results/students/eps-perflow-k2-s0")
    path = repository.home / victim
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    done = repository.run(check=False)
    assert done.returncode != 0
    assert f"{victim}: altered or truncated" in done.stdout
    made_by = "manifest.json" if "pairs" in victim else "model.json"
    assert f"{made_by} and run again" in done.stdout
    folder = path.parent if "pairs" in victim else path.parents[2]
    (folder / made_by).unlink()
    repository.run()
    assert repository.hashes() == reference.hashes()


@pytest.mark.parametrize("dated", [True, False], ids=["with a new date", "with the old date"])
def test_a_damaged_table_that_nothing_is_made_from_is_named_by_the_same_command(dated, reference, repository):
    """Snakemake has nothing to do, or makes a page of it: every file is looked at in the end."""
    table = repository.home / "results/tables/main.csv"
    before = table.stat()
    table.write_bytes(table.read_bytes()[:-40])
    if not dated:
        os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = repository.run(check=False)
    assert done.returncode != 0
    said = [line for line in done.stdout.splitlines() if line.startswith("perflow:")][-1]
    assert "results/tables/main.csv: altered or truncated" in said
    assert "delete results/tables/main.csv and run again" in said
    table.unlink()
    repository.run()
    assert repository.hashes() == reference.hashes()


def test_a_record_that_was_lost_is_made_again_with_its_row(reference, repository):
    """Nothing else is made from a record, and nobody can vouch for a row without one."""
    for lost in ("data/digits-extractor/cost.json", "results/metrics/v.cost.json"):
        (repository.home / lost).unlink()
    planned = repository.planned()
    assert planned["fetch"] == ["digits-extractor"]
    assert "v" in planned["evaluate"]
    said = repository.run().stdout
    assert "rule train" not in said
    assert repository.hashes() == reference.hashes()
    assert repository.planned() == {}


def test_a_short_campaign_of_what_is_not_tried_above(reference, tmp_path):
    """``make torture`` is the long one: a full disk and a read-only folder need a file system of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.workflow.torture", "--begin", reference.root, "--kills", "3", "--longest", "9",
         "--kinds", "full disk,read-only,truncated", "--forget", "results/students/eps-perflow-k2-s0",
         "--out", tmp_path / "counts.json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert sum(counts["survived"].values()) == 3
    assert counts["faults"] == []


@pytest.mark.skipif(not faults.unshare(), reason="no file system can be mounted here")
def test_a_lock_that_could_not_be_taken_away_is_taken_away_by_the_next_run(reference, repository):
    """Snakemake's folder becomes read-only while it works: it ends by itself, and its lock stays."""
    shutil.rmtree(repository.home / "results/students/eps-perflow-k2-s0")
    script = """
        home="$1"; shift; "$@" &
        until grep -qs train "$home/logs/train/eps-perflow-k2-s0.log"; do kill -0 $! || exit 0; sleep 0.1; done
        cd "$home"; mount --bind .snakemake .snakemake; mount --options remount,bind,ro .snakemake; wait $!
    """
    (repository.home / "logs/train/eps-perflow-k2-s0.log").unlink()
    done = subprocess.run(
        [*faults.unshare(), "bash", "-c", script, "stuck", repository.home, *repository.command()],
        cwd=repository.root, env=repository.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert ".snakemake" in [line for line in done.stdout.splitlines() if line.startswith("perflow:")][-1]
    assert list((repository.home / ".snakemake/locks").iterdir())
    repository.run()
    assert repository.hashes() == reference.hashes()
