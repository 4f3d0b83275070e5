"""The rows of a run as TensorBoard's event files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .heatmap import row_images
from .metric_names import tracked_values
from .metrics import Row

FLUSH_SECONDS = 10  # how far TensorBoard may lag behind a run


class TensorBoardSink:
    """A sink that writes numbers, pictures, samples and settings into `tensorboard/` in the run folder.

    What an earlier process, or this one before it went back, wrote of steps that are made again is hidden: a new event
    file begins with the step from which on nothing older counts.

    Args:
        folder: the run folder.
        record: run.json.
        resumed_at: the last step that stays as it is; 0 for a new run.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], *, resumed_at: int = 0) -> None:
        self.folder = folder / "tensorboard"
        self._open(resumed_at + 1 if resumed_at else 0)
        settings = json.dumps(record, indent=2, default=str)
        self.writer.add_text("run", f"```json\n{settings}\n```", resumed_at)

    def __call__(self, row: Row) -> None:
        step = int(row.get("step", 0))
        if row["kind"] == "rollback":
            self.writer.close()
            self._open(step + 1)
        for name, number in tracked_values(row).items():
            self.writer.add_scalar(name, number, step)
        for name, picture in row_images(row).items():
            self.writer.add_image(name, picture.pixels, step, dataformats="HWC")
        if row["kind"] == "sample":
            self.writer.add_text("sample", _verbatim(row["text"]), step)
        elif row["kind"] == "end":
            self.writer.add_text("run/status", str(row.get("status")), step)
        if row["kind"] != "step":
            self.writer.flush()

    def close(self) -> None:
        """No more rows."""
        self.writer.close()

    def _open(self, first: int) -> None:
        """A new event file, from which on older events of step `first` and later do not count."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=first, flush_secs=FLUSH_SECONDS)


def _verbatim(text: str) -> str:
    """TensorBoard shows text as Markdown; four spaces before a line keep it as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
