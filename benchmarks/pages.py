"""Put the tables of benchmarks/results/ into the pages that show them, which a test compares.

python benchmarks/pages.py
"""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results"
PAGES = ("README.md", "docs/speed.md", "docs/reliability.md", "docs/plan.md", "docs/export.md")


def main() -> None:
    """Replace the text between `<!-- NAME.md -->` and `<!-- end -->`."""
    for page in PAGES:
        path = CHECKOUT / page
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"<!-- (\w+\.md) -->", text):
            mark = f"<!-- {name} -->\n"
            start = text.index(mark) + len(mark)
            table = (RESULTS / name).read_text(encoding="utf-8")
            text = text[:start] + table + text[text.index("<!-- end -->", start) :]
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
