"""All CPU comparisons in turn: one table, results/*.json and the pages README shows. `make bench`, under 10 minutes.

Nothing else should run meanwhile. The long runs behind README's tables of losses are `default_run.py`'s.
"""

import sys
import time

import generate_speed
import scaling
import train_speed
from measure import RESULTS, Row, as_table, keep


def main() -> None:
    """Measure, keep, print."""
    start = time.perf_counter()
    tables: dict[str, list[Row]] = {}
    for name, measure in (("train_speed", train_speed.measure), ("generate_speed", generate_speed.measure)):
        print(f"{name} ...", file=sys.stderr, flush=True)
        tables[name] = measure()
        page = as_page(tables[name], keep(name, tables[name]))
        (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    print("scaling ...", file=sys.stderr, flush=True)
    warnings = scaling.main()
    print(as_table([row for rows in tables.values() for row in rows]))
    print("\n".join(warnings) or "no size costs more than its arithmetic")
    print(f"{time.perf_counter() - start:.0f} s")


def as_page(rows: list[Row], kept: dict[str, object]) -> str:
    """What README shows of a table."""
    return (
        f"{as_table(rows)}\n\nSeveral turns of each. {kept['cores']} shared cores, "
        f"{kept['machine']}, torch {kept['torch']}, {kept['date']}.\n"
    )


if __name__ == "__main__":
    main()
