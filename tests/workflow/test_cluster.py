"""Jobs elsewhere: pairs in parts by a cluster's queue, and GPUs that jobs of one machine share."""

import os
import stat
import subprocess
import sys
import time

from tests.workflow.conftest import VOLATILE

QUEUE = """#!/bin/sh
# A queue: takes a job's script, answers with a number, and starts it on its own. The first job is killed at work.
script=$(eval echo \\$$#)
nohup setsid sh -c 'sh "$0"; echo $? > "$QUEUE_LOG.$$"' "$script" > /dev/null 2>&1 &
job=$!
if [ ! -e "$QUEUE_LOG" ]; then
  nohup sh -c 'until ls -d results/state/*/; do sleep 0.1; done; kill -s KILL -- "-$0"' $job > /dev/null 2>&1 &
fi
echo "$script" >> "$QUEUE_LOG"
echo $job
"""
STATUS = """#!/bin/sh
# What became of a job: it left its status, it is there, or it is gone without a word.
if [ -e "$QUEUE_LOG.$1" ]; then
  [ "$(cat "$QUEUE_LOG.$1")" = 0 ] && echo success || echo failed
else
  kill -0 "$1" 2> /dev/null && echo running || echo failed
fi
"""
PAIRS = "results/pairs/eps-fixed-k2"


def test_parts_of_a_row_go_through_a_queue_to_the_bytes_of_a_single_job(repository, tmp_path):
    """Jobs of their own, without the warm process, one of them killed and given again; the gathered pairs have the
    bytes of the single job."""
    repository.moved()
    before = repository.hashes("results/pairs", "results/students")
    queue, status = tmp_path / "submit", tmp_path / "status"
    for path, text in ((queue, QUEUE), (status, STATUS)):
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for path in (repository.home / PAIRS).iterdir():
        path.unlink()
    os.environ["QUEUE_LOG"] = str(tmp_path / "queue.log")
    repository.run(
        f"{PAIRS}/manifest.json", "--config", "parts=2", "--executor", "cluster-generic",
        "--cluster-generic-submit-cmd", str(queue), "--cluster-generic-status-cmd", str(status), "--retries", "1",
        "--jobs", "2", "--latency-wait", "20",
    )  # fmt: skip
    assert len((tmp_path / "queue.log").read_text().splitlines()) == 4
    assert repository.hashes("results/pairs", "results/students") == before
    assert not list((repository.home / PAIRS).glob("part-*"))
    assert not VOLATILE.search(PAIRS)
    repository.run()
    for config in (
        ["parts=1"],
        ["parts=3"],
        ["parts=2", "processes=2", "accumulate=2", "checkpointing=1", "compile=1"],
    ):
        assert "Nothing to be done" in repository.run("--dry-run", "--config", *config).stdout


JOB = """
import os, sys, time
from perflow import running
running.claim(int(sys.argv[1]))
begun = time.time()
time.sleep(0.4)
print(os.environ["CUDA_VISIBLE_DEVICES"], begun, time.time())
"""


def test_no_two_jobs_have_one_gpu_and_a_killed_job_gives_its_own_back(root, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "GPU $i: a card"; done\n')
    fake.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"PYTHONPATH": str(root), "TMPDIR": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def start(count: int) -> subprocess.Popen:
        command = [sys.executable, "-c", JOB, str(count)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    killed = start(3)
    time.sleep(0.2)
    killed.kill()
    killed.communicate()
    spans = []
    for job in [start(count) for count in (1, 1, 2, 1, 3, 1)]:
        gpus, begun, ended = job.communicate(timeout=60)[0].split()
        spans += [(gpu, float(begun), float(ended)) for gpu in gpus.split(",")]
    assert len(spans) == 9
    assert {gpu for gpu, _, _ in spans} == {"0", "1", "2"}
    for gpu in "012":
        held = sorted((begun, ended) for at, begun, ended in spans if at == gpu)
        assert all(end <= begun for (_, end), (begun, _) in zip(held, held[1:], strict=False))


def test_a_job_that_somebody_else_gave_a_gpu_takes_that(root, tmp_path, monkeypatch):
    from perflow import running

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    running.claim(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"


def test_every_rule_that_is_submitted_says_how_much_and_how_long(root):
    text = "\n".join(path.read_text() for path in (root / "workflow" / "rules").glob("*.smk"))
    rules = f"\n{text}".split("\nrule ")[1:]
    named = {rule.split(":")[0]: rule for rule in rules}
    for name in named.keys() - {"collect", "report", "track"}:
        assert "mem_mb=" in named[name], name
        assert "runtime=" in named[name], name
