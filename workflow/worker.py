"""Run perflow's verbs in forks of one warm process: importing torch and diffusers takes longer than many a stage.

``worker.py --serve`` imports what the stages need, once, and then forks for whoever asks; it ends when
its standard input does, that is, with the Snakemake that started it. ``worker.py VERB …`` asks it to run
``perflow VERB …`` and passes on the streams, the environment and the status. Nothing depends on it: with
no server there, or one that ends before it takes the verb, it becomes ``python -m perflow VERB …``, and a killed
``worker.py VERB`` takes its fork along.
"""

import contextlib
import json
import os
import signal
import socket
import sys

SOCKET = ".snakemake/perflow.socket"
"""Relative to the study's home, where Snakemake and its jobs run (a socket's path must be short)."""


def ask(arguments: list[str]) -> int:
    """Run a verb in a fork of the server, or in a process of its own; returns its status."""
    connection = socket.socket(socket.AF_UNIX)
    request = json.dumps({"arguments": arguments, "environment": dict(os.environ)}).encode()
    taken = answer = b""
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork gets it too, and says what is to be said
    with contextlib.suppress(OSError):  # no server, or one that ended
        connection.connect(SOCKET)
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [1, 2])
        connection.sendall(request)
        taken = connection.recv(1)
    if not taken:
        signal.signal(signal.SIGINT, interrupted)
        os.execv(sys.executable, [sys.executable, "-m", "perflow", *arguments])
    with contextlib.suppress(ConnectionError):  # the fork was killed
        answer = connection.recv(1)
    if not answer:
        sys.stderr.write("perflow: the stage was killed; the same command goes on from here\n")
        return 137
    return answer[0]


def serve() -> None:
    """Take requests until standard input ends."""
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the package of this repository
    from perflow import running

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)  # of a server that was killed; Snakemake's own lock keeps a second one away
    listener.bind(SOCKET)
    _follow_parent(listener)
    listener.listen(64)  # who comes early waits until the imports are done
    running.warm_up()
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _work(connection)
        connection.close()


def _follow_parent(listener: socket.socket) -> None:
    """A process that waits for standard input to end, then ends the server (a thread would not survive a fork)."""
    server, own = os.getpid(), os.stat(SOCKET).st_ino
    if os.fork() == 0:
        listener.close()
        with contextlib.suppress(OSError):
            while os.read(0, 1):
                pass
        with contextlib.suppress(OSError):
            if os.stat(SOCKET).st_ino == own:  # the next run may have its own by now
                os.unlink(SOCKET)
        os.kill(server, signal.SIGKILL)
        os._exit(0)


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A whole request, and the caller's two streams; ConnectionError if the caller is gone."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 2)
    request, size = b"", int.from_bytes(head, "big")
    while len(request) < size:
        piece = connection.recv(size - len(request))
        if not piece:
            raise ConnectionError
        request += piece
    if len(streams) != 2:
        raise ConnectionError
    return request, streams


def _work(connection: socket.socket) -> None:
    """In a fork: become the command, answer with its status, and never return."""
    import threading

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        request, streams = _received(connection)
        connection.sendall(b"!")  # taken: from here on a silence means that this fork was killed
    except ConnectionError:  # who asked was killed, and nobody waits for an answer
        os._exit(1)
    for stream, number in zip(streams, (1, 2), strict=True):
        os.dup2(stream, number)
        os.close(stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    found = json.loads(request)
    os.environ.clear()
    os.environ.update(found["environment"])

    def die_with_caller() -> None:
        if not connection.recv(1):
            os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die_with_caller, daemon=True).start()
    status = 70
    try:
        from perflow.cli import main

        main(found["arguments"], prog_name="perflow")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([status & 255]))
        os._exit(status & 255)


if __name__ == "__main__":
    sys.exit(serve() if sys.argv[1:] == ["--serve"] else ask(sys.argv[1:]))
