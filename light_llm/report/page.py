"""Render runs as one HTML page: their values as JSON, and a script that draws them.

Every text of a run reaches the page as JSON without any HTML tag, and the script shows it as text.
"""

import hashlib
import html
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from ..atomic_io import REAL_FILES, Files, atomic_write
from .figures import loss_figure, run_sections
from .find_runs import open_run
from .progress import seconds_left
from .rules import judge
from .run_log import RunLog
from .summary import key_numbers, plan_table, repro_tables, run_facts

REPORT_NAME = "report.html"
POLL_SECONDS = 2.0  # between two readings of `/data.json` by the live page


def write_report(folder: str | Path, files: Files = REAL_FILES, *, log: RunLog | None = None) -> Path:
    """Write `report.html` into a run folder, also while the run is training. Returns its path.

    Args:
        log: the run, if it has been read already.

    Raises:
        ConfigError, CheckpointError: the run is missing or damaged.
        OSError: the file cannot be written; an older page is unchanged.
    """
    path = Path(folder) / REPORT_NAME
    atomic_write(path, render_page([log or open_run(folder)]).encode(), files)
    return path


def page_state(logs: Sequence[RunLog]) -> dict[str, Any]:
    """Return everything the page shows as plain values: inlined in report.html, and the body of `/data.json`."""
    together = loss_figure(logs) if len(logs) > 1 else None
    return {"together": asdict(together) if together else None, "runs": [_run_state(log) for log in logs]}


def render_page(logs: Sequence[RunLog]) -> str:
    """Return the page of one run, or of several side by side, complete in itself."""
    state = json.dumps(page_state(logs), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    library, script = _escape_script(plotly_source()), _asset("page.js")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_policy(library, script)}">\n'
    title = f"{', '.join(log.name for log in logs)} - light-llm"
    scripts = f"<script>{library}</script>\n<script>{script}</script>"
    return _render(title, state, None, scripts, policy)


def render_live_page(state: str, nonce: str, folders: Sequence[Path] = ()) -> str:
    """Return the live page, which loads new values and plotly from its server.

    Args:
        state: `page_state` as JSON.
        nonce: of the scripts, in the policy that the server sends.
        folders: where runs are looked for; the page names them as long as there is no run.
    """
    scripts = (
        f'<script src="/plotly.js" nonce="{nonce}"></script>\n<script nonce="{nonce}">{_asset("page.js")}</script>'
    )
    live = {"poll": POLL_SECONDS, "folders": [str(folder.absolute()) for folder in folders]}
    return _render("light-llm, live", state, live, scripts)


def _run_state(log: RunLog) -> dict[str, Any]:
    notes = judge(log)
    return {
        "name": log.name,
        "status": log.status,
        "seconds_left": seconds_left(log),
        "updated": log.updated,
        "facts": run_facts(log),
        "numbers": key_numbers(log),
        "notes": [asdict(note) for note in notes],
        "sections": [asdict(section) for section in run_sections(log, notes)],
        "samples": [{"step": step, "text": text} for step, text in log.samples],
        "plan": plan_table(log),
        "repeat": repro_tables(log),
    }


def _render(title: str, state: str, live: dict[str, Any] | None, scripts: str, policy: str = "") -> str:
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{policy}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n{_asset('page.html')}"
        f'<script type="application/json" id="state">{_escape_json(state)}</script>\n'
        f'<script type="application/json" id="live">{_escape_json(json.dumps(live))}</script>\n'
        f"{scripts}\n</body>\n</html>\n"
    )


def plotly_source() -> str:
    """Return plotly's JavaScript from the installed package."""
    from plotly.offline import get_plotlyjs

    code: str = get_plotlyjs()
    return code


def _policy(*scripts: str) -> str:
    """Return a policy that runs only these scripts, by hash, and loads nothing. Plotly needs inline styles."""
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _escape_json(text: str) -> str:
    """Escape JSON for a script element: no tag begins or ends in it, and its value stays the same.

    >>> _escape_json('"</script><!--"')
    '"\\\\u003c/script\\\\u003e\\\\u003c!--"'
    """
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def _escape_script(code: str) -> str:
    """Escape JavaScript for a script element. `</script` occurs only in strings, where the backslash has no effect."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
