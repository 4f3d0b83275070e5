"""Signals in every phase of the commands: real processes, real signals, and runs that resume exactly."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.cli import main
from light_llm.cli.progress import RESUME_ADVICE
from light_llm.cli.signals import postponed_signals, raise_on_signal
from light_llm.data import sources
from light_llm.data.json_records import DETECT_BYTES
from light_llm.errors import Interrupted
from tests.support.child import PATIENCE, Child
from tests.support.tools import NANO_RUN, rows_of, run_child
from tests.support.web_servers import FaultyServer, running

posix = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: Windows has no SIGTERM to send")
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def rows(folder: Path, kind: str = "step") -> int:
    return len(rows_of(folder, kind)) if (folder / "metrics.jsonl").exists() else 0


def wait_for(terminal: int, *texts: bytes) -> None:
    """Read what is shown on a terminal, up to one of some texts."""
    shown = b""
    while not any(text in shown for text in texts):
        assert select.select([terminal], [], [], PATIENCE)[0], shown
        shown += os.read(terminal, 65_536)


SENTENCE = "The quick brown fox jumps over the lazy dog, and nobody knows why it does so on a day like this.\n"


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that got SIGTERM in an evaluation of minutes."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "text.txt").write_text(SENTENCE * 200)
    (folder / "held_out.txt").write_text(SENTENCE * 40_000)
    run = folder / "run"
    words = ["--data", str(folder / "text.txt"), "--val-data", str(folder / "held_out.txt"), *NANO_RUN]
    words += ["--max-steps", "5", "--eval-interval", "3", "--save-interval", "4"]
    child = Child(["train", *words, "--out", str(run)])
    child.wait_until(lambda: rows(run) == 3)
    start = time.monotonic()
    code, out, err = child.end(signal.SIGTERM)
    return {"run": run, "code": code, "out": out, "err": err, "seconds": time.monotonic() - start}


@posix
def test_an_evaluation_of_minutes_ends_at_once(broken_off: dict[str, Any]) -> None:
    run, out = broken_off["run"], broken_off["out"]
    assert broken_off["code"] == 143 and broken_off["seconds"] < 20, broken_off
    assert "the evaluation of step 3 was interrupted" in out and "interrupted at step 3/5" in out
    assert f"saved    continue with: light-llm train --resume --out {run}" in out
    assert "stopping after this step, and saving; press Ctrl-C again to leave at once" in broken_off["err"]
    assert (run / "step-000003" / "MANIFEST.json").is_file() and rows(run, "eval") == 0


@posix
def test_generate_eval_ends_at_once(broken_off: dict[str, Any]) -> None:
    import pty

    terminal, child_end = pty.openpty()  # its progress bar shows when it has begun
    child = Child(["eval", "--checkpoint", str(broken_off["run"])], stderr=child_end)
    os.close(child_end)
    wait_for(terminal, b"evaluating")
    child.send(signal.SIGTERM)
    wait_for(terminal, b"interrupted")
    assert child.wait() == 143
    os.close(terminal)


@posix
@pytest.mark.parametrize(("number", "code"), CODES)
def test_writing_ends_with_the_signals_code(number: int, code: int, model: Path) -> None:
    child = Child(["generate", "text", "--checkpoint", str(model), "--max-new-tokens", "10000000"])
    child.wait_until(lambda: child.output[0] != "")
    exit_code, _, err = child.end(number)
    assert (exit_code, err.strip()) == (code, "interrupted")


@posix
def test_a_prompt_is_left_by_sigterm_and_not_by_ctrl_c(model: Path) -> None:
    import pty

    terminal, child_end = pty.openpty()
    words = ["generate", "interactive", "--checkpoint", str(model), "--max-new-tokens", "10000000"]
    child = Child(words, stdin=child_end, stdout=child_end, stderr=child_end, terminal=True)
    os.close(child_end)
    wait_for(terminal, b"> ")
    os.write(terminal, b"abc\r")
    wait_for(terminal, b"abc")
    for _ in range(2):  # Ctrl-C at the prompt and in an answer, any number of times
        child.send(signal.SIGINT)
        wait_for(terminal, b"> ")
    child.send(signal.SIGTERM)
    wait_for(terminal, b"interrupted")
    assert child.wait() == 143
    os.close(terminal)


# ---- before a training: reading, learning, encoding, downloading

ADVICE = f"interrupted; {RESUME_ADVICE}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, whose files show the progress of a preparation."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR", raising=False)
    return tmp_path / "cache"


def temporary(cache: Path) -> list[str]:
    """Files of a cache that are not whole."""
    return [p.name for p in cache.rglob("*") if p.is_file() and (".partial" in p.name or ".tmp" in p.name)]


@posix
@pytest.mark.parametrize(("number", "code"), CODES)
def test_reading_a_pipe_ends_cleanly(number: int, code: int, cache: Path) -> None:
    """A closed terminal does not end it, nor does a request to save before there is a model."""
    pipe_end, pipe = os.pipe()
    child = Child(["train", "--data", "-", *NANO_RUN, "--out", "run"], stdin=pipe_end)
    os.close(pipe_end)
    os.write(pipe, SENTENCE.encode() * (DETECT_BYTES // len(SENTENCE) + 1))  # what is read before it is saved
    child.wait_until(lambda: bool(temporary(cache)))
    for each in (signal.SIGHUP, signal.SIGUSR1, number):
        child.send(each)
    child.process.join(1.0)
    # Python may hear of a signal between two reads only after the second one: then more text comes.
    with suppress(BrokenPipeError):
        while child.process.exitcode is None:
            os.write(pipe, SENTENCE.encode() * 100)
    os.close(pipe)
    exit_code, (_, err) = child.wait(), child.output
    assert (exit_code, err.strip()) == (code, ADVICE)
    assert temporary(cache) == [] and not Path("run").exists()


@posix
@pytest.mark.parametrize("phase", ["learning", "encoding"])
def test_preparing_ends_cleanly_and_resumes(phase: str, cache: Path, tmp_path: Path) -> None:
    words = [f"w{i * 7919 % 1_000_003:x}" for i in range(100_000)]
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words[i : i + 10]) for i in range(0, 100_000, 10)) * 8)
    tokenizer = "bpe:20000" if phase == "learning" else "byte"
    time.sleep(2.1)  # the scan of a younger file is not cached, and the test waits for that
    child = Child(["prepare", "--data", str(tmp_path / "text.txt"), "--tokenizer", tokenizer])
    kept = "scans/*.json" if phase == "learning" else "shards/*.partial/*"
    child.wait_until(lambda: any(cache.glob(kept)))
    code, _, err = child.end(signal.SIGTERM)
    assert (code, err.strip()) == (143, ADVICE)
    assert not [name for name in temporary(cache) if name.endswith(".partial")]
    if phase == "learning":
        assert not list(cache.glob("tokenizers/*"))
    else:
        assert main(["prepare", "--data", "text.txt", "--tokenizer", "byte"]) == 0
        assert not list(cache.glob("shards/*.partial"))


@posix
def test_learning_can_be_ended_where_the_library_hears_of_nothing() -> None:
    """The library has all the texts and works for many seconds without calling back; the process ends silently."""
    child = Child([], function=learn_until_alarm)
    assert child.wait() == 0, child.output


def learn_until_alarm(words: list[str]) -> int:
    """Learn a vocabulary of a large text; half a second after its end has been read, the alarm rings.

    Returns 0 if it was interrupted while the library was still at work.
    """
    from light_llm.data.bpe import train_bpe

    def texts() -> Iterator[str]:
        for i in range(0, 700_000, 7000):
            yield "".join(f"w{k * 7919 % 1_000_003:x} " for k in range(i, i + 7000)) * 2
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        train_bpe(texts(), 60_000)
    return 0 if any(thread.name == "learning" for thread in threading.enumerate()) else 1


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with running(FaultyServer()) as server:
        yield server


@posix
def test_a_download_ends_cleanly(cache: Path, server: FaultyServer) -> None:
    """Only the address differs from what a user does: the server sends a part and then nothing more."""
    child = Child([f"{server.url}/stall"], function=prepare_from)
    child.wait_until(lambda: any(cache.joinpath(name).stat().st_size for name in temporary(cache)))
    code, _, err = child.end(signal.SIGTERM)
    assert (code, err.strip()) == (143, ADVICE) and temporary(cache) == []


def prepare_from(words: list[str]) -> int:
    """Prepare Shakespeare from another address."""
    file = replace(sources.SHAKESPEARE, url=words[0])
    sources.SOURCES["shakespeare"] = replace(sources.SOURCES["shakespeare"], training=(file,))
    return main(["prepare", "--data", "shakespeare", "--tokenizer", "byte"])


def run_command(body: str) -> tuple[int, str]:
    """Run some lines as a command in a child process. Returns its exit code and its errors."""
    program = (
        "import os, signal, sys, time\n"
        "from light_llm.cli import main\n"
        f"def dispatch(argv):\n{body}"
        "sys.modules['light_llm.cli.main']._dispatch = dispatch\n"
        "sys.exit(main(['recipes']))\n"
    )
    start = time.monotonic()
    child = run_child([sys.executable, "-c", program])
    assert time.monotonic() - start < 30
    return child.returncode, child.stderr.strip()


@posix
def test_a_signal_that_comes_where_python_drops_exceptions_is_not_lost() -> None:
    body = (
        "    class Dies:\n"
        "        def __del__(self):\n"
        "            os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.01)\n"
        "    Dies()\n"
        "    time.sleep(60)\n"
    )
    assert run_command(body) == (143, "interrupted")


@posix
def test_a_signal_while_torch_is_loaded_waits_for_it() -> None:
    """An exception of the handler in a module that C++ imports would abort the process."""
    done: list[int] = []
    with pytest.raises(Interrupted) as interrupted, raise_on_signal(), postponed_signals():
        signal.raise_signal(signal.SIGTERM)
        done.append(1)
    assert interrupted.value.number == signal.SIGTERM and done


@posix
@pytest.mark.parametrize(("number", "code"), CODES)
def test_the_second_signal_does_not_wait_for_the_first(number: int, code: int) -> None:
    """The command is being ended, and does something that takes long."""
    send = f"os.kill(os.getpid(), {int(number)}); time.sleep(60)\n"
    assert run_command(f"    try:\n        {send}    finally:\n        {send}") == (code, "")


# ---- a training that continues: a request to save, a closed terminal


@posix
def test_a_run_is_saved_on_request_and_outlives_its_terminal(tmp_path: Path) -> None:
    import pty

    (tmp_path / "text.txt").write_text(SENTENCE * 100)
    terminal, child_end = pty.openpty()
    words = ["train", "--data", "text.txt", *NANO_RUN, "--out", "run", "--max-steps", "500"]
    words += ["--eval-interval", "1000", "--save-interval", "1000"]
    child = Child(words, stdin=child_end, stdout=child_end, terminal=True)
    os.close(child_end)
    run, log = tmp_path / "run", tmp_path / "run" / "train.log"

    def drain() -> bool:
        # The output of a terminal has to be read, or the child waits.
        while select.select([terminal], [], [], 0)[0]:
            os.read(terminal, 65_536)
        return True

    child.wait_until(lambda: drain() and rows(run) >= 3)
    child.send(signal.SIGUSR1)
    child.wait_until(lambda: drain() and "as requested" in log.read_text())
    saved = [path.name for path in RunFolder(run).steps()]
    assert len(saved) == 1
    os.close(terminal)  # the kernel sends SIGHUP, and every write to the terminal fails from now on
    steps = rows(run)
    code, (_, err) = child.wait(), child.output
    assert code == 0 and "Traceback" not in err and "rror" not in err, err
    assert steps < 500 == rows(run)
    text = log.read_text()
    assert "step 500/500" in text and "done at step 500/500" in text and "held out" in text


# ---- compiling


@pytest.mark.slow
@posix
def test_the_first_signal_waits_for_the_compiler_and_the_second_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text(SENTENCE * 100)
    for out, signals in (("one", 1), ("two", 2)):
        words = ["train", "--data", "text.txt", *NANO_RUN, "--compile", "on", "--out", out, "--max-steps", "100"]
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / out / "inductor"))
        child = Child(words)
        log = Path(out, "train.log")
        child.wait_until(lambda log=log: log.exists() and "out  " in log.read_text())  # type: ignore[misc]
        for _ in range(signals - 1):
            os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the compiler's own processes get it too
            child.wait_until(lambda child=child: "stopping" in child.output[1])  # type: ignore[misc]
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait() == 130 and "Traceback" not in child.output[1]
        assert len(rows_of(out, "step")) == 2 - signals and len(RunFolder(out).steps()) == 2 - signals
