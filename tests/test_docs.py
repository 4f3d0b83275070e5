"""Run every command of the pages in docs/ as written, in order; each training ends early."""

import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from tests.conftest import CHECKOUT
from tests.support.published import write_folder
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import NANO_RUN

EXPORT = pytest.param("export.md", 7, marks=pytest.mark.slow)  # three other programs are started
CLUSTER = pytest.param("cluster.md", 4, marks=pytest.mark.slow)  # two processes are started
TEXT = "Once upon a time there was a fox, and the fox went up the hill.\n" * 200


def blocks(page: str, language: str) -> list[str]:
    """Return the code of a language on a page of the checkout."""
    return re.findall(rf"```{language}\n(.*?)```", (CHECKOUT / page).read_text(encoding="utf-8"), re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name: texts, folders of texts, JSON lines, and the pages themselves."""
    Path("my.txt").write_text(TEXT)
    Path("other.txt").write_text(TEXT[::-1])
    Path("stories.txt").write_text(f"{TEXT}<|endoftext|>\n" * 3)
    Path("my-code").mkdir()
    Path("my-code", "a.py").write_text("x = 1\n" * 200)
    Path("books").mkdir()
    for name in "abc":
        Path("books", f"{name}.txt").write_text(TEXT + name)
    Path("chats.jsonl").write_text("\n".join(json.dumps({"body": f"{i} {TEXT[:200]}"}) for i in range(60)))
    for name in ("README.md", "CONTRIBUTING.md"):
        shutil.copy(CHECKOUT / name, name)
    shutil.copytree(CHECKOUT / "docs", "docs")
    Path("laptops.toml").write_text(blocks("docs/plan.md", "toml")[0])
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "1")
    return tmp_path


def run(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line as a shell would run it: `cat FILES | light-llm ...`, `light-llm ... > FILE`, `cat FILES > FILE`."""
    before, bar, after = line.partition(" | ")
    text = ""
    if bar or before.startswith("cat "):
        patterns = shlex.split(before.removeprefix("cat ").partition(" > ")[0])
        files = [path for pattern in patterns for path in sorted(Path().glob(pattern))]
        assert files, line
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        if not bar:
            Path(before.partition(" > ")[2]).write_text(text, encoding="utf-8")
            return
    words, arrow, target = (after if bar else line).partition(" > ")
    assert words.startswith("light-llm "), line
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    code = main(shlex.split(words)[1:])
    captured = capsys.readouterr()
    assert code in (0, 130), f"{line}: {captured.err}"
    if arrow:
        Path(target).write_text(captured.out, encoding="utf-8")


PAGES = {"tutorial": 12, "data": 12, "offline": 2, "observe": 3, "plan": 7, "doctor": 2}  # with their fewest commands


@pytest.mark.usefixtures("few_checks")
@pytest.mark.parametrize(("page", "fewest"), [*((f"{page}.md", n) for page, n in PAGES.items()), EXPORT, CLUSTER])
def test_every_command_runs(
    page: str,
    fewest: int,
    folder: Path,
    offline_files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line for block in blocks(f"docs/{page}", "bash") for line in block.splitlines()]
    assert len(lines) >= fewest
    for line in lines:
        run(line, monkeypatch, capsys)
    for block in blocks(f"docs/{page}", "python"):
        exec(compile(block, page, "exec"), {})
        assert capsys.readouterr().out.strip()  # a model of one step may stop after a few tokens


@pytest.mark.usefixtures("few_checks", "folder")
def test_the_python_page_runs_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks share their names; runs are two steps long, and the one that is resumed three."""
    monkeypatch.delenv("LIGHT_LLM_STOP_AFTER")
    names: dict[str, Any] = {}
    code = blocks("docs/python.md", "python")
    assert len(code) >= 11
    for block in code:
        steps = 3 if "resume=True" in block else 2
        exec(compile(re.sub(r"(max_steps\"?[=:] ?)\d+", rf"\g<1>{steps}", block), "python.md", "exec"), names)
        assert capsys.readouterr().out.strip(), block
    losses = names["losses"]
    assert len(set(losses.values())) == 9
    options = {"lr": 1e-3, "seed": 2, "max_steps": 2, "batch_size": 8, "quiet": True, "report": False}
    again = names["Trainer"](names["small"], names["dataset"], **options, out="again").train()
    assert again.best_loss == losses[1e-3, 2], "the same run after others"


def test_the_page_about_evaluation_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tasks are run by tests/lm_eval/test_run.py."""
    assert main(["train", "--data", "my.txt", *NANO_RUN, "--skip-doctor"]) == 130  # stopped after a step
    lines = [line.partition(" #")[0] for line in "".join(blocks("docs/eval.md", "bash")).splitlines()]
    lines = [line for line in lines if "--tasks" not in line]
    assert len(lines) >= 4
    for line in lines:
        run(line, monkeypatch, capsys)
    assert json.loads(Path("perplexity.json").read_text())["stride"] == 8
    (code,) = blocks("docs/eval.md", "python")
    exec(compile(code, "eval.md", "exec"), {})
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.usefixtures("few_checks")
def test_the_page_on_published_models_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a folder as the hub has SmolLM2's, of random weights."""
    kind = tokenizer_kind("smollm")
    ids = {"vocab_size": kind.vocab_size, "bos_token_id": kind.bos, "eos_token_id": kind.eos}
    write_folder(Path("smollm"), "smollm2", files=kind.files(), **ids)
    lines = "".join(blocks("docs/published-models.md", "bash")).splitlines()
    assert len(lines) >= 10
    for line in lines:
        run(line, monkeypatch, capsys)
    (code,) = blocks("docs/published-models.md", "python")
    exec(compile(code, "published-models.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Once upon a time")
    assert Path("tuned-hf/tokenizer.json").read_bytes() == kind.data


def test_the_files_to_carry_over_are_the_ones_that_are_looked_for() -> None:
    from light_llm.data.sources import SOURCES
    from light_llm.data.tokenizers import GPT2_VOCABULARY

    page = (CHECKOUT / "docs" / "offline.md").read_text(encoding="utf-8")
    files = [file for source in SOURCES.values() for file in (*source.training, *source.validation)]
    for file in [*files, GPT2_VOCABULARY]:
        for fact in (file.name.rpartition("/")[2], getattr(file, "sha256", ""), getattr(file, "revision", "")):
            assert fact in page
        assert f"{getattr(file, 'folder', '')}/{file.name}".strip("/").rpartition("/")[0] in page


def test_the_source_table_names_every_source() -> None:
    from light_llm.data.sources import SOURCES

    page = (CHECKOUT / "docs" / "data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in [*SOURCES, "tales"])
