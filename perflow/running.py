"""Run one stage: device and threads, lock, progress, log, cost. What every verb has in common."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from perflow import artifacts
from perflow.errors import PerflowError

_EVERY = 5.0
"""Seconds between lines of progress."""


def prepare(device: str, threads: int) -> str:
    """Fix what bytes depend on, before any tensor exists; returns the device, ``auto`` resolved.

    A fixed number of threads keeps the bytes the same whatever machine or ``--cores``.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # Threads that spin long steal the core of a neighbour, threads that sleep at once wake too late.
    os.environ["GOMP_SPINCOUNT"] = "10000"
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    import torch

    torch.set_num_threads(threads)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    valid = ["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if device not in valid:
        raise PerflowError(f"--device {device}: no such device here; valid: {', '.join(valid)}")
    if device == "auto":
        return "cuda" if count else "cpu"
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
        return "cuda"
    return device


class Reporter:
    """One line of progress every few seconds, to stderr and to the log."""

    def __init__(self, title: str, log: Path | None):
        self.title, self.begun, self.last, self.phase = title, time.monotonic(), 0.0, ""
        self.file: TextIO | None = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            self.file = log.open("a", encoding="utf-8")

    def say(self, text: str) -> None:
        """Print one line."""
        line = f"{self.title} · {text}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201
        if self.file:
            self.file.write(line + "\n")
            self.file.flush()

    def step(self, step: Any) -> None:
        """Report a stage's Step, not more often than every few seconds."""
        now = time.monotonic()
        if step.phase != self.phase:
            self.phase, self.begun, self.first = step.phase, now, step.step
        done = step.step == step.total
        if not done and now - self.last < _EVERY:
            return
        self.last = now
        passed, since = step.step - self.first, now - self.begun
        left = "" if done or passed <= 0 else f" · {_clock(since / passed * (step.total - step.step))} left"
        loss = "" if step.loss is None else f" · loss {step.loss:.4g}"
        self.say(f"{step.phase} {step.step}/{step.total}{loss}{left}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def run(
    verb: str,
    spec_path: Path,
    stage: Callable[[artifacts.Spec, Path], Any],
    outputs: list[Path],
    log: Path | None,
    inputs: Sequence[Path] = (),
) -> None:
    """Run ``stage(spec, state folder)`` for a row, alone, and write ``cost.json`` last of ``outputs``.

    The state belongs to the spec *and* the content of ``inputs``: work begun on other inputs is not resumed.
    A stage is a function or a generator of Steps; what it returns is added to the cost. PerflowError if
    the row is at work elsewhere, or if its spec was rewritten meanwhile (nothing made is then kept).
    """
    begun, cpu = time.monotonic(), time.process_time()
    spec = artifacts.read_spec(spec_path)
    reporter = Reporter(f"{verb} {spec.name}", log)
    identity = artifacts.sha256_bytes("".join([spec.hash, *map(artifacts.sha256_file, inputs)]).encode())
    state = Path("results/state") / f"{spec.table}-{spec.name}-{identity[:12]}"
    with artifacts.locked(state):
        resumed = any(path.name != ".lock" for path in state.iterdir())
        if resumed:
            reporter.say("resumes from its state")
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
        counts = _exhaust(stage(spec, state), reporter)
        if artifacts.read_spec(spec_path).hash != spec.hash:
            for output in outputs:
                output.unlink(missing_ok=True)
            raise PerflowError(f"{spec_path}: was rewritten while {verb} ran; nothing was kept, run again")
        artifacts.write_json(outputs[-1], {
            "seconds": round(time.monotonic() - begun, 2), "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "spec": spec.hash, "bytes": sum(_size(path) for path in _made(outputs, spec.name)),
            "resumed": resumed, "teacher_evaluations": 0, "student_passes": 0, **(counts or {}),
        })  # fmt: skip
        shutil.rmtree(state)
    reporter.say(f"done in {_clock(time.monotonic() - begun)}")


def _made(outputs: list[Path], name: str) -> list[Path]:
    """The files of a row: everything in its own folder, or its outputs in a folder it shares."""
    folder = outputs[0].parent
    return [path for path in folder.rglob("*") if path.is_file()] if folder.name == name else outputs


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _exhaust(result: Any, reporter: Reporter) -> dict[str, Any] | None:
    if not isinstance(result, Iterator):
        return result
    while True:
        try:
            reporter.step(next(result))
        except StopIteration as end:
            return end.value
