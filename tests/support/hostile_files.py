"""Files made to harm their reader, and a function for a child process that gives each to the reader a user would use.

Nothing of the corpus is in the repository. For each file the exception is printed, with the processor time and the
memory that the process had gained by then.
"""

import hashlib
import io
import json
import os
import pickle
import resource
import signal
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from light_llm.checkpoint import Files, RunFolder, read_step, write_model_file
from light_llm.checkpoint.commit import commit_folder
from light_llm.checkpoint.model_file import KIND, digest
from light_llm.data import prepare_dataset
from light_llm.data.bpe import train_bpe
from light_llm.data.download import PinnedFile, ensure_file
from light_llm.data.shards import BLOCK_BYTES, SHARD_FORMAT, Shard
from light_llm.data.tokenizer_json import to_tokenizer_json
from light_llm.data.tokenizers import make_tokenizer
from light_llm.errors import LightLLMError
from light_llm.generate import TextGenerator
from light_llm.interop.import_model import read_folder
from light_llm.json_io import canonical_json, dump_with_digest
from tests.checkpoint.test_checkpoint import meta_of, save, trained
from tests.support.hostile_folders import make_folders
from tests.support.tools import tiny_model

TEN_GB = 10_000_000_000
MEMORY = 1_000_000_000  # bytes, and
HASHED = 4_000_000_000  # no file may cost more processor time than the SHA-256 of so many bytes: 5 to 15 s by machine
DEADLINE = 120  # seconds of the wall clock: a reader that hangs is ended
MARK = "it ran"  # the file that code from a file would leave in the working folder
Json = dict[str, Any]


class Unsynced(Files):
    """Waiting for the disk takes most of the time, and nothing is lost here."""

    def sync(self, path: Path) -> None:
        return None

    sync_folder = sync


class Runs:
    """Unpickled by a careless reader, it leaves the mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARK,)


EVIL = pickle.dumps({"kind": KIND, "format": 1, "model": Runs()}, protocol=4)
DEEP = b"[" * 100_000 + b"]" * 100_000
DIGITS = b'{"format": ' + b"9" * 10**6 + b"}"
BAD_JSON = {
    "pickle": EVIL,
    "deep": DEEP,
    "deep_objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not_so_deep": json.dumps({"format": 1, "files": json.loads("[" * 90 + "]" * 90)}).encode(),
    "digits": DIGITS,
    "nan": b'{"format": NaN, "files": Infinity}',
    "twice": b'{"format": 1, "format": 1, "files": {}, "files": {}}',
    "many": b'{"files": [' + b'{"":1},' * 2_200_000 + b"1]}",
    "long": b'{"a": "' + b"a" * 17_000_000 + b'"}',
    "half": b'{"format": "\\ud800"',
    "text": b"\xff\xfe\x00",
}


def sparse(path: Path, size: int, start: bytes = b"", end: bytes = b"") -> None:
    """A file of any size that takes no room: what is between is zero."""
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)


# ---- model files


class Number:
    """Pickled as torch pickles a storage: key, and how many float32 it is said to have."""

    def __init__(self, key: str, n: int) -> None:
        self.key, self.n = key, n


class Shape:
    """Pickled as torch pickles a tensor over such a storage."""

    def __init__(self, storage: Number, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> None:
        # Tuples of their own: equal constants are one object, which would be refused for that reason alone.
        self.args = storage, offset, (*size,), (*stride,), False, OrderedDict()  # type: ignore[var-annotated]

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


class Pickler(pickle.Pickler):
    """Writes what torch.save would have written."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, value.key, "cpu", value.n) if isinstance(value, Number) else None


def pickled(payload: Any) -> bytes:
    out = io.BytesIO()
    Pickler(out, protocol=2).dump(payload)
    return out.getvalue()


def archive(path: Path, data: bytes, storages: Mapping[str, bytes] | None = None, names: str = "archive/{}") -> None:
    """A file as torch.save lays it out."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(names.format("data.pkl"), data)
        file.writestr("archive/byteorder", "little")
        for key, content in (storages or {"0": b"\0\0\0\0"}).items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", "3\n")


def payload(meta: Any = None, model: Any = None) -> Json:
    """What a model file holds, with a digest that is right wherever there can be one."""
    meta = META if meta is None else meta
    return {"kind": KIND, "format": 1, "meta": meta, "model": {} if model is None else model, "digest": digest([], {})}


def by_hand(meta: bytes) -> bytes:
    """A pickle whose meta is given as instructions: what no pickler could write."""

    def text(word: str) -> bytes:
        return b"X" + len(word).to_bytes(4, "little") + word.encode()

    head = b"\x80\x02}" + text("kind") + text(KIND) + b"s" + text("format") + b"K\x01s" + text("model") + b"}s"
    return head + text("digest") + text("") + b"s" + text("meta") + meta + b"s."


MODEL = tiny_model()
META = meta_of(MODEL)


def laughs() -> Any:
    value: Any = ["ha"] * 10
    for _ in range(30):
        value = [value] * 10
    return value


def endless() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def changed(what: str, **changes: Any) -> Json:
    return {**META, what: {**META[what], **changes}}


BPE = train_bpe(["she sells sea shells " * 20], 280)
MODEL_METAS: dict[str, Any] = {
    "layers": changed("config", n_layer=10**9),
    "wide": changed("config", n_embd=3 * 10**9),
    "long": changed("config", n_positions=10**18),
    "negative": changed("config", n_embd=-24),
    "nothing": changed("config", n_layer=0),
    "huge": changed("config", vocab_size=10**600),
    "huge_float": changed("config", dropout=10**600),
    "half_a_layer": changed("config", n_layer=2.5),
    "nan": changed("config", logit_cap=float("nan")),
    "name": {**META, "config": {"x" * 5_000_000: 1}},
    "config": {**META, "config": [1, 2]},
    "data": {**META, "data": "abc"},
    "window": {**META, "data": {"max_length": "abc"}},
    "negative_window": {**META, "data": {"max_length": -5}},
    "documents": {**META, "data": {"documents": [1]}},
    "morse": {**META, "tokenizer": {"kind": ["morse"]}},
    "no_table": {**META, "tokenizer": 7},
    "alphabet": {**META, "tokenizer": {"kind": "char", "alphabet": "\ud800" * 60}},
    "letters": {**META, "tokenizer": {"kind": "char", "alphabet": [["a"]] * 60}},
    "one_letter": {**META, "tokenizer": {"kind": "char", "alphabet": "a" * 60}},
    "more_ids": {**META, "tokenizer": {"kind": "byte"}},
    "merges": {**META, "tokenizer": {"kind": "gpt2", "merges": "v\n" + "日 本\n" * 1000}},
    "same_merges": {**META, "tokenizer": {"kind": "gpt2", "merges": "v\n" + "a b\n" * 500_000}},
    "no_merges": {**META, "tokenizer": {"kind": "gpt2", "merges": 5}},
    "bpe_far": {**META, "tokenizer": {**BPE.to_dict(), "separator": 10**12}},
    "bpe_text": {**META, "tokenizer": {**BPE.to_dict(), "separator": 5}},
    "bpe_word": {**META, "tokenizer": {**BPE.to_dict(), "separator": "x"}},
    "bpe_none": {**META, "tokenizer": {"kind": "bpe", "tokens": [None] * 100_000, "separator": 3}},
    "bpe_numbers": {**META, "tokenizer": {"kind": "bpe", "tokens": [5] * 1000, "separator": 3}},
}
MODEL_PICKLES: dict[str, Any] = {
    "runs": lambda: payload(Runs()),
    "shared": lambda: payload({**META, "ha": laughs()}),
    "shared_text": lambda: payload({**META, "ha": ["a" * 1_000_000] * 100_000}),
    "endless": lambda: payload({**META, "ha": endless()}),
    "bytes": lambda: payload({**META, "ha": bytearray(10)}),
    "odd_keys": lambda: payload({1: 2, "a": 3, None: 4}),
    "list": lambda: [1, 2, 3],
    "stride_0": lambda: payload(model={"w": Shape(Number("0", 1), (50_000, 50_000), (0, 0))}),
    "view": lambda: payload(model={"w": Shape(Number("0", 1), (1,), (1,), 5)}),
    "negative": lambda: payload(model={"w": Shape(Number("0", 1), (-1, -1), (1, 1))}),
    "overflow": lambda: payload(model={"w": Shape(Number("0", 1), (2**40, 2**40), (2**40, 1))}),
    "declared": lambda: payload(model={"w": Shape(Number("0", TEN_GB // 4), (TEN_GB // 4,), (1,))}),
    "absent": lambda: payload(model={"w": Shape(Number("7", 1), (1,), (1,))}),
    "outside": lambda: payload(model={"w": Shape(Number("../../version", 1), (1,), (1,))}),
    "a_number": lambda: payload(model={"w": 5}),
}


def make_models(folder: Path) -> None:
    for name, meta in MODEL_METAS.items():
        write_directly(folder / f"meta_{name}.pt", MODEL.state_dict(), meta)
    for name, (meta, files) in MODEL_FILES.items():
        write_directly(folder / f"files_{name}.pt", MODEL.state_dict(), meta, files)
    for name, values in MODEL_PICKLES.items():
        archive(folder / f"pickle_{name}.pt", pickled(values()))
    allocates = b"cbuiltins\nbytearray\nI10000000000\n\x85R"
    for name, meta in {
        "allocates": allocates.replace(b"I10000000000\n", b"\x8a\x05\x00\xe4\x0b\x54\x02"),
        "deep": b"]" * 100_000 + b"a" * 99_999,
        "many": b"(" + b"]" * 8_000_000 + b"l",
        "calls": b"(" + b"ccollections\nOrderedDict\n)R" * 300_000 + b"t",
        "unknown": b"\xff" * 100,
        "evil": EVIL,
    }.items():
        archive(folder / f"hand_{name}.pt", by_hand(meta))
    whole_numbers = {name: t.long() for name, t in MODEL.state_dict().items()}
    write_directly(folder / "long_weights.pt", whole_numbers, META)
    write_directly(folder / "no_weights.pt", {}, META)
    make_zips(folder)


def hf(data: bytes, **changes: Any) -> tuple[Json, Json]:
    """A description that names a published tokenizer by its hash, and the files of the model with its bytes."""
    named = {"kind": "hf", "sha256": hashlib.sha256(data).hexdigest(), "separator": 0, "prefix": [], "suffix": []}
    return {**META, "tokenizer": named | changes}, {
        "tokenizer.json": torch.frombuffer(bytearray(data), dtype=torch.uint8)
    }


TOKENIZER = b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}'
MODEL_FILES: dict[str, tuple[Json, Any]] = {
    "none": (hf(TOKENIZER)[0], {}),
    "another": (hf(TOKENIZER)[0], hf(TOKENIZER + b" ")[1]),
    "separator": hf(TOKENIZER, separator=10**12),
    "prefix": hf(TOKENIZER, prefix="abc"),
    "evil": hf(EVIL),
    "deep": hf(DEEP),
    "many": hf(b"[" + b"[]," * 2_000_000 + b"1]"),
    "far": hf(TOKENIZER.replace(b'"a": 0', b'"a": 4000000000')),
    "list": (META, [1]),
    "numbers": (META, {"tokenizer.json": torch.zeros(3)}),
    "table": (META, {"tokenizer.json": torch.zeros(3, 3, dtype=torch.uint8)}),
    "text": (META, {"tokenizer.json": "{}"}),
    "shared": (META, dict.fromkeys(("tokenizer.json", "merges.txt"), torch.zeros(3, dtype=torch.uint8))),
}


def write_directly(path: Path, weights: Mapping[str, torch.Tensor], meta: Json, files: Any = None) -> None:
    """As `write_model_file`, with a right digest wherever there can be one, whatever the values are."""
    values = {
        "kind": KIND,
        "format": 1,
        "meta": meta,
        "model": dict(weights),
        "digest": digest(sorted(weights.items()), meta),
    }
    if files is not None:
        known = files if isinstance(files, dict) else {}
        data = {name: t.numpy().tobytes() for name, t in known.items() if isinstance(t, torch.Tensor)}
        values |= {"format": 2, "files": files, "digest": digest(sorted(weights.items()), meta, data)}
    with open(path, "wb") as file:
        torch.save(values, file)


def make_zips(folder: Path) -> None:
    good = folder.parent / "good.pt"
    write_model_file(good, MODEL.state_dict(), META, Unsynced())
    (folder / "whole.pt").write_bytes(EVIL)
    (folder / "text.pt").write_text("cos\nmkdir\n(S'it ran'\ntR.")
    torch.save({"kind": KIND, "model": Runs()}, folder / "old.pt", _use_new_zipfile_serialization=False)
    archive(folder / "evil_record.pt", EVIL)
    archive(folder / "script.pt", pickled(payload()), {"0": b"\0\0\0\0"})
    with zipfile.ZipFile(folder / "script.pt", "a") as file:
        file.writestr("archive/constants.pkl", EVIL)
        file.writestr("archive/code/__torch__.py", "import os; os.mkdir('it ran')")
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("archive/data.pkl", bytes(300 << 20))
    data = good.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    lying, long_form = bytearray(data), data.rindex(b"PK\x06\x06")
    lying[end + 12 : end + 16] = (0xFFFFFFF0).to_bytes(4, "little")
    lying[long_form + 40 : long_form + 48] = TEN_GB.to_bytes(8, "little")
    (folder / "lying_directory.pt").write_bytes(lying)
    size = 4_000_000_000  # what the old form of the end of a zip can say
    tail = b"PK\x05\x06\0\0\0\0\1\0\1\0" + size.to_bytes(4, "little") + bytes(4) + bytes(2)
    sparse(folder / "huge_directory.pt", size + len(tail), end=tail)
    sparse(folder / "zeros.pt", TEN_GB)
    sparse(folder / "zeros_after.pt", TEN_GB, start=data)
    for name, names in {"up": "../../{}", "root": "/{}", "folders": "a/b/c/{}", "none": "{}"}.items():
        archive(folder / f"names_{name}.pt", pickled(payload()), names=names)
    for name, again in {"same": "archive/data.pkl", "case": "archive/DATA.PKL"}.items():
        (folder / f"twice_{name}.pt").write_bytes(data)
        with zipfile.ZipFile(folder / f"twice_{name}.pt", "a") as file:
            file.writestr(again, pickled(payload(Runs())))
    with zipfile.ZipFile(folder / "many_records.pt", "w") as file:
        for i in range(60_000):
            file.writestr(f"archive/data/{i}", b"")
    huge_record(folder / "huge_record.pt")
    make_pipe_and_device(folder, ".pt")


def make_pipe_and_device(folder: Path, suffix: str) -> None:
    os.mkfifo(folder / f"pipe{suffix}")
    (folder / f"device{suffix}").symlink_to("/dev/zero")


def huge_record(path: Path) -> None:
    """A sound archive with a tensor of 3 GB of zeros, which takes no room on the disk, and a tiny model's config."""
    n = 3_000_000_000
    values = payload(model={"w": Shape(Number("0", n // 4), (n // 4,), (1,))})
    archive(path, pickled(values), {"0": b""})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    record = data.index(b"PK\x01\x02", data.index(b"archive/data/0", directory) - 46)
    at = int.from_bytes(data[record + 42 : record + 46], "little")
    for start in (at + 18, at + 22, record + 20, record + 24):
        data[start : start + 4] = n.to_bytes(4, "little")
    body = at + 30 + len("archive/data/0")
    end = data.rindex(b"PK\x05\x06")
    second = data.index(b"PK\x01\x02", record + 4)  # the version, which now lies behind the zeros
    moved = int.from_bytes(data[second + 42 : second + 46], "little") + n
    data[second + 42 : second + 46] = moved.to_bytes(4, "little")
    data[end + 16 : end + 20] = (directory + n).to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(data[:body])
        file.truncate(body + n)
        file.seek(body + n)
        file.write(data[body:])


# ---- step folders, run folders, shards, vocabularies, downloads, texts


def make_steps(folder: Path) -> None:
    good = folder.parent / "step-good"
    save(good, *trained(), Unsynced())
    contents = {p.name: p.read_bytes() for p in good.iterdir() if p.name != "MANIFEST.json"}

    def step(name: str, **changes: bytes) -> Path:
        files = contents | {key.replace("__", "."): value for key, value in changes.items()}
        commit_folder(folder / name, {n: lambda f, b=b: f.write(b) for n, b in files.items()}, Unsynced())
        return folder / name

    listed = json.loads((good / "MANIFEST.json").read_text())["files"]
    one = {"bytes": 1, "sha256": "0" * 64}
    lists: dict[str, Any] = {
        "outside": {"../../etc/passwd": one},
        "absolute": {"/etc/passwd": one},
        "empty_name": {"": one},
        "nul": {"a\0b": one},
        "long_name": {"a" * 5000: one},
        "surrogate": {"\ud800": one},
        "many": {f"{i:x}": {} for i in range(500_000)},
        "no_table": {"state.json": 5},
        "huge": {**listed, "model.safetensors": {"bytes": TEN_GB, "sha256": "0" * 64}},
        "odd_hash": {**listed, "model.json": {"bytes": len(contents["model.json"]), "sha256": [1]}},
    }
    for name, entries in lists.items():
        (step(f"list_{name}") / "MANIFEST.json").write_bytes(canonical_json({"format": 1, "files": entries}))
    for name, data in BAD_JSON.items():
        (step(f"manifest_{name}") / "MANIFEST.json").write_bytes(data)
        step(f"state_{name}", state__json=data)
        if name != "twice":  # which `read_step` hands on as it is: a description to be checked by whoever uses it
            step(f"model_{name}", model__json=data)
    header = (100_000_000).to_bytes(8, "little") + b"{" + b" " * 99_999_999
    step("header_long", model__safetensors=header)
    step("header_huge", model__safetensors=TEN_GB.to_bytes(8, "little") + b"{}")
    tensor = {"w": {"dtype": "F32", "shape": [TEN_GB // 4], "data_offsets": [0, TEN_GB]}}
    text = json.dumps(tensor).encode()
    step("header_lies", model__safetensors=len(text).to_bytes(8, "little") + text + bytes(4))
    step("header_pickle", model__safetensors=EVIL, optimizer__safetensors=EVIL, rng__safetensors=EVIL)
    (step("sparse") / "model.safetensors").unlink()
    sparse(folder / "sparse" / "model.safetensors", TEN_GB)


def make_step_models(folder: Path) -> None:
    """Step folders that are as they were written, by someone who lies about the model in them."""
    good = folder.parent / "step-sound"
    save(good, *trained(), Unsynced())
    contents = {p.name: p.read_bytes() for p in good.iterdir() if p.name != "MANIFEST.json"}
    for name, meta in MODEL_METAS.items():
        contents["model.json"] = json.dumps({"format": 1, **meta}).encode()
        commit_folder(folder / name, {n: lambda f, b=b: f.write(b) for n, b in contents.items()}, Unsynced())


def make_runs(folder: Path) -> None:
    for name, data in BAD_JSON.items():
        (folder / name).mkdir()
        (folder / name / "run.json").write_bytes(data)


def make_shards(folder: Path) -> None:
    sound = {"format": SHARD_FORMAT, "dtype": "<u2", "tokens": 2, "vocab_size": 9, "sha256": ["0" * 64]}
    for name, data in {**BAD_JSON, "no_digest": json.dumps(sound).encode()}.items():
        (folder / f"{name}.bin").write_bytes(b"\0\0\1\0")
        (folder / f"{name}.json").write_bytes(data)
    for name, changes in {
        "wrong_hash": {},
        "huge": {"tokens": TEN_GB},
        "no_end": {"tokens": 10**4000},
        "negative": {"tokens": -1},
        "objects": {"dtype": "|O"},
        "hashes": {"sha256": [[]]},
        "no_hashes": {"sha256": []},
        "vocabulary": {"vocab_size": None},
    }.items():
        (folder / f"say_{name}.bin").write_bytes(b"\0\0\1\0")
        (folder / f"say_{name}.json").write_bytes(dump_with_digest({**sound, **changes}))
    for name, hashes in {"sparse": ["0" * 64] * -(-TEN_GB // BLOCK_BYTES), "sparse_unsaid": ["0" * 64]}.items():
        sparse(folder / f"{name}.bin", TEN_GB)
        (folder / f"{name}.json").write_bytes(dump_with_digest({**sound, "tokens": TEN_GB // 2, "sha256": hashes}))


def make_vocabularies(folder: Path) -> None:
    good = to_tokenizer_json(BPE)

    def table(**changes: Any) -> bytes:
        return json.dumps({**good, "model": {**good["model"], **changes}}).encode()

    vocab = good["model"]["vocab"]
    special = {"content": "<|x|>", "special": True}
    for name, data in {
        **BAD_JSON,
        "far": table(vocab={**vocab, "zz": 10**12}),
        "negative": table(vocab={**vocab, "zz": -5}),
        "fraction": table(vocab={**vocab, "zz": 1.5}),
        "same": table(vocab=dict.fromkeys(vocab, 3)),
        "joins": table(merges=[["a"] * 50] * 20_000),
        "no_joins": table(merges=7),
        "far_separator": json.dumps({**good, "added_tokens": [{**special, "id": 10**12}]}).encode(),
        "taken_separator": json.dumps({**good, "added_tokens": [{**special, "id": 70}]}).encode(),
        "list": b"[]",
    }.items():
        (folder / f"{name}.json").write_bytes(data)
    make_pipe_and_device(folder, ".json")


def make_downloads(folder: Path) -> None:
    (folder / "pickle").write_bytes(EVIL)
    sparse(folder / "zeros", TEN_GB)
    make_pipe_and_device(folder, "")


def make_texts(folder: Path) -> None:
    for name, data in {
        "pickle.txt": EVIL,
        "wide.txt": "text".encode("utf-16") * 1000,
        "cut.txt.gz": b"\x1f\x8b\x08\0\0\0\0\0\0\3abc",
        "deep.jsonl": b'{"text": ' + DEEP + b"}",
        "digits.jsonl": b'{"text": ' + b"9" * 10**6 + b"}",
        "long.jsonl": b'{"text": "' + b"a" * 100_000_000 + b'"}',
        "many.jsonl": b'{"a": [' + b'{"":1},' * 2_200_000 + b"1]}",
        "fields.jsonl": json.dumps({f"t{i:x}": 1 for i in range(700_000)}).encode(),
        "half.jsonl": b'{"text": "\\ud800"}',
        "nan.jsonl": b'{"text": NaN}',
        "pickle.jsonl": EVIL,
        "pickle.parquet": EVIL,
    }.items():
        (folder / name).write_bytes(data)
    (folder / "device.txt").symlink_to("/dev/zero")


def read_download(path: Path) -> object:
    return ensure_file(PinnedFile("none", "http://127.0.0.1:9/", "0" * 64, 5), offline=True, extra_paths=[path])


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "models": (make_models, lambda path: TextGenerator(path, device="cpu")),
    "steps": (make_steps, read_step),
    "step_models": (make_step_models, lambda path: TextGenerator(path, device="cpu")),
    "runs": (make_runs, lambda path: RunFolder(path).read_run()),
    "shards": (make_shards, lambda path: Shard(path).check()),
    "vocabularies": (make_vocabularies, lambda path: make_tokenizer(str(path))),
    "downloads": (make_downloads, read_download),
    "texts": (make_texts, lambda path: prepare_dataset(path, 16, "byte")),
    "folders": (lambda folder: make_folders(folder, BAD_JSON), lambda path: read_folder(path, tokenizer="none")),
}


def read(folder: Path, kind: str) -> Iterator[Json]:
    """Give each file of a kind to its reader, and yield the error and the cost."""
    reader, before, allowed = KINDS[kind][1], memory(), allowed_seconds()
    for path in sorted((folder / kind).glob("*.bin" if kind == "shards" else "*")):
        start = time.process_time()  # which other processes do not prolong
        signal.alarm(DEADLINE)
        raised, message = "nothing", ""
        try:
            reader(path)
        except BaseException as error:
            raised = "ours" if isinstance(error, LightLLMError) else type(error).__name__
            message = str(error)[:300]
        cost = {"seconds": round(time.process_time() - start, 2), "allowed": allowed, "bytes": memory() - before}
        yield {"file": f"{kind}/{path.name}", "raised": raised, "message": message, **cost}


def allowed_seconds() -> float:
    """Return the processor time that this machine takes for the SHA-256 of `HASHED` bytes."""
    sample = bytes(HASHED // 50)
    start = time.process_time()
    hashlib.sha256(sample).digest()
    return 50 * (time.process_time() - start)


def limit() -> None:
    """A reader that takes the bait shall not take the machine with it: it gets some room beyond what is tested."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (4 * MEMORY, hard))


def memory() -> int:
    """The most bytes this process has had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make(folder: Path, kind: str) -> None:
    """Write the files of one kind into FOLDER/KIND."""
    (folder / kind).mkdir(parents=True)
    KINDS[kind][0](folder / kind)


def print_costs(words: list[str]) -> int:
    """Read the files of a kind below a folder, within a limit, and print a line of JSON for each."""
    folder, kind = words
    limit()
    for line in read(Path(folder), kind):
        print(json.dumps(line), flush=True)
    return 0
