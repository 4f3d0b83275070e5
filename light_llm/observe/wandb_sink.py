"""Send the rows of a run to Weights & Biases, through a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..runtime import wandb_subprocess_env
from .metrics import Row

MAX_REASON = 300  # characters


class WandbSink:
    """A sink that passes rows to `light_llm.observe.wandb_process`.

    The library (still so in 0.31) replaces `sys.exit` and `sys.excepthook`, and when the interpreter ends it waits
    until everything is uploaded, with an exit code of its own. In another process none of this affects the training:
    a slow upload continues after the run has ended, and a run that is killed closes the pipe and is marked as failed.
    The files of W&B and the output of its process are in `wandb/` in the run folder.

    Args:
        folder: the run folder.
        record: run.json, which becomes the run's config.
        identity: the run's id at W&B; a resumed run continues under the same.

    Raises:
        RuntimeError: by a row or `close`: the process has ended, with the reason given by W&B.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], *, identity: str) -> None:
        files = folder.resolve() / "wandb"
        files.mkdir(exist_ok=True)
        self.log = files / "tracker.log"
        command = [sys.executable, "-P", "-m", "light_llm.observe.wandb_process"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  (our own program)
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=files,
                env=wandb_subprocess_env(files),
                # Ctrl-C is for the training; the closed pipe tells this process that it has ended.
                start_new_session=True,
            )
        self._write({"folder": str(folder.resolve()), "record": dict(record), "identity": identity})

    def __call__(self, row: Row) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(self._reason())
        self._write(row)

    def close(self) -> None:
        """Close the pipe and wait for the upload. If the caller stops waiting, the process continues alone."""
        assert self.process.stdin is not None
        # A process that has ended breaks the pipe; its reason is read below.
        with suppress(OSError):
            self.process.stdin.close()
        if self.process.wait():
            raise RuntimeError(self._reason())

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(line, default=str).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise RuntimeError(self._reason()) from None

    def _reason(self) -> str:
        """Return the signal that ended the process, or the last line that it printed."""
        # The pipe breaks shortly before the process has ended.
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        if (self.process.returncode or 0) < 0:
            return f"W&B's process was ended by signal {-self.process.returncode}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
        return f"W&B's process ended: {last[:MAX_REASON]}; see {self.log}"
