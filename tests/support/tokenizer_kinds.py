"""Tokenizers of the kinds that published models have, with small vocabularies, as the files of a model folder.

Each has the pre-tokenizer, normalizer, decoder, post-processor and special tokens of the published tokenizer.json it is
named after; its vocabulary is made of a little Shakespeare and a sentence in each script.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from light_llm.interop.sentencepiece_json import NORMAL, merges_by_score

from .texts_in_scripts import SENTENCES, SONNET

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
TRAINING_TEXTS = [SONNET, *SENTENCES.values(), SONNET.lower(), "2 12 122 1984 2026 0 345 67 89\n\n\t\t    "] * 2
Parts = dict[str, Any]


@dataclass(frozen=True)
class TokenizerKind:
    """The tokenizer files of a model folder, and the ids that belong to them."""

    name: str
    data: bytes  # of tokenizer.json
    config: Parts = field(default_factory=dict)  # of tokenizer_config.json
    bos: int | None = None
    eos: int = 0
    prefix: tuple[int, ...] = ()  # what the model's own tokenizer puts before each text
    suffix: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, added tokens included."""
        return Tokenizer.from_str(self.data.decode()).get_vocab_size(with_added_tokens=True)

    def files(self) -> dict[str, bytes]:
        """Return the content of the tokenizer's files by name."""
        return {"tokenizer.json": self.data, "tokenizer_config.json": json.dumps(self.config, indent=2).encode()}


def added(content: str, i: int, *, special: bool = True, **fields: Any) -> Parts:
    """Return an entry of added_tokens."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": i, "content": content, "special": special, **plain, **fields}


def template(before: str = "", after: str = "", *, vocab: dict[str, int]) -> Parts:
    """Return a TemplateProcessing that puts a token before each text, and one after it."""

    def special(name: str, type_id: int) -> list[Parts]:
        return [{"SpecialToken": {"id": name, "type_id": type_id}}] if name else []

    single = [*special(before, 0), {"Sequence": {"id": "A", "type_id": 0}}, *special(after, 0)]
    pair = [*single, *special(before, 1), {"Sequence": {"id": "B", "type_id": 1}}, *special(after, 1)]
    tokens = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in (before, after) if name}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def _trained_bpe(
    size: int,
    pre_tokenizer: Any,
    special: list[str],
    *,
    bytes_first: bool = True,
    texts: list[str] = TRAINING_TEXTS,
) -> Parts:
    """Return the model part of a BPE with `size` ids; `special` come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if bytes_first else [],
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model: Parts = json.loads(tokenizer.to_str())["model"]
    return model


def _split(pattern: str) -> Any:
    from tokenizers import Regex

    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, level])


def _state(part: Any) -> Any:
    return json.loads(part.__getstate__())


def _file(model: Parts, added_tokens: list[Parts], **parts: Any) -> bytes:
    """Return the bytes of a tokenizer.json."""
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
    }
    return json.dumps({**values, **parts, "model": model}, ensure_ascii=False, indent=2).encode()


def _level(*, add_prefix_space: bool = False, trim_offsets: bool = True) -> Parts:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": True,
    }


def _config(bos: str | None, eos: str, **fields: Any) -> Parts:
    return {
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **fields,
    }


def gpt2() -> TokenizerKind:
    """GPT-2: one end-of-text token, the last id."""
    model = _trained_bpe(600, pre_tokenizers.ByteLevel(add_prefix_space=False), special=[])
    end = len(model["vocab"])
    model["vocab"]["<|endoftext|>"] = end
    data = _file(
        model,
        [added("<|endoftext|>", end, normalized=True)],
        pre_tokenizer=_level(),
        post_processor=_level(add_prefix_space=True, trim_offsets=False),
        decoder=_level(add_prefix_space=True),
    )
    config = _config("<|endoftext|>", "<|endoftext|>", tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>")
    return TokenizerKind("gpt2", data, config, bos=end, eos=end)


def gpt_neox() -> TokenizerKind:
    """Pythia: NFC, special tokens first, runs of spaces as added tokens that are text."""
    special = ["<|endoftext|>", "<|padding|>"]
    model = _trained_bpe(620, pre_tokenizers.ByteLevel(add_prefix_space=False), special=special)
    tokens = [added(name, i) for i, name in enumerate(special)]
    n = len(model["vocab"])
    tokens += [added(" " * (24 - i), n + i, special=False, normalized=True) for i in range(23)]
    data = _file(
        model,
        tokens,
        normalizer={"type": "NFC"},
        pre_tokenizer=_level(),
        post_processor=_level(),
        decoder=_level(add_prefix_space=False),
    )
    config = _config("<|endoftext|>", "<|endoftext|>", tokenizer_class="GPTNeoXTokenizer", unk_token="<|endoftext|>")
    return TokenizerKind("gpt_neox", data, config, bos=0, eos=0)


def smollm() -> TokenizerKind:
    """SmolLM2 (and StarCoder): single digits, 17 special tokens, control bytes without a token."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>"]
    names += ["<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>"]
    names += ["<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"]
    digits = pre_tokenizers.Digits(individual_digits=True)
    pre = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    model = _trained_bpe(640, pre, special=names)
    missing = {chr(256 + byte) for byte in (0x00, 0x01, 0x04, 0x0B)}  # as ByteLevel writes these control bytes
    kept = sorted((i, token) for token, i in model["vocab"].items() if token not in missing)
    model["vocab"] = {token: i for i, (_, token) in enumerate(kept)}
    model["merges"] = [pair for pair in model["merges"] if not missing & set("".join(pair))]
    data = _file(
        model,
        [added(name, i) for i, name in enumerate(names)],
        pre_tokenizer=_state(pre),
        decoder=_level(add_prefix_space=True),
    )
    config = _config("<|im_start|>", "<|im_end|>", tokenizer_class="GPT2Tokenizer", unk_token="<|endoftext|>")
    return TokenizerKind("smollm", data, config, bos=1, eos=2)


def llama3() -> TokenizerKind:
    """Llama 3: its own pattern, ignore_merges, special tokens after the vocabulary, BOS before each text."""
    model = _trained_bpe(620, _split(LLAMA3_PATTERN), special=[]) | {"ignore_merges": True}
    n = len(model["vocab"])
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
    vocab = {name: n + i for i, name in enumerate(names)}
    post = {"type": "Sequence", "processors": [_level(), template(names[0], vocab=vocab)]}
    data = _file(
        model,
        [added(name, i) for name, i in vocab.items()],
        pre_tokenizer=_state(_split(LLAMA3_PATTERN)),
        post_processor=post,
        decoder=_level(add_prefix_space=True),
    )
    config = _config(names[0], names[1], model_input_names=["input_ids", "attention_mask"])
    return TokenizerKind("llama3", data, config, bos=n, eos=n + 1, prefix=(n,))


def qwen2() -> TokenizerKind:
    """Qwen2 and Qwen3: NFC, its own pattern, added tokens of which some are text, no BOS."""
    model = _trained_bpe(620, _split(QWEN2_PATTERN), special=[])
    n = len(model["vocab"])
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
    tokens = [added(name, n + i, special=i < 3) for i, name in enumerate(names)]
    data = _file(
        model,
        tokens,
        normalizer={"type": "NFC"},
        pre_tokenizer=_state(_split(QWEN2_PATTERN)),
        post_processor=_level(trim_offsets=False) | {"use_regex": False},
        decoder=_level(trim_offsets=False) | {"use_regex": False},
    )
    fields = {str(t["id"]): {key: t[key] for key in t if key != "id"} for t in tokens}
    config = _config(None, "<|endoftext|>", tokenizer_class="Qwen2Tokenizer", pad_token="<|endoftext|>", unk_token=None)
    config |= {"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": fields, "errors": "replace"}
    return TokenizerKind("qwen2", data, config, bos=None, eos=n)


def _sentencepiece_bpe(size: int, special: list[str]) -> Parts:
    """Return a BPE over characters, with a token for each byte, which stand for the characters it does not know."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pre = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    n = size + 256 + len(special)
    # Few characters, so that byte fallback has something to do.
    texts = [text for text in TRAINING_TEXTS if max(map(ord, text)) < 0x400]
    model = _trained_bpe(n, pre, [*special, *byte_tokens], bytes_first=False, texts=texts)
    # SentencePiece merges any pair that makes a token, the token with the highest score first.
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)[n - size :]
    merges = merges_by_score(tokens, [-float(i) for i in range(size)], [NORMAL] * size)
    return model | {"merges": merges, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
NO_SPACES = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def llama2() -> TokenizerKind:
    """Llama 2 and TinyLlama: SentencePiece BPE, a space before each text, byte fallback, BOS."""
    names = ["<unk>", "<s>", "</s>"]
    model = _sentencepiece_bpe(400, names)
    normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, SPACES]}
    decoder = {"type": "Sequence", "decoders": [NO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, STRIP]}
    data = _file(
        model,
        [added(name, i) for i, name in enumerate(names)],
        normalizer=normalizer,
        post_processor=template("<s>", vocab={"<s>": 1}),
        decoder=decoder,
    )
    config = _config("<s>", "</s>", tokenizer_class="LlamaTokenizer", unk_token="<unk>", legacy=False)
    config |= {"add_bos_token": True, "add_eos_token": False}
    return TokenizerKind("llama2", data, config, bos=1, eos=2, prefix=(1,))


def mistral() -> TokenizerKind:
    """Mistral 7B v0.3: as Llama 2, with Metaspace instead of the normalizer."""
    values = json.loads(llama2().data)
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    values |= {"normalizer": None, "pre_tokenizer": metaspace}
    config = _config("<s>", "</s>", tokenizer_class="LlamaTokenizer", unk_token="<unk>", add_bos_token=True)
    data = json.dumps(values, ensure_ascii=False).encode()
    return TokenizerKind("mistral", data, config, bos=1, eos=2, prefix=(1,))


def gemma() -> TokenizerKind:
    """Gemma: SentencePiece BPE without a space before the text; BOS; tokens such as <unused0> that are text."""
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    texts = ["[multimodal]", "<unused0>", "<unused1>", "\n\n", "\n\n\n"]
    model = _sentencepiece_bpe(420, [*names, *texts])
    tokens = [added(name, i) for i, name in enumerate(names)]
    tokens += [added(name, len(names) + i, special=False) for i, name in enumerate(texts)]
    data = _file(
        model,
        tokens,
        normalizer=SPACES,
        pre_tokenizer={
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        post_processor=template("<bos>", vocab={"<bos>": 2}),
        decoder={"type": "Sequence", "decoders": [NO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]},
    )
    config = _config("<bos>", "<eos>", tokenizer_class="GemmaTokenizer", pad_token="<pad>", unk_token="<unk>")
    config |= {"mask_token": "<mask>", "add_bos_token": True, "add_eos_token": False}
    return TokenizerKind("gemma", data, config, bos=2, eos=1, prefix=(2,))


def _common_words(normalizer: Any, pre_tokenizer: Any) -> list[tuple[str, int]]:
    """Return the pieces that a pre-tokenizer makes of the training texts, with counts, the most frequent first."""
    texts = [normalizer.normalize_str(text) for text in TRAINING_TEXTS]
    words = Counter(word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text))
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))


def t5() -> TokenizerKind:
    """T5: Unigram without byte fallback, NFKC in place of its compiled table, EOS after each text."""
    pre = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    words = _common_words(normalizers.NFKC(), pre)
    names = ["<pad>", "</s>", "<unk>"]
    letters = sorted({letter for word, _ in words for letter in word if ord(letter) < 0x3000})
    pieces = {word: math.log(n) - 8.0 for word, n in words[:200]} | dict.fromkeys(("ing", "er", "est", "th"), -6.0)
    pieces = dict.fromkeys(letters, -10.0) | pieces
    model = {"type": "Unigram", "unk_id": 2, "byte_fallback": False}
    squeeze = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    data = _file(
        model | {"vocab": [*([name, 0.0] for name in names), *map(list, pieces.items())]},
        [added(name, i) for i, name in enumerate(names)],
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, squeeze]},
        pre_tokenizer=_state(pre),
        post_processor=template(after="</s>", vocab={"</s>": 1}),
        decoder=_state(decoders.Metaspace(prepend_scheme="always", split=True)),
    )
    config = _config(None, "</s>", pad_token="<pad>", unk_token="<unk>")
    return TokenizerKind("t5", data, config, bos=None, eos=1, suffix=(1,))


def bert() -> TokenizerKind:
    """BERT: WordPiece, lower case without accents, [CLS] before and [SEP] after each text."""
    normalizer, pre = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = _common_words(normalizer, pre)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted({letter for word, _ in words for letter in word if ord(letter) < 0x3000})
    pieces = [*names, *letters, *(f"##{letter}" for letter in letters), "##ing", "##er", "##est", "##th"]
    pieces = list(dict.fromkeys([*pieces, *(word for word, _ in words[:200])]))
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    data = _file(
        model | {"max_input_chars_per_word": 100, "vocab": {piece: i for i, piece in enumerate(pieces)}},
        [added(name, i) for i, name in enumerate(names)],
        normalizer=_state(normalizer),
        pre_tokenizer=_state(pre),
        post_processor=template("[CLS]", "[SEP]", vocab={"[CLS]": 2, "[SEP]": 3}),
        decoder=_state(decoders.WordPiece(prefix="##", cleanup=True)),
    )
    config = _config("[CLS]", "[SEP]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    return TokenizerKind("bert", data, config, bos=2, eos=3, prefix=(2,), suffix=(3,))


KINDS: dict[str, Callable[[], TokenizerKind]] = {
    maker.__name__: maker for maker in (gpt2, gpt_neox, smollm, llama3, qwen2, llama2, mistral, gemma, t5, bert)
}


@cache
def tokenizer_kind(name: str) -> TokenizerKind:
    """Return the tokenizer of a kind, trained once per process."""
    return KINDS[name]()
