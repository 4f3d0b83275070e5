"""Every fault of a run on two ranks: its exit code, message, lost steps, and the run resumed on one process."""

from pathlib import Path

import pytest

from tests.support.rank_faults import FAULTS, Fault, break_run, prepare, reference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run on one process that was never broken."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("faults") / "reference"
        patch.setenv("LIGHT_LLM_CACHE", str(folder / "cache"))
        return reference(folder)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.label)
def test_a_fault_costs_what_the_table_says(
    fault: Fault, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "run" / "cache"))
    prepare(tmp_path / "run")
    seen = break_run(tmp_path / "run", fault, expected)
    assert not seen.problems, (tmp_path / "run" / "output.txt").read_text(errors="replace")
