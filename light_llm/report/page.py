"""One HTML page that needs nothing else: runs as plain values in it, and a script of ours that draws them.

Every text of a run reaches the page as JSON in which no tag can end or begin, and is shown as text, never as HTML.
"""

import hashlib
import html
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from .figures import loss_figure, run_sections
from .summary import facts, key_numbers, plan_table, settings_tables
from .verdicts import judge
from .view import View


@dataclass(frozen=True)
class Live:
    """What makes a page a live one: it reads `/data.json` again and again, and plotly from `/plotly.js`."""

    title: str = "light-llm, live"
    poll: float = 2.0  # seconds between two readings
    nonce: str = ""  # of the scripts, for the policy that the server sends


def state_of(views: Sequence[View]) -> dict[str, Any]:
    """All that the page shows, as plain values: what is inlined in report.html and what `/data.json` answers."""
    together = loss_figure(views) if len(views) > 1 else None
    return {
        "format": 1,
        "together": asdict(together) if together else None,
        "runs": [_run_state(view) for view in views],
    }


def _run_state(view: View) -> dict[str, Any]:
    verdicts = judge(view)
    return {
        "name": view.name,
        "status": view.status,
        "facts": facts(view),
        "numbers": key_numbers(view),
        "verdicts": [asdict(v) for v in verdicts],
        "sections": [asdict(section) for section in run_sections(view, verdicts)],
        "samples": [{"step": step, "text": text} for step, text in view.samples],
        "plan": plan_table(view),
        "repeat": settings_tables(view),
    }


def page_of(views: Sequence[View], *, live: Live | None = None, state: str | None = None) -> str:
    """The page: of one run, or of several side by side.

    Args:
        state: `state_of` the same runs as JSON, where it is there already.
        live: None makes a page that is complete in itself; else plotly and fresh numbers come from the server, which
            also sends the policy.
    """
    if state is None:
        state = json.dumps(state_of(views), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    script, style = _asset("page.js"), _asset("page.css")
    how = {"poll": live.poll} if live else None
    title = live.title if live else f"{', '.join(view.name for view in views)} - light-llm"
    nonce = f' nonce="{html.escape(live.nonce)}"' if live and live.nonce else ""
    if live:
        plotly, policy = f'<script src="/plotly.js"{nonce}></script>', ""
    else:
        library = _in_script(_plotly())
        plotly = f"<script>{library}</script>"
        policy = f'<meta http-equiv="Content-Security-Policy" content="{_policy(library, script)}">\n'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{policy}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n{_asset('page.html')}"
        f'<script type="application/json" id="state">{_as_island(state)}</script>\n'
        f'<script type="application/json" id="live">{_as_island(json.dumps(how))}</script>\n'
        f"{plotly}\n<script{nonce}>{script}</script>\n</body>\n</html>\n"
    )


def _policy(*scripts: str) -> str:
    """Only these scripts run, by their hash; nothing is loaded. Plotly sets styles on what it draws."""
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _as_island(text: str) -> str:
    """JSON that can stand in a script element: no tag ends or begins in it, and it is still the same JSON.

    >>> _as_island('"</script><!--"')
    '"\\\\u003c/script\\\\u003e\\\\u003c!--"'
    """
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def _in_script(code: str) -> str:
    """JavaScript that can stand in a script element: `</script` is in its strings only, where a backslash is idle."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _plotly() -> str:
    """Plotly's own JavaScript, from the installed package."""
    from plotly.offline import get_plotlyjs

    code: str = get_plotlyjs()
    return code


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
