"""The kinds of fault a running study is struck by: a dictionary of small generators.

A fault does its harm to a :class:`Run` and yields; the campaign waits for the run's end and lets it go on, to undo
what no command of perflow's could (a full disk gets room again). One that yields True wants a run that fails to say
why. One that ends without a yield found nothing to strike.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.workflow.conftest import Repository

ROOM = "4g"
"""Of the file system the study lies on, while it is not full."""


class Run(NamedTuple):
    """A run of a study at the moment it is struck."""

    repository: Repository
    process: subprocess.Popen
    random: random.Random
    again: Callable[[], None]
    """Gives the same command once more, to its end, and judges what it says."""
    fault: Callable[[str, str], None]
    """Notes that something was not survived: what, and the output."""
    mounted: bool
    """Whether the repository has a file system of its own, in a mount namespace of ours."""

    def group(self, *words: str) -> list[int]:
        """Process ids of the run whose command lines hold one of ``words``."""
        listed = subprocess.run(["ps", "-eo", "pid=,pgid=,args="], capture_output=True, text=True, check=True).stdout
        rows = (line.split(None, 2) for line in listed.splitlines())
        own = (row for row in rows if len(row) == 3 and int(row[1]) == self.process.pid)
        return [int(pid) for pid, _, command in own if any(word in command for word in words)]

    def stop(self) -> None:
        """Kill all of it, and wait until nobody writes any more."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while self.group(""):
            time.sleep(0.05)


Fault = Callable[[Run], Iterator[bool]]


def _send(number: int, *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stage_killed(run: Run) -> Iterator[bool]:
    """kill -9 of one job."""
    if jobs := run.group(" --spec "):
        _send(signal.SIGKILL, run.random.choice(jobs))
        yield False


def snakemake_killed(run: Run) -> Iterator[bool]:
    """kill -9 of Snakemake and of what started it; its jobs may live on as orphans."""
    _send(signal.SIGKILL, *run.group("snakemake.cli", "reproduce.py"))
    yield False


def all_killed(run: Run) -> Iterator[bool]:
    """kill -9 of the whole process group."""
    os.killpg(run.process.pid, signal.SIGKILL)
    yield False


def terminated(run: Run) -> Iterator[bool]:
    """SIGTERM of Snakemake, which lets its jobs end."""
    if found := run.group("snakemake.cli"):
        _send(signal.SIGTERM, *found)
        yield False


def interrupted(run: Run) -> Iterator[bool]:
    """Ctrl-C in a terminal."""
    os.killpg(run.process.pid, signal.SIGINT)
    yield False


def study_edited(run: Run) -> Iterator[bool]:
    """Another seed in the study's file, a look at what it would mean, and back."""
    text = run.repository.study.read_text()
    run.repository.study.write_text(text.replace("seed: 0", "seed: 7"))
    run.repository.run("--dry-run", check=False)
    time.sleep(run.random.uniform(0, 2))
    run.repository.study.write_text(text)
    yield False


def second_run(run: Run) -> Iterator[bool]:
    """The same command while the first is at work: it says who is, and the first one does not notice."""
    second = run.repository.run(check=False)
    if run.process.poll() is None and f"is at work in process {run.process.pid}" not in second.stdout:
        run.fault("a second run was not told who is at work", second.stdout)
    yield True


def disk_full(run: Run) -> Iterator[bool]:
    """No room but for a random few files; the command fails, and fails again, until there is room."""
    used = shutil.disk_usage(run.repository.root).used
    _mount("--options", f"remount,size={used + run.random.choice([0, 4096, 65_536, 2**20])}", run.repository.root)
    yield True
    run.again()
    _mount("--options", f"remount,size={ROOM}", run.repository.root)


def folder_read_only(run: Run) -> Iterator[bool]:
    """A random folder of the study, or the repository itself, that nothing can be written to."""
    home = run.repository.home
    folders = [run.repository.root, home, home / "logs", home / ".snakemake", run.repository.root / "mlruns"]
    folders += [home / "data", home / "reports", home / "results", *home.glob("data/*"), *home.glob("results/*")]
    there = sorted(folder for folder in folders if folder.is_dir())
    if not there:
        return
    folder = run.random.choice(there)
    print(f"   read-only: {folder.relative_to(run.repository.root)}", flush=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if run.mounted:  # a mount over it: whoever has a file open there may go on writing, new files are refused
        _mount("--bind", folder, folder)
        _mount("--options", "remount,bind,ro", folder)
    else:
        folder.chmod(0o555)
    yield True
    run.again()
    if run.mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)
    else:
        folder.chmod(mode)


def bit_flipped(run: Run) -> Iterator[bool]:
    """A bit of a random artifact, of a finished study or of one that was killed."""

    def flip(data: bytearray) -> bytes:
        data[run.random.randrange(len(data))] ^= 1 << run.random.randrange(8)
        return data

    return _damaged(run, flip)


def truncated(run: Run) -> Iterator[bool]:
    """The end of a random artifact, of a finished study or of one that was killed."""
    return _damaged(run, lambda data: data[: run.random.randrange(len(data))])


def _damaged(run: Run, damage: Callable[[bytearray], bytes]) -> Iterator[bool]:
    """Damage a file between two runs; half of the times its date stays, as with a failing disk."""
    if run.random.random() < 0.5:
        run.process.wait()
    else:
        run.stop()
    home = run.repository.home
    found = [path for folder in ("data", "results", "reports") for path in (home / folder).rglob("*")]
    found = sorted(path for path in found if path.is_file() and not path.name.startswith(".") and path.stat().st_size)
    if not found:
        return
    path = run.random.choice(found)
    print(f"   damaged: {path.relative_to(home)}", flush=True)
    before = path.stat()
    path.write_bytes(damage(bytearray(path.read_bytes())))
    if run.random.random() < 0.5:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    yield False


KINDS: dict[str, Fault] = {
    "`kill -9` of a stage": stage_killed,
    "`kill -9` of Snakemake": snakemake_killed,
    "`kill -9` of everything": all_killed,
    "SIGTERM of Snakemake": terminated,
    "Ctrl-C": interrupted,
    "a full disk": disk_full,
    "a read-only folder": folder_read_only,
    "two runs at once": second_run,
    "the study edited and put back while jobs run": study_edited,
    "a flipped bit in an artifact": bit_flipped,
    "a truncated artifact": truncated,
}


def possible(kind: str, mounted: bool) -> bool:
    """Whether ``kind`` can be tried: a full disk needs a file system of its own, and root may write anywhere else."""
    return mounted or KINDS[kind] not in (disk_full, *([] if os.geteuid() else [folder_read_only]))


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def unshare() -> list[str]:
    """What starts a command in a mount namespace of its own; empty if there can be none.

    What is mounted there is seen by nobody else, and is gone with the last process, however that ends.
    """
    command = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    possible = shutil.which("unshare") and subprocess.run([*command, "true"], check=False, capture_output=True)
    return command if possible and possible.returncode == 0 else []


def enter_namespace(module: str) -> bool:
    """Start this program again in a mount namespace of its own; True if it is in one, False if there can be none."""
    if os.environ.get("PERFLOW_NAMESPACE"):
        return True
    if command := unshare():
        os.environ["PERFLOW_NAMESPACE"] = "1"
        os.execvp(command[0], [*command, sys.executable, "-m", module, *sys.argv[1:]])
    return False


def mount_room(folder: Path) -> None:
    """An empty file system of its own at ``folder``, whose room can be taken away."""
    folder.mkdir(parents=True)
    _mount("--types", "tmpfs", "--options", f"size={ROOM}", "perflow", folder)
