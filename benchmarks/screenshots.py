"""Take the screenshots of the report and the live page that README shows.

    python benchmarks/screenshots.py FOLDER [FOLDER ...]

The report is of the first run, the live page of all. Needs playwright, and chromium or google-chrome. The screenshots
go to docs/images/.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from light_llm.report.page import render_page
from light_llm.report.run_log import read_run_log
from light_llm.report.server import open_port, serve

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SIZE = {"width": 1200, "height": 1500}
DRAWN = """() => {
  const seen = [...document.querySelectorAll('.plot')].filter((p) => p.checkVisibility());
  return seen.length && seen.every((p) => p.data);
}"""


def main() -> None:
    """Take both screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    folders = parser.parse_args().folders
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        parser.error("there is no chromium and no google-chrome")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as play, tempfile.TemporaryDirectory() as scratch:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])  # our own pages only
        report = Path(scratch, "report.html")
        report.write_text(render_page([read_run_log(folders[0])]), encoding="utf-8")
        take(browser, report.as_uri(), "report", "light")
        with serve(folders, open_port()) as (address, _):
            take(browser, address, "live", "dark")
        browser.close()


def take(browser: Browser, address: str, name: str, scheme: str) -> None:
    """Save a screenshot of the top of a page."""
    page = browser.new_page(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(address)
    page.wait_for_function(DRAWN)
    page.wait_for_timeout(1500)  # until what fades in is there, and the live page has asked once
    page.screenshot(path=IMAGES / f"{name}.png")
    page.close()
    print(f"{IMAGES / name}.png  {(IMAGES / f'{name}.png').stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
