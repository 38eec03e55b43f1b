"""Run one stage: device and threads, lock, progress, log, cost. What every verb has in common."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from perflow import artifacts, record
from perflow.errors import PerflowError, no_room

WARM = ("torch", "datasets", "sklearn.datasets", "transformers.models.clip.modeling_clip",
        "transformers.models.clip.tokenization_clip", *(f"perflow.stages.{stage}" for stage in
        ("fetch", "prompts", "base", "tune", "blend", "extractor", "encode", "adapt", "cache", "train", "export",
         "sample", "transfer", "evaluate")))  # fmt: skip
"""What most stages need."""
_EVERY = 5.0
"""Seconds between lines of progress."""
_CLAIMED: dict[int, TextIO] = {}
"""GPUs that this process holds, each with its locked file."""
_ROOM = "a training takes less with --accumulate and --checkpointing, pairs with precision: bf16"
"""What to do where a device has none."""
_COMPILERS = {"cpu": ("a C++ compiler", "CXX"), "cuda": ("triton, a C compiler and Python's headers", "CC")}
"""What torch needs to compile for a kind of device, and the variable that may name it."""
_FOLLOWS = "PERFLOW_FOLLOWS"
"""Set in the processes that ``together`` starts."""


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
    if device == "cpu" or not count:
        return "cpu"
    own = int(os.environ.get("LOCAL_RANK", 0))  # of several processes of one training each has its own
    if own >= count:
        raise PerflowError(f"--processes: process {own} has no device; there are {count}")
    torch.cuda.set_device(device if device.startswith("cuda:") else own)
    return "cuda"


def can_compile(device: str) -> None:
    """Compile a line for ``device``; PerflowError where torch cannot: what it lacks, and where it looked.

    What a real network's compilation imports and looks up is then there already.
    """
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except (RuntimeError, OSError) as error:  # torch wraps what a compiler, or the folder it writes to, says
        cause = getattr(error, "inner_exception", error)
        said = f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
        needed, variable = _COMPILERS[device]
        raise PerflowError(
            f"--compile: torch cannot compile for {device} here ({said}); it needs {needed}, looked for by"
            f" {variable}={os.environ.get(variable, '(not set)')} and PATH={os.environ.get('PATH', '(not set)')};"
            f" install it, name it in {variable}, or leave --compile (compile: true of a profile) out"
        ) from None


def claim(count: int) -> None:
    """Take ``count`` free GPUs of this machine for this process, waiting for them, before torch sees any.

    A GPU is held by the lock of a file, which the kernel drops when its holder dies. Nothing is done with one GPU or
    none, or where somebody else decides: in a job of Slurm, or with CUDA_VISIBLE_DEVICES set. PerflowError if there
    are fewer.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ or "SLURM_JOB_ID" in os.environ or shutil.which("nvidia-smi") is None:
        return
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    there = sum(line.startswith("GPU ") for line in listed.splitlines())
    if there < 2:
        return
    if count > there:
        raise PerflowError(f"--processes {count}: there are {there} GPUs")
    folder = Path(tempfile.gettempdir()) / f"perflow-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while len(_CLAIMED) < count:
        for gpu in range(there):
            file = open(folder / str(gpu), "w")  # noqa: SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            _CLAIMED[gpu] = file
            if len(_CLAIMED) == count:
                break
        else:  # none is kept from others while waiting
            for file in _CLAIMED.values():
                file.close()
            _CLAIMED.clear()
            time.sleep(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, _CLAIMED))


def helps() -> bool:
    """Whether this is not the main one of several processes of one training: it computes, and writes nothing."""
    return int(os.environ.get("RANK", 0)) > 0


@contextlib.contextmanager
def together(processes: int, arguments: Sequence[str]) -> Iterator[None]:
    """Run the block as the first of ``processes`` on this machine; the others run ``perflow ARGUMENTS``.

    They meet through the variables that accelerate and torchrun use, and die with this one; if one of them dies, this
    one ends too, with one line.
    """
    if processes == 1:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def variables(rank: int) -> dict[str, str]:
        return {name: str(value) for name, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}

    others = [
        subprocess.Popen(
            [sys.executable, "-m", "perflow", *arguments],
            stdin=subprocess.PIPE,
            env=os.environ | variables(rank) | {_FOLLOWS: "1"},
        )  # fmt: skip
        for rank in range(1, processes)
    ]
    finished = threading.Event()
    lost = f"perflow: one of {processes} processes ended; the same command goes on from here"

    def watch() -> None:
        """Out of a wait for one that is gone there is no other way."""
        while not finished.wait(0.5):
            if any(other.poll() for other in others) and not finished.wait(5):
                print(lost, file=sys.stderr, flush=True)  # noqa: T201
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    os.environ.update(variables(0))
    try:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):  # they have nothing left to do
            for other in others:
                other.wait(60)
    except RuntimeError:  # what a broken connection raises
        time.sleep(1)
        if not any(other.poll() for other in others):
            raise
        sys.exit(lost)
    finally:
        finished.set()
        for other in others:
            other.kill()


def follow() -> None:
    """End with the process that started this one for ``together``: its end closes our standard input."""
    if os.environ.get(_FOLLOWS):

        def wait() -> None:
            while os.read(0, 1):
                pass
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


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
        """Write one line to the log alone; a log that has no room hides nothing and stops nothing."""
        if self.file:
            with contextlib.suppress(OSError):
                self.file.write(line + "\n")
                self.file.flush()

    def step(self, step: Any) -> None:
        """Report a stage's Step: the first and the last of a phase, and others every few seconds."""
        now = time.monotonic()
        begins = step.phase != self.phase
        if begins:
            self.phase, self.begun, self.first = step.phase, now, step.step
        done = step.step == step.total
        if not (begins or done) and now - self.last < _EVERY:
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
    work: str = "",
) -> None:
    """Run ``stage(spec, state folder)`` for a row, alone, and write last of ``outputs`` its record, ``cost.json``.

    The state belongs to the spec *and* the content of ``inputs``: work begun on other inputs is not resumed.
    A stage is a function or a generator of Steps; what it returns is added to the cost (``seconds`` and
    ``cpu_seconds`` to its own). ``work`` names one of several works on one row that may go on side by side.
    PerflowError if the row is at work elsewhere, or if its spec was rewritten meanwhile (nothing made is then
    kept); one that the stage raises is given the row's name.
    """
    begun, cpu = time.monotonic(), time.process_time()
    spec = artifacts.read_spec(spec_path)
    if helps():
        for _ in stage(spec, record.state(spec, {path.as_posix(): artifacts.sha256_file(path) for path in inputs})):
            pass
        return
    reporter = Reporter(f"{verb} {spec.name}", log)
    read = {path.as_posix(): artifacts.sha256_file(path) for path in inputs}
    state = record.state(spec, read | ({work: work} if work else {}))
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
        except RuntimeError as error:
            if (reason := no_room(error)) is None:
                raise
            said = f"{reporter.title}: the device has no room ({reason}); {_ROOM}"
            reporter.note(said)
            raise PerflowError(said) from None
        if artifacts.read_spec(spec_path).hash != spec.hash:
            for output in outputs:
                output.unlink(missing_ok=True)
            raise PerflowError(f"{spec_path}: was rewritten while {verb} ran; nothing was kept, run again")
        *made, cost = outputs
        counts = {"seconds": 0, "cpu_seconds": 0, **(counts or {})}
        files = [*made, *(path.parent / entry["file"] for path in made for entry in record.named(path))]
        record.write(
            cost, spec.hash, read, made, bytes=sum(path.stat().st_size for path in files), resumed=resumed,
            seconds=round(counts.pop("seconds") + time.monotonic() - begun, 2),
            cpu_seconds=round(counts.pop("cpu_seconds") + time.process_time() - cpu, 2),
            peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            **{"teacher_evaluations": 0, "student_passes": 0, **_device_memory(), **counts},
        )  # fmt: skip
        shutil.rmtree(state)
    reporter.say(f"done in {_clock(time.monotonic() - begun)}")


def _device_memory() -> dict[str, int]:
    """The most memory that tensors took on the device, where there is one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"device_peak_mib": round(torch.cuda.max_memory_allocated() / 2**20)}


def _exhaust(result: Any, reporter: Reporter) -> dict[str, Any] | None:
    if not isinstance(result, Iterator):
        return result
    while True:
        try:
            reporter.step(next(result))
        except StopIteration as end:
            return end.value
