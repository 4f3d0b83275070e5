"""The names that llama.cpp has for ways to split a text before byte-level BPE, and the same as a `tokenizer.json`.

Each name in the field `tokenizer.ggml.pre` stands for a list of regular expressions. The first splits the text into its
matches and what is between them, the next splits each of these parts, and so on. In a `tokenizer.json` that is a
sequence of `Split` with the behaviour `Isolated`. Where llama.cpp rewrites the expression of a published tokenizer for
its own engine, the published one is here (`gpt-4o`, `tekken`, and those with `(?i:`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import repr_short
from ..errors import CheckpointError

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SIGNS_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CJK = "[一-龥ࠀ-一가-퟿]+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
LLAMA3 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS_AND_SPACES}"
QWEN2 = rf"{_CONTRACTION}|{_WORD}|\p{{N}}|{_SIGNS_AND_SPACES}"
QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = "|".join([f"{_CASED[0]}{_CONTRACTION}?", f"{_CASED[1]}{_CONTRACTION}?", r"\p{N}{1,3}", _SIGNS_AND_SLASHES])
TEKKEN = "|".join([*_CASED, r"\p{N}", _SIGNS_AND_SLASHES])
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Every match is followed by another one: nothing lies between two matches.
COVER_EVERYTHING = (GPT2, LLAMA3, QWEN2, QWEN35, GPT4O, TEKKEN, DEEPSEEK3)


@dataclass(frozen=True)
class Pattern:
    """A way to split texts.

    Args:
        regexes: applied one after the other.
        ignore_merges: a part that is a token as a whole becomes that token, whatever the merges are.
        add_bos: the beginning-of-text id is put before each text unless the file says otherwise.
    """

    regexes: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_SPLIT_DIGITS = Pattern((DIGIT, GPT2))
_PATTERNS: dict[str, Pattern] = {
    # An export takes the first name with the same pattern. smollm does not change spaces when it decodes.
    "gpt-2": Pattern((GPT2,)),
    "smollm": _SPLIT_DIGITS,
    "llama-bpe": Pattern((LLAMA3,), ignore_merges=True, add_bos=True),
    "dbrx": Pattern((LLAMA3,)),
    "qwen2": Pattern((QWEN2,)),
    "qwen35": Pattern((QWEN35,)),
    "gpt-4o": Pattern((GPT4O,)),
    "tekken": Pattern((TEKKEN,), ignore_merges=True, add_bos=True),
    "default": Pattern((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": Pattern((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    "deepseek-coder": Pattern((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, DIGIT)),
    "deepseek-v3": Pattern((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3)),
    "bloom": Pattern((BLOOM,)),
    "viking": Pattern((BLOOM, DIGIT)),
}
_SAME_AS = {
    "gpt-2": "phi-2 mpt olmo jais gigachat a.x-4.0 mellum exaone4 trillion granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "dbrx": "smaug-bpe chatglm-bpe glm4",
    "qwen2": "stablelm2 deepseek-r1-qwen megrez hunyuan solar-open grok-2 kormo",
    "gpt-4o": "llama4 kanana2 minimax-m2",
    "deepseek-v3": "hunyuan-dense joyai-llm",
    "bloom": "poro-chat gpt3-finnish",
}
PATTERNS = _PATTERNS | {other: _PATTERNS[name] for name, others in _SAME_AS.items() for other in others.split()}


def find_pattern(name: object) -> Pattern:
    """Return the pattern of a name in `tokenizer.ggml.pre`. Raises CheckpointError for an unknown one."""
    if not isinstance(name, str) or name not in PATTERNS:
        raise CheckpointError(
            f"tokenizer.ggml.pre={repr_short(name)} names a way to split texts that light-llm does not know; "
            "import the model's Hugging Face folder instead"
        )
    return PATTERNS[name]


def pre_tokenizer_json(pattern: Pattern) -> dict[str, Any]:
    """Return the `pre_tokenizer` of a `tokenizer.json`: splits, and each byte as a visible character."""
    if pattern.regexes == (GPT2,):
        return _byte_level(use_regex=True)
    # Published tokenizers with these two patterns are written like this.
    if pattern == _SPLIT_DIGITS:
        return _sequence([{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)])
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in pattern.regexes
    ]
    return _sequence([*splits, _byte_level(use_regex=False)])


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _sequence(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": parts}


def find_name(pre_tokenizer: Any, *, ignore_merges: bool) -> str | None:
    """Return llama.cpp's name for the `pre_tokenizer` of a byte-level `tokenizer.json`; None if it has no such name."""
    regexes = _regexes(pre_tokenizer)
    names = (n for n, p in _PATTERNS.items() if list(p.regexes) == regexes and p.ignore_merges == ignore_merges)
    return next(names, None)


def _regexes(pre_tokenizer: Any) -> list[str] | None:
    """Return the expressions that a byte-level `pre_tokenizer` splits by; None for one that does something else."""
    if pre_tokenizer is None:
        return None
    parts = pre_tokenizer.get("pretokenizers") if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    *splits, last = parts
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") is not False:
        return None
    found = [_split_regex(split) for split in splits]
    regexes = [regex for regex in found if regex is not None]
    if len(regexes) < len(found):
        return None
    return [*regexes, GPT2] if last.get("use_regex", True) else regexes


def _split_regex(split: Mapping[str, Any]) -> str | None:
    """Return the expression of a part that keeps everything, isolated; None for any other part."""
    if split.get("type") == "Digits":
        return DIGIT if split.get("individual_digits") else r"\p{N}+"
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if split.get("type") != "Split" or not isinstance(regex, str):
        return None
    regex = regex.replace("\r", r"\r").replace("\n", r"\n")
    how = (split.get("behavior"), split.get("invert"))
    is_isolated = how[0] == "Isolated" or (how == ("Removed", True) and regex in COVER_EVERYTHING)
    return regex if is_isolated else None
