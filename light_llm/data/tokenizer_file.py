"""Read a `tokenizer.json`: our own exports become our classes again, all others are used unchanged."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..errors import ConfigError
from ..json_io import check_depth
from .bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from .hf_tokenizer import HuggingFaceTokenizer, add_control_tokens, added_ids, count_ids, load_library
from .tokenizer_interface import Tokenizer
from .tokenizer_json import END_OF_TEXT_NAMES, bpe_tokenizer_json, from_tokenizer_json, to_tokenizer_json
from .tokenizers import GPT2_VOCABULARY, ByteTokenizer, CharTokenizer

_NO_TEXT = re.compile(r"<\|no text \d+\|>")  # names of ids without a text in our exports


def read_tokenizer_json(
    data: bytes,
    where: str,
    *,
    ends: Sequence[int] = (),
    stop_ids: Iterable[int] = (),
    end_name: str = "",
    special_names: Collection[str] = (),
    n_model_ids: int | None = None,
    must_have_end: bool = False,
) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`.

    Args:
        data: the bytes of the file.
        where: its name, for messages.
        ends: the model's end-of-text ids. The separator is the one whose name says so, or else the first.
        stop_ids: further ids at which generation stops.
        end_name: the text of the end-of-text token, used without `ends`; then the usual names are tried.
        special_names: tokens that other files of a folder name as special. An end-of-text token of these is one even
            if `added_tokens` does not have it.
        n_model_ids: of the model's table. Special tokens from there on, such as Gemma's for images, are left out.
        must_have_end: refuse a file without an end-of-text token, which otherwise gets one more id.

    Raises:
        ConfigError: a file that the `tokenizers` library cannot use, or whose end-of-text token is unknown.
    """
    own = _own_tokenizer(data)
    if own is not None and (own.separator in ends if ends else end_name in ("", SEPARATOR)):
        return own
    try:
        library = load_library(data)
        n_ids = count_ids(library)
        prefix, suffix = added_ids(library)
        control = _find_control(library, ends or [library.token_to_id(end_name)], special_names)
        add_control_tokens(library, control)
        separator = _separator(library, ends, end_name)
        if separator is None and must_have_end:
            raise ConfigError("eos_token_id=None, and no special token has the name of an end of text")
        n_kept = _n_kept(library, n_ids, n_model_ids)
        return HuggingFaceTokenizer(
            data,
            separator=n_ids if separator is None else separator,
            prefix=prefix,
            suffix=suffix,
            stop_ids=[i for i in (*ends, *stop_ids) if i < n_kept],
            control=control,
            vocab_size=n_kept if n_kept < n_ids else None,
            library=library,
        )
    except ConfigError as error:
        raise ConfigError(f"{where} cannot be used: {error.message}") from None


def _find_control(library: Any, ends: Sequence[int | None], special_names: Collection[str]) -> list[int]:
    """Return the end-of-text ids that are ordinary tokens of the file, and special by another file's word.

    A single character is left an ordinary token: texts could not have it any more.
    """
    added, ids = library.get_added_tokens_decoder(), library.get_vocab(with_added_tokens=False)
    names = {i: name for name in special_names if len(name) > 1 and (i := ids.get(name)) is not None}
    return [i for i in dict.fromkeys(ends) if i is not None and i in names and i not in added]


def _separator(library: Any, ends: Sequence[int], end_name: str) -> int | None:
    """Return the id between documents; None if no token has the name of one."""
    added = {i: token.content for i, token in library.get_added_tokens_decoder().items()}
    if ends:
        known = [i for i in ends if i in added]
        if not known:
            raise ConfigError(f"eos_token_id={ends[0]} is not the id of a special token")
        return next((i for i in known if added[i] in END_OF_TEXT_NAMES), known[0])
    by_name = {content: i for i, content in added.items()}
    return next((by_name[name] for name in (end_name, *END_OF_TEXT_NAMES) if name in by_name), None)


def _n_kept(library: Any, n_ids: int, n_model_ids: int | None) -> int:
    """Return the number of ids without the special tokens beyond the model's table; all if others are there too."""
    if n_model_ids is None or n_model_ids >= n_ids:
        return n_ids
    special = {i for i, token in library.get_added_tokens_decoder().items() if token.special}
    return n_model_ids if special >= {*range(n_model_ids, n_ids)} else n_ids


def _own_tokenizer(data: bytes) -> Tokenizer | None:
    """Return the tokenizer that light-llm wrote as this file, or GPT-2's; None for any other file."""
    try:
        values = json.loads(data)
        check_depth(values)
        model, pre = values["model"], values.get("pre_tokenizer")
        added = {token["content"]: token for token in values.get("added_tokens") or []}
        plain = bpe_tokenizer_json({}, [])["model"]
        if {**plain, **model, "vocab": {}, "merges": []} != plain or values.get("normalizer"):
            return None
        if not all(token["special"] for token in added.values()):
            return None
        if not _adds_no_ids(values.get("post_processor")):
            return None
        decoder = (values.get("decoder") or {}).get("type")
        if not model["merges"]:
            return _without_merges(model["vocab"], pre, decoder, {name: token["id"] for name, token in added.items()})
        if decoder != "ByteLevel":
            return None
        tokenizer = from_tokenizer_json(values)
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        if (gpt2 := _as_gpt2(tokenizer, merges)) is not None:
            return gpt2 if [*added] == [SEPARATOR] else None
        # With every way to make each token listed, in the order of ids, the library's merges are tiktoken's.
        is_ours = all(name == SEPARATOR or _NO_TEXT.fullmatch(name) for name in added)
        return tokenizer if is_ours and merges == to_tokenizer_json(tokenizer)["model"]["merges"] else None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, ConfigError):
        return None


def _without_merges(vocab: dict[str, int], pre: Any, decoder: str | None, special: dict[str, int]) -> Tokenizer | None:
    """Return the tokenizer of bytes or characters with this vocabulary and these parts; None if it is neither."""
    if [*special] != [SEPARATOR]:
        return None
    letters = {letter: i for letter, i in vocab.items() if letter not in special}
    is_dense = special[SEPARATOR] == len(letters) and sorted(letters.values()) == [*range(len(letters))]
    if (pre, decoder) == (None, "Fuse") and is_dense and all(len(letter) == 1 for letter in letters):
        return CharTokenizer("".join(sorted(letters, key=lambda letter: letters[letter])))
    keeps_bytes = bool(pre) and (pre["type"], pre["add_prefix_space"], decoder) == ("ByteLevel", False, "ByteLevel")
    if keeps_bytes and letters == {c: byte for byte, c in bytes_to_unicode().items()}:
        return ByteTokenizer() if special[SEPARATOR] == ByteTokenizer.separator else None
    return None


def _as_gpt2(tokenizer: BytePairTokenizer, merges: list[list[str]]) -> Tokenizer | None:
    """Return GPT2Tokenizer if the merges are GPT-2's, so that datasets and checkpoints recognise it by its name."""
    text = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in merges), ""])
    if hashlib.sha256(text.encode()).hexdigest() != GPT2_VOCABULARY.sha256:
        return None
    gpt2 = GPT2Tokenizer(text)
    same = (gpt2.tokens, gpt2.separator) == ([*tokenizer.tokens], tokenizer.separator)
    return gpt2 if same else None


def _adds_no_ids(post_processor: Any) -> bool:
    """Return whether a post-processor leaves all ids as they are; transformers writes an empty template."""
    if post_processor is None or post_processor["type"] == "ByteLevel":
        return True
    return bool(
        post_processor["type"] == "TemplateProcessing" and [*map(list, post_processor["single"])] == [["Sequence"]]
    )
