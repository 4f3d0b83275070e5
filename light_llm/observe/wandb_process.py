"""The process that talks to Weights & Biases: `python -m light_llm.observe.wandb_process`, with rows on standard input.

The first line describes the run, each further line is a row. Only the rows and the run's settings are uploaded: no
console output, code, Git state, machine, packages or statistics. W&B itself reads the key, from WANDB_API_KEY.
"""

import html
import importlib.util
import json
import os
import queue
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from .heatmap import row_images
from .metric_names import LOWER_IS_BETTER, tracked_values
from .metrics import Row

UPLOAD_TIMEOUT = 600.0  # seconds that an upload may take after the run has ended


def main() -> int:
    """Log a run and its rows until the input ends. Returns the exit code; the reason of a failure is printed."""
    # Not sys.stdin: Python cannot exit while a thread waits in it.
    stream = open(0, "rb", closefd=False)  # noqa: SIM115
    try:
        run_description = json.loads(stream.readline())
        # W&B may take long to start, so rows are read from now on.
        rows = read_ahead(stream)
        run = start_run(**run_description)
        # Stays so when the run is killed or ends with an error: then no `end` row comes.
        status = "failed"
        for row in rows:
            log_row(run, row)
            status = str(row["status"]) if row.get("kind") == "end" else status
        run.finish(exit_code=int(status in ("failed", "nonfinite")))
    # W&B raises many types; the training process reads this line.
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


def read_ahead(stream: BinaryIO) -> Iterable[Row]:
    """Return an iterator over the rows, read by a thread so that a slow network does not fill the pipe."""
    rows: queue.Queue[Row | None] = queue.Queue()

    def read() -> None:
        with suppress(ValueError):  # a torn line: the training was killed while it wrote
            for line in stream:
                rows.put(json.loads(line))
        rows.put(None)
        limit = threading.Timer(UPLOAD_TIMEOUT, os._exit, [1])
        limit.daemon = True
        limit.start()

    threading.Thread(target=read, daemon=True).start()
    return iter(rows.get, None)


def start_run(folder: str, record: Mapping[str, Any], identity: str) -> Any:
    """Start or continue the run at W&B, with our step as the x axis of every metric.

    W&B's own step can only grow; ours goes back when a run is resumed or rolled back.
    """
    import wandb

    # WANDB_PROJECT and WANDB_NAME take precedence over our names.
    user_settings = wandb.setup().settings
    run = wandb.init(
        project=user_settings.project or "light-llm",
        name=user_settings.run_name or f"{Path(folder).name}-{identity[:4]}",
        id=identity,
        resume="allow",
        reinit="create_new",
        dir=folder,
        config=dict(record),
        settings=wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host="",
            program="",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    for name in LOWER_IS_BETTER:
        run.define_metric(name, step_metric="step", summary="min")
    return run


def log_row(run: Any, row: Row) -> None:
    """Log the numbers, images and text of a row as one history entry; an `end` row goes into the summary."""
    import wandb

    values: dict[str, Any] = dict(tracked_values(row))
    if row.get("kind") == "end":
        run.summary.update(values | {"run/status": str(row.get("status"))})
        return
    # W&B draws images with Pillow, which is optional.
    if importlib.util.find_spec("PIL"):
        images = row_images(row).items()
        values |= {name: wandb.Image(image.pixels, caption=image.caption) for name, image in images}
    if row.get("kind") == "sample":
        values["sample"] = wandb.Html(f"<pre>{html.escape(str(row['text']))}</pre>", inject=False)
    if values:
        run.log(values | {"step": row["step"]})


if __name__ == "__main__":
    sys.exit(main())
