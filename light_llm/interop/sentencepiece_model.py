"""Read SentencePiece's `tokenizer.model` as a `tokenizer.json`.

The file is one message in the wire format of protocol buffers: fields that are a number and a type, then a value that
is a whole number of variable length, 4 or 8 bytes, or a length and that many bytes. Only the few fields that decide the
ids are read (sentencepiece_model.proto), and every length is compared with the bytes that are left.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import repr_short
from ..data.bpe import MAX_IDS
from ..errors import CheckpointError
from .sentencepiece_json import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Normalization,
    dump,
    sentencepiece_json,
    template,
)

ANOTHER = "use another copy of the file"
MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "word", 4: "char"}
# Fields by their numbers: of the model, of a piece, of the trainer, of the normalizer.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SPACE_IS_SUFFIX, _UNKNOWN_ID, _BOS_ID, _EOS_ID, _PAD_ID = 3, 24, 40, 41, 42, 43
_CHARSMAP, _ADD_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5


@dataclass(frozen=True)
class SentencePieceModel:
    """A `tokenizer.model`, checked.

    Args:
        tokens, scores, types: of each id, (V,).
        unigram: a Unigram model, not a BPE.
        bos, eos, padding: ids of special tokens.
    """

    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    unigram: bool
    normalization: Normalization
    unknown: int | None
    bos: int | None
    eos: int | None
    padding: int | None


def tokenizer_json_from_sentencepiece(
    data: bytes, *, add_bos: bool = False, add_eos: bool = False, more_tokens: Sequence[tuple[str, bool]] = ()
) -> bytes:
    """Return a `tokenizer.model` as a `tokenizer.json` that gives SentencePiece's ids.

    There is one difference. SentencePiece puts the space in front of a text before it finds user-defined tokens, and
    the result puts one in front of each part between them, as Hugging Face's tokenizers and llama.cpp do.

    Args:
        data: the bytes of the file.
        add_bos, add_eos: put these ids around each text. The file does not say whether a model expects them.
        more_tokens: text of the ids after those of the file, and whether each is special, without a text.

    Raises:
        CheckpointError: a damaged file, or a kind of model or a setting that a `tokenizer.json` cannot express.
    """
    model = read_sentencepiece(data)
    tokens = (*model.tokens, *(token for token, _ in more_tokens))
    types = (*model.types, *(CONTROL if special else USER_DEFINED for _, special in more_tokens))
    scores = (*model.scores, *(0.0 for _ in more_tokens))
    if len(set(tokens)) < len(tokens):
        raise CheckpointError(f"an added token is also one of the SentencePiece model; {ANOTHER}")
    values = sentencepiece_json(
        tokens, scores, types, model.normalization, unigram=model.unigram, unknown=model.unknown
    )
    around = []
    for adds, i, name in ((add_bos, model.bos, "bos"), (add_eos, model.eos, "eos")):
        if adds and i is None:
            raise CheckpointError(f"the SentencePiece model has no {name}_id to put around texts; {ANOTHER}")
        around.append([(model.tokens[i], i)] if adds and i is not None else [])
    return dump(values | {"post_processor": template(*around)})


def read_sentencepiece(data: bytes) -> SentencePieceModel:
    """Read the bytes of a `tokenizer.model`. Raises CheckpointError."""
    try:
        return _read_model(data)
    except ValueError as error:  # UnicodeDecodeError, too
        raise CheckpointError(f"the file is no SentencePiece model: {error}; {ANOTHER}") from None


def _read_model(data: bytes) -> SentencePieceModel:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number in (_PIECE, _TRAINER, _NORMALIZER) and not isinstance(value, bytes):
            raise ValueError(f"field {number} is a number")
        if number == _PIECE:
            pieces.append(_read_piece(bytes(value)))
        elif number in (_TRAINER, _NORMALIZER):
            (trainer if number == _TRAINER else normalizer).update(_fields(bytes(value)))
    tokens, scores, types = zip(*pieces, strict=True) if pieces else ((), (), ())
    n = len(tokens)
    if not 0 < n <= MAX_IDS:
        raise ValueError(f"it has {n:,} pieces, not 1 to {MAX_IDS:,}")
    if len(set(tokens)) < n:
        raise ValueError(f"{n - len(set(tokens)):,} pieces occur twice")
    kind = trainer.get(_MODEL_TYPE, 1)
    if kind not in (1, 2):
        raise ValueError(f"its type is {MODEL_TYPES.get(_number(kind), repr_short(kind))}, not Unigram or BPE")
    if trainer.get(_SPACE_IS_SUFFIX, 0):
        raise ValueError("treat_whitespace_as_suffix is set, and light-llm puts the space before a word")
    unknown = next((i for i, type_ in enumerate(types) if type_ == UNKNOWN), None)
    ids = {
        number: _number(trainer.get(number, default)) for number, default in ((_BOS_ID, 1), (_EOS_ID, 2), (_PAD_ID, -1))
    }
    bos, eos, padding = (i if 0 <= i < n else None for i in ids.values())
    charsmap = normalizer.get(_CHARSMAP, b"")
    return SentencePieceModel(
        tokens=tokens,
        scores=scores,
        types=types,
        unigram=kind == 1,
        normalization=Normalization(
            charsmap=charsmap if isinstance(charsmap, bytes) else b"",
            add_space_prefix=bool(normalizer.get(_ADD_PREFIX, 1)),
            remove_extra_spaces=bool(normalizer.get(_REMOVE_SPACES, 1)),
            escape_spaces=bool(normalizer.get(_ESCAPE_SPACES, 1)),
        ),
        unknown=unknown,
        bos=bos,
        eos=eos,
        padding=padding,
    )


def _read_piece(data: bytes) -> tuple[str, float, int]:
    """Return text, score and type of a piece."""
    values = dict(_fields(data))
    text, score, type_ = values.get(_TEXT, b""), values.get(_SCORE, b"\0\0\0\0"), values.get(_TYPE, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4 or not text:
        raise ValueError("a piece has no text, or a score that is no number")
    (number,) = struct.unpack("<f", score)
    if number - number != 0:
        raise ValueError(f"the score of a piece is {number}")
    return text.decode("utf-8"), number, _number(type_)


def _number(value: int | bytes) -> int:
    """Return a whole number; negative ones are written as 64 bits."""
    if not isinstance(value, int):
        raise ValueError("a number is written as bytes")
    return value - (1 << 64) if value >= 1 << 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a message: the number, and the value as a whole number or as bytes. Raises ValueError."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or not number:
            raise ValueError(f"byte {at:,} of {end:,} begins no field of a known type")
        if size > end - at:
            raise ValueError(f"a field of {size:,} bytes has {end - at:,}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a whole number of variable length, seven bits a byte, the lowest first, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise ValueError("a number has more than ten bytes")
