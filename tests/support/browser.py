"""Drive a headless Chromium in tests: record what pages request, and check how they look."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_MS = 120_000  # long enough for a busy machine
# Figures in a closed part of the page are drawn when it is opened.
DRAWN = """() => {
  const seen = [...document.querySelectorAll('.plot')].filter((p) => p.checkVisibility());
  return seen.length > 0 && seen.every((p) => p.data);
}"""


@contextmanager
def chromium() -> Iterator["Browser"]:
    """Start the system's Chromium. Without one, skip the test, or fail if LIGHT_LLM_TEST_BROWSER=required."""
    path = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if path is None:
        if os.environ.get("LIGHT_LLM_TEST_BROWSER") == "required":
            pytest.fail(f"a browser is required here, and there is none of {', '.join(PROGRAMS)}")
        pytest.skip("NOT RUN: the pages are tested in a browser; install chromium, or google-chrome")
    sync = pytest.importorskip("playwright.sync_api", reason="NOT RUN: pip install playwright").sync_playwright
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync() as play:
        browser = play.chromium.launch(executable_path=path, args=sandbox)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page, with its errors and its requests to other addresses."""

    page: "Page"
    complaints: list[str] = field(default_factory=list)  # errors and warnings of the console, errors of scripts
    foreign: list[str] = field(default_factory=list)  # addresses other than its own; these requests are blocked
    failed: list[str] = field(default_factory=list)  # responses with an error status

    def check(self) -> None:
        """Assert that there was no error and no request to another address."""
        problems = {"complaints": self.complaints, "foreign": self.foreign, "failed": self.failed}
        assert not any(problems.values()), problems


@contextmanager
def opened(browser: "Browser", address: str, *, width: int = 1280, empty: bool = False) -> Iterator[Opened]:
    """Open a page in a fresh profile, in light colours, and wait for its figures unless it is `empty`."""
    own = address if address.startswith("file:") else address.partition("?")[0].rpartition("/")[0] + "/"
    options: Any = {"viewport": {"width": width, "height": 900}, "color_scheme": "light", "reduced_motion": "reduce"}
    context = browser.new_context(offline=address.startswith("file:"), **options)
    shown = Opened(context.new_page())
    page = shown.page

    def filter_requests(route: "Route") -> None:
        if route.request.url.startswith((own, "data:", "blob:")):
            return route.continue_()
        shown.foreign.append(route.request.url)
        route.abort()

    context.route("**/*", filter_requests)
    page.set_default_timeout(TIMEOUT_MS)
    page.on("console", lambda m: shown.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: shown.complaints.append(str(error)))
    page.on("response", lambda r: shown.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    try:
        page.goto(address)
        if not empty:
            page.wait_for_function(DRAWN)
        yield shown
        shown.check()
    finally:
        context.close()


def settled(find_problems: Callable[[], list[str]], seconds: float = 60.0) -> list[str]:
    """Return the problems that remain once the page is at rest: figures are redrawn one after the other."""
    deadline = time.monotonic() + seconds
    while (problems := find_problems()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return problems


def sideways(page: "Page") -> list[str]:
    """Return a problem if the page itself scrolls to the right."""
    inside, wide = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    return [f"the page is {wide} pixels wide in a window of {inside}"] if wide > inside else []


def cut_texts(page: "Page") -> list[str]:
    """Return the texts that are cut off by the window, or by an element that hides its overflow."""
    return page.evaluate(
        """() => {
          const scrolls = (s) => /auto|scroll/.test(s.overflowX);
          const found = [];
          const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          for (let node = walk.nextNode(); node; node = walk.nextNode()) {
            const parent = node.parentElement;
            if (!node.data.trim() || parent.closest("script, style, noscript, .skip, .modebar, .hoverlayer")) continue;
            if (!parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
            const range = document.createRange();
            range.selectNodeContents(node);
            const box = parent.closest("svg") ? parent.getBoundingClientRect() : range.getBoundingClientRect();
            if (!box.width) continue;
            let [left, right] = [0, document.documentElement.clientWidth];
            for (let e = parent; e; e = e.parentElement) {
              const style = getComputedStyle(e);
              if (e instanceof HTMLElement && scrolls(style)) { [left, right] = [-1e9, 1e9]; break; }
              const hides = e instanceof HTMLElement && /hidden|clip/.test(style.overflowX);
              if (!hides && !(e instanceof SVGSVGElement)) continue;
              const edge = e.getBoundingClientRect();
              [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
            }
            const [from, to, first, last] = [box.left, box.right, left, right].map(Math.round);
            if (from < first - 1 || to > last + 1)
              found.push(`${node.data.trim().slice(0, 60)}: ${from} to ${to}, and ${first} to ${last} is seen`);
          }
          return found;
        }"""
    )


def faint_texts(page: "Page", least: float = 4.5) -> list[str]:
    """Return the texts with a contrast below `least` (WCAG 2.2, 1.4.3).

    Contrast is (L1 + 0.05) / (L2 + 0.05) with L = 0.2126 R + 0.7152 G + 0.0722 B of linear light, against the nearest
    opaque background under the transparent ones above it. `faint_cells` looks at the labels inside heat maps.
    """
    return page.evaluate(
        """(least) => {
          const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
          canvas.canvas.width = canvas.canvas.height = 1;
          const rgba = (color) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
            return [r, g, b, a / 255];
          };
          const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
          const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * linear(c[i] / 255), 0);
          const behind = (element) => {
            const layers = [];
            for (let e = element; e; e = e.parentElement) {
              if (!(e instanceof HTMLElement)) continue;
              const c = rgba(getComputedStyle(e).backgroundColor);
              layers.push(c);
              if (c[3] === 1) break;
            }
            return layers.reduceRight((under, top) => over(top, under), [255, 255, 255]);
          };
          const found = new Set();
          const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          let count = 0;
          for (let node = walk.nextNode(); node; node = walk.nextNode()) {
            const parent = node.parentElement;
            const isSkipped = parent.closest("script, style, noscript, .heatmaplayer, .textpoint, .modebar");
            if (!node.data.trim() || isSkipped) continue;
            if (!parent.checkVisibility({ visibilityProperty: true })) continue;
            if (!parent.getBoundingClientRect().width) continue;
            count += 1;
            const style = getComputedStyle(parent);
            const ground = behind(parent);
            const ink = light(over(rgba(parent.closest("svg") ? style.fill : style.color), ground));
            const paper = light(ground);
            const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
            if (ratio < least) found.add(`${ratio.toFixed(2)}: ${node.data.trim().slice(0, 50)}`);
          }
          if (count < 20) found.add(`only ${count} texts were looked at`);
          return [...found];
        }""",
        least,
    )


def faint_cells(page: "Page", least: float = 4.5) -> list[str]:
    """Return the numbers in cells of heat maps with a contrast below `least`, and a problem if there are none."""
    return page.evaluate(
        """(least) => {
          const rgb = (color) => (color[0] === "#"
            ? [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)) : color.match(/[\\d.]+/g).map(Number));
          const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * linear(c[i] / 255), 0);
          const found = [];
          let count = 0;
          for (const plot of document.querySelectorAll(".plot")) {
            const [map, labels] = plot.data;
            if (map.type !== "heatmap" || labels?.mode !== "text") continue;
            labels.text.forEach((text, i) => {
              const z = map.z[map.y.indexOf(labels.y[i])][map.x.indexOf(labels.x[i])];
              let at = Math.min(Math.max((z - map.zmin) / (map.zmax - map.zmin), 0), 1);
              if (map.reversescale) at = 1 - at;
              const k = Math.max(1, map.colorscale.findIndex(([end]) => end >= at));
              const [[a, low], [b, high]] = [map.colorscale[k - 1], map.colorscale[k]];
              const cell = rgb(low).map((v, c) => v + (at - a) / (b - a) * (rgb(high)[c] - v));
              const [ink, paper] = [light(rgb(labels.textfont.color[i])), light(cell)];
              const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
              count += 1;
              if (ratio < least) found.push(`${plot.id}, ${text}: ${ratio.toFixed(2)}`);
            });
          }
          return count ? found : ["there are no numbers in cells"];
        }""",
        least,
    )


def broken_words(page: "Page") -> list[str]:
    """Return the words in tables that are broken over two lines; a hyphen may end a line."""
    return page.evaluate(
        """() => {
          const found = [];
          const range = document.createRange();
          for (const cell of document.querySelectorAll("th, td")) {
            const node = cell.firstChild;
            if (!node || !cell.checkVisibility()) continue;
            for (const word of node.data.matchAll(/[^\\s-]+/g)) {
              range.setStart(node, word.index);
              range.setEnd(node, word.index + word[0].length);
              if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) found.push(word[0]);
            }
          }
          return found;
        }"""
    )


MARK = """() => {
  const found = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
  const seen = found.filter((e) => e.checkVisibility() && !e.disabled);
  const stops = seen.filter((e) => e.type !== "radio" || e.checked);
  stops.forEach((e, i) => { e.dataset.stop = i; });
  return stops.map((e) => `${e.tagName.toLowerCase()} ${(e.ariaLabel || e.textContent || e.id).trim().slice(0, 30)}`);
}"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const marked = e.type === "radio" ? e.nextElementSibling : e;
  const style = getComputedStyle(marked);
  const rings = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const box = marked.getBoundingClientRect();
  const inside = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  return [e.dataset.stop ?? null, rings && inside && marked.checkVisibility({ opacityProperty: true })];
}"""


def tab_through(page: "Page") -> tuple[list[str], list[str]]:
    """Press Tab from top to end. Returns the elements not reached, and those without a visible focus."""
    # An outline that fades in would not be seen yet.
    page.add_style_tag(content="* { transition: none !important; }")
    names = page.evaluate(MARK)
    reached: set[int] = set()
    unseen = []
    for _ in range(3 * len(names) + 10):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        if focused[0] is not None:
            reached.add(int(focused[0]))
            if not focused[1]:
                unseen.append(names[int(focused[0])])
    return [name for i, name in enumerate(names) if i not in reached], unseen
