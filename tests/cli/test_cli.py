"""The command line as a user meets it: child processes, exit codes, messages, Ctrl-C."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
from tyro.conf import Positional, arg

from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.cli.args import PositionalArgs, parse
from light_llm.cli.main import COMMANDS
from light_llm.cli.signals import stop_on_signals
from light_llm.config import about_recipe, recipe_names, recipe_text
from light_llm.errors import ConfigError
from light_llm.interop.model_card import card_text
from tests.conftest import CHECKOUT
from tests.support.tools import NANO_RUN, light_llm, rows_of, run_child

LEARN = ["--max-steps", "30", "--lr", "1e-2", "--warmup-steps", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run on a real if tiny text, made through the command line."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("A fox and an owl went up the hill to see what they could see.\n" * 60)
    child = light_llm("train", "--data", "text.txt", *NANO_RUN, *LEARN, "--out", "run", cwd=folder)
    assert child.returncode == 0, child.stderr
    return folder


# ---- help


@pytest.mark.parametrize(
    "words",
    [
        *(["train"], ["generate"], ["generate", "demo"], ["eval"], ["recipes"], ["runs"], ["compare"], ["analyze"]),
        *(["report"], ["watch"], []),
    ],
)
def test_help_is_one_screen_and_loads_nothing_heavy(words: list[str]) -> None:
    child = run_child([sys.executable, "-X", "importtime", "-m", "light_llm", *words, "--help"])
    lines = child.stdout.splitlines()
    assert child.returncode == 0 and 5 < len(lines) <= 46
    assert all(len(line) <= 80 for line in lines if "│" in line or "╭" in line)
    said = child.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in said}
    assert all(line.startswith("import time:") for line in said) and "light_llm.cli" in imported
    assert not imported & {"torch", "numpy", "tiktoken", "safetensors"}


def test_help_takes_little_more_than_the_library_that_prints_it() -> None:
    """In turn and as processor time: neither a slow machine nor a busy one decides."""
    spent: dict[str, list[float]] = {"-m light_llm train --help": [], "-c import\ttyro": []}
    for _ in range(4):
        for words, times in spent.items():
            before = os.times()
            assert run_child([sys.executable, *(w.replace("\t", " ") for w in words.split(" "))]).returncode == 0
            after = os.times()
            times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    ours, theirs = (min(times) for times in spent.values())
    assert ours < 4 * theirs, f"help took {ours:.2f} s, importing tyro {theirs:.2f} s"


def test_every_promised_flag_is_there() -> None:
    train = (
        "preset data tokenizer max-steps batch-size micro-batch max-length lr warmup-steps weight-decay dropout "
        "optimizer eval-interval save-interval out resume overwrite init-from device dtype compile seed offline quiet "
        "config set"
    )
    generate = (
        "checkpoint prompt max-new-tokens temperature top-k top-p min-p repetition-penalty stop num-samples seed "
        "device dtype quantize"
    )
    for verb, flags in (("train", train), ("generate", generate)):
        shown = re.findall(r"--([a-z-]+)", light_llm(verb, "--help").stdout)
        assert set(flags.split()) <= set(shown)


def test_version() -> None:
    child = light_llm("--version")
    assert (child.returncode, child.stdout) == (0, "light-llm 0.1.0\n")


# ---- what a user gets wrong: exit 2, one line that says what, which value and the way out, nothing written

WRONG = [
    (
        ["trian"],
        r"there is no command 'trian'; did you mean train\? The commands are train, plan, doctor, generate, eval",
    ),
    (["bench", "--quick"], r"bench.* make bench .*light-llm plan .*light-llm doctor"),
    (["run"], r"there is no command 'run'; did you mean runs\?"),
    (["recipes", "my-txt"], r"there is no recipe 'my-txt'; did you mean my-text\? The recipes are my-text, "),
    (["recipes", "a", "b"], r"expected at most 1 recipe, 2 given: a b; write light-llm recipes my-text > my.toml"),
    (["runs", "nowhere"], r"there is no folder nowhere\. Without a folder, this one is looked into"),
    (["runs", "--hlp"], r"there is no flag --hlp; did you mean --help\?"),
    (["compare"], r"expected 2 run folders, none given; write light-llm compare checkpoints.1 checkpoints"),
    (["compare", "run"], r"expected 2 run folders, 1 given: run; write light-llm compare"),
    (["compare", "run", "moved", "x"], r"expected 2 run folders, 3 given: run moved x; write light-llm compare"),
    (["compare", "run", "mvoed"], r"mvoed is not there; did you mean moved\? light-llm runs lists the runs"),
    (["compare", "run", "./run"], r"run and run are the same run; name two, as in light-llm compare"),
    (["compare", "run", "."], r"\. is not a run folder: it has no run.json; name one that is in it: moved, run"),
    (["compare", "run", "text.txt"], r"text.txt is not a run folder"),
    (["compare", "run", "run/step-000030"], r"run/step-000030 is part of a run; name the run folder, run"),
    (["train", "--control"], r"--control .* Ctrl-C .* SIGUSR1 .* --resume"),
    (["watch", "--control"], r"--control .* Ctrl-C .* SIGUSR1 .* --resume"),
    (["train", "--tracker", "wandbb"], r"tracker='wandbb' is not known; did you mean wandb\? It can be auto, none"),
    (["train", "--max-step", "3"], r"there is no flag --max-step; did you mean --max-steps\?"),
    (["train", "--max-step=3"], r"there is no flag --max-step; did you mean --max-steps\?"),
    (["train", "max-steps"], r"there is no argument max-steps; did you mean --max-steps\?"),
    (["train", "--max-steps"], r"--max-steps needs a value"),
    (["train", "--max-steps", "ten"], r"--max-steps ten cannot be read; expected a whole number"),
    (["train", "--lr", "fast"], r"--lr fast cannot be read; expected a number"),
    (["train", "--max-steps", "0"], r"max_steps=0 cannot be used; it must be a whole number at least 1"),
    (["train", "--preset", "mirco"], r"there is no preset 'mirco'; did you mean micro\?"),
    (["train", "--data", "shakspeare"], r"no source or file 'shakspeare'; did you mean shakespeare\?"),
    (["train", "--data", "no/such/file.txt"], r"no source or file 'no/such/file.txt'"),
    (["train", "--data", "text.txt", "--tokenizer", "chars"], r"no tokenizer 'chars'; did you mean char\?"),
    (["train", "--data", "text.txt", "--optimizer", "sgd"], r"optimizer='sgd' is not known. It can be adamw"),
    (["train", "--data", "empty.txt"], r"empty.txt holds no text"),
    (["train", "--data", "tiny.txt", "--tokenizer", "byte"], r"one window of max_length=512 needs 513 training"),
    (["train", "--data", "latin.txt", "--tokenizer", "byte"], r"latin.txt is not UTF-8 text: byte 0xe9 at offset 3"),
    (
        ["train", "--data", ".", "--tokenizer", "byte"],
        r"\. holds files of more than one kind|\. is a folder without a text",
    ),
    (["train", "--set", "model.n_embd=100"], r"n_embd=100 does not divide into n_head=6 heads; try n_embd=96 or"),
    (["train", "--set", "model.n_embed=96"], r"no model setting 'n_embed'; did you mean n_embd\?"),
    (["train", "--config", "nowhere.toml"], r"there is no recipe or file 'nowhere.toml'"),
    (["train", "--device", "gpu"], r"there is no device 'gpu'"),
    (["train", "--micro-batch", "3"], r"micro_batch=3 does not divide batch_size=8"),
    (["train", "--resume"], r"there is no checkpoint to resume from in checkpoints; start the run without --resume"),
    (["train", "--resume", "--overwrite"], r"--resume and --overwrite cannot go together; leave one out"),
    (["train", "--out", "run"], r"run already holds a run; go on with it \(--resume\), replace it \(--overwrite\)"),
    (["train", "--init-from", "nowhere.pt"], r"no checkpoint at nowhere.pt"),
    (["train", "--init-from", "run", "--preset", "micro", "--data", "text.txt"], r"decides the shape of the model"),
    (["train", "--out", "run", "--resume", "--lr", "0.5"], r"a resumed run cannot change these:\n  train.lr"),
    (["train", "--out", "run", "--resume", "--preset", "nano"], r"cannot change these:\n  model.n_embd: 24 -> 192"),
    (["train", "--out", "run", "--resume", "--tokenizer", "char"], r"data.tokenizer: byte -> char"),
    (["train", "--init-from", "run", "--tokenizer", "char", "--data", "text.txt"], r"has its own, byte; leave it out"),
    (["train", "--out", "text.txt", "--data", "text.txt"], r"text.txt is a file; name a folder with --out"),
    (["eval", "--checkpoint", "run", "--temperature", "1"], r"--temperature has no effect on eval; leave it out"),
    (["generate", "demo", "--num-samples", "3"], r"--num-samples has no effect on demo; leave it out"),
    (["eval", "--checkpoint", "run", "--quantize", "int8"], r"--quantize has no effect on eval; leave it out"),
    (["generate", "text", "--checkpoint", "run", "--quantize", "int7"], r"quantize='int7' is not known; did you mean"),
    (["generate", "text", "--dtype", "half"], r"dtype='half' is not known\. It can be auto, float32, bfloat16"),
    (["train", "--seed", "1" + "0" * 30], r"seed=1000000000000000000000000000000 cannot be used"),
    (["train", "--data", "x" * 300], r"File name too long"),
    (["train", "--out", "run", "--resume", "--max-steps", "5"], r"max_steps=5 is behind the run, which is at step 30"),
    (["generate", "demo", "--checkpoint", "text.txt"], r"text.txt is damaged or cut, or no model file at all"),
    (["generate"], r"generate needs to know what to do: demo, text, interactive or eval"),
    (["generate", "dmeo"], r"generate cannot do 'dmeo'; did you mean demo\?"),
    (["generate", "interctive"], r"generate cannot do 'interctive'; did you mean interactive\?"),
    (["generate", "interactive", "--num-samples", "3"], r"--num-samples has no effect on interactive; leave it out"),
    (["generate", "interactive", "--data", "text.txt"], r"--data has no effect on interactive; leave it out"),
    (["generate", "interactive", "--checkpoint", "rnu"], r"no checkpoint at rnu"),
    (["generate", "interactive", "--checkpoint", "run", "--seed", "9" * 30], r"seed=9+ cannot be used"),
    (["generate", "demo"], r"no checkpoint at checkpoints. Train one with: python train.py"),
    (["generate", "demo", "--checkpoint", "rnu"], r"no checkpoint at rnu"),
    (["generate", "demo", "--checkpoint", "cut.pt"], r"cut.pt is damaged or cut"),
    (["generate", "text", "--checkpoint", "run", "--temperature", "-1"], r"temperature=-1.0 cannot be used"),
    (["generate", "text", "--checkpoint", "run", "--top-p", "0"], r"top_p=0.0 cannot be used"),
    (["generate", "text", "--checkpoint", "run", "--top-k", "1.5"], r"--top-k 1.5 cannot be read"),
    (["generate", "text", "--checkpoint", "run", "--num-samples", "0"], r"num_samples=0 cannot be used"),
    (["generate", "text", "--checkpoint", "run", "--prompt", "x" * 33], r"the prompt has 33 tokens and this model can"),
    (["generate", "text", "--checkpoint", "run", "--max-new-tokens", "0"], r"max_new_tokens=0 cannot be used"),
    (["generate", "text", "--checkpoint", "run", "--stop", ""], r"stop='' cannot be used"),
    (["eval", "--checkpoint", "moved"], r"is not the text .* name the old text with --data"),
]


@pytest.fixture(scope="module")
def wrong_world(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run and files of every bad kind."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(trained / "run", folder / "run")
    shutil.copytree(trained / "run", folder / "moved")
    (folder / "text.txt").write_text((trained / "text.txt").read_text())
    (folder / "empty.txt").write_text("")
    (folder / "tiny.txt").write_text("a tiny text")
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    (folder / "cut.pt").write_bytes((trained / "run" / "best_model.pt").read_bytes()[:5000])
    return folder


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(w)[:60] for w, _ in WRONG])
def test_mistakes(
    wrong_world: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, to be quick; the child processes below show that it is the same from a shell."""
    if words == ["eval", "--checkpoint", "moved"]:
        (wrong_world / "text.txt").write_text("Another text altogether, long enough to be one. " * 60)
    monkeypatch.chdir(wrong_world)
    before = sorted(str(p) for p in wrong_world.rglob("*"))
    code = main(words)
    shown = capsys.readouterr()
    assert code == 2 and re.search(message, shown.err), shown.err
    assert shown.err.startswith("error: ") and "Traceback" not in shown.err and shown.out == ""
    assert sorted(str(p) for p in wrong_world.rglob("*")) == before


@pytest.mark.parametrize("words", [["train", "--max-step", "3"], ["generate", "demo"]])
def test_mistakes_from_a_shell(words: list[str]) -> None:
    child = light_llm(*words)
    assert child.returncode == 2 and child.stderr.startswith("error: ") and child.stdout == ""
    root = run_child([sys.executable, str(CHECKOUT / f"{words[0]}.py"), *words[1:]])
    assert (root.returncode, root.stderr) == (2, child.stderr)


# ---- the table of verbs, and words without a flag


def test_every_verb_is_a_module_with_a_command() -> None:
    for verb in COMMANDS:
        name = "import_" if verb == "import" else verb.replace("-", "_")
        module = import_module(f"light_llm.cli.{name}")
        with pytest.raises(SystemExit) as leave:
            module.command(["--help"])
        assert leave.value.code == 0


_TEXTS = PositionalArgs("text", "x TEXT", min_count=1)


@dataclass(frozen=True)
class SomeFlags:
    """Flags and words, in any order."""

    texts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="TEXT"), PositionalArgs("text", "x TEXT", min_count=1)
    ] = ()
    size: Annotated[int, arg(metavar="N")] = 0
    loud: bool = False


def test_words_and_flags_stand_in_any_order() -> None:
    for words in (
        ["a", "b", "--size", "-3", "--loud"],
        ["--loud", "a", "--size=-3", "b"],
        ["--size", "-3", "a", "--loud", "b"],
    ):
        flags, given = parse(SomeFlags, words, prog="x", about="x")
        assert flags == SomeFlags(("a", "b"), -3, True) and given == {"size", "loud"}
    for words, message in (
        ([], "expected at least 1 text, none given; write x TEXT"),
        (["a", "--texts", "b"], "there is no flag --texts"),
        (["a", "-b"], "there is no flag -b"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(SomeFlags, words, prog="x", about="x")


# ---- recipes


def test_recipes_are_listed_and_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    listed = said("recipes")
    for name in recipe_names():
        about = about_recipe(name)
        assert f"{name}  {about.title}\n  {about.expect}\n" in listed
        assert said("recipes", name) == recipe_text(name)
    assert "light-llm recipes my-text > my.toml" in listed and "\x1b" not in listed


def test_the_template_trains_a_text_of_ones_own(trained: Path) -> None:
    """As its first lines say: printed into a file, beside my.txt."""
    shutil.copy(trained / "text.txt", "my.txt")
    Path("my.toml").write_text(said("recipes", "my-text"), encoding="utf-8")
    said("train", "--config", "my.toml", *NANO_RUN[4:], "--max-steps", "2", "--out", "run")
    run = json.loads(Path("run/run.json").read_text())["run"]
    assert (run["data"]["data"], run["data"]["tokenizer"], run["model"]["dropout"]) == ("my.txt", "bpe", 0.1)


# ---- writing


def said(*words: str) -> str:
    """What a verb that succeeds prints: in this process, because a child spends seconds on starting."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(words) == 0
    return out.getvalue()


def test_demo_text_and_eval(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    options = ("--checkpoint", "run", "--max-new-tokens", "8", "--seed", "1")
    demo = said("generate", "demo", *options)
    assert demo.count("---") == 4 and "--- 'ROMEO:'\nROMEO:" in demo
    assert said("generate", "demo", *options) == demo

    one = said("generate", "text", "--prompt", "-hi", *options)
    two = said("generate", "text", "--prompt", "-hi", *options, "--num-samples", "2")
    assert one.startswith("-hi") and two.startswith("--- sample 1\n" + one) and "--- sample 2\n-hi" in two

    found = said("eval", "--checkpoint", "run")
    last = rows_of(trained / "run", "eval")[-1]
    assert f"loss        {last['loss']:.4f}" in found and f"bits/byte   {last['bits_per_byte']:.4f}" in found
    assert "32 tokens" in found and said("generate", "eval", "--checkpoint", "run") == found
    child = light_llm("eval", "--checkpoint", "run")
    assert (child.returncode, child.stdout, child.stderr) == (0, found, "")


def test_one_model_starts_another(trained: Path, tmp_path: Path) -> None:
    words = [
        "--data",
        str(trained / "text.txt"),
        "--max-steps",
        "2",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--quiet",
    ]
    assert said("train", "--init-from", str(trained / "run"), *words, "--out", "tuned", "--lr", "1e-4") == ""
    rows = [json.loads(line) for line in Path("tuned/metrics.jsonl").read_text().splitlines()]
    earlier = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] < earlier[0]["loss"] - 0.2  # it starts where the other one ended
    run = json.loads(Path("tuned/run.json").read_text())["run"]
    assert run["model"]["n_embd"] == 24 and run["train"]["init_from"] == str(trained / "run")
    card = card_text(load_model("tuned"), [], {}, license="unknown")
    assert "fine-tuned from run and trained on" in card and str(trained) not in card


def test_flags_go_over_recipes(trained: Path) -> None:
    Path("mine.toml").write_text('[train]\nlr = 0.5\nmax_steps = 3\n[data]\ntokenizer = "char"\n')
    words = ["--data", str(trained / "text.txt"), *NANO_RUN, "--config", "mine.toml", "--lr", "0.01", "--out", "run"]
    words[words.index("--tokenizer") : words.index("--tokenizer") + 2] = []
    said("train", *words)
    run = json.loads(Path("run/run.json").read_text())["run"]
    assert (run["train"]["lr"], run["train"]["max_steps"], run["data"]["tokenizer"]) == (0.01, 3, "char")
    assert run["model"]["n_positions"] == 32 and run["model"]["vocab_size"] < 40


def test_the_front_files_work_from_any_folder(trained: Path, tmp_path: Path) -> None:
    env = {"PYTHONPATH": ""}
    words = ["--data", str(trained / "text.txt"), *NANO_RUN, "--max-steps", "1"]
    child = run_child([sys.executable, str(CHECKOUT / "train.py"), *words], cwd=tmp_path, env=env)
    assert child.returncode == 0 and Path("checkpoints/best_model.pt").is_file(), child.stderr
    assert "next     python generate.py demo" in child.stdout


def test_a_text_may_move(trained: Path) -> None:
    """It is known by its hash: a resume and an evaluation find it where they are told."""
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "text.txt", "elsewhere.txt")
    assert "resumed  at step 30" in said(
        "train", "--resume", "--out", "run", "--data", "elsewhere.txt", "--max-steps", "32"
    )
    assert "31 targets" not in said("eval", "--checkpoint", "run", "--data", "elsewhere.txt")
    assert main(["eval", "--checkpoint", str(trained / "run")]) == 2  # this one still names the old place


def test_a_damaged_step_is_passed_over_and_none_at_all_is_an_error(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "run", "run")
    shutil.copytree("run/step-000030", "run/step-000031")
    weights = Path("run/step-000031/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    shutil.copy(trained / "text.txt", "text.txt")
    assert main(["train", "--resume", "--out", "run"]) == 0
    said = capsys.readouterr().out
    assert "step-000031/model.safetensors is damaged" in said and "resumed  at step 30 from run/step-000030" in said
    for path in Path("run").glob("step-*"):
        shutil.rmtree(path)
    assert main(["train", "--resume", "--out", "run"]) == 2
    assert "or from its model: --init-from run/best_model.pt" in capsys.readouterr().err


NEEDS_DEV_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT RUN: this system has no /dev/full")


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: pipes of a POSIX shell")
@pytest.mark.parametrize("end", ["| head -1", pytest.param("> /dev/full", marks=NEEDS_DEV_FULL)])
def test_a_screen_that_goes_away_does_not_end_a_run(trained: Path, end: str) -> None:
    """`| head` and a full disk behind standard output: the run goes on, silently, and is complete."""
    words = ["--data", str(trained / "text.txt"), *NANO_RUN, "--max-steps", "30", "--out", "run"]
    line = shlex.join([sys.executable, "-m", "light_llm", "train", *words]) + f" 2> err {end}"
    subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert Path("run", "step-000030", "MANIFEST.json").is_file(), Path("err").read_text()
    assert "Traceback" not in Path("err").read_text()


@NEEDS_DEV_FULL
def test_a_full_disk_is_no_bug(trained: Path) -> None:
    words = [sys.executable, "-m", "light_llm", "eval", "--checkpoint", str(trained / "run")]
    with open("/dev/full", "w") as full:
        child = subprocess.run(words, cwd=trained, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert child.returncode == 2 and child.stderr.startswith("error: No space left on device"), child.stderr


def test_a_forgotten_environment_is_named() -> None:
    """A Python without the dependencies: `-S` leaves site-packages out."""
    child = run_child([sys.executable, "-S", str(CHECKOUT / "train.py"), "--max-steps", "1"])
    assert child.returncode == 2 and "activate the environment (source .venv/bin/activate)" in child.stderr, (
        child.stderr
    )


# ---- signals


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: Windows has no SIGTERM to send")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(trained: Path, number: int, code: int) -> None:
    """Sent in the middle of a run; what is left behind resumes."""
    words = ["train", "--data", str(trained / "text.txt"), *NANO_RUN, "--max-steps", "100000", "--out", "run"]
    child = subprocess.Popen(
        [sys.executable, "-m", "light_llm", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = Path("run/metrics.jsonl")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") > 3):
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "stopping after this step, and saving" in err and "Traceback" not in err
    assert "saved    go on with: python train.py --resume --out run" in out
    steps = list(Path("run").glob("step-*"))
    assert steps
    done = int(max(steps).name.split("-")[1])
    resumed = light_llm("train", "--resume", "--out", "run", "--max-steps", str(done + 2))
    assert resumed.returncode == 0 and f"resumed  at step {done}" in resumed.stdout, resumed.stderr


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


def test_stop_after_is_a_polite_interruption(trained: Path) -> None:
    words = ["train", "--data", str(trained / "text.txt"), *NANO_RUN, "--out", "run"]
    child = light_llm(*words, env={"LIGHT_LLM_STOP_AFTER": "2"})
    assert child.returncode == 130 and "interrupted at step 2/500" in child.stdout
    assert light_llm(*words, env={"LIGHT_LLM_STOP_AFTER": "soon"}).returncode == 2


def test_a_run_that_diverges_says_so_and_exits_with_2(trained: Path) -> None:
    words = ["train", "--data", str(trained / "text.txt"), *NANO_RUN, "--out", "run", "--warmup-steps", "0"]
    child = light_llm(*words, "--lr", "1e30")
    assert child.returncode == 2 and "was not finite" in child.stdout and "a lower --lr (now 1e+30)" in child.stdout


def test_a_reader_that_leaves_is_no_error(trained: Path) -> None:
    words = f"{sys.executable} -m light_llm generate demo --checkpoint run --seed 1 | head -c 1"
    child = subprocess.run(["bash", "-c", f"set -o pipefail; {words}"], cwd=trained, capture_output=True, text=True)
    assert "Traceback" not in child.stderr and child.stdout == "-"


def test_a_posix_locale_changes_nothing(tmp_path: Path) -> None:
    """UTF-8 is UTF-8 whatever the shell says."""
    Path("text.txt").write_text("Où est le café? Là-bas, près de l'église. 日本\n" * 50, encoding="utf-8")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    words = ["--data", "text.txt", *NANO_RUN, "--tokenizer", "char", "--max-steps", "2"]
    child = light_llm("train", *words, env=env)
    assert child.returncode == 0, child.stderr
    # Without the two variables, Python itself reads the command line of this locale as UTF-8.
    assert light_llm("generate", "text", "--prompt", "Où", "--seed", "1", env={"LC_ALL": "C"}).returncode == 0
