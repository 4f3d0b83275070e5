"""Import the tokenizer of a Hugging Face folder, if one of ours gives the same ids for every text that is tried."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import repr_short
from ..data import Tokenizer
from ..data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from ..data.tokenizer_json import END_OF_TEXT_NAMES, from_tokenizer_json
from ..data.tokenizers import GPT2_VOCABULARY, ByteTokenizer, CharTokenizer, make_tokenizer
from ..errors import CheckpointError, ConfigError
from ..json_io import load_json, read_bounded
from .tokenizer_files import SPECIAL_TOKEN, byte_level_json
from .verify import TOKENIZER_TEXTS

WITHOUT = "import the weights alone with {--tokenizer none}"
ANOTHER = f"name another with {{--tokenizer}} (gpt2, byte, or the path of a tokenizer.json), or {WITHOUT}"


def read_tokenizer(folder: Path, spec: str, config: Mapping[str, Any], *, offline: bool = False) -> Tokenizer | None:
    """Return the tokenizer of a folder, or the one that is named instead.

    Args:
        spec: empty for the folder's own; none; gpt2, byte or the path of a `tokenizer.json`.
        config: of the model: its eos_token_id becomes the separator of documents.
        offline: download nothing.

    Raises:
        CheckpointError: the folder has none, or one that ours cannot express; the message names the part.
        ConfigError: spec names no tokenizer, or one that is trained on a text.
    """
    if spec == "none":
        return None
    if spec:
        return named_tokenizer(spec, offline=offline)
    values, path = _read_values(folder)
    # Our own exports of bytes and characters are not byte-level BPEs with GPT-2's pattern.
    if (simple := _without_merges(values)) is not None:
        return simple
    tokenizer = _as_gpt2(_checked(values, path), values)
    return _with_separator(tokenizer, config.get("eos_token_id"), values, path)


def named_tokenizer(spec: str, *, offline: bool = False) -> Tokenizer:
    """Return the tokenizer that `--tokenizer` names. Raises ConfigError for one that is trained on a text."""
    if spec.partition(":")[0] in ("bpe", "char"):
        raise ConfigError(
            f"{{--tokenizer {spec}}} cannot be used here: it would be trained on a text, and a model needs the "
            "tokenizer that it was trained with; name gpt2, byte, the path of a tokenizer.json, or none"
        )
    return make_tokenizer(spec, offline=offline)


def _read_values(folder: Path) -> tuple[Any, Path]:
    """Return the values of tokenizer.json, or the same made from vocab.json and merges.txt, and the path."""
    path, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not path.is_file() and not (vocab.is_file() and merges.is_file()):
        has_sentencepiece = (folder / "tokenizer.model").is_file()
        only = "; its tokenizer.model is SentencePiece's, which cannot be imported" if has_sentencepiece else ""
        raise CheckpointError(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt{only}; {ANOTHER}")
    path = path if path.is_file() else vocab
    try:
        values = load_json(path)
        if path == vocab:
            values = _as_tokenizer_json(values, read_bounded(merges).decode("utf-8"))
        return values, path
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, AttributeError, TypeError) as error:
        reason = str(error)
    raise CheckpointError(f"the tokenizer {path} cannot be read: {reason}; {ANOTHER}")


def _as_tokenizer_json(vocab: Any, merges: str) -> dict[str, Any]:
    """Return GPT-2's two older files in the form of tokenizer.json."""
    pairs = [line.split(" ") for line in merges.splitlines() if line and not line.startswith("#version")]
    added = [{"id": vocab[SEPARATOR], "content": SEPARATOR, **SPECIAL_TOKEN}] if SEPARATOR in vocab else []
    return byte_level_json(vocab, pairs) | {"added_tokens": added}


def _checked(values: Any, path: Path) -> BytePairTokenizer:
    """Return our tokenizer with the same vocabulary, after comparing its ids with those of the `tokenizers` library.

    Raises CheckpointError for a part that light-llm's does not have, or other ids.
    """
    try:
        if part := _unsupported_part(values):
            raise ConfigError(part)
        tokenizer = from_tokenizer_json(values, str(path))
    except ConfigError as error:
        reason = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        raise _unusable(path, reason) from None
    from tokenizers import Tokenizer as LibraryTokenizer

    try:
        library = LibraryTokenizer.from_str(json.dumps(values))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"the tokenizer {path} cannot be read: {str(error)[:200]}; {ANOTHER}") from None
    # Settings of training, which transformers ignores too unless they are requested.
    library.no_truncation()
    library.no_padding()
    if library.encode("a").ids != library.encode("a", add_special_tokens=False).ids:
        added = " ".join(word for word in library.encode("a").tokens if word != "a")[:80]
        raise _unusable(path, f"its post_processor adds ids to each text ({added}), which light-llm does not")
    for text in (*TOKENIZER_TEXTS, *_texts_of_tokens(tokenizer)):
        expected = library.encode(text, add_special_tokens=False).ids
        if (ids := tokenizer.encode(text)) != expected:
            at = next(i for i, (a, b) in enumerate(zip([*ids, -1], [*expected, -2], strict=False)) if a != b)
            example = repr_short(text[max(0, at - 20) :][:40])
            raise _unusable(path, f"a byte-level BPE gives other ids for some texts, such as {example}")
    return tokenizer


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"the tokenizer {path} cannot be used here: {reason}; {WITHOUT}")


def _texts_of_tokens(tokenizer: BytePairTokenizer) -> Iterator[str]:
    """Yield the texts of all tokens: joined, with spaces between, and one by one.

    A token that both tokenizers make in all of these is made by the same merges. One text alone would not do: there an
    earlier merge can hide a difference.
    """
    tokens = [token.decode("utf-8", errors="ignore") for token in tokenizer.tokens]
    yield "".join(tokens)
    yield " ".join(tokens)
    yield from filter(None, tokens)


def _unsupported_part(values: Any) -> str:
    """Return the first part of a `tokenizer.json` that a byte-level BPE with GPT-2's pattern does not have; or ""."""
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        return "it has no model"
    model, pre, normalizer = values["model"], values.get("pre_tokenizer"), values.get("normalizer")
    if model.get("type") != "BPE":
        return f"its model is {repr_short(model.get('type'))} and not a byte-level BPE"
    if model.get("byte_fallback"):
        return "its model is a BPE of characters with byte_fallback, and not a byte-level one"
    for mark in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(mark):
            return f"its model has {mark}={repr_short(model[mark])}, so that tokens are not parts of the text"
    if normalizer:
        return f"its normalizer ({_type_names(normalizer)}) changes texts before they are tokenized"
    if not isinstance(pre, dict) or pre.get("type") != "ByteLevel" or pre.get("use_regex") is False:
        return f"its pre_tokenizer ({_type_names(pre)}) splits texts by another pattern than GPT-2's"
    if pre.get("add_prefix_space") is not False:
        return "its pre_tokenizer has add_prefix_space=True, which puts a space before each text"
    if not isinstance(decoder := values.get("decoder"), dict) or decoder.get("type") != "ByteLevel":
        return f"its decoder ({_type_names(decoder)}) does not decode ids by joining their bytes"
    added = values.get("added_tokens") or []
    if texts := [t.get("content") for t in added if isinstance(t, dict) and t.get("special") is False]:
        return (
            f"its added token {repr_short(texts[0])} is text (special is false), and ours has no text for added tokens"
        )
    return ""


def _type_names(part: Any) -> str:
    """Return the type of a part of a `tokenizer.json`, and for a sequence those of its parts."""
    if not isinstance(part, dict):
        return "none"
    lists = (part.get(name) for name in ("pretokenizers", "normalizers", "decoders"))
    inner: list[Any] = next((parts for parts in lists if isinstance(parts, list)), [])
    return " of ".join(filter(None, [str(part.get("type"))[:40], ", ".join(_type_names(p) for p in inner[:4])]))


def _with_separator(tokenizer: Tokenizer, eos: Any, values: Any, path: Path) -> Tokenizer:
    """Return the tokenizer with the end-of-text id of the model as its separator of documents.

    Raises CheckpointError if neither config.json nor the name of an added token says which id that is.
    """
    ends = eos if isinstance(eos, list) else [eos]
    # GPT2Tokenizer, a subclass, has a fixed separator.
    if type(tokenizer) is not BytePairTokenizer or tokenizer.separator in ends:
        return tokenizer
    for end in ends:
        if type(end) is int and 0 <= end < tokenizer.vocab_size and not tokenizer.tokens[end]:
            return BytePairTokenizer(tokenizer.tokens, end)
    added = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
    if eos is None and (not added or tokenizer.separator in [added.get(name) for name in END_OF_TEXT_NAMES]):
        return tokenizer
    raise CheckpointError(
        f"the tokenizer {path} cannot be used here: eos_token_id={repr_short(eos)} in config.json is not the id of a "
        f"special token, so the end of a text is unknown; correct it there, or {WITHOUT}"
    )


def _without_merges(values: Any) -> Tokenizer | None:
    """Return the tokenizer of bytes or characters that an export of ours wrote; None for any other file."""
    try:
        model, pre = values["model"], values.get("pre_tokenizer")
        special = {token["content"]: token["id"] for token in values["added_tokens"]}
        if model["type"] != "BPE" or model["merges"] or values.get("normalizer") or [*special] != [SEPARATOR]:
            return None
        letters = {letter: i for letter, i in model["vocab"].items() if letter not in special}
        is_dense = sorted(letters.values()) == [*range(special[SEPARATOR])]
        if pre is None and is_dense and all(len(letter) == 1 for letter in letters):
            return CharTokenizer("".join(sorted(letters, key=lambda letter: letters[letter])))
        if pre and pre["type"] == "ByteLevel" and letters == {c: byte for byte, c in bytes_to_unicode().items()}:
            return ByteTokenizer() if special[SEPARATOR] == ByteTokenizer.separator else None
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError):
        pass
    return None


def _as_gpt2(tokenizer: BytePairTokenizer, values: Any) -> Tokenizer:
    """Return GPT2Tokenizer if the merges are GPT-2's, so that datasets and checkpoints recognise it by its name."""
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in values["model"]["merges"]]
    text = "\n".join(["#version: 0.2", *merges, ""])
    if hashlib.sha256(text.encode()).hexdigest() != GPT2_VOCABULARY.sha256:
        return tokenizer
    gpt2 = GPT2Tokenizer(text)
    same = (gpt2.tokens, gpt2.separator) == ([*tokenizer.tokens], tokenizer.separator)
    return gpt2 if same else tokenizer
