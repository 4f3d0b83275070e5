"""Read a tokenizer from a file of another program: a GGUF file, or a `tokenizer.model` of SentencePiece."""

from pathlib import Path

from ..data import Tokenizer
from ..data.tokenizer_file import read_tokenizer_json
from ..errors import CheckpointError, ConfigError
from ..json_io import TOKENIZER, read_bounded
from .gguf_file import read_fields
from .gguf_vocabulary import tokenizer_from_gguf
from .sentencepiece_model import read_sentencepiece, tokenizer_json_from_sentencepiece

SUFFIXES = (".gguf", ".model")


def read_vocabulary_file(path: Path) -> Tokenizer:
    """Return the tokenizer in a file with one of SUFFIXES. Raises CheckpointError.

    A `tokenizer.model` does not say which ids its model expects around a text, so there are none.
    """
    if path.suffix == ".gguf":
        fields = read_fields(path)
        try:
            return tokenizer_from_gguf(fields)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}") from None
    try:
        data = read_bounded(path, TOKENIZER)
        eos = read_sentencepiece(data).eos
        ends = [] if eos is None else [eos]
        return read_tokenizer_json(tokenizer_json_from_sentencepiece(data), f"the tokenizer {path}", ends=ends)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    except ConfigError as error:
        raise CheckpointError(error.message) from None
    except CheckpointError as error:
        reason = error.message
    raise CheckpointError(f"the tokenizer {path} cannot be read: {reason}")
