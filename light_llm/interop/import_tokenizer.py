"""Read the tokenizer of a Hugging Face folder: its tokenizer.json unchanged, or one made from the older files."""

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..config import repr_short
from ..data import Tokenizer
from ..data.bpe import SEPARATOR
from ..data.tokenizer_file import read_tokenizer_json
from ..data.tokenizers import make_tokenizer
from ..errors import CheckpointError, ConfigError
from ..json_io import TOKENIZER, parse_json, read_bounded
from ..runtime import expand_path
from .json_files import read_object
from .tokenizer_files import SPECIAL_TOKEN, byte_level_json
from .vocabulary_file import SUFFIXES, read_vocabulary_file

WITHOUT = "import the weights alone with {--tokenizer none}"
ANOTHER = f"name another with {{--tokenizer}} (gpt2, byte, or the path of a tokenizer.json), or {WITHOUT}"
FILE, CONFIG, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
QWEN2_PATTERN = (  # of Qwen2Tokenizer, for folders with vocab.json and merges.txt alone
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def read_tokenizer(folder: Path, spec: str, config: Mapping[str, Any], *, offline: bool = False) -> Tokenizer | None:
    """Return the tokenizer of a folder, or the one that is named instead.

    Args:
        spec: empty for the folder's own; none; gpt2, byte or the path of a `tokenizer.json`.
        config: of the model: its eos_token_id becomes the separator of documents, and its vocab_size bounds the ids.
        offline: download nothing.

    Raises:
        CheckpointError: the folder has none, or one that the `tokenizers` library cannot use.
        ConfigError: spec names no tokenizer, or one that is trained on a text.
    """
    if spec == "none":
        return None
    if spec:
        return named_tokenizer(spec, offline=offline)
    data, path = _read_data(folder)
    ends, stop_ids = _end_ids(folder, config)
    n_ids, own_config = config.get("vocab_size"), _read_object(folder / CONFIG)
    try:
        return read_tokenizer_json(
            data,
            f"the tokenizer {path}",
            ends=ends,
            stop_ids=stop_ids,
            end_name=_token_name(own_config.get("eos_token")),
            special_names=_names_of_roles(folder, own_config) | _special_in(own_config),
            n_model_ids=n_ids if type(n_ids) is int else None,
            must_have_end=True,
        )
    except ConfigError as error:
        raise CheckpointError(f"{error.message}; {ANOTHER}") from None


def named_tokenizer(spec: str, *, offline: bool = False) -> Tokenizer:
    """Return the tokenizer that `--tokenizer` names. Raises ConfigError for one that is trained on a text."""
    if spec.partition(":")[0] in ("bpe", "char"):
        raise ConfigError(
            f"{{--tokenizer {spec}}} cannot be used here: it would be trained on a text, and a model needs the "
            "tokenizer that it was trained with; name gpt2, byte, the path of a tokenizer.json, or none"
        )
    if spec.endswith(SUFFIXES):
        return read_vocabulary_file(expand_path(spec))
    return make_tokenizer(spec, offline=offline)


def _end_ids(folder: Path, config: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the end-of-text ids of config.json, or else of generation_config.json, and those of both.

    Ids that no token can have, negative ones and those beyond vocab_size, are left out: transformers never stops there.

    Raises CheckpointError if eos_token_id is no id.
    """
    generation, n_ids = _read_object(folder / GENERATION), config.get("vocab_size")
    n_ids, found = n_ids if type(n_ids) is int else 1 << 31, []
    for name, values in (("config.json", config), (GENERATION, generation)):
        given = values.get("eos_token_id")
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if not all(type(i) is int for i in ids):
            raise CheckpointError(f"{folder / name}: eos_token_id={repr_short(given)} is no token id; correct it there")
        found.append([i for i in ids if 0 <= i < n_ids])
    return found[0] or found[1], [*found[0], *found[1]]


def _read_data(folder: Path) -> tuple[bytes, Path]:
    """Return the bytes of tokenizer.json, or those that stand for the older files, and the path.

    Raises CheckpointError if the folder has no tokenizer, or one that cannot be read.
    """
    path, vocab, merges, model = (folder / name for name in (FILE, "vocab.json", "merges.txt", "tokenizer.model"))
    try:
        if path.is_file():
            return read_bounded(path, TOKENIZER), path
        path = vocab
        if vocab.is_file() and merges.is_file():
            values = parse_json(read_bounded(vocab, TOKENIZER), TOKENIZER)
            return _from_vocabulary(folder, values, read_bounded(merges, TOKENIZER).decode("utf-8")), vocab
        path = model
        if model.is_file():
            return _from_sentencepiece(folder, read_bounded(model, TOKENIZER)), model
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        reason = str(error)
    else:
        raise CheckpointError(f"{folder} has no {FILE}, nor vocab.json and merges.txt, nor tokenizer.model; {ANOTHER}")
    raise CheckpointError(f"the tokenizer {path} cannot be read: {reason}; {ANOTHER}")


def _from_vocabulary(folder: Path, vocab: dict[str, int], merges: str) -> bytes:
    """Return vocab.json and merges.txt as a tokenizer.json, as the class that tokenizer_config.json names reads them.

    Raises CheckpointError for a class that does something else.
    """
    config = _read_object(folder / CONFIG)
    kind = str(config.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer", "PreTrainedTokenizer"):
        path = json.dumps(str(folder), ensure_ascii=False)
        call = f"from transformers import AutoTokenizer as A; A.from_pretrained({path}).save_pretrained({path})"
        raise CheckpointError(
            f"the tokenizer {folder / 'vocab.json'} is a {repr_short(kind)}, and only those of GPT2Tokenizer and "
            f"Qwen2Tokenizer can be read without a {FILE}; write that with: python -c {shlex.quote(call)}"
        )
    pairs = [line.split(" ") for line in merges.split("\n") if line.strip() and not line.startswith("#version")]
    values = byte_level_json(vocab, pairs)
    values["added_tokens"] = _added_tokens(folder, vocab, config)
    values["pre_tokenizer"]["add_prefix_space"] = bool(config.get("add_prefix_space"))
    if kind == "Qwen2Tokenizer":
        split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
        level = values["pre_tokenizer"] | {"use_regex": False}
        values |= {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        }
    ids = {token["content"]: token["id"] for token in values["added_tokens"]}
    bos = _token_name(config.get("bos_token")) or SEPARATOR
    if config.get("add_bos_token") and bos in ids:
        values["post_processor"] = _template(bos, ids[bos])
    return json.dumps(values, ensure_ascii=False).encode()


def _from_sentencepiece(folder: Path, data: bytes) -> bytes:
    """Return tokenizer.model as a tokenizer.json, with the tokens that other files add to it.

    Without tokenizer_config.json, a BPE model gets BOS before each text: Llama, Mistral and Gemma do.
    """
    from .sentencepiece_model import read_sentencepiece, tokenizer_json_from_sentencepiece

    model, config = read_sentencepiece(data), _read_object(folder / CONFIG)
    is_t5 = str(config.get("tokenizer_class")).startswith("T5")
    added = {token["id"]: token for token in _added_tokens(folder, {}, config) if token["id"] >= len(model.tokens)}
    last = len(model.tokens) + len(added)
    if added and max(added) != last - 1:
        raise ValueError(f"the ids {last - 1:,} ... {max(added):,} of its added tokens leave a gap")
    return tokenizer_json_from_sentencepiece(
        data,
        add_bos=bool(config.get("add_bos_token", not model.unigram and model.bos is not None)),
        add_eos=bool(config.get("add_eos_token", is_t5)),
        more_tokens=[(added[i]["content"], bool(added[i]["special"])) for i in sorted(added)],
    )


def _template(bos: str, i: int) -> dict[str, Any]:
    """Return a post-processor that puts BOS before each text."""
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    single = [special, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    tokens = {bos: {"id": bos, "ids": [i], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def _added_tokens(folder: Path, vocab: Mapping[str, int], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens of a folder without tokenizer.json, by id: from three files of different age.

    As in transformers, a token is special if it has a role, or if tokenizer_config.json says so.
    """
    found: dict[int, dict[str, Any]] = {}
    names = {SEPARATOR, *_names_of_roles(folder, config)}
    for name in names:
        if name in vocab:
            found[vocab[name]] = {"content": name, **SPECIAL_TOKEN}
    for name, i in _read_object(folder / "added_tokens.json").items():
        found[i] = _added_token({"content": name}, names)
    for key, token in (config.get("added_tokens_decoder") or {}).items():
        found[int(key)] = _added_token(token, names)
    return [{"id": i, **found[i]} for i in sorted(found)]


def _added_token(given: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return an added token with the fields that its file leaves out."""
    token = {"content": given["content"], **{name: given.get(name, False) for name in SPECIAL_TOKEN}}
    token["special"] = token["special"] or token["content"] in names
    return token | {"normalized": given.get("normalized", not token["special"])}


def _names_of_roles(folder: Path, config: Mapping[str, Any]) -> set[str]:
    """Return the texts of the special tokens that tokenizer_config.json or special_tokens_map.json names."""
    names = set()
    for values in (config, _read_object(folder / "special_tokens_map.json")):
        tokens = [values.get(key) for key in _NAMED]
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = values.get(key) or []
            tokens += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
        names |= {_token_name(token) for token in tokens}
    return names - {""}


def _special_in(config: Mapping[str, Any]) -> set[str]:
    """Return the texts of the tokens that the added_tokens_decoder of tokenizer_config.json has as special."""
    tokens = config.get("added_tokens_decoder")
    found = tokens.values() if isinstance(tokens, dict) else []
    return {_token_name(token) for token in found if isinstance(token, dict) and token.get("special")} - {""}


def _token_name(token: Any) -> str:
    """Return the text of a special token in tokenizer_config.json, which may be an object; "" for none."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else ""


def _read_object(path: Path) -> dict[str, Any]:
    """Return the object in a tokenizer's JSON file; empty without the file. Raises CheckpointError if it is damaged."""
    return read_object(path, TOKENIZER, ANOTHER) if path.is_file() else {}
