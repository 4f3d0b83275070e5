"""The README.md of an exported folder. All of it comes from the model file; what that does not say is left out."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from ..atomic_io import atomic_write
from ..checkpoint import LoadedModel
from ..config import get_model_size, repr_short
from ..data.download import sha256_of
from ..data.hf_tokenizer import HuggingFaceTokenizer
from ..errors import ConfigError
from ..json_io import read_bounded
from ..text_format import format_count
from .architectures import family_of_model, origin_of, trimmed_config

CARD = "README.md"
PROMPT = "To be"
EXAMPLE = f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # of this file, or the name of the model on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = tokenizer("{PROMPT}", return_tensors="pt")
ids = model.generate(**prompt, max_new_tokens=N_TOKENS, do_sample=True, top_k=40)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
```"""


def write_card(loaded: LoadedModel, folder: Path, check: str) -> None:
    """Write README.md into an otherwise complete folder, because the card lists its files. `check` is one sentence."""
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != CARD}
    atomic_write(folder / CARD, card_text(loaded, check, files).encode())


def hash_on_card(folder: Path, name: str) -> str:
    """Return the SHA-256 of a file that the card of its folder lists; empty if the card or the line is missing."""
    row = re.compile(rf"^\| `{re.escape(name)}` \| `([0-9a-f]{{64}})` \|$".encode(), re.MULTILINE)
    with suppress(OSError, ValueError):
        if match := row.search(read_bounded(folder / CARD)):
            return match[1].decode()
    return ""


def max_example_tokens(n_positions: int) -> int:
    """Return how many tokens can follow the prompt of the example: GPT-2 has no positions beyond n_positions."""
    return n_positions - len(PROMPT)  # a token has at least one letter


def card_text(loaded: LoadedModel, check: str, files: Mapping[str, str]) -> str:
    """Return the card, front matter first. `files` has the SHA-256 of each file by name."""
    family, facts, size = None, _facts(loaded), format_count(get_model_size(trimmed_config(loaded)))
    with suppress(ConfigError):  # a combination that only ONNX can express
        family = family_of_model(loaded)
    n_tokens = max_example_tokens(loaded.model.config.n_positions)
    has_example = {"model.safetensors", "tokenizer.json"} <= files.keys() and n_tokens > 0
    library = "transformers" if "model.safetensors" in files else "onnx"
    tags = f"light-llm, {family.name}" if family else "light-llm"
    parts = [
        f"---\nlicense: unknown\nlibrary_name: {library}\npipeline_tag: text-generation\ntags: [{tags}]\n---",
        f"# {family.title if family else 'Transformer'}, {size} parameters",
        f"A language model, {_origin(loaded, facts.get('text'))}.",
        f"It may generate false or offensive text. {_licence(loaded)}",
        EXAMPLE.replace("N_TOKENS", str(min(50, n_tokens))) if has_example else "",
        _table(facts),
        f"## Checks\n\n- {check.rstrip('.')}.{_ignored_fields(loaded)}",
        _tokenizer_notes(loaded),
        "## Files\n\n" + _table({f"`{name}`": f"`{sha}`" for name, sha in files.items()}),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _origin(loaded: LoadedModel, text: str | None) -> str:
    """Return where the weights come from."""
    meta = loaded.file.meta
    if origin := meta.get("imported"):
        by = "an earlier export of light-llm" if origin.get("ours") else "not trained by light-llm"
        return f"{by}: imported from {_name(origin) or 'elsewhere'}"
    base = _name(meta.get("base") or {}) or PurePath(str(meta.get("init_from") or "")).name
    start = f"fine-tuned from {base} and " if base else ""
    return f"{start}trained on {text or 'a text without a name'} with light-llm {meta.get('light_llm', '')}".rstrip()


def _licence(loaded: LoadedModel) -> str:
    """Return what to write after `license`."""
    origin = origin_of(loaded)
    if (base := _name(origin)) and not origin.get("ours"):
        return f"The licence of {base} applies to it: write it after `license`, at the top."
    return "No licence is chosen yet: write one after `license`, at the top."


def _name(origin: Mapping[str, Any]) -> str:
    """Return the name of an imported model, with its revision on the hub."""
    revision = origin.get("revision")
    return str(origin.get("name") or "") + (f" at revision {revision}" if revision else "")


def _ignored_fields(loaded: LoadedModel) -> str:
    """Return a warning for the fields that an import was told to ignore; empty without any."""
    fields = origin_of(loaded).get("ignored_fields") or {}
    named = ", ".join(f"`{name}`: `{repr_short(value)}`" for name, value in fields.items())
    if not fields:
        return ""
    return (
        f"\n- **Warning**: these fields of its config.json were ignored when the model was imported ({named}). If they "
        "change what the model computes, it was computed, compared and trained wrongly."
    )


def _facts(loaded: LoadedModel) -> dict[str, str]:
    """Return the known facts on the model, its training and its evaluation."""
    meta, data, tokenizer, config = loaded.file.meta, loaded.file.data, loaded.file.tokenizer, trimmed_config(loaded)
    facts: dict[str, Any] = {
        "parameters": get_model_size(config),
        "layers, width, heads": f"{config.n_layer}, {config.n_embd}, {config.n_head} ({config.kv_heads} of keys)",
        "context": f"{loaded.file.training_window:,} tokens in training, {config.n_positions:,} positions",
        "tokenizer": tokenizer and f"{tokenizer.name}, {tokenizer.vocab_size:,} ids",
        "padding rows of the vocabulary, removed": loaded.model.config.vocab_size - config.vocab_size,
    }
    if not meta.get("imported"):  # the training of an imported model is unknown
        loss = meta.get("evaluation") or {}
        # The title of the text, in one line: never its path, which could name a person.
        title = " ".join(str(data.get("title") or "").split())
        facts |= {"updates": meta.get("step"), "training dtype": meta.get("dtype"), "text": title}
        facts |= {"SHA-256 of the text": data.get("sha256"), "training tokens": data.get("train_tokens")}
        facts |= {"held-out nats per token": loss.get("loss"), "standard error of the loss": loss.get("stderr")}
        facts |= {"held-out bits per byte": loss.get("bits_per_byte")}
    formats = {int: ",", float: ".4f", str: ""}
    return {name: format(value, formats[type(value)]) for name, value in facts.items() if value}


def _tokenizer_notes(loaded: LoadedModel) -> str:
    """Return the differences between the exported tokenizer and ours."""
    if (tokenizer := loaded.file.tokenizer) is None:
        return ""
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return "## Tokenizer\n\n- Its files are those that the model was imported with, byte for byte."
    seen = "between documents" if loaded.file.data.get("documents") != 1 else "never seen by the model"
    notes = f"""## Tokenizer

- `<|endoftext|>` is id {tokenizer.separator}, {seen}. In a text with these 13 characters this tokenizer sees the id;
  light-llm sees 13 characters, as `split_special_tokens=True` does.
- There is no padding token. For batches: `tokenizer.pad_token = tokenizer.eos_token`; keep the ends of texts in the
  loss of a fine-tuning."""
    if tokenizer.name == "char":
        notes += f"\n- A character outside the alphabet of {tokenizer.vocab_size - 1:,} is dropped without an error."
    return notes


def _table(rows: Mapping[str, str]) -> str:
    """Return a Markdown table of two columns without a head."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows.items()]
    return "\n".join(f"| {line} |" for line in [" | ", "--- | ---", *lines])
