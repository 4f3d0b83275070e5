"""`light-llm watch`: serve the live page of runs, finished or training."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..errors import ConfigError
from .args import PositionalArgs, Words, parse, words_arg
from .output import print_rich

_POSITIONAL = PositionalArgs("folder", "light-llm watch, or light-llm watch FOLDER")


@dataclass(frozen=True)
class WatchFlags:
    """The flags of `watch`."""

    folders: Annotated[
        Words, words_arg("[FOLDER ...]", "a run, or a folder of runs", "(default: checkpoints)"), _POSITIONAL
    ] = ()
    port: Annotated[
        int, arg(metavar="N", help="port to serve on", help_behavior_hint="(default: the first free one)")
    ] = 0


def command(argv: Sequence[str]) -> int:
    """Serve the page until Ctrl-C, or until the server ends: then return 1."""
    about = "Serve a live web page, to this machine only, of the runs in each FOLDER and one level below it."
    flags, _ = parse(WatchFlags, argv, prog="light-llm watch", about=about)
    # Imported here, so that --help and a refused flag do not wait for the modules of the server.
    from ..report.find_runs import find_runs
    from ..report.server import open_port, serve

    roots = [Path(f) for f in flags.folders or ("checkpoints",)]
    for root in roots:
        # A folder that does not exist yet is awaited: the page may be opened before the training starts.
        if root.exists() and not root.is_dir():
            raise ConfigError(f"{root} is not a folder; name a run folder, or a folder of runs")
    with serve(roots, open_port(flags.port), warn=_warn) as (address, thread):
        print_rich(f"live page  {address}")
        for root in roots:
            if not root.is_dir() or not find_runs([root]):
                print_rich(f"waiting    no run in {root.absolute()} yet; the page shows it as soon as it starts")
        print_rich("           Ctrl-C ends the page, not the training.")
        # Through a pipe, standard output is buffered, and the address would stay there as long as the page is served.
        sys.stdout.flush()
        # Sleep in short pieces, so that Ctrl-C and a server that has failed both end the command soon.
        while thread.is_alive():
            time.sleep(0.5)
    return 1


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
