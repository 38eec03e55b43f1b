"""Run one stage: device and threads, lock, progress, log, cost. What every verb has in common."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from perflow import artifacts, record
from perflow.errors import PerflowError

WARM = ("torch", "datasets", "sklearn.datasets", "transformers.models.clip.modeling_clip",
        "transformers.models.clip.tokenization_clip", *(f"perflow.stages.{stage}" for stage in
        ("fetch", "base", "tune", "blend", "adapt", "extractor", "cache", "train", "export", "sample", "transfer",
         "evaluate")))  # fmt: skip
"""What most stages need."""
_EVERY = 5.0
"""Seconds between lines of progress."""


def environment(threads: int) -> None:
    """Fix what bytes and speed depend on in libraries that read it when they are imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    # Threads that spin long steal the core of a neighbour, threads that sleep at once wake too late.
    os.environ["GOMP_SPINCOUNT"] = "10000"
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")


def warm_up() -> None:
    """Import what most stages import, so that a fork of this process need not."""
    environment(threads=1)
    for name in WARM:
        importlib.import_module(name)
    import diffusers

    for part in ("AutoencoderKL", "DDIMScheduler", "StableDiffusionPipeline", "UNet2DConditionModel"):
        getattr(diffusers, part)


def prepare(device: str, threads: int) -> str:
    """Fix what bytes depend on, before any tensor exists; returns the device, ``auto`` resolved.

    A fixed number of threads keeps the bytes the same whatever machine or ``--cores``.
    """
    environment(threads)
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
        self.note(line)

    def note(self, line: str) -> None:
        """Write one line to the log alone."""
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
    """Run ``stage(spec, state folder)`` for a row, alone, and write last of ``outputs`` its record, ``cost.json``.

    The state belongs to the spec *and* the content of ``inputs``: work begun on other inputs is not resumed.
    A stage is a function or a generator of Steps; what it returns is added to the cost. PerflowError if
    the row is at work elsewhere, or if its spec was rewritten meanwhile (nothing made is then kept); one
    that the stage raises is given the row's name.
    """
    begun, cpu = time.monotonic(), time.process_time()
    spec = artifacts.read_spec(spec_path)
    reporter = Reporter(f"{verb} {spec.name}", log)
    read = {path.as_posix(): artifacts.sha256_file(path) for path in inputs}
    state = record.state(spec, read)
    with artifacts.locked(state):
        resumed = any(not path.name.startswith(".") for path in state.iterdir())
        if resumed:
            reporter.say("resumes from its state")
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
        try:
            counts = _exhaust(stage(spec, state), reporter)
        except PerflowError as error:
            reporter.note(f"{reporter.title}: {error}")
            raise PerflowError(f"{reporter.title}: {error}") from None
        if artifacts.read_spec(spec_path).hash != spec.hash:
            for output in outputs:
                output.unlink(missing_ok=True)
            raise PerflowError(f"{spec_path}: was rewritten while {verb} ran; nothing was kept, run again")
        *made, cost = outputs
        files = [*made, *(path.parent / entry["file"] for path in made for entry in record.named(path))]
        record.write(
            cost, spec.hash, read, made, bytes=sum(path.stat().st_size for path in files), resumed=resumed,
            seconds=round(time.monotonic() - begun, 2), cpu_seconds=round(time.process_time() - cpu, 2),
            peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            **{"teacher_evaluations": 0, "student_passes": 0, **(counts or {})},
        )  # fmt: skip
        shutil.rmtree(state)
    reporter.say(f"done in {_clock(time.monotonic() - begun)}")


def _exhaust(result: Any, reporter: Reporter) -> dict[str, Any] | None:
    if not isinstance(result, Iterator):
        return result
    while True:
        try:
            reporter.step(next(result))
        except StopIteration as end:
            return end.value
