"""The report and the live page in a real Chromium: offline, beside a real training, narrow and wide, by keyboard."""

import json
import math
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from light_llm.report.page import render_page
from light_llm.report.run_log import read_run_log
from light_llm.report.server import open_port, serve
from tests.cli.test_signals import child_of, ended, posix, rows
from tests.support.browser import (
    DRAWN,
    Opened,
    chromium,
    cut_texts,
    faint_texts,
    opened,
    settled,
    sideways,
    tab_through,
)
from tests.support.tools import NANO_RUN, rows_of, train_small

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("a-run-with-a-rather-long-name", "slow")
L, H = 2, 3  # layers and heads of the runs
PICTURES = 12  # at least, of a run in which all was measured
OPEN_ALL = "for (const d of document.querySelectorAll('details')) d.open = true"
CLOSE_ALL = "for (const d of document.querySelectorAll('details')) d.open = false"
ALL_OPEN = "() => [...document.querySelectorAll('.card details')].every((d) => d.querySelector('table'))"
FIRST_CURVE = "() => document.querySelector('.plot').data[0].x"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs, in which all was measured that can be, and a report of one."""
    folder = tmp_path_factory.mktemp("runs")
    poem = folder / "poem.txt"
    poem.write_text("The fox went to the mill, and what it saw there nobody knows.\n" * 60)
    for name, lr in zip(NAMES, (1e-2, 1e-3), strict=True):
        train_small(poem, str(folder / name), max_steps=40, lr=lr, sample_interval=20)
        measure_all(folder / name)
    (folder / "report.html").write_text(render_page([read_run_log(folder / "slow")]), encoding="utf-8")
    return folder


def measure_all(folder: Path) -> None:
    """Rows of looks inside the model, and an analysis, with made-up numbers: how they look is tested here."""

    def wave(*shape: int, low: float = 0.0, high: float = 1.0, at: float = 1.0) -> Any:
        if not shape:
            return low + (high - low) * (0.5 + 0.5 * math.sin(7 * at))
        return [wave(*shape[1:], low=low, high=high, at=at + i + 1) for i in range(shape[0])]

    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        for step in (10, 20, 30, 40):
            heads = {name: wave(L, H, at=step) for name in ("relative", "first", "previous")}
            heads |= {name: wave(L, H, high=3, at=step) for name in ("entropy", "distance")}
            shares = ("rms", "kurtosis", "largest", "effective_rank")
            bins = [{"confidence": p, "accuracy": p**1.2, "count": 100} for p in wave(10, low=0.05, high=0.95)]
            row = {
                "kind": "probe",
                "step": step,
                "loss": 3.0,
                "attention": heads | {"similarity": wave(L)},
                "stream": {name: wave(L + 1, low=1, high=4, at=step) for name in shares},
                "dead_units": wave(L, high=0.2),
                "predictions": {
                    "entropy": 2.0,
                    "accuracy": 0.3,
                    "confidence": 0.35,
                    "calibration_error": 0.05,
                    "bins": bins,
                },
                "induction": {"score": 0.1, "layer": 1, "head": 2, "gain": 0.2},
                "lens": wave(L + 1, low=2.5, high=5),
                "alarms": [{"layer": 0, "head": 1, "what": "one position"}],
            }
            file.write(json.dumps(row) + "\n")
        tokens = ["The", " fox", " went", " to", " the", " mill", ",", " and", "\n", "<b>"]
        weights = [[1 / (i + 1)] * (i + 1) for i in range(len(tokens))]
        maps = [{"layer": i, "head": i, "why": "most even", "weights": weights} for i in range(L)]
        file.write(json.dumps({"kind": "attention", "step": 40, "tokens": tokens, "maps": maps}) + "\n")
    grid = [x / 5 for x in range(-5, 6)]
    bowl = [[a * a + 2 * b * b + 3 for a in grid] for b in grid]
    points = [{"step": s, "a": 1 - s / 40, "b": 0.5 - s / 80, "loss": 5 - s / 20} for s in (10, 20, 30, 40)]
    analysis = {
        "format": 1,
        "step": 40,
        "checkpoint": "step-000040",
        "batch": {"sequences": 4, "context": 16, "tokens": 64},
        "loss": 3.0,
        "gradient_norm": 0.5,
        "seconds": 12.0,
        "hessian": {
            "eigenvalues": [9.0, 4.0, 2.0, 1.0],
            "residuals": [1e-4] * 4,
            "smallest": -0.5,
            "trace": {"value": 30.0, "stderr": 2.0, "probes": 8},
            "density": {"at": grid, "density": [math.exp(-x * x) for x in grid], "probes": 4, "steps": 30},
        },
        "sharpness": {
            "plain": 9.0,
            "plain_threshold": 200.0,
            "preconditioned": 300.0,
            "preconditioned_threshold": 3800.0,
        }
        | {"lr": 0.01, "why_not": ""},
        "noise": {"gradient_squared": 0.2, "trace": 2.0, "scale_sequences": 10.0, "scale_tokens": 160.0}
        | {"stderr": 3.0, "sequences": 32},
        "landscape": {
            "line": {"at": grid, "loss": [x * x + 3 for x in grid]},
            "plane": {"a": grid, "b": grid, "loss": bowl},
        },
        "path": {"explained": [0.8, 0.15], "points": points, "a": grid, "b": grid, "loss": bowl},
    }
    (folder / "analysis.json").write_text(json.dumps(analysis), encoding="utf-8")


@pytest.fixture(scope="module")
def live(runs: Path) -> Iterator[str]:
    """The address of a page of both runs."""
    with serve([runs], open_port(), warn=pytest.fail) as served:
        yield served.address


@pytest.fixture(scope="module", params=["report", "live"])
def shown(request: pytest.FixtureRequest, browser: "Browser", runs: Path, live: str) -> Iterator[Opened]:
    """Both kinds of page, opened once for the tests that only look around."""
    with opened(browser, address_of(request.param, runs, live)) as page:
        yield page


def address_of(kind: str, runs: Path, live: str) -> str:
    return live if kind == "live" else (runs / "report.html").as_uri()


def test_it_opens_without_a_network(shown: Opened) -> None:
    """Whatever is not its own is refused and kept note of; a file is opened with the network off."""
    page = shown.page
    assert page.locator("h1").inner_text() in NAMES and page.evaluate(FIRST_CURVE)[-1] == 40
    assert page.locator(".plot").count() >= PICTURES
    assert page.locator(".plot .main-svg").count() >= PICTURES
    shown.check()


def test_it_can_be_used_by_keyboard(shown: Opened) -> None:
    page = shown.page
    page.evaluate(CLOSE_ALL)
    missed, unseen = tab_through(page)
    assert not missed and not unseen, f"not reached by Tab: {missed}; focus not to be seen: {unseen}"
    summary, table = page.locator(".card summary").first, page.locator(".card details").first.locator("table")
    summary.focus()
    page.keyboard.press("Enter")
    table.wait_for(state="visible")
    page.keyboard.press("Enter")
    table.wait_for(state="hidden")
    shown.check()


def test_each_picture_has_its_numbers_as_a_table(shown: Opened, runs: Path) -> None:
    page = shown.page
    page.evaluate(OPEN_ALL)
    page.wait_for_function(ALL_OPEN)
    cards = page.locator(".card:has(.plot)")
    assert cards.count() == page.locator(".plot").count() >= PICTURES
    for card in cards.all():
        texts = card.evaluate(
            "c => [...['h3', 'thead', 'tbody', '.words p'].map((s) => c.querySelector(s)?.innerText.trim() ?? ''),"
            " c.querySelector('.plot').ariaLabel]"
        )
        assert all(texts), f"something is missing of a picture: {texts}"


def test_the_numbers_are_those_of_the_run(browser: "Browser", runs: Path, shown: Opened) -> None:
    page = shown.page
    page.evaluate(OPEN_ALL)
    page.wait_for_function(ALL_OPEN)
    name = page.locator("h1").inner_text()
    last = rows_of(runs / name, "eval")[-1]
    cells = page.locator(".card:has(.plot) tbody tr").all_inner_texts()
    assert any(row.split("\t")[0] == "40" and f"{last['loss']:.5g}" in row.split("\t") for row in cells)


@pytest.mark.parametrize("kind", ["report", "live"])
def test_nothing_is_cut_or_faint(browser: "Browser", runs: Path, live: str, kind: str) -> None:
    with opened(browser, address_of(kind, runs, live), width=400) as shown:
        page = shown.page
        page.evaluate(OPEN_ALL)
        page.wait_for_function(ALL_OPEN)
        for width in (400, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            assert settled(lambda: [*sideways(page), *cut_texts(page)]) == [], width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert settled(lambda: faint_texts(page)) == [], scheme
        shown.check()


def test_the_theme_can_be_chosen(browser: "Browser", shown: Opened) -> None:
    page = shown.page
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Switch to dark colours").click()
    assert page.evaluate(paper) != light
    page.get_by_role("button", name="Switch to light colours").click()
    assert page.evaluate(paper) == light
    shown.check()


def test_runs_side_by_side(browser: "Browser", live: str) -> None:
    with opened(browser, live) as shown:
        page = shown.page
        both = page.locator(".spot-together .card .plot")
        named = {trace.get("name", "").partition(",")[0] for trace in both.evaluate("plot => plot.data")}
        assert all(any(name in label for label in named) for name in NAMES), named
        first = page.locator("h1").inner_text()
        other = next(name for name in NAMES if name != first)
        page.get_by_role("radio", name=first, exact=True).focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("name => document.querySelector('h1').textContent === name", arg=other)
        shown.check()


# ---- beside a training


@contextmanager
def started(*words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A real `light-llm` in a process of its own."""
    child = child_of(words)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@posix
def test_a_run_is_awaited_and_seen(browser: "Browser", poem: Path) -> None:
    run, endless = Path("run"), [f"--{what}={10**6}" for what in ("max-steps", "eval-interval", "save-interval")]
    with started("watch", "run") as watch:
        assert watch.stdout is not None and b"waiting for a run to begin in run" in watch.stdout.readline()
        with opened(browser, watch.stdout.readline().decode().split()[-1], empty=True) as shown:
            page, seen = shown.page, 0
            page.get_by_text("No run has begun here yet").wait_for()
            with started("train", "--data", str(poem), *NANO_RUN, *endless, "--batch-size", "32", "--out", "run"):
                page.wait_for_function(DRAWN)
                for _ in range(2):
                    page.wait_for_function(f"seen => ({FIRST_CURVE})().at(-1) > seen", arg=seen)
                    seen, before = page.evaluate(FIRST_CURVE)[-1], seen
                    assert before < seen <= rows(run)
            shown.check()
            assert ended(watch, signal.SIGINT)[0] == 130
            page.get_by_text("the server does not answer").wait_for()
            assert all("ERR_CONNECTION_REFUSED" in line for line in shown.complaints)
            shown.complaints.clear()
