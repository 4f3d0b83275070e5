"""Run one command and return its exit code: 0 done, 2 a user's mistake, 130 or 143 interrupted, 1 a bug."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword

from .. import __version__
from ..errors import ConfigError, DeviceError, Interrupted, LightLLMError, as_flags, did_you_mean
from ..text_format import format_bytes, print_wrapped
from .signals import raise_on_signal

# Each is a module of this package with a function `command(argv)`, which takes the arguments after the command's name
# and returns the exit code, or raises LightLLMError for a user's mistake. It reads its flags before it imports anything
# slow, so that --help never waits for torch. In the module's name - is _, and import is import_.
COMMANDS = {
    "train": "train a model on a text",
    "plan": "predict the memory, time and disk of a run, and whether it fits",
    "doctor": "check that this machine computes correctly",
    "generate": "generate text (demo, text, interactive), or evaluate (eval)",
    "eval": "measure a model on its held-out text, on any texts, or on tasks",
    "prepare": "encode a text ahead of time, or check an encoded one",
    "tokenizer": "train, show and compare tokenizers",
    "verify-resume": "check that a resumed run equals an uninterrupted one",
    "export": "write a model for Transformers, llama.cpp or ONNX Runtime",
    "import": "import a model from Hugging Face, GGUF or nanoGPT",
    "analyze": "measure loss curvature, loss landscape and gradient noise",
    "recipes": "list the recipes (files of tested settings), or print one",
    "settings": "list the settings of a run with their defaults and meanings",
    "runs": "list the runs in a folder, newest first",
    "report": "show the results and health of a run, as text and as a page",
    "watch": "show runs live in the browser",
    "compare": "compare the settings and results of two or more runs",
    "cache": "show what is cached on this machine, or delete it",
}
# Commands of earlier versions, with what to use instead.
REMOVED = {
    "bench": "make bench to measure speed, light-llm plan for the time of a run, light-llm doctor to check the results"
}
HELP_WORDS = ("-h", "--help", "help")
WITHOUT_TORCH = ("recipes", "settings", "runs", "report", "watch", "compare")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake is printed without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show is printed as a question mark. A file gets every character,
            # also on Windows, whose default encoding lacks most.
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")
    try:
        with raise_on_signal():
            code = _dispatch(sys.argv[1:] if argv is None else argv)
            if sys.stdout is not None:
                sys.stdout.flush()
        return code
    except LightLLMError as error:
        _print_error(f"error: {as_flags(error.message)}")
        return 2
    except KeyboardInterrupt as error:
        interrupted = Interrupted.with_advice(error, str(error))
        _print_error(f"\ninterrupted{f'; {interrupted}' if str(interrupted) else ''}")
        return 128 + interrupted.number
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        # A full disk, a folder without write permission, a name that is too long.
        where = f": {error.filename}" if error.filename else ""
        _print_error(f"error: {error.strerror or error}{where}; files that were complete are intact")
        # The output that is still buffered must not fail a second time when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 2
    except ModuleNotFoundError as error:
        if error.name in (None, "light_llm"):
            raise
        _print_error(
            f"error: this Python ({sys.executable}) has no {error.name}; activate the environment "
            "(source .venv/bin/activate), or install with: pip install -r requirements.txt"
        )
        return 2
    except SystemExit as leave:
        # tyro has printed its help (0), or the argument that it could not read (2).
        return leave.code if isinstance(leave.code, int) else 2


def run(argv: Sequence[str] | None = None) -> int:
    """Run `main` as the last thing of a process."""
    code = main(argv)
    # Python takes a second to unload torch. A Ctrl-C meanwhile must not print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def _dispatch(argv: Sequence[str]) -> int:
    if argv and argv[0] in HELP_WORDS:
        # `help train` and `--help train` are `train --help`.
        argv = [*(word for word in argv if word not in HELP_WORDS), "--help"]
    if not argv or argv[0] == "--help":
        _print_commands()
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"light-llm {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command in REMOVED:
        raise ConfigError(f"there is no command {command!r} any more; use {REMOVED[command]}")
    if command not in COMMANDS:
        raise ConfigError(
            f"there is no command {command!r}{did_you_mean(command, COMMANDS)} The commands are {', '.join(COMMANDS)}"
        )
    if command not in WITHOUT_TORCH and not {"-h", "--help"} & set(rest):
        _check_torch_loads()
    name = command.replace("-", "_") + ("_" if iskeyword(command) else "")
    module = import_module(f".{name}", __package__)
    return int(module.command(rest))


def _print_commands() -> None:
    more = {"help COMMAND": "show the options of a command, as COMMAND --help does", "--version": "print the version"}
    lines = "\n".join(f"  {name:15}{what}" for name, what in {**COMMANDS, **more}.items())
    print(f"light-llm {__version__}\n\nusage: light-llm COMMAND [OPTIONS]\n\n{lines}")


def _check_torch_loads() -> None:
    """Raise DeviceError when PyTorch does not fit into the address space that `ulimit -v` allows.

    Without a limit this costs nothing. With one, a child process tries it: just below the size that is needed, the
    loader ends the process with `std::bad_alloc`, which no Python code can catch.
    """
    limit = _address_space_limit()
    if limit is None or "torch" in sys.modules:
        return
    # Loading PyTorch maps all its libraries: about 1 GB for the CPU build, 3.3 GB for the CUDA build (2.14.1, Linux).
    words = [sys.executable, "-c", "import torch"]
    child = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if child.returncode != 0 and "ModuleNotFoundError" not in child.stderr:
        raise DeviceError(
            f"PyTorch cannot be loaded within the {format_bytes(limit)} that ulimit -v allows: its libraries are "
            "mapped there, more than 3 GB for a CUDA build. Raise the limit (ulimit -v unlimited), or install "
            "PyTorch's CPU build, which fits into 2 GB"
        )


def _address_space_limit() -> int | None:
    """Return the soft limit of `ulimit -v` in bytes, or None."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _print_error(line: str) -> None:
    """Print a message to standard error, unless the terminal was closed. Long lines are broken on a terminal only."""
    with suppress(OSError):
        print_wrapped(line, sys.stderr)
