"""README.md of an exported folder: what the model is, how it was trained, how good it is, and what was checked.

Numbers come from the model file alone. What the file does not know, such as a licence, is not made up.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..atomic_io import atomic_write
from ..checkpoint import LoadedModel
from ..config import ModelConfig, get_model_size
from ..data import SOURCES
from ..data.hub import HubFile
from ..data.tales.corpus import NAME as TALES
from ..errors import ConfigError
from ..json_io import read_bounded
from ..text_format import format_count
from .architectures import FAMILIES, cut_config, family_of

CARD = "README.md"
PROMPT = "To be"  # of an example


def write_card(loaded: LoadedModel, folder: Path, lines: Sequence[str], *, license: str = "unknown") -> None:
    """Write README.md into a folder that holds everything else already: its list of hashes is made of what is there.

    Args:
        lines: what the verification said, a sentence each.
        license: of the weights, as the hub writes it (mit, cc-by-4.0); nobody but their owner can know.

    Raises:
        OSError: a file cannot be read, or the card not written.
    """
    text = card_text(loaded, lines, hashes(folder), license=license)
    atomic_write(folder / CARD, text.encode())


def hashes(folder: Path, *names: str) -> dict[str, str]:
    """SHA-256 of each file of a folder, or of those named, without the card's own."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != CARD and (not names or path.name in names):
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def known_hash(folder: Path, name: str) -> str:
    """The SHA-256 of a file as the card of its folder has it; empty where there is no card, or no line of it."""
    try:
        text = read_bounded(folder / CARD).decode("utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
    found = re.search(rf"^\| `{re.escape(name)}` \| `([0-9a-f]{{64}})` \|$", text, re.MULTILINE)
    return found[1] if found else ""


def card_text(loaded: LoadedModel, lines: Sequence[str], files: dict[str, str], *, license: str) -> str:
    """The whole card, front matter first."""
    config = cut_config(loaded)
    family = _family(config)
    name = f"{FAMILIES.get(family, 'A transformer')}, {format_count(get_model_size(config))} parameters"
    tags = ["light-llm", *filter(None, [family])]
    chosen = "" if license != "unknown" else " No licence has been chosen: write one after `license`, at the top."
    parts = [
        "---\n" + "".join(_front_matter(loaded, name, files, license=license, tags=tags)) + "---",
        f"# {name}",
        _first_words(loaded) + chosen,
        *_use(files, config.n_positions),
        "## What it is\n\n" + _table([("", ""), *_shape(loaded, config)]),
        "## How it was trained\n\n" + _table([("", ""), *_training(loaded)]),
        "## What was checked\n\n" + "\n".join(f"- {_sentence(line)}" for line in lines),
        *_reading(loaded),
        "## Files\n\n" + _table([("file", "SHA-256"), *((f"`{name}`", f"`{sha}`") for name, sha in files.items())]),
    ]
    return "\n\n".join(parts) + "\n"


def _family(config: ModelConfig) -> str:
    """Its name; empty for a mix that has none."""
    try:
        return family_of(config)
    except ConfigError:
        return ""


def _front_matter(
    loaded: LoadedModel, name: str, files: dict[str, str], *, license: str, tags: list[str]
) -> Iterator[str]:
    """What the hub reads, as YAML. Each value is written as JSON, which is YAML too and needs no rules for quotes."""
    data, evaluation = loaded.file.data, loaded.file.meta.get("evaluation") or {}
    source = str(data.get("source") or "")
    values: dict[str, Any] = {"license": license}
    if (
        source in SOURCES or source.partition(":")[0] == TALES
    ):  # all of them are English; of other texts nothing is known
        values["language"] = ["en"]
    values["library_name"] = "transformers" if "model.safetensors" in files else "onnx"
    values["pipeline_tag"] = "text-generation"
    values["tags"] = tags
    if source in SOURCES and isinstance(first := SOURCES[source].training[0], HubFile):
        values["datasets"] = [first.repo]
    if evaluation:
        kinds = {"loss": "loss", "bits_per_byte": "bits per byte", "perplexity": "perplexity"}
        known = [kind for kind in kinds if math.isfinite(evaluation.get(kind) or math.inf)]
        metrics = [{"type": kind, "name": kinds[kind], "value": evaluation[kind]} for kind in known]
        held_out = {"type": "text", "name": f"{_title(loaded) or 'a text'}, held out"}
        result = {"task": {"type": "text-generation"}, "dataset": held_out, "metrics": metrics}
        values["model-index"] = [{"name": name, "results": [result]}]
    return (f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def _first_words(loaded: LoadedModel) -> str:
    if (origin := loaded.file.meta.get("imported")) and origin.get("ours"):
        return (
            f"A language model that light-llm wrote before: it was imported from {origin.get('name') or 'elsewhere'}, "
            "and what was known of its training stands in the card there. What it writes is not checked by anybody."
        )
    if origin:
        return (
            f"A language model that light-llm did not train: it was imported from {origin.get('name') or 'elsewhere'}, "
            "and nothing is known here of its text. What it writes is not checked by anybody."
        )
    text = _title(loaded) or "a text whose name is not known"
    version = str(loaded.file.meta.get("light_llm") or "")
    if began := _began(loaded):
        return (
            f"A language model, trained further on {text} with {f'light-llm {version}'.rstrip()}. Its weights began as "
            f"those of {began}; of that training, its text and its licence nothing is known here. What it writes is "
            "not checked by anybody."
        )
    return (
        f"A small language model, trained on {text} with {f'light-llm {version}'.rstrip()}. It continues texts of the "
        "kind it was trained on; it knows nothing else, and what it writes is not checked by anybody."
    )


def _began(loaded: LoadedModel) -> str:
    """The name of the model that the weights were before, without where it lay."""
    return PurePath(str(loaded.file.meta.get("init_from") or "")).name


def _title(loaded: LoadedModel) -> str:
    """What the text was called: the name of a file, without where it lay, in one line."""
    return " ".join(str(loaded.file.data.get("title") or "").split())


def room_for_example(n_positions: int) -> int:
    """Tokens that can follow the prompt of an example, a letter of which is one at most; GPT-2 has none beyond."""
    return n_positions - len(PROMPT)


def _use(files: dict[str, str], n_positions: int) -> Iterator[str]:
    if "model.safetensors" in files and "tokenizer.json" in files and (room := room_for_example(n_positions)) > 0:
        yield (
            "```python\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'folder = "."  # where this file is, or the name of the model on the hub\n'
            "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
            "model = AutoModelForCausalLM.from_pretrained(folder)\n"
            f'prompt = tokenizer("{PROMPT}", return_tensors="pt")\n'
            f"ids = model.generate(**prompt, max_new_tokens={min(50, room)}, do_sample=True, top_k=40)\n"
            "print(tokenizer.decode(ids[0], skip_special_tokens=True))\n"
            "```"
        )


def _shape(loaded: LoadedModel, config: ModelConfig) -> Iterator[tuple[str, str]]:
    tokenizer, n_positions = loaded.file.tokenizer, config.n_positions
    window = min(int(loaded.file.data.get("max_length") or n_positions), n_positions)
    yield "parameters", f"{get_model_size(config):,}"
    yield "layers, width, heads", f"{config.n_layer}, {config.n_embd}, {config.n_head}"
    yield "heads of keys and values", f"{config.kv_heads}"
    yield "head", "the token table again (tied)" if config.tied_head else "a table of its own"
    yield "tokens at once", _window(window, n_positions)
    yield "tokenizer", f"{tokenizer.name}, {tokenizer.vocab_size:,} ids" if tokenizer else "none in the model file"
    if config.vocab_size != loaded.model.config.vocab_size:
        yield "left out", f"{loaded.model.config.vocab_size - config.vocab_size:,} rows of padding in the token table"


def _window(window: int, n_positions: int) -> str:
    beyond = f"; there are {n_positions:,} positions, and beyond {window:,} nothing was learnt"
    return f"{window:,}{beyond if n_positions > window else ''}"


def _training(loaded: LoadedModel) -> Iterator[tuple[str, str]]:
    meta, data = loaded.file.meta, loaded.file.data
    if meta.get("imported"):
        yield "training", "elsewhere: not known"
        return
    found = meta.get("evaluation") or {}
    if began := _began(loaded):
        yield "began as", f"the weights of {began}; what follows is the training since"
    yield "updates", f"{meta['step']:,}" if meta.get("step") is not None else "not known"
    yield "number format in training", str(meta.get("dtype") or "not known")
    yield "text", _title(loaded) or "not known"
    for name, words in {"documents": "documents", "train_tokens": "tokens of the training part"}.items():
        if data.get(name):
            yield words, f"{data[name]:,}"
    if data.get("sha256"):
        yield "SHA-256 of the text", f"`{data['sha256']}`"
    if not found:
        yield "held-out loss", "not measured in this run"
        return
    stderr = f" ± {found['stderr']:.4f}" if found.get("stderr") else ""
    yield "held-out loss", f"{found['loss']:.4f}{stderr} nats per token"
    for name, words, form in (("bits_per_byte", "bits per byte", ".4f"), ("perplexity", "perplexity", ".2f")):
        if found.get(name):
            yield words, f"{found[name]:{form}}"
    if found.get("tokens"):
        context = f", in windows of {found['context']:,} that start cold" if found.get("context") else ""
        yield "measured on", f"{found['tokens']:,} tokens{context}"


def _reading(loaded: LoadedModel) -> Iterator[str]:
    """Where a text has other ids there than in light-llm."""
    tokenizer = loaded.file.tokenizer
    if tokenizer is None:
        return
    seen = loaded.file.data.get("documents") != 1
    role = "stands between documents" if seen else "the model never saw: its text was one document"
    points = [
        f"`<|endoftext|>` is id {tokenizer.separator}, which {role}. In a text that has these 13 characters, the "
        "tokenizer of this folder sees the id; light-llm sees 13 characters. `split_special_tokens=True` makes it "
        "read them as light-llm does.",
        "There is no padding token. For batches set one: `tokenizer.pad_token = tokenizer.eos_token`; in fine-tuning "
        "see to it that the loss still has the ends of texts.",
    ]
    if tokenizer.name == "char":
        points.append(
            f"Its alphabet has {tokenizer.vocab_size - 1:,} characters. Any other is left out of a text without a "
            "word, where light-llm refuses the text."
        )
    yield "## How texts are read\n\n" + "\n".join(f"- {point}" for point in points)


def _sentence(line: str) -> str:
    return line if line.endswith(".") else f"{line}."


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """A Markdown table of two columns; the first row is its head."""
    first, *others = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {a} | {b} |" for a, b in [first, ("---", "---"), *others])
