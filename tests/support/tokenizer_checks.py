"""Compare a tokenizer of ours with that of `transformers` on texts: ids, decoded texts, streams and bytes."""

from collections.abc import Sequence
from typing import Any

from light_llm.data import Tokenizer

MAX_PROBLEMS = 20


def compare(tokenizer: Tokenizer, reference: Any, texts: Sequence[str]) -> list[str]:
    """Return what differs from `transformers`' tokenizer; nothing if all is equal.

    Checked are ids without and with special tokens, the decoded text, the pieces of a stream, and the byte counts.
    """
    problems: list[str] = []
    control = {*reference.all_special_ids} - {reference.unk_token_id}
    for text in texts:
        ids = tokenizer.encode(text)
        expected = reference(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if control & {*ids}:
            problems.append(f"control tokens in {text!r}")
        if control & {*expected}:  # transformers finds the name of a control token in some vocabularies
            continue
        if ids != expected:
            problems.append(f"ids of {text!r}: {_first_difference(ids, expected)}")
            continue
        whole = reference(text, split_special_tokens=True)["input_ids"]
        if [*tokenizer.prefix, *ids, *tokenizer.suffix] != whole:
            problems.append(f"ids with special tokens of {text!r}: {whole[:3]} ... {whole[-3:]}")
        decoded = reference.decode(whole, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if tokenizer.decode(whole) != decoded:
            problems.append(f"decoded {text!r}: {tokenizer.decode(whole)!r}, not {decoded!r}")
        problems += _check_stream(tokenizer, ids, decoded)
        aligned, n_bytes = tokenizer.encode_aligned(text)
        if aligned != ids or (ids and sum(n_bytes) != len(text.encode())) or min(n_bytes, default=0) < 0:
            problems.append(f"bytes of {text!r}: {sum(n_bytes)}, not {len(text.encode())}")
        if len(problems) >= MAX_PROBLEMS:
            break
    return problems


def _check_stream(tokenizer: Tokenizer, ids: list[int], decoded: str) -> list[str]:
    stream = tokenizer.stream()
    pieces = [*map(stream.push, ids), stream.close()]
    problems = [] if "".join(pieces) == decoded else [f"streamed {''.join(pieces)!r}, not {decoded!r}"]
    # U+FFFD that the decoded text does not have is half a character.
    if "\ufffd" in "".join(pieces) and "\ufffd" not in decoded:
        problems.append(f"half a character in {pieces!r}")
    return problems


def _first_difference(ids: list[int], expected: list[int]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected)))
    return f"{ids[at : at + 5]}, not {expected[at : at + 5]}, from the token {at}"
