"""The rows of a run to Weights & Biases, through a process of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..runtime import wandb_subprocess_env
from .metrics import Row

LONGEST_REASON = 300  # characters


class WandbSink:
    """A sink that hands rows to `light_llm.observe.wandb_process`.

    W&B's library replaces `sys.exit`, prints, holds up the end of its process until all is uploaded and costs a second
    to import: in a process of its own it does none of that to the training. An upload that is slow goes on there after
    the run has ended; a run that is killed closes the pipe, and is marked as failed. W&B's files and what its process
    says are in `wandb/` in the run folder.

    Args:
        folder: the run folder.
        record: run.json, which becomes the run's config.
        identity: the run's id at W&B; a resumed run goes on under the same.

    Raises:
        RuntimeError: by a row or `close`: the process has ended, with W&B's own reason.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], *, identity: str) -> None:
        files = folder.resolve() / "wandb"
        files.mkdir(exist_ok=True)
        self.said = files / "tracker.log"
        command = [sys.executable, "-P", "-m", "light_llm.observe.wandb_process"]
        with self.said.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  (our own program)
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=files,
                env=wandb_subprocess_env(files),
                start_new_session=True,  # Ctrl-C is for the training, which tells this process when it has ended
            )
        self._write({"folder": str(folder.resolve()), "record": dict(record), "identity": identity})

    def __call__(self, row: Row) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(self._reason())
        self._write(row)

    def close(self) -> None:
        """No more rows; wait until they are where they belong. The process goes on when nobody waits any longer."""
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended: what it ended with is below
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
        """The signal that ended the process, or the last line that it said."""
        with suppress(subprocess.TimeoutExpired):  # the pipe is closed before the process has quite ended
            self.process.wait(1)
        if (self.process.returncode or 0) < 0:
            return f"W&B's process was ended by signal {-self.process.returncode}"
        lines = self.said.read_text(encoding="utf-8", errors="replace").splitlines() if self.said.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
        return f"W&B's process ended: {last[:LONGEST_REASON]}; see {self.said}"
