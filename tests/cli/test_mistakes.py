"""Mistakes of a user: exit code 2, a message that names the value, flag or file, and no file written."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from light_llm.cli import main
from tests.conftest import CHECKOUT
from tests.support.tools import run_child

# A command line, and what its message has to name; ... stands for any words.
MISTAKES = """
trian                                                => command 'trian' ... mean train? ... plan, doctor, generate
run                                                  => command 'run' ... mean runs?
bench --quick                                        => bench ... make bench ... light-llm plan ... light-llm doctor
recipes my-txt                                       => recipe 'my-txt' ... mean my-text? ... my-text,
recipes a b                                          => at most 1 recipe ... 2 ... a b ... light-llm recipes my-text
runs nowhere                                         => nowhere
runs --hlp                                           => --hlp ... mean --help?
compare                                              => 2 run folders ... none ... light-llm compare
compare run                                          => 2 run folders ... 1 ... run ... light-llm compare
compare run moved run/                                 => run and run ... light-llm compare
compare run mvoed                                    => mvoed ... mean moved? ... light-llm runs
compare run ./run                                    => run and run ... light-llm compare
compare run .                                        => . is not a run folder ... run.json ... moved, run
compare run text.txt                                 => text.txt is not a run folder
compare run run/step-000030                          => run/step-000030 ... run
train --control                                      => --control ... Ctrl-C ... SIGUSR1 ... --resume
watch --control                                      => --control ... Ctrl-C ... SIGUSR1 ... --resume
train --tracker wandbb                               => tracker='wandbb' ... mean wandb? ... auto, none
train --max-step 3                                   => --max-step; ... mean --max-steps?
train --max-step=3                                   => --max-step; ... mean --max-steps?
train max-steps                                      => max-steps; ... mean --max-steps?
train --max-steps                                    => --max-steps needs a value
train --max-steps ten                                => --max-steps ten ... a whole number
train --lr fast                                      => --lr fast ... a number
train --max-steps 0                                  => max_steps=0 ... a whole number at least 1
train --preset mirco                                 => preset 'mirco' ... mean micro?
train --data shakspeare                              => 'shakspeare' ... mean shakespeare?
train --data no/such/file.txt                        => 'no/such/file.txt'
train --data text.txt --tokenizer chars              => tokenizer 'chars' ... mean char?
train --data text.txt --optimizer sgd                => optimizer='sgd' ... adamw
train --data empty.txt                               => empty.txt
train --data tiny.txt --tokenizer byte               => --max-length 512 ... 513
train --data latin.txt --tokenizer byte              => latin.txt ... UTF-8 ... 0xe9 ... offset 3
train --data . --tokenizer byte                      => latin.txt is not UTF-8
train --epochs 3                                     => --epochs ... steps ... --max-steps
train --learning-rate 1                              => --learning-rate ... --lr
train --block-size=64                                => --block-size ... --max-length
train --n-layer 4                                    => --n-layer ... --set model.n_layer=VALUE
train --beta2=0.9                                    => --beta2 ... --set train.beta2=0.9
train --grad-accum 4                                 => --grad-accum ... --micro-batch ... at a time
train --model nano                                   => --model ... --preset
train --text text.txt                                => --text ... --data
train --output-dir x                                 => --output-dir ... --out
generate demo --ckpt run                             => --ckpt ... --checkpoint
generate text --text hello                           => --text ... --prompt
prepare --dataset text.txt                           => --dataset ... --data
train --set n_layer=4                                => --set n_layer=4 ... write --set model.n_layer=4
train --set num_layers=4                             => write --set model.n_layer=4
train --set train.learning_rate=1                    => 'learning_rate' ... train.lr ... light-llm settings
train --set model.foo=1                              => 'foo' ... light-llm settings
train --out ''                                       => --out is empty ... checkpoints
settings warmpu                                      => 'warmpu' ... mean warmup?
help trian                                           => 'trian' ... mean train?
train --set model.n_embd=100                         => n_embd=100 ... n_head=6 ... n_embd=96
train --set model.n_embed=96                         => 'n_embed' ... model.n_embd
train --config nowhere.toml                          => 'nowhere.toml'
train --config shakespear-micro                      => 'shakespear-micro' ... mean shakespeare-micro?
train --device gpu                                   => 'gpu'
train --micro-batch 3                                => micro_batch=3 ... batch_size=8
train --seed 1000000000000000000000000000000         => seed=1000000000000000000000000000000
train --resume                                       => resume ... checkpoints ... --resume
train --resume --overwrite                           => --resume and --overwrite
train --out run --resume --init-from run             => --resume and --init-from
train --out run                                      => run ... --resume ... --overwrite
train --out text.txt --data text.txt                 => text.txt is a file ... --out
train --out run --resume --lr 0.5                    => train.lr: 0.01 -> 0.5
train --out run --resume --preset micro              => model.n_embd: 24 -> 384
train --out run --resume --tokenizer char            => data.tokenizer: byte -> char
prepare --data text.txt --tokenizer bpe:999999999    => 999,999,999 ... 1,048,576
train --out run --resume --max-steps 5               => max_steps=5 ... step 30
train --init-from nowhere.pt                         => nowhere.pt
train --init-from run --budget 5min --data text.txt  => --budget
train --budget soon                                  => --budget soon
train --budget 5min --fit                            => --budget ... --fit
plan --resume                                        => --resume ... plan
plan --watch                                         => --watch ... plan
plan --overwrite                                     => --overwrite ... plan
plan --force                                         => --force ... plan
train --init-from run --preset micro --data text.txt => --init-from run ... leave out --preset
train --init-from run --set model.n_layer=9 --data text.txt => --init-from run ... leave out model.n_layer
train --init-from run --tokenizer char --data text.txt => --tokenizer char ... byte
eval --checkpoint run --temperature 1                => --temperature
generate eval --checkpoint run --quantize int8       => --quantize ... eval
eval --checkpoint moved                              => text.txt ... SHA-256 ... --data
generate                                             => demo, text, interactive or eval
generate dmeo                                        => 'dmeo' ... mean demo?
generate interctive                                  => 'interctive' ... mean interactive?
generate demo                                        => checkpoints ... light-llm train
generate demo --num-samples 3                        => --num-samples ... demo
generate demo --checkpoint text.txt                  => text.txt
generate demo --checkpoint rnu                       => rnu
generate demo --checkpoint cut.pt                    => cut.pt is damaged
generate interactive --num-samples 3                 => --num-samples ... interactive
generate interactive --data text.txt                 => --data ... interactive
generate interactive --checkpoint rnu                => rnu
generate interactive --checkpoint run --seed 999999999999999999999999999999 => seed=9999999
generate text --dtype half                           => dtype='half' ... auto, float32, bfloat16
generate text --checkpoint run --quantize int7       => quantize='int7' ... mean int8?
generate text --checkpoint run --temperature -1      => temperature=-1.0
generate text --checkpoint run --seed -2             => seed=-2
generate text --checkpoint run --top-p 0             => top_p=0.0
generate text --checkpoint run --top-k 1.5           => --top-k 1.5
generate text --checkpoint run --num-samples 0       => num_samples=0
generate text --checkpoint run --num-samples 99999999999999999999 => num_samples=9999
generate text --checkpoint run --max-new-tokens 0    => max_new_tokens=0
generate text --checkpoint run --stop ''             => stop=''
analyze nowhere                                      => nowhere
analyze run more                                     => at most 1 checkpoint ... 2 ... run more ... light-llm analyze
analyze run --context 4000                           => context=4000 ... at least 0 and at most 32
analyze run --k 0                                    => k=0 ... at least 1
analyze run --k 30                                   => k=30 ... steps=30
analyze run --seed -1                                => seed=-1 ... at least 0
analyze run --batch-size 0                           => batch_size=0 ... at least 1
analyze run --data other.txt                         => other.txt ... run/step-000030 ... SHA-256
analyze run --stpes 3                                => --stpes; ... mean --steps?
verify-resume --stop-at 12                           => stop_at=12 ... 1 ... 11
verify-resume --set train.colour=3                   => 'colour'
verify-resume --data nowhere.txt                     => 'nowhere.txt'
export gguff                                         => 'gguff' ... mean gguf?
export hf --dtype bfloat                             => dtype='bfloat' ... mean bfloat16? ... float32, bfloat16
export gguf --dtype float32                          => dtype='float32'
export onnx --dtype float32                          => --dtype ... onnx
export gguf --push me/mine                           => --push ... gguf
export push                                          => light-llm export push --push you/my-model
export push --push me/mine                           => model-hf ... config.json, model.safetensors, README.md
export push --dtype float16                          => --dtype ... push
export hf --public                                   => --public ... --push NAME
export hf --push 'a b/c'                             => 'a b/c'
export hf --checkpoint nowhere                       => nowhere
export hf --out run                                  => run ... --out ... --overwrite
export hf --outt x                                   => --outt; ... mean --out?
import                                               => 1 folder, file or name, none given
import a b                                           => 2 given: a b
import text.txt                                      => text.txt
import no.pt                                         => no.pt ... nanoGPT
import . --text x                                    => --text ... Hugging Face
import . --activation gelu                           => --activation ... Hugging Face
import train.bin                                     => no folder or file train.bin
import me/tiny --offline                             => me/tiny ... --offline downloads nothing ... config.json
import me/tiny@a --revision b                        => --revision b ... two revisions
import x.pt --ignore-field a                         => --ignore-field has no effect on a nanoGPT
doctor --quik                                        => --quik; ... mean --quick?
doctor --device toaster                              => 'toaster'
tokenizer                                            => train, show or compare
tokenizer trian                                      => 'trian' ... mean train? ... train, show, compare
tokenizer show --vocab-size 9                        => --vocab-size ... show
tokenizer show --text ''                             => tokenizer show --text
tokenizer show --tokenizer bite --text a             => 'bite' ... mean byte?
tokenizer train --text x                             => --text ... train
tokenizer train --data text.txt --vocab-size 100     => 100 ids
prepare --data tetx.txt                              => 'tetx.txt' ... mean text.txt?
prepare --data https://x.org/a/my.txt                => curl -L -o my.txt https://x.org/a/my.txt, ... --data my.txt
prepare --data s3://bucket/my.txt                    => download it first ... --data my.txt
prepare --data /dev/null                             => /dev/null is a device and holds no text
prepare --data empty                                 => empty has no text: it is empty; name a text file
prepare --data text.txt --val-data empty.txt         => --val-data empty.txt ... empty.txt holds no text; name another
prepare --data text.txt --held-out 0.000001          => --held-out 1e-06; use ... --held-out 0.1
prepare --data wide.txt --errors replace             => wide.txt ... UTF-16 ... iconv -f UTF-16 -t UTF-8 wide.txt
eval run --data empty.txt                            => empty.txt holds no text; name another
prepare --verfy                                      => --verfy; ... mean --verify?
prepare --held-out 1 --data text.txt                 => held_out=1.0 ... above 0
"""
LONG = [
    ("generate text --checkpoint run --prompt " + "x" * 33, "prompt ... 33 tokens"),
    ("train --data " + "x" * 300, "File name too long"),
    (
        "prepare --data hf://datasets/you/texts/a.txt",
        "hf download you/texts a.txt --repo-type dataset --local-dir text, ... --data text/a.txt",
    ),
]
CASES = [tuple(part.strip() for part in line.split("=>")) for line in MISTAKES.strip().splitlines()] + LONG


def names(message: str, expected: str) -> bool:
    """Return whether a message has the parts of `expected` in this order."""
    at = 0
    for part in expected.split(" ... "):
        at = message.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@pytest.fixture(scope="module")
def world(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two copies of a run, and files of every bad kind."""
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("run", "moved"):
        shutil.copytree(trained / "run", folder / name)
    shutil.copy(trained / "text.txt", folder)
    (folder / "empty.txt").write_text("")
    (folder / "other.txt").write_text("Another text altogether, long enough to be one. " * 60)
    (folder / "wide.txt").write_bytes("A wide text. ".encode("utf-16"))
    (folder / "empty").mkdir()
    (folder / "tiny.txt").write_text("a tiny text")
    (folder / "latin.txt").write_bytes(b"caf\xe9 " * 1000)
    (folder / "cut.pt").write_bytes((trained / "run" / "best_model.pt").read_bytes()[:5000])
    return folder


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line[:60] for line, _ in CASES])
def test_a_mistake_is_named(
    line: str, expected: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line)
    if "moved" in words and words[0] == "eval":
        shutil.copy(world / "other.txt", world / "text.txt")
    monkeypatch.chdir(world)
    before = sorted(world.rglob("*"))
    code = main(words)
    out, err = capsys.readouterr()
    assert code == 2 and names(err, expected), err
    assert err.startswith("error: ") and "Traceback" not in err
    # verify-resume has announced its first run.
    assert out == "" or words[0] == "verify-resume"
    assert sorted(world.rglob("*")) == before


@pytest.mark.parametrize("words", [["train", "--max-step", "3"], ["generate", "demo"]])
def test_a_mistake_from_a_shell(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The root files say the same, from a process of their own, in any folder and without a path to the package."""
    assert main(words) == 2
    child = run_child([sys.executable, str(CHECKOUT / f"{words[0]}.py"), *words[1:]], env={"PYTHONPATH": ""})
    assert (child.returncode, child.stdout, child.stderr) == (2, *capsys.readouterr())


def test_missing_dependencies_are_named() -> None:
    """Python with -S, that is without site-packages."""
    child = run_child([sys.executable, "-S", str(CHECKOUT / "train.py"), "--max-steps", "1"])
    assert child.returncode == 2 and "source .venv/bin/activate" in child.stderr, child.stderr
