"""Check a GGUF file against the model by other rules than those that wrote it, for tests and `make check-gguf`.

Names come from the table of the `gguf` package by what transformers calls the tensors, rows are put back in order one
by one, and merges are applied as GGUF defines them.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from light_llm.checkpoint import LoadedModel
from light_llm.data import Tokenizer
from light_llm.data.bpe import unicode_to_bytes
from light_llm.interop.architectures import family_of, trim_vocab
from light_llm.interop.exporter import require
from light_llm.interop.gguf import CONTROL
from light_llm.interop.gguf_formats import dequantize
from light_llm.interop.gguf_verify import check_numbers
from light_llm.interop.hf_mapping import to_hf_tensors
from light_llm.interop.verify import TOKENIZER_TEXTS
from light_llm.layers.positions import frequencies

# Names of the package for `model_type` at Hugging Face.
ARCHITECTURES = {
    "gpt2": "GPT2",
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gpt_neox": "GPTNEOX",
    "gemma3_text": "GEMMA3",
}


def check_by_reference(loaded: LoadedModel, path: Path) -> None:
    """Compare tensors and vocabulary of a file with the model. Raises Mismatch or AssertionError."""
    gguf = require("gguf", "gguf")
    config, state = trim_vocab(loaded)
    family = family_of(config)
    reader = gguf.GGUFReader(path)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[ARCHITECTURES[family.name]], config.n_layer)
    expected = {known.get_name(n, (".weight", ".bias")): (n, t) for n, t in to_hf_tensors(config, state).items()}
    scaled = {"rope_freqs.weight"} if config.rope_scaling == "llama3" else set()
    assert stored.keys() == expected.keys() | scaled
    for name, (hf_name, tensor) in expected.items():
        if family.name == "gemma3_text" and "norm" in hf_name:
            tensor = tensor + 1
        if "query_key_value" in hf_name:
            tensor = tensor[rows_by_part(config.n_head, config.head_size)]
        if family.name == "gpt2" and tensor.ndim == 2 and ".h." in hf_name:  # (in, out) in transformers
            tensor = tensor.T
        kind = stored[name].tensor_type.name.lower()
        numbers = dequantize(stored[name].data, kind)
        if family.name in ("llama", "mistral") and name.endswith(("attn_q.weight", "attn_k.weight")):
            numbers = numbers[rows_of_halves(len(numbers), config.head_size)]
        check_numbers(name, numbers, tensor, kind)
    if scaled:
        factors = dequantize(stored["rope_freqs.weight"].data, "f32")
        D = config.head_size
        unscaled = config.rope_base ** -(torch.arange(0, D, 2, dtype=torch.float64) / D)
        ours = frequencies(config, torch.device("cpu")).double()
        torch.testing.assert_close(unscaled / factors, ours, rtol=1e-5, atol=0)
    if loaded.file.tokenizer is not None:
        check_vocabulary({name: field.contents() for name, field in reader.fields.items()}, loaded.file.tokenizer)


def rows_of_halves(rows: int, D: int) -> list[int]:
    """Return where each row of ours is in the file: pair i of a head is i and i + D/2 here, 2i and 2i + 1 there."""
    return [start + 2 * i + half for start in range(0, rows, D) for half in (0, 1) for i in range(D // 2)]


def rows_by_part(H: int, D: int) -> list[int]:
    """Return where each row of the file is in GPT-NeoX's at Hugging Face: (3, H, D) there, (H, 3, D) here."""
    return [head * 3 * D + part * D + i for part in range(3) for head in range(H) for i in range(D)]


def check_vocabulary(fields: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Check the text of each id, and the ids of texts by the merges. Raises AssertionError."""
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    shown = unicode_to_bytes("" if kind == CONTROL else token for token, kind in zip(tokens, kinds, strict=True))
    assert list(shown) == [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    assert len(set(tokens)) == len(tokens)
    ids, ranks = {token: i for i, token in enumerate(tokens)}, merge_ranks(fields["tokenizer.ggml.merges"])
    alphabet = getattr(tokenizer, "alphabet", None)
    for whole in TOKENIZER_TEXTS:
        text = whole if alphabet is None else "".join(c for c in whole if c in alphabet)
        assert [ids[part] for word in gpt2_words(text) for part in apply_merges(word, ranks)] == tokenizer.encode(text)


def merge_ranks(merges: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return the place of each merge in the list, by what it merges."""
    pairs = (merge.partition(" ") for merge in merges)
    return {(left, right): i for i, (left, _, right) in reversed(list(enumerate(pairs)))}


def gpt2_words(text: str) -> list[str]:
    """Split a text by GPT-2's pattern, each byte a visible character."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [word for word, _ in ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str(text)]


def apply_merges(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Apply the earliest merge of the list, the leftmost first, until none is left.

    >>> apply_merges("abcab", {("a", "b"): 0, ("ab", "c"): 1})
    ['abc', 'ab']
    """
    parts = list(word)
    while found := [(ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in ranks]:
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
