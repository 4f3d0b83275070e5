"""Write the rows of a run as TensorBoard event files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .heatmap import row_images
from .metric_names import tracked_values
from .metrics import Row

FLUSH_SECONDS = 10  # how far TensorBoard may lag behind a run


class TensorBoardSink:
    """A sink that writes numbers, images, samples and settings into `tensorboard/` in the run folder.

    After a resume or a rollback some steps are made again. A new event file then begins with a purge step, from which
    on TensorBoard hides the older events.

    Args:
        folder: the run folder.
        record: run.json.
        resumed_at: the last step whose events stay; 0 for a new run.

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
        for name, image in row_images(row).items():
            self.writer.add_image(name, image.pixels, step, dataformats="HWC")
        if row["kind"] == "sample":
            # TensorBoard shows text as Markdown; four spaces before a line keep it verbatim.
            self.writer.add_text("sample", "\n".join(f"    {line}" for line in row["text"].splitlines()), step)
        elif row["kind"] == "end":
            self.writer.add_text("run/status", str(row.get("status")), step)
        if row["kind"] != "step":
            self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self.writer.close()

    def _open(self, first_step: int) -> None:
        """Open a new event file that hides older events of `first_step` and later."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=first_step, flush_secs=FLUSH_SECONDS)
