"""Several processes share one training: the same batches, the same curve, one writer; it goes on after a kill."""

import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from perflow import artifacts, running
from tests.stages.conftest import finish
from tests.test_loop import OPTIM, network

MEMBER = """
import os, signal, sys
from pathlib import Path
from perflow.loop import Loop
from tests.test_loop import OPTIM, network, shared_loss

loop = Loop(network(), OPTIM, Path(sys.argv[1]), save_seconds=0)
for step in loop.run_shared(shared_loss, 4):
    if loop.main and step.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def members(root, folder, killed_at: int = -1) -> list[int]:
    """Run two processes as any launcher would; their statuses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meet = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, str(folder), str(killed_at)], cwd=root, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(root), **meet, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    return [process.wait() for process in started]


def test_two_processes_killed_and_started_again_end_as_one(root, tmp_path):
    from perflow.loop import Loop
    from tests.test_loop import shared_loss

    alone = Loop(network(), OPTIM, tmp_path / "alone")
    finish(alone.run_shared(shared_loss, 4))
    assert all(members(root, tmp_path / "two", killed_at=9))
    kept = artifacts.read_tensors(tmp_path / "two" / "train.safetensors")[1]["step"]
    assert 0 < kept <= 9
    assert members(root, tmp_path / "two") == [0, 0]
    together = Loop(network(), OPTIM, tmp_path / "two")
    assert together.done == OPTIM.steps
    for name, value in alone.ema.state_dict().items():
        torch.testing.assert_close(together.ema.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    for name in ("step", "lr", "loss", "grad_norm"):
        assert [point[name] for point in together.curve] == pytest.approx(
            [point[name] for point in alone.curve], rel=1e-4
        )


def test_the_first_process_ends_with_any_other(root):
    code = "from perflow import running\nwith running.together(2, ['no-such-verb']):\n import time; time.sleep(60)"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 1
    assert time.monotonic() - begun < 40
    assert done.stderr.splitlines()[-1] == "perflow: one of 2 processes ended; the same command goes on from here"


def test_the_others_end_with_the_first_process(root):
    code = "from perflow import running\nrunning.follow()\nimport time; time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root), running._FOLLOWS: "1"},
    )  # fmt: skip
    other.stdin.close()
    assert other.wait(40) == 1
