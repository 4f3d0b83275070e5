"""`light-llm export` from the command line: files, output, and requests that are refused before any work."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from light_llm.atomic_io import Files, remove_stale
from light_llm.checkpoint import read_model, write_model_file
from light_llm.cli import main
from light_llm.errors import Interrupted
from light_llm.interop.huggingface import HuggingFaceExporter
from tests.support.tools import model_path

SHAPE = {"n_embd": 64, "n_head": 2, "n_positions": 32}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in `checkpoints`, and this folder the one to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    return model_path(tmp_path / "checkpoints", **SHAPE)


def test_export_to_a_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "gguf", "--dtype", "q8_0"]) == 0
    text = capsys.readouterr().out
    assert Path("model.gguf").read_bytes()[:4] == b"GGUF"
    assert "model     checkpoints/best_model.pt: " in text and "writing   weights in q8_0" in text
    assert "result    read back with gguf" in text or "result    verified with llama.cpp" in text
    assert "written   model.gguf (" in text and "try it    llama-cli -m model.gguf -p 'To be' -n 27" in text
    assert main(["export", "gguf", "--overwrite"]) == 0
    assert sorted(p.name for p in Path().iterdir()) == ["checkpoints", "model.gguf"]


def test_export_to_a_folder(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "hf", "--out", "there"]) == 0
    text = capsys.readouterr().out
    verdict = "logits at 32 positions differ by"
    assert "result    verified with transformers" in text and verdict in text
    assert verdict in Path("there/README.md").read_text() and "try it    python -c " in text


def test_an_upload_without_a_token_is_refused_before_any_work(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["export", "hf", "--push", "me/mine"]) == 2
    out, err = capsys.readouterr()
    assert "token" in err and "me/mine" in err and "writing" not in out
    assert [p.name for p in Path().iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("target", ["hf", "gguf", "onnx"])
def test_a_full_disk_leaves_nothing(target: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Simulated by the kernel's limit on the size of a file. NumPy, which writes GGUF, does not say the reason."""
    resource = pytest.importorskip("resource", reason="NOT RUN: Windows has no limit for files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        assert main(["export", target, "--out", "mine"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = "error: mine could not be written (File too large); nothing was changed"
    assert capsys.readouterr().err.startswith(said)
    assert [p.name for p in Path().iterdir()] == ["checkpoints"]


def test_leftovers_of_dead_processes_are_removed(checkpoint: Path) -> None:
    """As after a kill, or a second Ctrl-C. Files of running processes and files with other names stay."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".mine.partial-{dead.pid}", f"..mine.partial-{dead.pid}.tmp-{dead.pid}", f".mine.tmp-{dead.pid}"):
        Path(name).write_text("half")
    Path(f".mine.old-{dead.pid}").mkdir()
    before = {p.name for p in Path().iterdir()}
    remove_stale(Path("mine"))
    assert {p.name for p in Path().iterdir()} == before  # new files stay: their process may run on another machine
    for name in before:
        os.utime(name, (0, 0))
    others = {f".mine.partial-{os.getppid()}", ".mine.partial-x", f".mine.more.partial-{dead.pid}"}
    for name in others:
        Path(name).write_text("not ours")
        os.utime(name, (0, 0))
    remove_stale(Path("mine"))
    assert {p.name for p in Path().iterdir()} == others | {"checkpoints", f".mine.old-{dead.pid}"}
    assert main(["export", "gguf", "--out", "mine"]) == 0
    assert main(["export", "gguf", "--out", "mine", "--overwrite"]) == 0
    assert {p.name for p in Path().iterdir()} == others | {"checkpoints", "mine"}


def test_a_failed_rename_keeps_the_old_export(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["export", "hf", "--out", "mine"]) == 0
    before = {p.name: p.read_bytes() for p in Path("mine").iterdir()}
    replace = os.replace
    for error, code in ((OSError(28, "No space left on device"), 2), (Interrupted(2), 130)):

        def failing(old: Path, new: Path, error: BaseException = error) -> None:
            if Path(new).name == "mine" and "partial" in Path(old).name:
                raise error
            replace(old, new)

        monkeypatch.setattr(os, "replace", failing)
        assert main(["export", "hf", "--out", "mine", "--overwrite"]) == code
        assert sorted(p.name for p in Path().iterdir()) == ["checkpoints", "mine"]
        assert {p.name: p.read_bytes() for p in Path("mine").iterdir()} == before


def test_only_exports_are_replaced(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["export", "hf", "--out", "mine", "--overwrite"]) == 0
    assert sorted(p.name for p in Path().iterdir()) == ["checkpoints", "mine"]
    Path("link").symlink_to("mine")
    Path("lost").symlink_to("nowhere")
    Path("notes").mkdir()
    Path("notes/README.md").write_text("my own words")
    capsys.readouterr()
    for out, message in (
        ("link", "link is a link; name another path with --out"),
        ("lost", "lost is a link"),
        (".", ". is not a name for a new file or folder"),
        ("notes", "notes has files that no export wrote (README.md), so it is not replaced"),
    ):
        assert main(["export", "hf", "--out", out, "--overwrite"]) == 2
        assert message in capsys.readouterr().err


def test_the_printed_command_runs(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any letters in the path; and no more tokens than there are positions, beyond which GPT-2 ends in an error."""
    out = 'my "módel" d\'été'
    assert main(["export", "hf", "--out", out]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("try it")]
    python, c, code = shlex.split(line.removeprefix("try it"))
    assert (python, c) == ("python", "-c") and "max_new_tokens=27)" in code
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(compile(code, "what is printed", "exec"), {})
    assert "To be" in text.getvalue()
    assert "max_new_tokens=27, do_sample" in Path(out, "README.md").read_text()


def test_a_model_without_a_tokenizer_is_exported_without_advice_that_cannot_be_followed(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from a loader of one's own."""
    file = read_model(checkpoint)
    write_model_file(file.path, file.weights, file.meta | {"tokenizer": None}, Files())
    assert main(["export", "gguf"]) == 0
    out = capsys.readouterr().out
    assert "note      the model has no tokenizer: programs can give it token ids" in out and "try it" not in out
    python, _, code = HuggingFaceExporter().try_command("a b", "To be", 7, has_tokenizer=False)
    assert python == "python" and 'from_pretrained("a b").generate(torch.tensor([[0]]), max_new_tokens=7)' in code


def test_checking_is_said_only_where_the_program_is_there(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("llama_cpp", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)  # what `find_spec` calls missing
    for target, result in (
        ("hf", "NOT verified in Transformers: the package transformers is not installed"),
        ("gguf", "NOT run in llama.cpp: the package llama-cpp-python"),
    ):
        assert main(["export", target]) == 0
        out = capsys.readouterr().out
        assert "checking" not in out and result in " ".join(out.split())
