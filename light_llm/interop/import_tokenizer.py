"""The tokenizer of a foreign folder as one of ours: the same ids for every text that was tried, or none at all."""

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
from .verify import TEXTS

ALONE = "import the weights alone with --tokenizer none"
OTHER = f"name another with --tokenizer (gpt2, byte, or the path of a tokenizer.json), or {ALONE}"


def read_tokenizer(folder: Path, spec: str, config: Mapping[str, Any], *, offline: bool = False) -> Tokenizer | None:
    """The tokenizer of a folder, or the one that is named instead.

    Args:
        spec: empty for the folder's own; none; gpt2, byte or the path of a `tokenizer.json`.
        config: of the model: its eos_token_id stands between documents.
        offline: download nothing.

    Raises:
        CheckpointError: the folder has none, or one that is not ours to compute; the message says in which part.
        ConfigError: spec names no tokenizer that can be had without a text.
    """
    if spec == "none":
        return None
    if spec:
        return named_tokenizer(spec, offline=offline)
    values, path = _values_in(folder)
    if (plain := _without_joins(values)) is not None:
        return plain
    return _with_separator(_known(_checked(values, path), values), config.get("eos_token_id"), values, path)


def named_tokenizer(spec: str, *, offline: bool = False) -> Tokenizer:
    """The tokenizer that `--tokenizer` names. Raises ConfigError for one that is made from a text."""
    if spec.partition(":")[0] in ("bpe", "char"):
        raise ConfigError(
            f"--tokenizer {spec} cannot be used here: it would be made from a text, and a model knows only the one it "
            "was trained with; name gpt2, byte, the path of a tokenizer.json, or none"
        )
    return make_tokenizer(spec, offline=offline)


def _values_in(folder: Path) -> tuple[Any, Path]:
    """The values of tokenizer.json, or the same made of GPT-2's two files; and which file they are from."""
    path, vocab, merges = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if not path.is_file() and not (vocab.is_file() and merges.is_file()):
        only = (
            "; its tokenizer.model is SentencePiece's, which is not read"
            if (folder / "tokenizer.model").is_file()
            else ""
        )
        raise CheckpointError(f"{folder} has no tokenizer.json, nor vocab.json and merges.txt{only}; {OTHER}")
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
    raise CheckpointError(f"the tokenizer {path} cannot be read: {reason}; {OTHER}")


def _as_tokenizer_json(vocab: Any, merges: str) -> dict[str, Any]:
    """GPT-2's two older files in the form of one."""
    joins = [line.split(" ") for line in merges.splitlines() if line and not line.startswith("#version")]
    kept = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": vocab[SEPARATOR], "content": SEPARATOR, **kept}] if SEPARATOR in vocab else [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": dict(vocab), "merges": joins},
    }


def _checked(values: Any, path: Path) -> BytePairTokenizer:
    """Ours of the same table, after both were asked for the same texts. Raises CheckpointError."""
    try:
        if why := _strange_part(values):
            raise ConfigError(why)
        ours = from_tokenizer_json(values, str(path))
    except ConfigError as error:
        why = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        raise CheckpointError(f"the tokenizer {path} cannot be used here: {why}; {ALONE}") from None
    from tokenizers import Tokenizer as Theirs

    try:
        theirs = Theirs.from_str(json.dumps(values))
    except Exception as error:  # the library has no type of its own
        raise CheckpointError(f"the tokenizer {path} cannot be read: {str(error)[:200]}; {OTHER}") from None
    theirs.no_truncation()
    theirs.no_padding()
    if theirs.encode("a").ids != theirs.encode("a", add_special_tokens=False).ids:
        raise CheckpointError(
            f"the tokenizer {path} cannot be used here: its post_processor puts ids around each text "
            f"({_added(theirs)}), which ours does not; {ALONE}"
        )
    for text in (*TEXTS, *_all_tokens(ours)):
        expected = theirs.encode(text, add_special_tokens=False).ids
        if (found := ours.encode(text)) != expected:
            at = next(i for i, (a, b) in enumerate(zip([*found, -1], [*expected, -2], strict=False)) if a != b)
            raise CheckpointError(
                f"the tokenizer {path} cannot be used here: a byte-level BPE makes other ids of some texts, "
                f"such as {repr_short(text[max(0, at - 20) :][:40])}; {ALONE}"
            )
    return ours


def _added(tokenizer: Any) -> str:
    """The tokens that a tokenizer adds to a text."""
    return " ".join(word for word in tokenizer.encode("a").tokens if word != "a")[:80]


def _all_tokens(tokenizer: BytePairTokenizer) -> Iterator[str]:
    """Every token of a table by itself, and in two texts: one after the other, and as words.

    A token that is made in all of them is made by the same joins, whatever they are.
    """
    tokens = [token.decode("utf-8", errors="ignore") for token in tokenizer.tokens]
    yield "".join(tokens)
    yield " ".join(tokens)
    yield from filter(None, tokens)


def _strange_part(values: Any) -> str:
    """The first part of a `tokenizer.json` that a byte-level BPE with GPT-2's pattern does not have; or nothing."""
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        return "it has no model"
    model, before, normalizer = values["model"], values.get("pre_tokenizer"), values.get("normalizer")
    if model.get("type") != "BPE":
        return f"its model is {repr_short(model.get('type'))} and no byte-level BPE"
    if model.get("byte_fallback"):
        return "its model is a BPE of characters with byte_fallback, and no byte-level one"
    for mark in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(mark):
            return f"its model has {mark}={repr_short(model[mark])}, so that tokens are not what texts are made of"
    if normalizer:
        return f"its normalizer ({_kinds(normalizer)}) changes texts before they are cut"
    if not isinstance(before, dict) or before.get("type") != "ByteLevel" or before.get("use_regex") is False:
        return f"its pre_tokenizer ({_kinds(before)}) cuts texts by another pattern than GPT-2's"
    if before.get("add_prefix_space") is not False:
        return "its pre_tokenizer has add_prefix_space=True, which puts a space before each text"
    if not isinstance(after := values.get("decoder"), dict) or after.get("type") != "ByteLevel":
        return f"its decoder ({_kinds(after)}) makes other texts of ids than joining their bytes"
    added = values.get("added_tokens") or []
    if texts := [t.get("content") for t in added if isinstance(t, dict) and t.get("special") is False]:
        return (
            f"its added token {repr_short(texts[0])} is text (special is false), and ours has no text for added tokens"
        )
    return ""


def _kinds(part: Any) -> str:
    """What a part of a `tokenizer.json` is called, and where it is a sequence, its parts."""
    if not isinstance(part, dict):
        return "none"
    inner: list[Any] = next(
        (part[name] for name in ("pretokenizers", "normalizers", "decoders") if isinstance(part.get(name), list)), []
    )
    return " of ".join(filter(None, [str(part.get("type"))[:40], ", ".join(_kinds(one) for one in inner[:4])]))


def _with_separator(tokenizer: Tokenizer, eos: Any, values: Any, path: Path) -> Tokenizer:
    """With the end that the model was trained with between documents, an id without a text.

    Raises CheckpointError where config.json does not say which that is, and no name does.
    """
    ends = eos if isinstance(eos, list) else [eos]
    if type(tokenizer) is not BytePairTokenizer or tokenizer.separator in ends:
        return tokenizer
    for end in ends:
        if type(end) is int and 0 <= end < tokenizer.vocab_size and not tokenizer.tokens[end]:
            return BytePairTokenizer(tokenizer.tokens, end)
    added = {token["content"]: token["id"] for token in values.get("added_tokens") or []}
    if eos is None and (not added or tokenizer.separator in [added.get(name) for name in END_OF_TEXT_NAMES]):
        return tokenizer
    raise CheckpointError(
        f"the tokenizer {path} cannot be used here: eos_token_id={repr_short(eos)} in config.json is none of its ids "
        f"without a text, so nobody knows where a text ends; write the right one there, or {ALONE}"
    )


def _without_joins(values: Any) -> Tokenizer | None:
    """Bytes or characters, each an id, in the form that an export of ours has; None for any other tokenizer."""
    try:
        model, before = values["model"], values.get("pre_tokenizer")
        special = {token["content"]: token["id"] for token in values["added_tokens"]}
        if model["type"] != "BPE" or model["merges"] or values.get("normalizer") or [*special] != [SEPARATOR]:
            return None
        letters = {letter: i for letter, i in model["vocab"].items() if letter not in special}
        whole = sorted(letters.values()) == [*range(special[SEPARATOR])]
        if before is None and whole and all(len(letter) == 1 for letter in letters):
            return CharTokenizer("".join(sorted(letters, key=lambda letter: letters[letter])))
        if before and before["type"] == "ByteLevel" and letters == {c: byte for byte, c in bytes_to_unicode().items()}:
            return ByteTokenizer() if special[SEPARATOR] == ByteTokenizer.separator else None
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError):
        pass
    return None


def _known(tokenizer: BytePairTokenizer, values: Any) -> Tokenizer:
    """GPT-2's own where its joins are GPT-2's, so that it is the same tokenizer here as anywhere."""
    joins = [join if isinstance(join, str) else " ".join(join) for join in values["model"]["merges"]]
    merges = "\n".join(["#version: 0.2", *joins, ""])
    if hashlib.sha256(merges.encode()).hexdigest() != GPT2_VOCABULARY.sha256:
        return tokenizer
    known = GPT2Tokenizer(merges)
    same = (known.tokens, known.separator) == ([*tokenizer.tokens], tokenizer.separator)
    return known if same else tokenizer
