"""The command line: help, arguments, recipes, whole commands, exit codes, and what the shell around it does."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from tyro.conf import arg

from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.cli.args import PositionalArgs, Words, parse, words_arg
from light_llm.cli.main import COMMANDS
from light_llm.cli.signals import stop_on_signals
from light_llm.config import PARTS, SETTINGS, about_recipe, default_of, recipe_names, recipe_text, settings_of
from light_llm.errors import ConfigError
from light_llm.interop.model_card import card_text
from tests.support.child import Child
from tests.support.tools import NANO_RUN, rows_of, run_child


def output_of(*words: str, code: int = 0) -> str:
    """Return the output of a command: in this process, because a child takes seconds to start."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(words) == code
    return out.getvalue()


def train_args(trained: Path, *words: str) -> list[str]:
    return ["train", "--data", str(trained / "text.txt"), *NANO_RUN, "--out", "run", *words]


def settings_of_run(folder: str = "run") -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = json.loads(Path(folder, "run.json").read_text())["run"]
    return settings


# ---- help

HELP = ["", "generate demo", *COMMANDS]


def test_version_and_help_load_nothing_heavy() -> None:
    """All commands in one process: a package that one of them imported would be in sys.modules at the end."""
    program = (
        "import sys\nfrom light_llm.cli import main\n"
        f"for words in {HELP!r}:\n    assert main([*words.split(), '--help']) == 0\n"
        "sys.exit(', '.join({'torch', 'numpy', 'tiktoken', 'safetensors'} & set(sys.modules)) or 0)\n"
    )
    child = run_child([sys.executable, "-c", program])
    assert (child.returncode, child.stderr) == (0, "")
    assert output_of("--version") == "light-llm 0.1.0\n"


def test_help_before_and_after_a_command_is_the_same() -> None:
    listed = output_of("help")
    assert all(f"  {name} " in listed for name in (*COMMANDS, "--version", "help COMMAND"))
    assert all(len(line) <= 80 for line in listed.splitlines()) and output_of("--help") == output_of("-h") == listed
    for words in (("help", "recipes"), ("--help", "recipes"), ("recipes", "-h")):
        assert output_of(*words) == output_of("recipes", "--help") != listed


def test_settings_are_listed_with_their_meaning() -> None:
    listed = output_of("settings")
    for path, declared in SETTINGS.items():
        part, _, name = path.partition(".")
        line = next(line for line in listed.split(f"[{part}]")[1].splitlines() if line.startswith(f"{name} "))
        assert default_of(PARTS[part], name) in line and declared.help in line
        assert ("--" in line) == declared.flag
    warmup = [line for line in output_of("settings", "warmup").splitlines() if line.startswith("warmup_steps")]
    assert "--warmup-steps  50 " in warmup[0] and "(a whole number at least 0)" in warmup[0]
    assert output_of("settings", "learning-rate").count("peak learning rate (a number above 0)") == 1


def test_help_of_a_config_lists_its_settings() -> None:
    for kind in PARTS.values():
        for name, declared in settings_of(kind).items():
            assert f"{name}: {declared.help} (" in (kind.__doc__ or "")


def test_epochs_are_refused_with_their_steps(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text is prepared, so the number of steps is known."""
    assert main([*train_args(trained), "--epochs", "2"]) == 2
    steps = -(-rows_of(trained / "run", "step")[-1]["tokens"] // 30)
    run = settings_of_run(str(trained / "run"))
    message = capsys.readouterr().err
    assert run["data"]["max_length"] * run["train"]["batch_size"] == steps
    passes = re.search(r"One pass over this text is (\d+) steps, so 2 passes are --max-steps (\d+)", message)
    assert passes and int(passes[2]) == 2 * int(passes[1]) and 3000 < int(passes[1]) * steps < 4000


@pytest.mark.parametrize("words", HELP)
def test_help_is_one_screen(words: str) -> None:
    lines = output_of(*words.split(), "--help").splitlines()
    assert 5 < len(lines) <= 52
    assert all(len(line) <= 80 for line in lines if "│" in line or "╭" in line)


def test_help_takes_little_more_than_the_library_that_prints_it() -> None:
    """Measured in turn and as processor time, so that a slow or busy machine does not decide."""
    spent: dict[str, list[float]] = {"-m light_llm train --help": [], "-c import\ttyro": []}
    for _ in range(3):
        for words, times in spent.items():
            before = os.times()
            assert run_child([sys.executable, *(w.replace("\t", " ") for w in words.split(" "))]).returncode == 0
            after = os.times()
            times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    ours, tyro = (min(times) for times in spent.values())
    assert ours < 4 * tyro, f"help took {ours:.2f} s, importing tyro {tyro:.2f} s"


FLAGS = {
    "train": "preset data tokenizer max-steps batch-size micro-batch max-length lr warmup-steps weight-decay dropout "
    "optimizer eval-interval save-interval out resume overwrite init-from device dtype compile seed offline quiet "
    "config set",
    "generate": "checkpoint prompt max-new-tokens temperature top-k top-p min-p repetition-penalty stop num-samples "
    "seed device dtype quantize",
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_promised_flag_is_in_help(command: str) -> None:
    assert set(FLAGS[command].split()) <= set(re.findall(r"--([a-z-]+)", output_of(command, "--help")))


# ---- commands and positional arguments


@dataclass(frozen=True)
class SomeFlags:
    """Flags and positional arguments."""

    texts: Annotated[Words, words_arg("TEXT", "some"), PositionalArgs("text", "x TEXT", min_count=1)] = ()
    size: Annotated[int, arg(metavar="N")] = 0
    loud: bool = False


def test_arguments_and_flags_stand_in_any_order() -> None:
    for line in ("a b --size -3 --loud", "--loud a --size=-3 b", "--size -3 a --loud b"):
        flags, given = parse(SomeFlags, line.split(), prog="x", about="x")
        assert flags == SomeFlags(("a", "b"), -3, True) and given == {"size", "loud"}
    for words, message in (([], "1 text.*x TEXT"), (["a", "--texts", "b"], "--texts"), (["a", "-b"], "-b")):
        with pytest.raises(ConfigError, match=message):
            parse(SomeFlags, words, prog="x", about="x")


# ---- recipes


def test_recipes_are_listed_and_printed() -> None:
    listed = output_of("recipes")
    for name in recipe_names():
        about = about_recipe(name)
        assert f"{name}  {about.title}\n  {about.expect}\n" in listed
        assert output_of("recipes", name) == recipe_text(name)
    assert "light-llm recipes my-text > my.toml" in listed and "\x1b" not in listed


def test_the_template_trains_on_my_text(trained: Path) -> None:
    """Printed into a file beside my.txt, as its first lines say."""
    shutil.copy(trained / "text.txt", "my.txt")
    Path("my.toml").write_text(output_of("recipes", "my-text"), encoding="utf-8")
    output_of("train", "--config", "my.toml", *NANO_RUN[4:], "--max-steps", "2", "--out", "run")
    run = settings_of_run()
    assert (run["data"]["data"], run["data"]["tokenizer"], run["model"]["dropout"]) == ("my.txt", "bpe", 0.1)


# ---- writing


def test_demo_text_and_eval(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    options = ("--checkpoint", "run", "--max-new-tokens", "8", "--seed", "1")
    demo = output_of("generate", "demo", *options)
    assert demo.count("---") == 4 and "--- 'ROMEO:'\nROMEO:" in demo
    assert output_of("generate", "demo", *options) == demo

    single = output_of("generate", "text", "--prompt", "-hi", *options)
    double = output_of("generate", "text", "--prompt", "-hi", *options, "--num-samples", "2")
    assert single.startswith("-hi") and double.startswith("--- sample 1\n" + single) and "--- sample 2\n-hi" in double

    evaluation = output_of("eval", "--checkpoint", "run")
    last = rows_of(trained / "run", "eval")[-1]
    assert f"loss        {last['loss']:.4f}" in evaluation and f"bits/byte   {last['bits_per_byte']:.4f}" in evaluation
    assert "32 tokens" in evaluation and output_of("generate", "eval", "--checkpoint", "run") == evaluation


def test_one_model_starts_another(trained: Path, tmp_path: Path) -> None:
    words = ["--data", str(trained / "text.txt"), "--init-from", str(trained / "run"), "--out", "tuned", "--quiet"]
    assert (
        output_of("train", *words, *["--max-steps", "2", "--device", "cpu", "--dtype", "float32", "--lr", "1e-4"]) == ""
    )
    first, first_before = (rows_of(folder, "step")[0]["loss"] for folder in ("tuned", trained / "run"))
    assert first < first_before - 0.2  # it starts where the other one ended
    run = settings_of_run("tuned")
    assert run["model"]["n_embd"] == 24 and run["train"]["init_from"] == str(trained / "run")
    card = card_text(load_model("tuned"), "checked", {})
    assert "fine-tuned from run and trained on" in card and str(trained) not in card


def test_flags_go_over_recipes(trained: Path) -> None:
    Path("mine.toml").write_text('[train]\nlr = 0.5\nmax_steps = 3\n[data]\ntokenizer = "char"\n')
    words = train_args(trained, "--config", "mine.toml", "--lr", "0.01")
    words[words.index("--tokenizer") : words.index("--tokenizer") + 2] = []
    assert "next     light-llm generate demo --checkpoint run" in output_of(*words)
    run = settings_of_run()
    assert (run["train"]["lr"], run["train"]["max_steps"], run["data"]["tokenizer"]) == (0.01, 3, "char")
    assert run["model"]["n_positions"] == 32 and run["model"]["vocab_size"] < 40


def test_a_text_may_move(trained: Path) -> None:
    """A text is recognised by its hash: a resume and an evaluation read it from its new path."""
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "text.txt", "elsewhere.txt")
    resume = ["train", "--resume", "--out", "run", "--data", "elsewhere.txt", "--max-steps", "32"]
    assert "resumed  at step 30" in output_of(*resume)
    assert "31 targets" not in output_of("eval", "--checkpoint", "run", "--data", "elsewhere.txt")
    assert main(["eval", "--checkpoint", str(trained / "run")]) == 2  # this one still names the old place


def test_a_run_without_a_step_cannot_be_resumed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "text.txt", "text.txt")
    for path in Path("run").glob("step-*"):
        shutil.rmtree(path)
    assert main(["train", "--resume", "--out", "run"]) == 2
    assert "--init-from run/best_model.pt" in capsys.readouterr().err


posix = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: pipes and signals of POSIX")
NEEDS_DEV_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT RUN: this system has no /dev/full")


@posix
def test_a_screen_that_goes_away_does_not_end_a_run(trained: Path) -> None:
    """As `| head -1`: the run goes on, silently, and is complete."""
    pipe_end, pipe = os.pipe()
    child = Child(train_args(trained, "--max-steps", "30"), stdout=pipe)
    os.close(pipe)
    with open(pipe_end) as out:
        out.readline()
    assert child.wait() == 0 and "Traceback" not in child.output[1]
    assert Path("run", "step-000030", "MANIFEST.json").is_file()


@NEEDS_DEV_FULL
def test_a_full_disk_behind_the_screen_ends_no_run_and_is_no_bug(trained: Path) -> None:
    with open("/dev/full", "w") as full:
        child = Child(train_args(trained, "--max-steps", "30"), stdout=full.fileno())
        assert child.wait() == 0 and "Traceback" not in child.output[1]
        assert Path("run", "step-000030", "MANIFEST.json").is_file()
        words = ["eval", "--checkpoint", str(trained / "run"), "--data", str(trained / "text.txt")]
        child = Child(words, stdout=full.fileno())
        assert child.wait() == 2 and child.output[1].startswith("error: No space left on device"), child.output


@posix
def test_a_reader_that_leaves_is_no_error(trained: Path) -> None:
    pipe_end, pipe = os.pipe()
    child = Child(["generate", "demo", "--checkpoint", str(trained / "run"), "--seed", "1"], stdout=pipe)
    os.close(pipe)
    assert os.read(pipe_end, 1) == b"-"
    os.close(pipe_end)
    assert child.wait() == 0 and "Traceback" not in child.output[1]


# ---- signals


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(trained: Path, number: int, code: int) -> None:
    """Sent in the middle of a run; what is left behind resumes."""
    metrics = Path("run/metrics.jsonl")
    child = Child(train_args(trained, "--max-steps", "100000"))
    child.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3)
    exit_code, out, err = child.end(number)
    assert exit_code == code and "stopping" in err and "light-llm train --resume --out run" in out
    done = int(max(Path("run").glob("step-*")).name.split("-")[1])
    assert f"resumed  at step {done}" in output_of("train", "--resume", "--out", "run", "--max-steps", str(done + 2))


def test_the_second_signal_leaves_at_once() -> None:
    program = (
        "import os, signal, time\n"
        "from light_llm.cli.signals import stop_on_signals\n"
        "with stop_on_signals(lambda: None):\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT); time.sleep(30)\n"
    )
    start = time.monotonic()
    assert run_child([sys.executable, "-c", program]).returncode == 130
    assert time.monotonic() - start < 20
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(lambda: None):
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_after_the_end_is_no_traceback() -> None:
    """Python takes a second to take torch down."""
    program = (
        "import signal\nfrom light_llm.cli import run\n"
        "run(['--version'])\nassert signal.getsignal(signal.SIGINT) is signal.SIG_DFL\n"
    )
    child = run_child([sys.executable, "-c", program])
    assert child.returncode == 0, child.stderr


def test_stop_after_is_a_polite_interruption(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "2")
    assert "interrupted at step 2/500" in output_of(*train_args(trained), code=130)
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "soon")
    output_of(*train_args(trained), code=2)


def test_a_run_that_diverges_says_so_and_exits_with_2(trained: Path) -> None:
    out = output_of(*train_args(trained, "--warmup-steps", "0", "--lr", "1e30"), code=2)
    assert "not finite" in out and "(--lr, now 1e+30)" in out


def test_redirected_text_is_utf8_whatever_the_encoding_of_the_system(trained: Path) -> None:
    """As Windows redirects: a question mark would be lost text. A terminal shows one for what it cannot show."""
    program = "import sys; from light_llm.cli import main; main(['--version']); print('你好', sys.stdout.encoding)"
    env = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"}
    # The pipe is read as UTF-8.
    assert run_child([sys.executable, "-c", program], env=env).stdout.endswith("你好 utf-8\n")
    Path("shell.py").write_text(
        "import io, sys\nfrom light_llm.cli import main\n"
        "class Screen(io.TextIOWrapper):\n    isatty = lambda self: True\n"
        "sys.stdout = Screen(io.FileIO('screen.txt', 'w'), 'cp1252')\nmain(['--version'])\nprint('a你b')\n"
    )
    assert run_child([sys.executable, "shell.py"], env=env).returncode == 0
    assert Path("screen.txt").read_bytes().splitlines()[-1] == b"a?b"


def test_a_posix_locale_changes_nothing() -> None:
    """UTF-8 is UTF-8 whatever the shell says."""
    Path("text.txt").write_text("Où est le café? Là-bas, près de l'église. 日本\n" * 50, encoding="utf-8")
    train = ["train", "--data", "text.txt", *NANO_RUN, "--tokenizer", "char", "--max-steps", "2"]
    write = ["generate", "text", "--prompt", "Où", "--seed", "1"]
    program = f"from light_llm.cli import main, run\nraise SystemExit(main({train}) or run({write!a}))"
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    child = run_child([sys.executable, "-c", program], env=env)
    assert child.returncode == 0, child.stderr
