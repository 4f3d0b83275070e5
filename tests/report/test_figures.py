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
from light_llm.report.figures.attention_maps import describe
from light_llm.report.figures.plot import (
    MAX_POINTS,
    MAX_ROWS,
    bin_means,
    downsample_minmax,
    log_ticks,
    make_table,
    round_digits,
    running_mean,
)
from light_llm.report.log_rows import AttentionMap, Probe
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
    assert map_.title == "Layer 1, head 2" and map_.traces[0]["z"][1] == [0.0, 1.0, None, None]
    assert map_.sentence == "Of all heads, this one has the lowest entropy, 0.60. (Step 200.)"
    assert map_.layout["xaxis"]["ticktext"] == ["To", "·be", "⏎", "&lt;b&gt;"]  # inert: plotly would read <b>
    assert map_.table.rows[2] == ("⏎", "⏎ (1.00), ·be (0.00), To (0.00)")


def test_one_scale_for_one_number(tmp_path: Path, log: RunLog) -> None:
    """The entropies of the last probe and of all probes, of a run whose heads never were below 0.7 too."""

    def even(row: dict[str, Any]) -> None:
        if row["kind"] == "probe":
            row["attention"] = row["attention"] | {"relative": [[0.97, 0.71, 0.9], [0.98, 0.99, 1.0]]}

    for run in (log, read_run_log(made_up_run(tmp_path / "run", change=even))):
        figures = drawn(run)
        now, time = figures["entropy"].traces[0], figures["entropy_time"].traces[0]
        scale = ("colorscale", "zmin", "zmax", "reversescale")
        assert [now[key] for key in scale] == [time[key] for key in scale] and now["zmax"] == 1
        numbers = [v for row in [*now["z"], *time["z"]] for v in row]
        assert now["zmin"] <= min(numbers) and now["zmax"] - now["zmin"] >= 0.25
    weights = [f.traces[0] for id, f in figures.items() if id.startswith(("map_", "looks_"))]
    assert len(weights) == 3 and {(t["zmin"], t["zmax"]) for t in weights} == {(0, 1)}


def test_a_sentence_takes_the_place_of_a_heat_map_without_contrast(tmp_path: Path) -> None:
    def small(row: dict[str, Any]) -> None:
        if row["kind"] == "probe":
            row["attention"] = row["attention"] | {"previous": [[0.05, 0.08, 0.06], [0.05, 0.05, 0.05]]}

    figures = drawn(read_run_log(made_up_run(tmp_path, change=small)))
    assert "looks_previous" not in figures and "looks_first" in figures
    words = "No head attends mainly to the previous token (at most 0.08 of the weight, layer 0, head 1)."
    assert words in figures["entropy"].sentence and "to the first token" not in figures["entropy"].sentence


@pytest.mark.parametrize(
    ("why", "metric", "without", "reached", "role"),
    [
        ("most weight on the previous token", "previous", 0.08, 0.8, "previous token"),
        ("most weight on the first token", "first", 0.07, 0.8, "first token"),
        ("looks at the first token", "first", 0.07, 0.8, "first token"),
        ("most local", "distance", 15.5, 1.2, "local"),
        ("most even", "relative", 0.64, 0.97, "uniform attention"),
        ("sharpest", "relative", 0.51, 0.1, "concentrated"),
        ("best induction score", "induction", 0.03, 0.7, "induction"),
    ],
)
def test_a_map_names_a_role_only_if_the_score_supports_it(
    why: str, metric: str, without: float, reached: float, role: str
) -> None:
    head = AttentionMap(0, 1, why, ())
    for score, expected in ((without, ""), (reached, role)):
        row = {"induction": {"score": score}, "attention": {metric: [[0.0, score]]}}
        name, sentence = describe(head, Probe(1, row))
        assert name == expected and f"{score:g}" in sentence and "Of all heads, this one " in sentence
    assert describe(head, Probe(1, {}))[0] == ""  # the probe of the step is missing


def test_logarithms_are_labelled_by_their_numbers(log: RunLog) -> None:
    figures = drawn(log)
    bar = figures["update_ratios"].traces[0]["colorbar"]
    assert bar["ticktext"][bar["tickvals"].index(-3)] == "0.001"
    kurtosis = figures["kurtosis"]
    assert kurtosis.layout["yaxis"]["type"] == "log" and "10" in kurtosis.layout["yaxis"]["ticktext"]
    assert kurtosis.layout["shapes"][0]["y0"] == 3 and kurtosis.layout["annotations"][0]["y"] == math.log10(3)
    assert [t["line"]["color"] for t in kurtosis.traces] == ["@shade/0", "@shade/0.5", "@shade/1"]
    assert log_ticks(1e-30, 1e30)[0] == 1e-30 and len(log_ticks(1e-30, 1e30)) < 12


def test_a_density_has_no_gaps_and_a_small_bar_has_its_number(log: RunLog) -> None:
    """Plotly fills a gap by a wedge across it."""
    figures = drawn(log)
    assert None not in figures["density"].traces[0]["y"] and figures["density"].traces[0]["fillcolor"] == "@wash"
    assert figures["sharpness"].traces[0]["text"] == ["0.0068", "0.5"]


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
    assert figure and [t["name"] for t in figure.traces if t["showlegend"]] == ["run", "&lt;b&gt;other"]
    hovers = [t["hovertemplate"] for t in figure.traces if t["mode"] == "lines+markers"]
    assert hovers[1].startswith("&lt;b&gt;other: held out: ")
    assert "mean of 10 steps" in figure.sentence  # of all runs, whatever their length
    assert figure.table.heads == ("step", "run, held out", "<b>other, held out") and len(figure.table.rows) == 10
    assert figure.table.rows[9][2] is None  # the shorter run was not evaluated there
    assert len({t["line"]["color"] for t in figure.traces}) == 2


def test_different_tokenizers_are_compared_by_byte(tmp_path: Path, log: RunLog) -> None:
    chars = read_run_log(made_up_run(tmp_path / "chars", data={"tokenizer_sha256": "c" * 64}))
    for other, unit, title in ((log, "nats", "loss, nats per token"), (chars, "bits", "bits per byte")):
        figure = loss_figure([log, other])
        assert figure and figure.toggles[1].options[0] == (unit, title)
        assert figure.layout["yaxis"]["title"]["text"] == title
        assert all(trace["y"] == trace["choices"]["y"][unit] for trace in figure.traces)
        assert ("only bits per byte can be compared" in figure.sentence) == (unit == "bits")


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
