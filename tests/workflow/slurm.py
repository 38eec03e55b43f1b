"""A Slurm of one machine, for tests: each of its commands is a link to this file, and ``SLURM`` names its folder.

A job is a folder: ``call`` (the arguments it was submitted with), ``script`` and ``state``. When a job of the rule that
the file ``preempt`` names has begun its work, it is killed once, as by a preemption, and queued again under its number.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["SLURM"])


def sbatch(arguments):
    """Submit: answers with the job's number."""
    number = len(list(ROOT.glob("jobs/*"))) + 1
    job = ROOT / "jobs" / str(number)
    job.mkdir(parents=True)
    (job / "call").write_text("\n".join(word for word in arguments if not word.startswith("--wrap")))
    (job / "script").write_text(next(word for word in arguments if word.startswith("--wrap="))[len("--wrap=") :])
    (job / "state").write_text("PENDING")
    command = [sys.executable, __file__, "node", str(job)]
    subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=(job / "errors").open("w"))  # fmt: skip
    print(number)


def node(arguments):
    """Run a job; queue it again if it is preempted."""
    job = Path(arguments[0])
    wanted = ROOT / "preempt"
    preempted = wanted.exists() and f"rule_{wanted.read_text()}_" in (job / "call").read_text()
    while True:
        (job / "state").write_text("RUNNING")
        environment = {**os.environ, "SLURM_JOB_ID": job.name, "SLURM_JOBID": job.name}
        process = subprocess.Popen(["sh", str(job / "script")], env=environment, start_new_session=True,
                                   stdout=(job / "output").open("a"), stderr=subprocess.STDOUT)  # fmt: skip
        if preempted:
            while process.poll() is None and not any(Path("results/state").glob("*/")):
                time.sleep(0.05)
            assert process.poll() is None, "it ended before it could be preempted"
            os.killpg(process.pid, signal.SIGKILL)
            (job / "state").write_text("PREEMPTED")
            (job / "preempted").touch()
            preempted = False
            time.sleep(3)
            continue
        (job / "state").write_text("FAILED" if process.wait() else "COMPLETED")
        return


def srun(arguments):
    """A step of a job: what follows the options."""
    while arguments[0].startswith("-"):
        arguments = arguments[1:]
    os.execvp(arguments[0], arguments)


def sacct(arguments):
    """Number and state of every job."""
    for job in ROOT.glob("jobs/*"):
        print(f"{job.name}|{(job / 'state').read_text()}")


def sacctmgr(arguments):
    """The user's only account."""
    print("perflow")


if __name__ == "__main__":
    name, given = ("node", sys.argv[2:]) if sys.argv[1:2] == ["node"] else (Path(sys.argv[0]).name, sys.argv[1:])
    {"sbatch": sbatch, "node": node, "srun": srun, "sacct": sacct, "sacctmgr": sacctmgr}.get(name, print)(given)
