"""`light-llm prepare` and `light-llm tokenizer`."""

import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from light_llm.cli import main
from light_llm.data.bpe import train_bpe
from light_llm.data.sources import find_source
from light_llm.data.tokenizers import make_tokenizer


def output_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Return the output of a command, or its errors if a code is expected. The other stream is empty."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert (out if code else err) == ""
    return str(err if code else out)


# ---- prepare


def test_what_is_prepared_is_found_by_training(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(capsys, "prepare", "--data", "poem.txt", "--tokenizer", "bpe:300", "--held-out", "0.2")
    size = poem.stat().st_size
    assert f"text     poem.txt: {size:,} bytes, 1 document\n" in out and "(bpe, vocabulary 300, " in out
    assert re.search(r"took     [\d.]+ m?s; encoded at [\d.]+ [kM]B/s on \d+ cores?", out)
    assert out.endswith("next     light-llm train --data poem.txt --tokenizer bpe:300 --held-out 0.2\n")
    Path("b.txt").write_text("the rat and the hat. " * 40)
    both = output_of(capsys, "prepare", "--data", "poem.txt", "--val-data", "b.txt", "--tokenizer", "byte")
    assert f"poem.txt: {size:,} bytes, 1 document\n         b.txt: 840 bytes, 1 document, held out\n" in both
    folder = Path(re.search("cached   (.*)", out)[1])  # type: ignore[index]
    written = (folder / "train.bin").stat().st_mtime_ns
    tokens = [int(n.replace(",", "")) for n in re.findall(r"tokens   ([\d,]+) training, ([\d,]+) held out", out)[0]]
    out = output_of(capsys, "prepare", "--data", "poem.txt", "--tokenizer", "bpe:300", "--held-out", "0.2", "--verify")
    assert "it was cached already" in out and "checked  2 blocks of up to 1 MiB: every byte is as it was written" in out
    small = ["--preset", "nano", "--max-length", "32", "--max-steps", "1", "--dtype", "float32", "--quiet"]
    assert main(["train", "--data", "poem.txt", "--held-out", "0.2", "--tokenizer", "bpe:300", *small]) == 0
    assert (folder / "train.bin").stat().st_mtime_ns == written
    data = json.loads(Path("checkpoints/run.json").read_text())["data"]
    assert [data["train_tokens"], data["held_out_tokens"]] == tokens


def test_verify_names_the_damage(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poem.write_text(poem.read_text() + "a text of its own")
    out = output_of(capsys, "prepare", "--data", "poem.txt", "--tokenizer", "byte")
    path = Path(re.search("cached   (.*)", out)[1], "held_out.bin")  # type: ignore[index]
    path.write_bytes(path.read_bytes()[:-2] + b"!!")
    error = output_of(capsys, "prepare", "--data", "poem.txt", "--tokenizer", "byte", "--verify", code=2)
    assert "held_out.bin is damaged" in error and str(path.parent) in error


def test_documents_and_replaced_bytes_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("many").mkdir()
    for name in "abc":
        Path("many", f"{name}.txt").write_bytes(f"document {name} ".encode() * 40 + b"\xff\xfe")
    assert "not UTF-8" in output_of(capsys, "prepare", "--data", "many", "--tokenizer", "byte", code=2)
    out = output_of(capsys, "prepare", "--data", "many", "--tokenizer", "byte", "--errors", "replace")
    assert " bytes, 3 documents\n" in out and "         6 bytes that are not UTF-8 were replaced\n" in out


def test_own_validation_text_and_field(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"body": f"line {i} of many"}) for i in range(50)]
    Path("a.jsonl").write_text("\n".join(lines))
    Path("b.jsonl").write_text(lines[0] + "\n" + json.dumps({"body": "quite another line"}))
    words = ["prepare", "--data", "a.jsonl", "--val-data", "b.jsonl", "--tokenizer", "byte"]
    error = output_of(capsys, *words, code=2)
    assert "line 1 of a.jsonl" in error and "'text'" in error and "body" in error
    out = output_of(capsys, *words, "--text-field", "body")
    assert "50 documents" in out and "--text-field body" in out.splitlines()[-1]
    assert output_of(capsys, *words, "--text-field", "body", "--quiet") == ""


def test_the_next_command_can_be_run(
    poem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shared_cache: Path
) -> None:
    """It names the saved copy of standard input, and the place that ~ stands for."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(poem.read_bytes())))
    out = output_of(capsys, "prepare", "--data", "-", "--tokenizer", "byte")
    saved = shared_cache / "stdin" / f"{find_source('poem.txt').sha256}.txt"
    assert out.endswith(f"next     light-llm train --data {saved} --tokenizer byte\n")
    assert "text     standard input: " in out
    monkeypatch.setenv("HOME", str(poem.parent))
    out = output_of(capsys, "prepare", "--data=~/poem.txt", "--tokenizer", "byte", "--held-out", "0.3")
    assert out.endswith(f"next     light-llm train --data {poem} --tokenizer byte --held-out 0.3\n")


@pytest.mark.parametrize("piped", ["the text", "nothing"])
def test_a_run_on_standard_input_is_resumed_by_the_same_command(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, piped: str
) -> None:
    """Also where nothing is piped in again: the text was saved. Another text is refused."""
    shutil.copytree(trained / "run", "run")
    shutil.copy(trained / "text.txt", "text.txt")
    text = Path("text.txt").read_bytes()
    words = ["train", "--data", "-", "--out", "run", "--resume", "--quiet", "--max-steps", "31"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text if piped == "the text" else b"")))
    assert output_of(capsys, *words) == ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text + b"more")))
    assert "text, SHA-256: " in output_of(capsys, *words[:-1], "32", code=2)


# ---- tokenizer


def test_a_learnt_file_is_the_learnt_tokenizer(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(capsys, "tokenizer", "train", "--data", "poem.txt", "--vocab-size", "300", "--out", "new/t.json")
    assert "trained  on poem.txt: a vocabulary of 300 tokens\n" in out
    assert "light-llm train --data poem.txt --tokenizer new/t.json\n" in out
    text = poem.read_text()
    training, held_out = text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) :]
    same = train_bpe([training], 300)
    assert make_tokenizer("new/t.json").encode(text) == same.encode(text)
    assert f"{len(held_out) / len(same.encode(held_out)):.2f} bytes per token" in out
    words = ["tokenizer", "train", "--data", "poem.txt", "--out", "new/t.json"]
    assert re.search("new/t.json .*--out.*--overwrite", output_of(capsys, *words, code=2))
    out = output_of(capsys, *words, "--overwrite")
    assert re.search(r"on poem.txt: a vocabulary of \d+ tokens \(not 4,096: the text is too short\)", out)


def test_how_a_text_is_cut(poem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Once é!"
    out = output_of(capsys, "tokenizer", "show", "--tokenizer", "byte", "--tokenizer", "char", "--text", text)
    assert out.splitlines() == [
        "O|n|c|e| |é|!",
        "byte: 8 tokens, 8 bytes, 1.00 bytes per token; ids 79 110 99 101 32 195 169 33",
        "O|n|c|e| |é|!",
        "char: 7 tokens, 8 bytes, 1.14 bytes per token; ids 2 5 3 4 0 6 1",
    ]
    words = ["--tokenizer", "bpe", "--data", "poem.txt", "--text", "The old cat went down"]
    out = output_of(capsys, "tokenizer", "show", *words)
    assert out.startswith(("The old| cat| went| down\n", "The| old| cat| went| down\n"))
    # In a terminal no id is broken in two.
    monkeypatch.setattr("light_llm.text_format.terminal_width", lambda stream: 60)
    out = output_of(capsys, "tokenizer", "show", "--tokenizer", "byte", "--text", "Once é!")
    assert out.splitlines()[1:] == ["byte: 8 tokens, 8 bytes, 1.00 bytes per token; ids 79 110 99", "101 32 195 169 33"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = output_of(capsys, "tokenizer", "show", "--tokenizer", "byte", "--text", "ab")
    assert "\x1b[30;46ma" in out and "\x1b[30;43mb" in out and "|" not in out.splitlines()[0]


def test_several_on_one_text(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(
        capsys, "tokenizer", "compare", "--data", "poem.txt", "--tokenizer", "bpe:300", "--tokenizer", "byte"
    )
    rows = [line.split() for line in out.splitlines()]
    n = len(poem.read_text()) - int(len(poem.read_text()) * 0.9)
    assert rows[0][:4] == ["the", "held-out", "text", "of"] and rows[3] == ["byte", "257", "1.00", str(n), "11,139,456"]
    assert rows[2][:2] == ["bpe:300", "300"] and float(rows[2][2]) > 1.5
    assert max(map(len, out.splitlines())) <= 80


def test_a_tokenizer_that_is_not_available_leaves_the_others(
    poem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIGHT_LLM_OFFLINE_DIR", "TIKTOKEN_CACHE_DIR"):
        monkeypatch.setenv(name, str(poem.parent / "nothing"))
    words = ["tokenizer", "compare", "--data", "poem.txt", "--offline"]
    out = output_of(capsys, *words, "--tokenizer", "gpt2", "--tokenizer", "byte").splitlines()
    assert [line.split()[0] for line in out] == ["the", "tokenizer", "byte", "missing"]
    assert "gpt2/vocab.bpe is not on this machine" in out[-1] and "or use --tokenizer bpe" in out[-1]
    assert "gpt2/vocab.bpe" in output_of(capsys, *words, "--tokenizer", "gpt2", code=2)
