"""The process that speaks with Weights & Biases: `python -m light_llm.observe.wandb_process`, rows on standard input.

The first line says what run it is, each further one is a row. Nothing but the rows and the run's settings leaves: no
console, code, Git state, machine, packages or statistics. The key is read by W&B itself, from WANDB_API_KEY.
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
from .metric_names import BEST_LOW, tracked_values
from .metrics import Row

LONGEST_UPLOAD = 600.0  # seconds that an upload may go on after the run has ended


def main() -> int:
    """Take a run and its rows until there are no more. Returns the exit code; the reason of a failure is printed."""
    stream = open(0, "rb", closefd=False)  # noqa: SIM115  (Python cannot end while a thread waits in its own stdin)
    try:
        what = json.loads(stream.readline())
        rows = read_ahead(stream)  # from now on: W&B may take its time to begin
        run = begin(**what)
        status = "failed"  # unless a row says how the run ended: it was killed, or an error ended it
        for row in rows:
            log(run, row)
            status = str(row["status"]) if row.get("kind") == "end" else status
        run.finish(exit_code=int(status in ("failed", "nonfinite")))
    except Exception as error:  # whatever W&B raises: the training process reads this line
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


def read_ahead(stream: BinaryIO) -> Iterable[Row]:
    """The rows, taken from the pipe as they come, so that a slow network holds nobody up."""
    rows: queue.Queue[Row | None] = queue.Queue()

    def take() -> None:
        with suppress(ValueError):  # half a line: the training was killed while it wrote
            for line in stream:
                rows.put(json.loads(line))
        rows.put(None)
        limit = threading.Timer(LONGEST_UPLOAD, os._exit, [1])
        limit.daemon = True
        limit.start()

    threading.Thread(target=take, daemon=True).start()
    return iter(rows.get, None)


def begin(folder: str, record: Mapping[str, Any], identity: str) -> Any:
    """Start or go on with the run at W&B, every number over our own count of steps.

    W&B's own count only grows; ours goes back when a run is resumed or rolled back.
    """
    import wandb

    of_user = wandb.setup().settings  # WANDB_PROJECT and WANDB_NAME go before ours
    run = wandb.init(
        project=of_user.project or "light-llm",
        name=of_user.run_name or f"{Path(folder).name}-{identity[:4]}",
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
    for name in BEST_LOW:
        run.define_metric(name, step_metric="step", summary="min")
    return run


def log(run: Any, row: Row) -> None:
    """One row: its numbers, pictures and text as one entry of the run's history; the end as a summary."""
    import wandb

    values: dict[str, Any] = dict(tracked_values(row))
    if row.get("kind") == "end":
        run.summary.update(values | {"run/status": str(row.get("status"))})
        return
    if importlib.util.find_spec("PIL"):  # W&B draws with Pillow, and can do without
        values |= {name: wandb.Image(p.pixels, caption=p.caption) for name, p in row_images(row).items()}
    if row.get("kind") == "sample":
        values["sample"] = wandb.Html(f"<pre>{html.escape(str(row['text']))}</pre>", inject=False)
    if values:
        run.log(values | {"step": row["step"]})


if __name__ == "__main__":
    sys.exit(main())
