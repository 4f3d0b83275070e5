"""A model over bytes, tasks for it, and no network."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.checkpoint import LoadedModel, load_model
from tests.support.tools import model_path

TEXT = "A fox went up the hill,\nnaïve and 東.\n"  # 42 bytes
QUESTIONS = [
    ("the cat", ["sat", "flew away"], 0),
    ("", ["a", "b"], 1),
    ("a much longer question than it can see, which is cut", ["no", "yes"], 1),
]
KINDS = {"choice": "multiple_choice", "rolling": "loglikelihood_rolling", "writing": "generate_until"}


@pytest.fixture(scope="package", autouse=True)
def no_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail on any use of the network, and keep the caches of the libraries in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))

        def refuse(*address: Any) -> None:
            raise AssertionError(f"the network was used: {address}")

        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model over bytes that sees 16 tokens and never saw a separator."""
    return load_model(model_path(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks: questions with choices, two texts to score, texts to write."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [{"q": q, "c": c, "a": a} for q, c, a in QUESTIONS]
    choice = ("doc_to_text: '{{q}}'", "doc_to_choice: '{{c}}'", "doc_to_target: a")
    write_task(folder, "choice", questions, *choice, metric="acc")
    texts = [{"text": TEXT * 3}, {"text": "x"}]
    write_task(folder, "rolling", texts, "doc_to_text: ''", "doc_to_target: '{{text}}'", metric="bits_per_byte")
    kwargs = "generation_kwargs: {until: ['\\n\\n'], max_gen_toks: 6}"
    writing = ("doc_to_text: '{{q}}'", "doc_to_target: '{{a}}'", kwargs)
    write_task(folder, "writing", [{"q": "abc", "a": "?"}, {"q": "x", "a": "?"}], *writing, metric="exact_match")
    return folder


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], *lines: str, metric: str, kind: str = "") -> None:
    """Write a task and its documents."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")}
    head = [f"task: our_{name}", "dataset_path: json", f"dataset_kwargs: {json.dumps(data)}", "test_split: test"]
    head += [f"output_type: {kind or KINDS[name]}", f"metric_list: [{{metric: {metric}}}]"]
    (folder / f"{name}.yaml").write_text("\n".join([*head, *lines]))


def score_by_logits(loaded: LoadedModel, ids: list[int], n: int) -> tuple[float, bool]:
    """Return log P of the last n ids after those before them, and whether each is the most likely."""
    logits = loaded.model(torch.tensor([ids[:-1]]))[0, -n:].detach().double()
    targets = torch.tensor(ids[-n:])
    log_ps = logits.log_softmax(-1)[torch.arange(n), targets]
    return float(log_ps.sum()), bool((logits.argmax(-1) == targets).all())


def greedy_by_logits(loaded: LoadedModel, ids: list[int], n: int) -> list[int]:
    """Return the n most likely tokens, one by one, by whole passes."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(loaded.model(torch.tensor([ids]))[0, -1, : loaded.file.tokenizer.vocab_size].argmax()))
    return ids[-n:]
