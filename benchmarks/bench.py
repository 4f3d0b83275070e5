"""Run all CPU benchmarks and write one table, results/*.json and README's extract: `make bench`, under 10 minutes.

Nothing else should run meanwhile. The long runs behind README's tables of losses are in `default_run.py`.
"""

import sys
import time

import generate_speed
import scaling
import train_speed
from measure import RESULTS, as_table, save_results

HEADLINES = (  # rows that README shows
    "ours, micro 4 x 1,024, beside plain, float32",
    "ours, micro 4 x 1,024, beside plain, bfloat16, compiled",
    "ours, peak",
    "ours, frugal, peak",
    "ours, frugal, 124 M 1 x 1,024, peak",
    "one stream, bfloat16",
    "one stream, int8",
    "32 streams",
    "first token",
)


def main() -> None:
    """Measure, save and print."""
    start = time.perf_counter()
    print("training ...", file=sys.stderr, flush=True)
    trained = train_speed.measure()
    # Before this process allocates anything large, because the peak of a child starts at the size of its parent.
    print("growth ...", file=sys.stderr, flush=True)
    warnings = scaling.main()
    print("writing ...", file=sys.stderr, flush=True)
    wrote = generate_speed.measure()
    rows, kept = [*trained, *wrote], save_results("train_speed", trained)
    save_results("generate_speed", wrote)
    foot = f"{kept['cores']} shared cores, {kept['machine']}, torch {kept['torch']}, {kept['date']}."
    headlines = [next(row for row in rows if row.what.startswith(what)) for what in HEADLINES]
    for name, shown in (("speed", headlines), ("speed_all", rows)):
        (RESULTS / f"{name}.md").write_text(f"{as_table(shown)}\n\n{foot}\n", encoding="utf-8")
    print(as_table(rows))
    print("\n".join(warnings) or "no size costs more than its arithmetic")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
