"""Figures as values: the numbers of the run, thinned if there are too many, absent if there are none."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.report import RunLog, line_chart, read_run_log, shaded_rows, sparkline
from light_llm.report.charts import Series
from light_llm.report.curves import Band, BandPoint
from light_llm.report.figures import Figure, loss_figure, run_sections
from light_llm.report.figures.plot import (
    MAX_POINTS,
    MAX_ROWS,
    bin_means,
    downsample_minmax,
    make_table,
    round_digits,
    running_mean,
)
from tests.support.made_up_run import ANALYSIS, BITS, GROUPS, PER_STEP, RUN, H, L, learning, made_up_run


def drawn(log: RunLog) -> dict[str, Figure]:
    """All figures by id."""
    return {f.id: f for section in run_sections(log, []) for f in section.figures}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    folder = made_up_run(tmp_path_factory.mktemp("figures") / "run")
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    return read_run_log(folder)


def test_every_figure_has_words_and_numbers(log: RunLog) -> None:
    figures = drawn(log)
    assert len(figures) >= 28
    for figure in figures.values():
        assert figure.title and figure.sentence.endswith((".", "?", ".)")), figure.id
        assert figure.traces and figure.table.heads and figure.table.rows, figure.id
        assert all(len(row) == len(figure.table.heads) for row in figure.table.rows), figure.id
        json.dumps([figure.traces, figure.layout], allow_nan=False)


def test_the_loss_against_every_axis_and_in_both_units(log: RunLog) -> None:
    figure = loss_figure([log])
    assert figure and [name for name, _ in figure.toggles[0].options] == ["steps", "tokens", "time", "FLOPs"]
    raw, mean, held = figure.traces
    x, y = raw["choices"]["x"], raw["choices"]["y"]
    assert raw["x"] == x["steps"] == [float(s) for s in range(1, 201)] and raw["y"] == y["nats"]
    ten = pytest.approx(learning(10), rel=1e-4)
    assert (y["nats"][9], y["bits"][9] / BITS) == (ten, ten)
    assert (x["tokens"][9], x["FLOPs"][9]) == (10 * PER_STEP, 6e7 * PER_STEP)
    assert x["time"][9] == pytest.approx(10 * 0.5 / 60, rel=1e-4)
    assert held["x"] == [float(s) for s in range(20, 201, 20)]
    assert held["choices"]["error"] == {"nats": [0.02] * 10, "bits": [pytest.approx(0.02 * BITS)] * 10}
    assert held["choices"]["x"]["tokens"][0] == 20 * PER_STEP
    assert mean["choices"]["y"]["nats"][-1] == pytest.approx(sum(map(learning, range(191, 201))) / 10, rel=1e-4)


def test_the_limit_and_the_band_are_drawn_in_both_units(tmp_path: Path, log: RunLog) -> None:
    def limited(row: dict[str, Any]) -> None:
        if row["kind"] == "eval":
            row["limit"] = 1.5

    folder = made_up_run(tmp_path / "run", change=limited)
    band = Band("x", 3, (), (BandPoint(100, 4.0, 0.1), BandPoint(200, 3.6, 0.1)))
    figure = loss_figure([replace(read_run_log(folder), band=band)])
    assert figure
    by_name = {t["name"]: t["choices"]["y"] for t in figure.traces}
    assert by_name["limit of this text"] == {"nats": [pytest.approx(1.5 / BITS)] * 2, "bits": [1.5, 1.5]}
    edge = by_name["expected held out (3 seeds)"]["nats"]
    assert edge == pytest.approx([4.3464, 3.9464, 3.2536, 3.6536], abs=1e-3)


@pytest.mark.parametrize(
    ("steps", "probed", "expected"),
    [(200, False, {"loss", "gap", "lr", "grad_norm", "speed"}), (1, True, {"loss", "lr"}), (0, True, set())],
)
def test_a_run_has_the_figures_it_has_numbers_for(tmp_path: Path, steps: int, probed: bool, expected: set[str]) -> None:
    """An old run, one with a single step, and one before its first."""
    figures = drawn(read_run_log(made_up_run(tmp_path, steps=steps, probed=probed, status=None))).keys()
    assert figures >= expected and (probed or figures == expected) and (steps or not figures)


def test_groups_over_time_are_in_powers_of_ten(log: RunLog) -> None:
    figure = drawn(log)["grad_groups"]
    trace = figure.traces[0]
    assert trace["y"] == list(GROUPS) and trace["z"][3][0] == pytest.approx(math.log10(0.3), rel=1e-3)
    assert len(trace["x"]) == 150 and trace["x"][-1] == 200
    assert figure.table.heads[1:] == GROUPS


def test_attention_by_head_and_over_time(log: RunLog) -> None:
    figures = drawn(log)
    assert figures["entropy"].traces[0]["z"] == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    time = figures["entropy_time"].traces[0]
    assert time["y"] == [f"{layer}.{head}" for layer in range(L) for head in range(H)] and len(time["x"]) == 10
    assert time["z"][4] == [0.5] * 10
    map_ = figures["map_0"]
    assert map_.title == "Layer 1, head 2: sharpest" and map_.traces[0]["z"][1] == [0.0, 1.0, None, None]
    assert map_.layout["xaxis"]["ticktext"] == ["To", "·be", "⏎", "&lt;b&gt;"]  # inert: plotly would read <b>
    assert map_.table.rows[2] == ("⏎", "⏎ (1.00), ·be (0.00), To (0.00)")


def test_the_landscape_is_the_analysis(log: RunLog) -> None:
    figures = drawn(log)
    plane = figures["plane"].traces[0]
    assert (len(plane["z"]), len(plane["z"][0])) == (len(plane["y"]), len(plane["x"])) == (2, 3)
    assert plane["z"][1] == [6.0, 5.0, 6.0]  # the row of the second b
    assert figures["path"].traces[1]["x"] == [0.0, 1.0] and "explains 90% of" in figures["path"].sentence
    assert figures["sharpness"].traces[0]["y"] == [round_digits(9 / 1333), 0.5]
    assert "100 ± 3" in figures["eigenvalues"].sentence
    assert figures["noise"].traces[0]["x"] == [8 * 16, 80.0 * 64]  # tokens
    assert figures["noise"].table.rows[1] == ("noise scale", 5120.0, 5.0 * 64)


def test_calibration_is_accuracy_against_confidence(log: RunLog) -> None:
    ideal, model = drawn(log)["calibration"].traces
    assert (ideal["x"], ideal["y"]) == ([0, 1], [0, 1]) and model["x"] == model["y"] == [0.1, 0.5, 0.9]


def test_several_runs_share_one_figure(tmp_path: Path, log: RunLog) -> None:
    other = read_run_log(made_up_run(tmp_path / "<b>other", steps=100))
    figure = loss_figure([log, other])
    assert figure and [t["name"] for t in figure.traces if t["mode"] == "lines+markers"] == [
        "run: held out",
        "&lt;b&gt;other: held out",
    ]
    assert figure.table.heads == ("step", "run, held out", "<b>other, held out") and len(figure.table.rows) == 10
    assert figure.table.rows[9][2] is None  # the shorter run was not evaluated there
    assert len({t["line"]["color"] for t in figure.traces}) == 2


def test_long_runs_are_thinned(tmp_path: Path) -> None:
    run = RUN.with_settings(train__max_steps=4000)
    figures = drawn(read_run_log(made_up_run(tmp_path / "long", steps=4000, every=40, run=run)))
    for figure in figures.values():
        assert len(figure.table.rows) <= MAX_ROWS, figure.id
        for trace in figure.traces:
            assert len(trace.get("y") or []) <= MAX_POINTS, figure.id
    assert figures["lr"].table.note.startswith("60 of ")


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=400), st.integers(4, 60))
def test_thinning_keeps_extremes_and_ends(values: list[float | None], limit: int) -> None:
    kept = downsample_minmax(values, limit)
    assert kept == sorted(set(kept)) and len(kept) <= max(limit, 2)
    numbers = [v for v in values if v is not None]
    if numbers:
        shown = [v for i in kept if (v := values[i]) is not None]
        assert min(numbers) == min(shown) and max(numbers) == max(shown)
    if values:
        assert kept[0] == 0 and kept[-1] == len(values) - 1


def test_a_running_mean_never_looks_ahead() -> None:
    assert running_mean([1.0] * 9 + [100.0], 50)[8] == 1.0
    assert running_mean([float(i) for i in range(100)], 10)[99] == 94.5
    assert running_mean([1.0, None, None, 4.0], 1) == [1.0, None, None, 4.0]


def test_bins_are_means_up_to_their_last_step() -> None:
    assert bin_means([1, 2, 3, 4], [1.0, 3.0, None, 5.0], 2) == ([2, 4], [2.0, 5.0])
    assert bin_means([], [], 2) == ([], [])


def test_a_thinned_table_says_so() -> None:
    long = make_table(("n",), ([i] for i in range(1000)))
    assert len(long.rows) == MAX_ROWS and long.rows[-1] == (999,) and long.note == "60 of 1,000 rows, evenly spaced"
    assert make_table(("n",), [[1]]).note == ""


# --- charts for a terminal


def test_a_chart_goes_through_its_points() -> None:
    lines = line_chart([Series(range(100), [float(i) for i in range(100)])], width=40, height=8, plain=True)
    assert len(lines) == 8 and all(len(line) <= 40 and line.isascii() for line in lines)
    assert lines[0].split()[0] == "99" and lines[6].split()[0] == "0" and lines[-1].split() == ["0", "99"]
    columns = [line.rindex(".") for line in lines[:-1]]
    assert columns == sorted(columns, reverse=True)  # it rises from left to right


def test_marks_lie_over_the_curve() -> None:
    both = [Series(range(50), [1.0] * 49 + [2.0]), Series([10.0], [1.0], mark="●")]
    assert "●" in "".join(line_chart(both)) and "⡀" in "".join(line_chart(both))
    assert line_chart([Series([1], [1.0])]) == [] == line_chart([])


@given(st.lists(st.none() | st.floats(-1e9, 1e9), max_size=200), st.booleans())
def test_any_curve_can_be_drawn(values: list[float | None], plain: bool) -> None:
    assert len(sparkline(values, 40, plain=plain)) <= 40
    lines = line_chart([Series(range(len(values)), values)], width=60, plain=plain)
    assert all(len(line) <= 60 for line in lines)


def test_a_heat_map_in_shades_fits_its_width() -> None:
    rows = shaded_rows(["layer 0", "layer 1"], [[0.0, 1.0], [None, 0.5]])
    assert rows == ["layer 0     0.00  ██ 1.00", "layer 1  ?? -     ▒▒ 0.50"]
    wide = shaded_rows(["layer 0"], [[0.5] * 24], width=80, plain=True)
    assert len(wide[0]) <= 80 and wide[0].count("++") == 24
