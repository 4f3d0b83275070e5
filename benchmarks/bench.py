"""Run all CPU benchmarks and write one table and results/*.json: `make bench`, under 10 minutes.

Nothing else should run meanwhile. The long runs behind the tables of losses are in `default_run.py`. `pages.py` puts
the tables into README and docs/.
"""

import sys
import time

import generate_speed
import scaling
import train_speed
from measure import RESULTS, as_table, save_results


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
    (RESULTS / "speed_all.md").write_text(f"{as_table(rows)}\n\n{foot}\n", encoding="utf-8")
    print(as_table(rows))
    print("\n".join(warnings) or "no size costs more than its arithmetic")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
