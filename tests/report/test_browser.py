"""The report and the live page in a real Chromium: offline, beside a real training, narrow and wide, by keyboard."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from light_llm.report.page import render_page
from light_llm.report.run_log import read_run_log
from light_llm.report.server import open_port, serve
from tests.cli.test_signals import posix, rows
from tests.support.browser import (
    DRAWN,
    Opened,
    broken_words,
    chromium,
    cut_texts,
    faint_cells,
    faint_texts,
    opened,
    settled,
    sideways,
    tab_through,
)
from tests.support.child import Child
from tests.support.made_up_run import ANALYSIS, RUN, made_up_run
from tests.support.tools import NANO_RUN, rows_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("a-run-with-a-rather-long-name", "slow")
WIDE = 1600
MIN_FIGURES = 28  # of a run in which everything was measured
CLOSE_ALL = "for (const d of document.querySelectorAll('details')) d.open = false"
FIRST_CURVE = "() => document.querySelector('.plot').data[0].x"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in which everything was measured, and a report of one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, lr in zip(NAMES, (1e-2, 1e-3), strict=True):
        made_up_run(folder / name, run=RUN.with_settings(train__lr=lr))
        (folder / name / "analysis.json").write_text(json.dumps(ANALYSIS))
    (folder / "report.html").write_text(render_page([read_run_log(folder / "slow")]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def live(runs: Path) -> Iterator[str]:
    """The address of a page of both runs."""
    with serve([runs], open_port(), warn=pytest.fail) as (address, _):
        yield address


@pytest.fixture(scope="module", params=["report", "live"])
def shown(request: pytest.FixtureRequest, browser: "Browser", runs: Path, live: str) -> Iterator[Opened]:
    """Both kinds of page, each opened once."""
    address = live if request.param == "live" else (runs / "report.html").as_uri()
    with opened(browser, address, width=WIDE) as page:
        yield page


def open_all(page: "Page") -> None:
    """Open every closed section and every table of numbers."""
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.wait_for_function(DRAWN)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.card details')].every((d) => d.querySelector('table'))"
    )


def test_it_opens_without_a_network(shown: Opened) -> None:
    """Foreign requests are blocked and recorded; a file is opened with the network off."""
    page = shown.page
    assert page.locator("h1").inner_text() in NAMES and page.evaluate(FIRST_CURVE)[-1] == 200
    assert page.locator(".plot").count() >= MIN_FIGURES
    shown.check()


def test_the_loss_comes_first_and_what_is_well_is_closed(shown: Opened) -> None:
    page = shown.page
    below = "document.querySelector('#loss .plot').getBoundingClientRect().top - "
    below += "document.querySelector('.numbers').getBoundingClientRect().bottom"
    assert 0 < page.evaluate(below) < 100
    checks = page.locator("#checks details")
    assert not checks.get_attribute("open") and page.locator("#checks summary").inner_text().startswith("All ")
    assert page.locator(".facts a[href='#checks']").inner_text().endswith(page.locator("#checks summary").inner_text())
    assert page.locator(".fold").count() == 2 and page.locator(".fold[open]").count() == 0


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


def test_the_bar_of_sections_stays_and_marks_where_the_reader_is(shown: Opened) -> None:
    """A link to a closed section opens it, and its figures are drawn then."""
    page = shown.page
    for name in ("Layers", "Gradients and updates", "Repeat"):
        page.locator("#contents a", has_text=name).click()
        page.wait_for_function(
            "name => document.querySelector('#contents [aria-current]')?.textContent === name", arg=name
        )
        box = page.locator("#contents").bounding_box()
        assert box and 0 <= box["y"] < 60, f"the bar has scrolled away: {box}"
    page.wait_for_function(DRAWN)
    layers = page.locator(".fold", has=page.locator("h2", has_text="Layers"))
    assert layers.get_attribute("open") is not None and layers.locator(".main-svg").count() >= 8


def test_each_figure_has_its_numbers_as_a_table(shown: Opened, runs: Path) -> None:
    page = shown.page
    open_all(page)
    cards = page.locator(".card:has(.plot)")
    assert cards.count() == page.locator(".plot").count() >= MIN_FIGURES
    for card in cards.all():
        texts = card.evaluate(
            "c => [...['h3', 'thead', 'tbody', '.words p'].map((s) => c.querySelector(s)?.innerText.trim() ?? ''),"
            " c.querySelector('.plot').ariaLabel]"
        )
        assert all(texts), f"a part of a figure is missing: {texts}"
    last = rows_of(runs / page.locator("h1").inner_text(), "eval")[-1]
    cells = [row.split("\t") for row in cards.locator("tbody tr").all_inner_texts()]
    assert any(row[0] == "200" and f"{last['loss']:.5g}" in row for row in cells)


def test_the_theme_can_be_chosen(shown: Opened) -> None:
    page = shown.page
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Switch to dark colours").click()
    assert page.evaluate(paper) != light
    page.get_by_role("button", name="Switch to light colours").click()
    assert page.evaluate(paper) == light
    shown.check()


@pytest.mark.parametrize("shown", ["live"], indirect=True)
def test_runs_side_by_side(shown: Opened) -> None:
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


def test_nothing_is_cut_or_faint(shown: Opened) -> None:
    """The last test of a page, because the page stays narrow and dark."""
    page = shown.page
    open_all(page)
    for width in (WIDE, 400):
        page.set_viewport_size({"width": width, "height": 900})
        assert settled(lambda: [*sideways(page), *cut_texts(page), *broken_words(page)]) == [], width
    command = page.locator("#repeat .command code").bounding_box()
    assert command and command["height"] < 60, "a command to copy is broken over lines"
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert settled(lambda: [*faint_texts(page), *faint_cells(page)]) == [], scheme
    shown.check()


# ---- beside a training


@posix
def test_a_run_is_awaited_and_seen(browser: "Browser", poem: Path) -> None:
    run, endless = Path("run"), [f"--{what}={10**6}" for what in ("max-steps", "eval-interval", "save-interval")]
    watch = Child(["watch", "run"])
    watch.wait_until(lambda: watch.output[0].count("\n") >= 2)
    address, waiting = watch.output[0].splitlines()[:2]
    assert waiting.startswith("waiting    no run in ")
    with opened(browser, address.split()[-1], empty=True) as shown:
        page, seen = shown.page, 0
        page.get_by_text(f"Waiting for a run to start in {run.absolute()}").wait_for()
        train = Child(["train", "--data", str(poem), *NANO_RUN, *endless, "--batch-size", "32", "--out", "run"])
        page.wait_for_function(DRAWN)
        for _ in range(2):
            page.wait_for_function(f"seen => ({FIRST_CURVE})().at(-1) > seen", arg=seen)
            seen, before = page.evaluate(FIRST_CURVE)[-1], seen
            assert before < seen <= rows(run)
        assert "running: step " in page.locator("#pulse").inner_text()
        train.process.kill()
        shown.check()
        assert watch.end(signal.SIGINT)[0] == 130
        page.get_by_text("the server does not answer").wait_for()
        assert all("ERR_CONNECTION_REFUSED" in line for line in shown.complaints)
        shown.complaints.clear()
