"""Put the tables of benchmarks/results/ into the pages that show them, which a test compares.

python benchmarks/pages.py
"""

import json
import re
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
RESULTS = CHECKOUT / "benchmarks" / "results"
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("results", "speed", "reliability", "plan", "export", "data")),
)
# The runs of README's table of results: the command, and the table with its losses.
RUNS = {
    "light-llm train --config shakespeare-modern": "recipe_modern",
    "light-llm train --config shakespeare-3min": "recipe_3min",
    "light-llm train --config shakespeare-best": "recipe_best",
    "light-llm train": "default_run",
    "light-llm train --data tales": "tales_run",
}


def summary() -> str:
    """Return README's table of results: the last evaluation of each run, with its time and memory."""
    lines = ["| command | time | peak memory | held-out loss | bits/byte |", "|---|---:|---:|---:|---:|"]
    for command, name in RUNS.items():
        text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
        table = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row[:1] == "|"]
        last = dict(zip(table[0], table[-1], strict=True))
        time, memory = re.findall(r"(\S+) \(h:mm:ss or m:ss\) in all.* peak memory (.+?),$", text, re.M)[0]
        limit = re.search(r"The limit is (\S+) bits/byte", text)
        bits = last["bits/byte"] + (f" (limit {limit[1]})" if limit else "")
        lines.append(f"| `{command}` | {time} | {memory} | {last['held-out loss']} | {bits} |")
    return "\n".join(lines) + "\n"


def speed() -> str:
    """Return README's sentences on speed, from the last `make bench`."""

    def rows(name: str) -> dict[str, float]:
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return {row["what"]: row["ratio"] for row in reversed(result["rows"])} | {"date": result["date"]}

    train, write = rows("train_speed"), rows("generate_speed")
    step = "ours, micro 4 x 1,024, beside plain"
    plain, compiled = train[f"{step}, float32"], train[f"{step}, bfloat16, compiled"]
    memory, stream = 1 / train["ours, peak"], write["one stream, bfloat16"]
    return (
        f"Training *micro* is {plain:.1f} times as fast as a plain PyTorch loop in float32 on the same CPU and\n"
        f"{compiled:.1f} times as fast as a compiled one in bfloat16, with {memory:.0%} of the memory.\n"
        f"Generation in bfloat16 is {stream:.1f} times as fast as in Transformers ({write['date']}).\n"
    )


def main() -> None:
    """Write the summaries, and replace the text between `<!-- NAME.md -->` and `<!-- end -->` on each page."""
    (RESULTS / "summary.md").write_text(summary(), encoding="utf-8")
    (RESULTS / "speed.md").write_text(speed(), encoding="utf-8")
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
