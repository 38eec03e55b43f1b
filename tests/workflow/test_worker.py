"""A verb in a fork of the warm process is the verb: streams, status, environment, and it dies with its caller."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

SERVER = """
import sys
sys.path.insert(0, {workflow!r})
import worker
from perflow import cli, running

def main(arguments, prog_name):
    import os, time
    match arguments:
        case ["echo", *words]:
            print(*words, os.environ["MARK"], os.getcwd())
            print("error stream", file=sys.stderr)
        case ["fail", text]:
            sys.exit(text)
        case ["crash"]:
            raise RuntimeError("a fault of ours")
        case ["sleep", file]:
            open(file, "w").write(str(os.getpid()))
            time.sleep(60)

running.warm_up = {warm_up}
cli.main = main
worker.serve()
"""


@pytest.fixture
def home(root, tmp_path):
    """A folder that a server serves."""
    server = start(root, tmp_path, "lambda: None")
    yield tmp_path
    server.stdin.close()
    assert server.wait(10) == -signal.SIGKILL
    wait_for(lambda: not (tmp_path / ".snakemake/perflow.socket").exists())


def start(root, home, warm_up):
    """A server of ``home``."""
    (home / ".snakemake").mkdir(exist_ok=True)
    code = SERVER.format(workflow=str(root / "workflow"), warm_up=warm_up)
    server = subprocess.Popen([sys.executable, "-c", code], cwd=home, stdin=subprocess.PIPE)
    wait_for(lambda: (home / ".snakemake/perflow.socket").exists())
    return server


def wait_for(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def ask(root, home, *arguments, **options):
    command = [sys.executable, "-S", "-E", str(root / "workflow" / "worker.py"), *arguments]
    return subprocess.Popen(command, cwd=home, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_streams_status_environment_and_folder_are_the_callers(root, home):
    out, err = ask(root, home, "echo", "a b", "c", env={**os.environ, "MARK": "mine"}).communicate()
    assert (out, err) == (f"a b c mine {home}\n", "error stream\n")
    failed = ask(root, home, "fail", "perflow: it is wrong")
    assert failed.communicate() == ("", "perflow: it is wrong\n")
    assert failed.returncode == 1
    crashed = ask(root, home, "crash")
    assert "a fault of ours" in crashed.communicate()[1]
    assert crashed.returncode not in (0, 1)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_caller_takes_its_fork_along(by, root, home):
    caller = ask(root, home, "sleep", "pid")
    wait_for(lambda: (home / "pid").exists() and (home / "pid").read_text())
    caller.send_signal(by)
    caller.communicate()
    wait_for(lambda: not os.path.exists(f"/proc/{(home / 'pid').read_text()}"))


def test_a_killed_fork_is_told_to_its_caller(root, home):
    caller = ask(root, home, "sleep", "pid")
    wait_for(lambda: (home / "pid").exists() and (home / "pid").read_text())
    os.kill(int((home / "pid").read_text()), signal.SIGKILL)
    assert "was killed" in caller.communicate()[1]
    assert caller.returncode == 137


@pytest.mark.parametrize("said", [b"", (9).to_bytes(8, "big"), (2).to_bytes(8, "big") + b"{}"])
def test_a_caller_that_is_killed_before_it_is_served_leaves_no_word(said, root, tmp_path, monkeypatch):
    """Its request waits while the server imports; nobody reads the answer, but its terminal may still be there."""
    server = start(root, tmp_path, "lambda: __import__('time').sleep(1)")
    monkeypatch.chdir(tmp_path)
    reads, writes = os.pipe()
    with socket.socket(socket.AF_UNIX) as caller:
        wait_for(lambda: caller.connect_ex(".snakemake/perflow.socket") == 0)  # bound a moment before it listens
        if said:
            socket.send_fds(caller, [said], [writes, writes])
    os.close(writes)
    with os.fdopen(reads) as terminal:
        assert terminal.read() == ""
    assert ask(root, tmp_path, "fail", "no").wait() == 1  # it still serves
    server.stdin.close()
    server.wait(10)


@pytest.mark.parametrize("stale", [False, True])
def test_without_a_server_a_verb_is_a_process_of_its_own(stale, root, tmp_path, monkeypatch):
    (tmp_path / ".snakemake").mkdir()
    if stale:
        left = socket.socket(socket.AF_UNIX)
        monkeypatch.chdir(tmp_path)
        left.bind(".snakemake/perflow.socket")
        left.close()
    alone = ask(root, tmp_path, "--version", env={**os.environ, "PYTHONPATH": str(root)})
    assert alone.communicate()[0].startswith("perflow, version")


def test_a_server_that_ends_before_it_takes_a_verb_is_done_without(root, tmp_path):
    """The run before this one failed at once, and its server, still at its imports, ends now."""
    server = start(root, tmp_path, "lambda: __import__('time').sleep(60)")
    asked = ask(root, tmp_path, "--version", env={**os.environ, "PYTHONPATH": str(root)})
    time.sleep(0.5)
    server.stdin.close()
    assert server.wait(10) == -signal.SIGKILL
    assert asked.communicate()[0].startswith("perflow, version")


def test_a_server_that_ends_leaves_the_next_ones_socket(root, tmp_path):
    first = start(root, tmp_path, "lambda: None")
    (tmp_path / ".snakemake/perflow.socket").unlink()
    second = start(root, tmp_path, "lambda: None")
    first.stdin.close()
    first.wait(10)
    assert (tmp_path / ".snakemake/perflow.socket").exists()
    assert ask(root, tmp_path, "fail", "no").wait() == 1
    second.stdin.close()
    second.wait(10)
