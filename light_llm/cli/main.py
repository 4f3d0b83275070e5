"""From the words of a command line to an exit code: 0 done, 2 a user's mistake, 130 or 143 interrupted, 1 a bug."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from keyword import iskeyword

from .. import __version__
from ..errors import ConfigError, Interrupted, LightLLMError, did_you_mean
from .signals import raise_on_signal
from .torch_check import check_torch_loads

# A verb is a module of this room by the same name (- is _ there, import is import_), with `command(argv) -> exit code`.
COMMANDS = {
    "train": "train a model on a text",
    "plan": "what a run would cost, and whether it fits: nothing is started",
    "doctor": "whether this machine computes right, and what is safe on it",
    "generate": "write with a trained model: demo, text, interactive, eval",
    "eval": "loss, perplexity and bits per byte of the held-out split",
    "prepare": "encode a text ahead of time, or check what is kept of it",
    "tokenizer": "train, show and compare vocabularies",
    "verify-resume": "whether a resumed run is the run, bit for bit, on this machine",
    "export": "a trained model for Transformers, llama.cpp, ONNX Runtime",
    "import": "a GPT-2, Llama, Qwen3 or nanoGPT model of another program",
    "analyze": "curvature, gradient noise and landscape of a trained model",
    "recipes": "settings to start from, and what to expect of each",
    "runs": "the runs in a folder, newest first",
    "report": "what a run shows, in text and as a page",
    "watch": "a live page of runs, while they go on",
    "compare": "two runs side by side: what differs, and what came of it",
}

REMOVED = {  # commands of earlier versions, and what to use instead
    "bench": "make bench to measure speed, light-llm plan for the time of a run, light-llm doctor to check the results",
}
WITHOUT_TORCH = ("recipes", "runs", "report", "watch", "compare")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code; what a user got wrong is printed without a traceback."""
    argv = [_as_utf8(word) for word in (sys.argv[1:] if argv is None else argv)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter the terminal lacks is shown as a question mark
            stream.reconfigure(errors="replace")
    try:
        with raise_on_signal():
            code = _dispatch(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
        return code
    except LightLLMError as error:
        _complain(f"error: {error}")
        return 2
    except KeyboardInterrupt as error:
        stopped = Interrupted.by(error, str(error))
        _complain(f"\ninterrupted{f'; {stopped}' if str(stopped) else ''}")
        return 128 + stopped.number
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:  # a full disk, a folder that may not be written, a name that is too long
        where = f": {error.filename}" if error.filename else ""
        _complain(f"error: {error.strerror or error}{where}; nothing that was complete is lost")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered must not fail once more
        return 2
    except ModuleNotFoundError as error:
        if error.name in (None, "light_llm"):
            raise
        _complain(
            f"error: this Python ({sys.executable}) has no {error.name}; activate the environment "
            "(source .venv/bin/activate), or install with: pip install -r requirements.txt"
        )
        return 2
    except SystemExit as leave:  # the parser has printed its help (0) or what it could not read (2)
        return leave.code if isinstance(leave.code, int) else 2


def run(argv: Sequence[str] | None = None) -> int:
    """`main` for a process that does nothing else: while Python takes itself down a Ctrl-C ends it without a word."""
    code = main(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"light-llm {__version__}")
        return 0
    verb, rest = argv[0], argv[1:]
    if verb in REMOVED:
        raise ConfigError(f"there is no command {verb!r} any more; use {REMOVED[verb]}")
    if verb not in COMMANDS:
        raise ConfigError(
            f"there is no command {verb!r}{did_you_mean(verb, COMMANDS)} The commands are {', '.join(COMMANDS)}"
        )
    if verb not in WITHOUT_TORCH and not {"-h", "--help"} & set(rest):
        check_torch_loads()
    # Each verb's flags are read before anything heavy is imported, so that --help never waits for torch.
    name = verb.replace("-", "_") + ("_" if iskeyword(verb) else "")  # `import.py` could not be imported
    module = import_module(f".{name}", __package__)
    return int(module.command(rest))


def _complain(line: str) -> None:
    """A line on standard error, unless there is nobody: a terminal that was closed."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _as_utf8(word: str) -> str:
    """A word of the command line; where the shell's locale is not UTF-8, Python hands its bytes over as surrogates."""
    return os.fsencode(word).decode("utf-8", errors="replace") if any("\ud800" <= c <= "\udfff" for c in word) else word


def _usage() -> str:
    verbs = "\n".join(f"  {name:15}{what}" for name, what in COMMANDS.items())
    head = f"light-llm {__version__}\n\nusage: light-llm VERB [OPTIONS]"
    return f"{head}\n\n{verbs}\n\nlight-llm VERB --help shows its options"
