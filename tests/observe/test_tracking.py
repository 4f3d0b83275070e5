"""Rows at Weights & Biases and in TensorBoard: the numbers of metrics.jsonl, and nothing but them."""

import io
import json
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from light_llm.config import TrainConfig
from light_llm.errors import ConfigError
from light_llm.observe import BackgroundSink, read_rows
from light_llm.observe.heatmap import LIGHT_TO_DARK, MISSING_COLOR, heatmap, row_images
from light_llm.observe.metric_names import METRICS, tracked_values
from light_llm.observe.tensorboard_sink import TensorBoardSink
from light_llm.observe.tracking import choose_tracker, is_installed, tracking_id
from light_llm.observe.wandb_sink import WandbSink
from light_llm.runtime import wandb_reason
from tests.support.tools import rows_of, run_child, tensors_of, train_small

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the form that W&B accepts, and unknown to it
RECORD: dict[str, Any] = {
    "started": "2026-11-24T10:00:00+00:00",
    "run": {"model": {"n_layer": 2}, "train": {"seed": 1337, "lr": 0.01}},
}
# fmt: off
STEP: dict[str, Any] = {
    "kind": "step", "step": 3, "loss": 5.5, "bits_per_byte": 2.25, "lr": 1e-3, "grad_norm": 0.7, "tokens": 12_288,
    "seconds": 2.5, "tok_per_sec": 1638.4, "clipped": True, "grad_norms": {"wte": 0.1, "h.0.attn": 0.2},
    "weight_norm": 31.5, "update_ratios": {"wte": 0.003, "h.0.attn": 0.004}, "mfu": 0.4, "memory": 123_456_789,
    "phases": {"data": 0.01, "gradients": 2.0, "update": 0.3},
}
STEP_VALUES = {
    "train/loss": 5.5, "train/bpb": 2.25, "train/clipped": 1, "lr": 1e-3, "grad_norm": 0.7, "grads/wte": 0.1,
    "grads/h.0.attn": 0.2, "weights/norm": 31.5, "updates/wte": 0.003, "updates/h.0.attn": 0.004, "tokens": 12_288,
    "throughput/seconds": 2.5, "throughput/tok_per_sec": 1638.4, "throughput/mfu": 0.4, "phases/data": 0.01,
    "phases/gradients": 2.0, "phases/update": 0.3, "memory/peak_bytes": 123_456_789,
}
EVAL: dict[str, Any] = {
    "kind": "eval", "step": 9, "split": "held_out", "best": True, "tokens": 100, "bytes": 200, "loss": 4.5,
    "stderr": 0.05, "bits_per_byte": 2.1, "perplexity": 90.0, "limit": 1.25, "distance": 0.85,
    "by_position": {"upto": [1, 2, 4], "loss": [6.0, 5.0, 4.0], "tokens": [10, 10, 20]},
}
EVAL_VALUES = {
    "val/loss": 4.5, "val/stderr": 0.05, "val/bpb": 2.1, "val/perplexity": 90.0, "val/limit": 1.25,
    "val/distance": 0.85, "val/by_position/1": 6.0, "val/by_position/2": 5.0, "val/by_position/4": 4.0,
}
PROBE: dict[str, Any] = {
    "kind": "probe", "step": 3, "loss": 5.25,
    "attention": {
        "entropy": [[1.5, 2.5], [0.5, 3.5]], "relative": [[0.31, 0.52], [0.13, 0.74]],
        "first": [[0.11, 0.12], [0.13, 0.14]], "previous": [[0.21, 0.22], [0.23, 0.24]],
        "distance": [[4.5, 5.5], [6.5, 7.5]], "similarity": [0.91, 0.92],
    },
    "stream": {
        "rms": [1.01, 1.02, 1.03], "kurtosis": [3.01, 3.02, 3.03], "largest": [9.01, 9.02, 9.03],
        "effective_rank": [20.5, 21.5, 22.5],
    },
    "dead_units": [0.015, 0.025],
    "predictions": {"entropy": 4.25, "accuracy": 0.19, "confidence": 0.18, "calibration_error": 0.017, "bins": []},
    "induction": {"score": 0.33, "layer": 1, "head": 0, "gain": 0.66},
    "lens": [8.5, 7.5, 6.25],
    "alarms": [{"layer": 1, "head": None, "what": "all heads alike"}],
}
# fmt: on
MAP: dict[str, Any] = {
    "layer": 0,
    "head": 1,
    "why": "most weight on the previous token",
    "weights": [[1.0], [0.25, 0.75]],
}
ATTENTION: dict[str, Any] = {"kind": "attention", "step": 3, "tokens": ["The", " cat"], "maps": [MAP]}
SAMPLE: dict[str, Any] = {"kind": "sample", "step": 3, "text": "a <b>\n& c"}
END: dict[str, Any] = {"kind": "end", "step": 3, "status": "done", "seconds": 9.5, "memory": None, "tok_per_sec": 99.0}
ROLLBACK: dict[str, Any] = {"kind": "rollback", "step": 2, "from_step": 5, "batches": 6}


def leaves(value: Any) -> list[float]:
    """Every number in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in leaves(part)]
    return [value] if isinstance(value, int | float) else []


# ---- names


@pytest.mark.parametrize(
    ("row", "values"),
    [
        (STEP, STEP_VALUES),
        (EVAL, EVAL_VALUES),
        ({"kind": "eval", "step": 9, "split": "training", "loss": 4.5}, {"train/mean_loss": 4.5}),
        (END, {"run/seconds": 9.5, "run/tok_per_sec": 99.0}),
        (ROLLBACK, {"rollback/from_step": 5, "rollback/batches": 6}),
        ({"kind": "step", "step": 1, "loss": None, "mfu": None, "grad_norms": None}, {}),
        ({"kind": "probe", "step": 1, "attention": None, "lens": [None, 2.0]}, {"lens/l1": 2.0}),
        ({"kind": "something new", "step": 1, "loss": 1.0}, {}),
        (SAMPLE, {}),
        ({}, {}),
    ],
)
def test_the_names_of_the_numbers_of_a_row(row: dict[str, Any], values: dict[str, float]) -> None:
    assert tracked_values(row) == values


def test_a_probe_loses_no_number() -> None:
    named = tracked_values(PROBE)
    means = {name for name in named if name.endswith("/mean")}
    own = [number for name, number in named.items() if name not in means and name != "attention/alarms"]
    assert sorted(own) == sorted(leaves({**PROBE, "step": None, "alarms": None}))
    assert named["attention/entropy/l1.h0"] == 0.5 and named["attention/relative/mean"] == pytest.approx(0.425)
    assert named["stream/rms/l2"] == 1.03 and named["dead_units/l1"] == 0.025 and named["lens/l0"] == 8.5
    assert named["calibration/error"] == 0.017 and named["induction/score"] == 0.33 and named["attention/alarms"] == 1
    assert len(means) == 5 and named["attention/similarity/l1"] == 0.92


def test_each_metric_has_a_name_of_its_own_and_is_documented() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    page = (Path(__file__).parents[2] / "docs" / "observe.md").read_text(encoding="utf-8")
    keys = {metric.key.partition(".")[0] for metric in METRICS if metric.row in ("step", "probe")}
    assert not {key for key in keys if f"`{key}" not in page}


# ---- pictures


def test_a_heat_map_goes_from_light_to_dark_in_squares() -> None:
    pixels = heatmap([[0.0], [0.25, 1.0, float("nan")], [None, 7.0]], min_side=30)
    assert pixels.shape == (30, 30, 3) and pixels.dtype == np.uint8
    cells = pixels.reshape(3, 10, 3, 10, 3)
    assert (cells == cells[:, :1, :, :1]).all()  # each number one square
    light, middle, dark = LIGHT_TO_DARK
    grey = MISSING_COLOR
    wanted = [[light, grey, grey], [middle, dark, grey], [grey, dark, grey]]
    assert cells[:, 0, :, 0].tolist() == np.array(wanted).tolist()
    brightness = heatmap([list(np.linspace(0, 1, 50))], min_side=1).sum(axis=-1, dtype=int)[0]
    assert (np.diff(brightness) < 0).all()


def test_large_maps_and_none_at_all() -> None:
    assert heatmap([[0.5] * 400] * 400).shape == (400, 400, 3)
    assert heatmap([]).shape == (0, 0, 3) and row_images(STEP) == {} and row_images({"kind": "probe", "step": 1}) == {}


def test_a_map_is_named_by_the_reason_for_which_it_was_selected() -> None:
    images = row_images({**ATTENTION, "maps": [MAP, {**MAP, "layer": 1}]})
    name = "attention_maps/most_weight_on_the_previous_token"
    assert list(images) == [name, f"{name}_l1.h1"]
    assert images[name].caption.startswith("step 3, l0.h1: most weight on the previous token of all heads.")
    assert (images[name].pixels == heatmap(MAP["weights"])).all()
    (entropies,) = row_images(PROBE).values()
    assert (entropies.pixels == heatmap(PROBE["attention"]["relative"])).all()


# ---- which tracker


@pytest.mark.parametrize(
    ("tracker", "wanted", "has_package", "value", "reason"),
    [
        ("none", "WANDB_API_KEY is set", True, "none", "asked for"),
        ("auto", "", True, "none", "neither WANDB_API_KEY nor WANDB_MODE=offline is set, or WANDB_DISABLED is"),
        ("auto", "", False, "none", "neither WANDB_API_KEY nor WANDB_MODE=offline is set, or WANDB_DISABLED is"),
        ("auto", "WANDB_API_KEY is set", True, "wandb", "WANDB_API_KEY is set"),
        ("auto", "WANDB_MODE=offline", True, "wandb", "WANDB_MODE=offline"),
        ("auto", "WANDB_API_KEY is set", False, "none", "wandb is not installed: pip install \"light-llm[wandb]\""),
        ("wandb", "WANDB_MODE=offline", True, "wandb", "asked for"),
        ("tensorboard", "", True, "tensorboard", "asked for"),
        ("tensorboard", "WANDB_API_KEY is set", True, "tensorboard", "asked for"),
    ],
)  # fmt: skip
def test_the_choice_of_a_tracker(tracker: str, wanted: str, has_package: bool, value: str, reason: str) -> None:
    choice = choose_tracker(tracker, wanted=wanted, installed=lambda package: has_package)
    assert choice.value == value and choice.reason.endswith(reason)


@pytest.mark.parametrize(
    ("name", "wanted", "installed", "message"),
    [
        ("wandb", "WANDB_API_KEY is set", False, r'tracker=.wandb. needs .* pip install "light-llm\[wandb\]"'),
        ("tensorboard", "", False, r'tracker=.tensorboard. needs .* pip install "light-llm\[tensorboard\]"'),
        ("wandb", "", True, "tracker=.wandb. needs your key .*WANDB_API_KEY.*WANDB_MODE=offline needs no key"),
    ],
)
def test_trackers_that_cannot_be_used(name: str, wanted: str, installed: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_tracker(name, wanted=wanted, installed=lambda package: installed)


def test_a_tracker_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="wandbb.* did you mean wandb"):
        TrainConfig(tracker="wandbb")


@pytest.mark.parametrize(
    ("mode", "key", "wanted"),
    [
        (None, None, ""), (None, "", ""), (None, KEY, "WANDB_API_KEY is set"), ("online", KEY, "WANDB_API_KEY is set"),
        ("online", None, ""), ("offline", None, "WANDB_MODE=offline"), ("offline", KEY, "WANDB_MODE=offline"),
        ("dryrun", None, "WANDB_MODE=dryrun"), ("disabled", KEY, ""),
    ],
)  # fmt: skip
def test_what_the_environment_asks_for(
    mode: str | None, key: str | None, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WANDB_MODE", mode), ("WANDB_API_KEY", key)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_DISABLED", raising=False)
    assert wandb_reason() == wanted
    for value, expected in (("true", ""), ("1", ""), ("Yes", ""), ("on", ""), ("false", wanted), ("0", wanted)):
        monkeypatch.setenv("WANDB_DISABLED", value)
        assert wandb_reason() == expected


def test_a_folder_with_the_name_of_a_package_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("no_such_package") and not is_installed("nor_this_one") and is_installed("json")


def test_a_run_keeps_its_identity_and_shares_it_with_no_other(tmp_path: Path) -> None:
    one = tracking_id(RECORD, tmp_path / "a")
    assert one == tracking_id(json.loads(json.dumps(RECORD)), tmp_path / "b" / ".." / "a") and len(one) == 16
    later = {**RECORD, "started": "2026-11-24T10:00:01+00:00"}
    other_seed = {**RECORD, "run": {**RECORD["run"], "train": {"seed": 1, "lr": 0.01}}}
    assert len({one, tracking_id(later, tmp_path / "a"), tracking_id(RECORD, tmp_path / "c")}) == 3
    assert tracking_id(other_seed, tmp_path / "a") != one


# ---- TensorBoard


def events(folder: Path) -> Any:
    """Read a folder as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0}).Reload()


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    run = events(folder)
    return {tag: [(event.step, event.value) for event in run.Scalars(tag)] for tag in run.Tags()["scalars"]}


def expected(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of rows, in TensorBoard's 32-bit numbers."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, number in tracked_values(row).items():
            points.setdefault(name, []).append((row["step"], float(np.float32(number))))
    return points


def texts(folder: Path, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in events(folder).Tensors(f"{tag}/text_summary")]


def test_a_run_in_tensorboard_is_the_run_in_metrics(poem: Path) -> None:
    """Also when it is resumed."""
    settings: dict[str, Any] = {"tracker": "tensorboard", "eval_interval": 5, "save_interval": 5, "sample_interval": 5}
    train_small(poem, max_steps=12, **settings)
    (Path("run") / "step-000012" / "MANIFEST.json").unlink()  # killed while it saved: goes on from step 10
    train_small(poem, max_steps=14, resume=True, **settings)
    rows = list(read_rows(Path("run/metrics.jsonl")))
    assert [row["step"] for row in rows if row["kind"] == "step"] == list(range(1, 15))
    assert curves(Path("run")) == expected(rows)
    record = json.loads(Path("run/run.json").read_text())["run"]
    assert [json.loads(text[8:-4])["run"] for text in texts(Path("run"), "run")][-1] == record
    assert {path.name for path in Path().iterdir()} == {"run", "poem.txt"}


def test_pictures_and_texts_in_tensorboard(tmp_path: Path) -> None:
    from PIL import Image

    sink = TensorBoardSink(tmp_path, RECORD)
    rows = [{**STEP, "loss": float("nan")}, PROBE, ATTENTION, SAMPLE, END]
    for row in rows:
        sink(row)
    sink.close()
    found = events(tmp_path)
    drawn = row_images(PROBE) | row_images(ATTENTION)
    assert set(found.Tags()["images"]) == drawn.keys()
    for name, picture in drawn.items():
        (image,) = found.Images(name)
        assert image.step == 3
        assert (np.array(Image.open(io.BytesIO(image.encoded_image_string))) == picture.pixels).all()
    assert texts(tmp_path, "sample") == ["    a <b>\n    & c"] and texts(tmp_path, "run/status") == ["done"]
    seen = curves(tmp_path)
    assert np.isnan(seen.pop("train/loss")[0][1]) and seen == expected([{**STEP, "loss": None}, PROBE, END])


def test_steps_that_are_made_again_count_once(tmp_path: Path) -> None:
    """After a rollback, a resume from an earlier step, and a new run in the same folder."""

    def steps(numbers: range, loss: float) -> list[dict[str, Any]]:
        return [{"kind": "step", "step": step, "loss": loss} for step in numbers]

    def losses(rows: list[dict[str, Any]], **options: Any) -> list[tuple[int, float]]:
        sink = TensorBoardSink(tmp_path, RECORD, **options)
        for row in rows:
            sink(row)
        sink.close()
        return curves(tmp_path)["train/loss"]

    rollback = {"kind": "rollback", "step": 4, "from_step": 7, "batches": 8}
    at = [(step, 1.0 if step < 5 else 2.0) for step in range(1, 9)]
    assert losses([*steps(range(1, 8), 1.0), rollback, *steps(range(5, 9), 2.0)]) == at
    assert losses(steps(range(7, 10), 3.0), resumed_at=6) == [*at[:6], (7, 3.0), (8, 3.0), (9, 3.0)]
    assert losses(steps(range(1, 3), 4.0)) == [(1, 4.0), (2, 4.0)]


# ---- Weights & Biases


class Service(ThreadingHTTPServer):
    """Stands for every address that W&B could call: notes what is asked, and refuses the key when it answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()
        self.answers.set()
        super().__init__(("127.0.0.1", 0), Refusal)


class Refusal(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.answers.wait()
        body = b'{"errors": [{"message": "this key is unknown"}]}'
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_CONNECT = do_PUT = do_POST

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """W&B's own address, and the proxy to all others; the home folder is an empty one."""
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"):
            monkeypatch.setenv(name, address)
        for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_BASE_URL"]:
            monkeypatch.delenv(name)
        (tmp_path / "home").mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
        server.shutdown()


@pytest.fixture
def offline(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A key is there, and the user asked for a file."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    return service


def records(folder: Path) -> list[Any]:
    """Read W&B's file: blocks of 32 KiB of pieces (CRC, length, kind: 1 whole, 2 first, 3 middle, 4 last) of records.

    The framing is LevelDB's log format after a header of 7 bytes; a record is W&B's own protocol buffer.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:
                at += left
                continue
            _, size, kind = struct.unpack_from("<IHB", data, at)
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                found.append(Record.FromString(whole))
                whole = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """Each entry of a run's history without W&B's own counts; of pictures and texts the file."""
    entries = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            names = {name.removesuffix("/path") for name in items if name.endswith("/path")}
            media = {name: items[f"{name}/path"] for name in names}
            plain = {n: v for n, v in items.items() if n[0] != "_" and not any(n.startswith(f"{m}/") for m in media)}
            entries.append(plain | media)
    return entries


def records_of(folder: Path, kind: str) -> list[Any]:
    return [getattr(record, kind) for record in records(folder) if record.WhichOneof("record_type") == kind]


def test_a_run_at_wandb_is_the_run_in_metrics(poem: Path, offline: Service) -> None:
    """Every number of it and nothing else, under one id when it is resumed; no address is called."""
    before = {path for path in Path().rglob("*") if path.is_file()}
    train_small(poem, max_steps=10)
    train_small(poem, max_steps=12, resume=True)
    rows = [row for row in read_rows(Path("run/metrics.jsonl")) if row["kind"] != "end"]
    rows = [tracked_values(row) | {"step": row["step"]} for row in rows]
    numbers = [{k: v for k, v in entry.items() if not isinstance(v, str)} for entry in history(Path("run"))]
    assert len(rows) >= 14 and [entry for entry in numbers if len(entry) > 1] == [row for row in rows if len(row) > 1]

    first, second = records_of(Path("run"), "run")
    assert first.run_id == second.run_id and second.resume and first.project == "light-llm"
    assert first.display_name == second.display_name == f"run-{first.run_id[:4]}"
    config = {item.key: json.loads(item.value_json) for item in second.config.update}
    record = json.loads(Path("run/run.json").read_text())
    assert all(config[part] == record[part] for part in ("run", "started", "data"))
    assert second.host == "" and not second.git.commit
    kinds = {record.WhichOneof("record_type") for record in records(Path("run"))}
    # No output, no statistics.
    assert kinds <= {"header", "run", "telemetry", "metric", "history", "summary", "files", "exit"}
    for folder in Path("run").glob("wandb/offline-run-*/files"):
        assert {path.name for path in folder.iterdir()} <= {"media"}  # no list of packages, no code, no metadata
    assert {m.name or m.glob_name: m.step_metric for m in records_of(Path("run"), "metric")}["*"] == "step"

    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert {path for path in after if path.parts[0] != "run"} == before  # nothing in the home folder either
    assert not any(KEY.encode() in data for data in after.values())
    assert offline.asked == []


def test_pictures_texts_and_the_end_at_wandb(tmp_path: Path, offline: Service) -> None:
    from PIL import Image

    sink = WandbSink(tmp_path, RECORD, identity="abcd")
    for row in ({**STEP, "loss": float("nan")}, PROBE, ATTENTION, SAMPLE, END):
        sink(row)
    sink.close()
    (folder,) = tmp_path.glob("wandb/offline-run-*/files")
    step, probe, attention, sample = history(tmp_path)
    assert np.isnan(step.pop("train/loss")) and step == tracked_values({**STEP, "loss": None}) | {"step": 3}
    probe_values = {k: v for k, v in probe.items() if k != "attention_maps/relative_entropy"}
    assert probe_values == tracked_values(PROBE) | {"step": 3}
    for entry, drawn in ((probe, row_images(PROBE)), (attention, row_images(ATTENTION))):
        for name, picture in drawn.items():
            assert (np.array(Image.open(folder / entry[name])) == picture.pixels).all()
    assert (folder / sample["sample"]).read_text() == "<pre>a &lt;b&gt;\n&amp; c</pre>"
    last = {update.key: json.loads(update.value_json) for s in records_of(tmp_path, "summary") for update in s.update}
    assert last["run/status"] == "done" and last["run/seconds"] == 9.5
    assert [exit.exit_code for exit in records_of(tmp_path, "exit")] == [0]


def test_a_run_that_goes_back_and_is_killed_at_wandb(tmp_path: Path, offline: Service) -> None:
    """The step axis is ours, which may go back; a pipe that closes in the middle of a row is a run that failed."""
    sink = WandbSink(tmp_path, RECORD, identity="abcd")
    for step in (1, 2, 3, 2, 3):
        sink({"kind": "step", "step": step, "loss": 1.0 / step})
    assert sink.process.stdin is not None
    sink.process.stdin.write(b'{"kind": "st')
    sink.close()
    assert [entry["step"] for entry in history(tmp_path)] == [1, 2, 3, 2, 3]
    assert [exit.exit_code for exit in records_of(tmp_path, "exit")] == [1]


def test_a_refused_key_is_said_and_the_run_is_whole(poem: Path, service: Service) -> None:
    """W&B does call the address that the tests above watch; what it says reaches the user, and the key does not."""
    train_small(poem, "whole", max_steps=12, tracker="none")
    assert not service.asked and not Path("whole/wandb").exists()
    _, result = train_small(poem, max_steps=12)
    assert result.status == "done" and service.asked
    assert all(rows_of("run", kind) == rows_of("whole", kind) for kind in ("step", "eval"))
    assert tensors_of("run/step-000012") == tensors_of("whole/step-000012")
    said = Path("run/train.log").read_text()
    assert said.count("the tracker wandb failed (RuntimeError: W&B's process ended: ") == 1
    assert "401" in said and "this key is unknown" in said
    assert not any(KEY.encode() in path.read_bytes() for path in Path().rglob("*") if path.is_file())


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_reason_why_the_process_ended_is_raised(tmp_path: Path, service: Service, is_killed: bool) -> None:
    """A refused key, and a kill: by the next row and by closing."""
    sink = WandbSink(tmp_path, RECORD, identity="abcd")
    if is_killed:
        sink.process.kill()
    sink.process.wait(60)
    reason = "was ended by signal 9" if is_killed else "ended: CommError: .*401.*this key is unknown.*; see .*log"
    for last in (lambda: sink(STEP), sink.close):
        with pytest.raises(RuntimeError, match=f"W&B's process {reason}"):
            last()


def test_a_network_that_never_answers_does_not_delay_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: Service
) -> None:
    monkeypatch.setattr("light_llm.observe.background_sink.CLOSE_TIMEOUT", 0.5)
    service.answers.clear()
    sink = WandbSink(tmp_path, RECORD, identity="abcd")
    try:
        while not service.asked:
            assert sink.process.poll() is None, "W&B has not called"
            time.sleep(0.02)
        said: list[str] = []
        tracker = BackgroundSink("wandb", lambda: sink, said.append)
        start = time.perf_counter()
        for step in range(2000):  # more than a pipe holds
            tracker({**STEP, "step": step})
        tracker.close()
        assert time.perf_counter() - start < 10 and sink.process.poll() is None
        assert tracker.waiting.empty()  # the process has every row, and may go on alone
        assert said == ["notice   the tracker wandb did not take its last rows in 0.5 s"]
    finally:
        sink.process.kill()
        service.answers.set()


def test_the_training_process_stays_as_it_was(tmp_path: Path, offline: Service) -> None:
    """Nothing is imported by a decision, nor W&B by the process that trains; what it would replace stays in place."""
    program = (
        "import sys; from pathlib import Path\n"
        "from light_llm.observe.tracking import choose_tracker, make_tracker\n"
        f"record, folder, before = {RECORD!r}, Path({str(tmp_path)!r}), (sys.exit, sys.excepthook)\n"
        "names = ('wandb', 'tensorboard', 'torch.utils.tensorboard')\n"
        "choice = choose_tracker('auto', wanted='WANDB_MODE=offline')\n"
        "how = dict(folder=folder, record=record)\n"
        "assert not any(name in sys.modules for name in names), 'a decision'\n"
        "sink = make_tracker(choice.value, **how); sink({'kind': 'step', 'step': 1, 'loss': 1.0}); sink.close()\n"
        "assert not any(name in sys.modules for name in names), 'a run'\n"
        "assert before == (sys.exit, sys.excepthook)\n"
        "sink = make_tracker('tensorboard', **how); sink({'kind': 'step', 'step': 1, 'loss': 1.0}); sink.close()\n"
    )
    child = run_child([sys.executable, "-c", program])
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
    assert history(tmp_path) == [{"step": 1, "train/loss": 1.0}]
    assert curves(tmp_path) == {"train/loss": [(1, 1.0)]}
