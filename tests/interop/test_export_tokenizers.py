"""Our tokenizers in transformers: the same ids, the same texts back, and what is known to differ."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.data import Tokenizer
from light_llm.data.bpe import SEPARATOR, BytePairTokenizer
from light_llm.data.tokenizers import decode
from light_llm.errors import ConfigError
from light_llm.interop.tokenizer_files import tokenizer_config, tokenizer_json
from light_llm.interop.verify import TOKENIZER_TEXTS
from tests.support.export_tools import ODD, TOKENIZERS, a_tokenizer

transformers = pytest.importorskip("transformers")
HARD = (
    *TOKENIZER_TEXTS,
    ODD,
    "",
    " ",
    "\n",
    "  \n \t\n",
    "I'll don't they've 'tis X's",
    "3.14159 1,000,000 2²",
    "Ġ Ċ ▁ </s> <s> [UNK] <|no text|> ##ing @@",  # what other tokenizers write for spaces, ends and pieces
    "\u2028\u2029\u0085\u00ad\u200b\u202e",
    "e\u0301 vs é, ﬁ, Å, ｆｕｌｌ",  # nothing may be normalised
    "\U0001d518\U0010ffff\ue000",
    "नमस्ते สวัสดี 안녕 שלום",
    " , . ! ? n't 's",  # a cleaning of spaces would show
    "a" * 2000 + " " * 300,
)


def written(folder: Path, tokenizer: Tokenizer) -> Path:
    """A folder with nothing but a tokenizer."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(tokenizer)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(10**6)))
    return folder


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """A tokenizer of ours, and the one that transformers makes of its files."""
    if request.param == "gpt2":
        request.getfixturevalue("offline_files")
    tokenizer = a_tokenizer(request.param)
    folder = written(tmp_path_factory.mktemp(request.param), tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return tokenizer, transformers.AutoTokenizer.from_pretrained(folder)


def known(tokenizer: Tokenizer, text: str) -> str:
    """The text without what an alphabet lacks."""
    alphabet = getattr(tokenizer, "alphabet", None)
    return text if alphabet is None else "".join(c for c in text if c in alphabet)


def test_the_same_ids_and_the_same_texts_back(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    for text in HARD:
        text = known(ours, text)
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids) == theirs.decode(ids, skip_special_tokens=True) == text
    batch = [known(ours, text) for text in HARD]
    assert theirs(batch)["input_ids"] == [ours.encode(text) for text in batch]


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = pair
    text = known(ours, text)
    assert theirs(text)["input_ids"] == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text


@given(st.data())
def test_any_ids(pair: tuple[Tokenizer, Any], data: st.DataObject) -> None:
    """Also those that are no text: halves of characters are replaced there as here, and separators left out."""
    ours, theirs = pair
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=20))
    assert theirs.decode(ids, skip_special_tokens=True) == decode(ours, ids)


def test_every_id_is_there_once(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    assert sorted(theirs.get_vocab().values()) == list(range(ours.vocab_size))
    assert len(theirs) == ours.vocab_size
    assert theirs.convert_ids_to_tokens(ours.separator) == SEPARATOR
    assert theirs.clean_up_tokenization_spaces is False and theirs.pad_token is None
    assert theirs.bos_token_id == theirs.eos_token_id == ours.separator and theirs.unk_token is None


def test_a_separator_in_a_text(pair: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    """The difference that the card names, and the way around it that it names."""
    ours, theirs = pair
    text = known(ours, f"a{SEPARATOR}b") if getattr(ours, "alphabet", None) is None else SEPARATOR
    assert ours.separator in theirs(text)["input_ids"]
    if ours.name in ("char", "gpt2"):  # an alphabet that lacks its signs; a table that takes a second to load
        return
    assert ours.separator not in ours.encode(text)
    plain = transformers.AutoTokenizer.from_pretrained(written(tmp_path, ours), split_special_tokens=True)
    assert plain(text)["input_ids"] == ours.encode(text)


def test_a_character_that_an_alphabet_lacks_is_left_out(tmp_path: Path) -> None:
    ours = a_tokenizer("char")
    theirs = transformers.AutoTokenizer.from_pretrained(written(tmp_path, ours))
    assert theirs("To %% be§")["input_ids"] == ours.encode("To  be")
    assert theirs("%§")["input_ids"] == []


def test_ids_without_a_text_keep_their_places(tmp_path: Path) -> None:
    """A table from elsewhere may have its separator first, and silent ids in between."""
    tokens = [b"", *(bytes([b]) for b in range(100)), b"", *(bytes([b]) for b in range(100, 256)), b"he", b"lo", b""]
    ours = BytePairTokenizer(tokens, separator=0)
    theirs = transformers.AutoTokenizer.from_pretrained(written(tmp_path, ours))
    assert theirs("hello")["input_ids"] == ours.encode("hello") and theirs.eos_token_id == 0
    assert sorted(theirs.get_vocab().values()) == list(range(ours.vocab_size))
    ids = [0, 101, *ours.encode("hello"), ours.vocab_size - 1]
    assert theirs.decode(ids, skip_special_tokens=True) == decode(ours, ids) == "hello"


def test_an_unknown_kind_of_tokenizer_is_refused() -> None:
    class Morse:
        name, vocab_size, separator = "morse", 3, 2

    with pytest.raises(ConfigError, match="kind 'morse' .* gpt2, bpe, char, byte"):
        tokenizer_json(Morse())  # type: ignore[arg-type]
