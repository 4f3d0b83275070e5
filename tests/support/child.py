"""`light-llm` in child processes that are forked from a server which has imported torch: an import takes 1.5 to 3 s."""

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from light_llm.cli import run

PATIENCE = 200.0  # seconds for a child to reach the moment that is waited for, on a busy machine


@cache
def fork_server() -> ForkServerContext:
    """Return the context of the fork server, which is started by the first child and ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "light_llm.cli.train", "light_llm.generate", "tests.support.tools"])
    return context


class Child:
    """A function in a child process, by default the command line `light-llm WORDS ...`.

    Output and errors go to files that this process can read at any time, unless file descriptors are given. Signals
    that a shell's background jobs or nohup ignore are not ignored. Each child has a process group of its own.

    Args:
        env: changes of the environment.
        terminal: make standard input the controlling terminal.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        function: Callable[..., Any] = run,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        terminal: bool = False,
    ) -> None:
        self.files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  (read after the child's end)
        # Closed with this object, or Python would warn in the middle of another test.
        for file in self.files:
            weakref.finalize(self, file.close)
        devnull = os.open(os.devnull, os.O_RDWR)
        given = (stdin, devnull), (stdout, self.files[0].fileno()), (stderr, self.files[1].fileno())
        # A Connection is what multiprocessing can hand over; it closes its descriptor.
        streams = [Connection(os.dup(default if fd is None else fd)) for fd, default in given]
        os.close(devnull)
        settings = (os.environ | dict(env or {}), str(Path.cwd()), terminal)
        self.process = fork_server().Process(target=_child, args=(function, list(words), streams, *settings))
        self.process.start()
        # Else this process would wait at its end for a child that a failed test left running.
        atexit.register(self.process.kill)
        self.pid = self.process.pid or 0
        for stream in streams:
            stream.close()

    @property
    def output(self) -> tuple[str, str]:
        """The output and the errors so far."""
        out, err = (os.pread(file.fileno(), 1 << 30, 0).decode() for file in self.files)
        return out, err

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(("the child did not end", *self.output))
        return code

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition while the child runs."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.exitcode is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(self.output)
            time.sleep(0.005)

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal and wait. Returns the exit code, the output and the errors, in which no traceback may be."""
        self.send(number)
        code, (out, err) = self.wait(), self.output
        assert "Traceback" not in out + err, err
        return code, out, err


def _child(
    function: Callable[..., Any],
    words: list[str],
    streams: Sequence[Connection],
    env: dict[str, str],
    folder: str,
    terminal: bool,
) -> None:
    """Run a function as a process of its own would, and exit with the code that it returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    if terminal:
        os.close(os.open(os.ttyname(0), os.O_RDWR))
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, closefd=False) for fd, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    code = function(words)
    sys.stdout.flush()
    sys.exit(code)
