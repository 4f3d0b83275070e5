"""README is true: its blocks run as written, and its numbers are the ones a script made."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from benchmarks.pages import PAGES, speed, summary
from light_llm.cli import main
from light_llm.cli.main import COMMANDS as COMMAND_NAMES
from light_llm.config import PRESETS, ModelConfig, get_model_size
from light_llm.data.tales import corpus
from tests.conftest import CHECKOUT
from tests.test_docs import blocks
from tests.test_front_door import COMMANDS, EXAMPLE, checkout  # noqa: F401  (a fixture)

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_the_front_door_stands_in_readme() -> None:
    """test_front_door.py runs them."""
    assert COMMANDS in README and EXAMPLE in README
    assert blocks("README.md", "python") == [EXAMPLE]


@pytest.mark.usefixtures("few_checks")
def test_every_other_command_runs(
    checkout: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The commands run in this process, where torch is imported already; the tales are fewer than by default."""
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(corpus, "DEFAULT_MEGABYTES", 1)
    lines = [
        line
        for block in blocks("README.md", "bash")
        for line in block.splitlines()
        if line not in COMMANDS.splitlines()  # test_front_door.py runs them
    ]
    (checkout / "my.txt").write_text("Once upon a time there was a fox.\n" * 400)
    ran = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "make":  # what make would do, without doing it
            child = subprocess.run([*words, "-n"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
            assert child.returncode == 0 and "train.py --max-steps 20" in child.stdout
        elif words[0] == "light-llm":
            monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "1")
            assert main(words[1:]) in (0, 130), f"{line}: {capsys.readouterr().err}"
            ran += 1
        else:
            assert line in ("python3 -m venv .venv", "source .venv/bin/activate", "pip install -e ."), line
    assert ran == 7


def test_it_is_short_and_names_every_command() -> None:
    assert len(README.splitlines()) <= 250
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(?:light-llm )?([a-z-]+)`", table.replace("`: `", "`"))) >= set(COMMAND_NAMES)


def test_the_tables_are_the_benchmarks() -> None:
    results = sorted((CHECKOUT / "benchmarks" / "results").glob("*.md"))
    assert "default_run.md" in {result.name for result in results}
    assert (CHECKOUT / "benchmarks" / "results" / "summary.md").read_text(encoding="utf-8") == summary()
    assert (CHECKOUT / "benchmarks" / "results" / "speed.md").read_text(encoding="utf-8") == speed()
    pages = "".join((CHECKOUT / page).read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(r"<!-- (\w+\.md) -->", pages)) == [result.name for result in results]
    for result in results:
        assert f"<!-- {result.name} -->\n{result.read_text(encoding='utf-8')}<!-- end -->" in pages


def test_there_are_as_many_formulas_as_said() -> None:
    page = (CHECKOUT / "README-transformer-math.md").read_text(encoding="utf-8")
    n = len(re.findall(r'^<a id="[a-z]+\d+"></a>\*\*\([A-Z]+\d+\)\*\*', page, re.M))
    for name in ("README.md", "CHANGELOG.md", "docs/roadmap.md"):
        assert f"{n} formulas" in (CHECKOUT / name).read_text(encoding="utf-8"), (name, n)


def test_the_presets_are_as_said() -> None:
    page = (CHECKOUT / "docs" / "results.md").read_text(encoding="utf-8")
    for name in PRESETS:
        config = ModelConfig.preset(name)
        shape = f"{config.n_layer} x {config.n_head} x {config.n_embd}"
        assert f"| `{name}` | {shape} | {get_model_size(config):,} |" in page


def test_every_link_leads_somewhere() -> None:
    for page in [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *(CHECKOUT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
