"""Install light-llm into this virtual environment with pip, and show progress: pip is silent while it unpacks PyTorch.

    .venv/bin/python tools/install.py --editable '.[dev]'

The arguments are passed to `pip install`. The standard library only, because nothing else is installed yet.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

SHOWN = ("Collecting", "Downloading", "Using cached", "Building", "Installing")
SECONDS_PER_LINE = 10  # in a log; a terminal is redrawn


def announcement(system: str, *, has_torch: bool, has_gpu: bool, environment: str) -> list[str]:
    """Return what will be downloaded, how large it is, and the way to the smaller build of PyTorch.

    >>> announcement("Darwin", has_torch=False, has_gpu=False, environment=".venv")
    ['Installing into .venv: PyTorch and about 40 other packages (0.3 GB to download, 1 GB on disk)']
    """
    if has_torch:
        return [f"Installing into {environment}; PyTorch is there already"]
    if system != "Linux":
        return [
            f"Installing into {environment}: PyTorch and about 40 other packages (0.3 GB to download, 1 GB on disk)"
        ]
    lines = [
        f"Installing into {environment}: PyTorch and about 40 other packages "
        "(3 GB to download, 6 GB on disk, most of it for NVIDIA GPUs)"
    ]
    if not has_gpu:
        lines += [
            "No NVIDIA GPU was found. PyTorch's CPU build is only 0.2 GB: to use it, press Ctrl-C and run",
            f"    uv pip install --python {environment} torch --torch-backend=cpu",
            "and then the same make command again",
        ]
    return lines


class Progress:
    """A line with the time, the disk space used so far and the last line of pip: redrawn, or repeated in a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start = time.monotonic()
        self.used = shutil.disk_usage(folder).used
        self.activity = "starting pip"
        self.done = threading.Event()
        self.terminal = sys.stderr.isatty()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def line(self) -> str:
        """Return the line as it is now."""
        seconds = int(time.monotonic() - self.start)
        written = max(0, shutil.disk_usage(self.folder).used - self.used) / 1e9
        return f"  {seconds // 60}:{seconds % 60:02d}  {written:.1f} GB written  {self.activity}"

    def _run(self) -> None:
        while not self.done.wait(0.5 if self.terminal else SECONDS_PER_LINE):
            line = self.line()
            if self.terminal:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)
            else:
                print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run pip and return its exit code. If it fails, print all it said."""
    environment = os.path.relpath(sys.prefix)
    lines = announcement(
        platform.system(),
        has_torch=importlib.util.find_spec("torch") is not None,
        has_gpu=shutil.which("nvidia-smi") is not None,
        environment=environment,
    )
    print("\n".join(lines), file=sys.stderr, flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        *arguments,
    ]
    output = []
    try:
        with (
            Progress(Path(sys.prefix)) as progress,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
        ):
            assert pip.stdout is not None
            for line in pip.stdout:
                output.append(line)
                if line.strip().startswith(SHOWN):
                    progress.activity = line.strip()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    if pip.returncode:
        print("".join(output), end="", file=sys.stderr)
    else:
        print(f"Installed in {time.monotonic() - progress.start:.0f} s", file=sys.stderr)
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
