"""`light-llm prepare --part k/n --to FOLDER` and `--join FOLDER`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from light_llm.data import prepare_dataset
from tests.cli.test_prepare_tokenizer import output_of

PART = ("prepare", "--data", "texts", "--tokenizer", "byte", "--to", "corpus")


@pytest.fixture(autouse=True)
def texts() -> None:
    """Write three files that are too large to share a shard."""
    Path("texts").mkdir()
    for name in "abc":
        lines = [json.dumps({"text": f"{name} {i} " + "some words " * 90}) for i in range(1100)]
        Path("texts", f"{name}.jsonl").write_text("\n".join(lines))


def test_parts_are_encoded_and_joined(capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(capsys, *PART, "--part", "1/2")
    assert out.startswith("part     1 of 2: 2 of 3 shards of texts, ") and "tokens   " in out
    assert out.endswith("next     when all parts are done: light-llm prepare --join corpus\n")
    error = output_of(capsys, "prepare", "--join", "corpus", code=2)
    assert "1 of the 3 shards of corpus are missing: texts-00001 (from b.jsonl)" in error
    assert output_of(capsys, *PART, "--part", "2/2", "--quiet") == ""
    assert "2 of them were done before" in output_of(capsys, *PART, "--part", "1/2")
    assert "3 shards are less than 9 parts" in output_of(capsys, *PART, "--part", "9/9")
    output_of(capsys, *PART, "--part", "1/1", "--source", "more", "--held-out", "0.2", code=0)
    error = output_of(capsys, "prepare", "--join", "corpus", code=2)
    assert "more-00000-" in error and "texts-00000-" in error and "the same text" in error


def test_weights_are_given_to_the_join(capsys: pytest.CaptureFixture[str]) -> None:
    Path("code.txt").write_text("for x in y: pass\n" * 2000)
    output_of(capsys, *PART, "--part", "1/1")
    output_of(capsys, "prepare", "--data", "code.txt", *PART[3:], "--part", "1/1", "--source", "py")
    out = output_of(capsys, "prepare", "--join", "corpus", "--weight", "texts=0.7,py=0.3")
    assert "source   py: " in out and "1 shard, weight 0.3\n" in out and "3 shards, weight 0.7\n" in out
    assert out.endswith("written  corpus/corpus.json\nnext     light-llm train --data corpus\n")
    sources = json.loads(Path("corpus/corpus.json").read_text())["sources"]
    assert [(s["name"], s["weight"]) for s in sources] == [("py", 0.3), ("texts", 0.7)]
    dataset, _ = prepare_dataset("corpus", max_length=32)
    assert [source.weight for source in dataset.sources] == [0.3, 0.7]
    assert "'web'" in output_of(capsys, "prepare", "--join", "corpus", "--weight", "web=1", code=2)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--part", "1/2"], "--part needs --to"),
        (["--part", "1/2", "--to", "c"], "--part needs --tokenizer"),
        (["--part", "0/2", "--to", "c", "--tokenizer", "byte", "--data", "texts"], "--part 0/2"),
        (["--part", "3/2", "--to", "c", "--tokenizer", "byte", "--data", "texts"], "--part 3/2"),
        (["--part", "1/2", "--to", "c", "--tokenizer", "bpe:99", "--data", "texts"], "--vocab-size 99"),
        (["--to", "c"], "--to belongs to --part"),
        (["--weight", "a=1"], "--weight belongs to --join"),
        (["--join", "c", "--part", "1/2"], "use one of them"),
        (["--join", "c", "--data", "texts"], "--data has no effect on --join"),
        (["--join", "nowhere"], "nowhere"),
        (["--join", "texts"], "has no parts of a corpus"),
        (
            ["--part", "1/2", "--to", "c", "--tokenizer", "byte", "--data", "tales"],
            "'tales' cannot be encoded in parts",
        ),
    ],
)
def test_flags_that_do_not_belong_together(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in output_of(capsys, "prepare", *words, code=2)
    assert not Path("c").exists()


@pytest.mark.slow
def test_xargs_runs_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    """The command of docs/data.md, in processes that run at the same time and encode a part twice."""
    line = " ".join([sys.executable, "-m", "light_llm", *PART, "--part", "{}/3"])
    done = subprocess.run(
        ["xargs", "-P", "4", "-I{}", *line.split()], input="1\n2\n3\n2\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 shards" in output_of(capsys, "prepare", "--join", "corpus")
