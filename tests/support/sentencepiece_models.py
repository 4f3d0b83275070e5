"""Write `tests/interop/sentencepiece.json`: tiny models that the package `sentencepiece` trains, and its ids of texts.

pip install sentencepiece
python -m tests.support.sentencepiece_models shakespeare.txt
"""

import base64
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.llama_cpp_ids import TEXTS

FILE = Path(__file__).parent.parent / "interop" / "sentencepiece.json"
WHOLE = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
# As published models were trained. The last one replaces characters by a table of its own: NFKC's has 240 kB.
MODELS: dict[str, dict[str, Any]] = {
    "Llama": {"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "split_digits": True, **WHOLE},
    "Gemma": {
        "model_type": "bpe",
        "vocab_size": 430,
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\u2581\u2581", "\u2581\u2581\u2581", "\u2581\u2581\u2581\u2581", "<mask>"],
        **WHOLE,
    },
    "T5": {"model_type": "unigram", "vocab_size": 240, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "Unigram of bytes": {"model_type": "unigram", "vocab_size": 480, "byte_fallback": True, **WHOLE},
}
# Code points: ſ -> s, ½ -> 1/2, line breaks and tabs -> a space, zero width space -> nothing.
RULES = ["17F\t73", "BD\t31 2F 32", "A\t20", "D\t20", "9\t20", "200B\t"]
ALL_TEXTS = (*TEXTS, "", " ", "   ", "\n", " a ", "a  b", "one½ \u200bſtep\n", "a<mask>b", "x", "To be, or not to be")


def train(sentencepiece: Any, lines: list[str], settings: dict[str, Any], rules: Path) -> bytes:
    """Return the bytes of a model."""
    out = io.BytesIO()
    table = {} if "normalization_rule_name" in settings else {"normalization_rule_tsv": str(rules)}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, num_threads=1, minloglevel=2, **settings, **table
    )
    return out.getvalue()


def main(text: Path) -> None:
    """Train the models and write them with ids and decoded texts."""
    import sentencepiece  # type: ignore[import-not-found]

    lines = text.read_text(encoding="utf-8").splitlines()[:3000]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder, "rules.tsv")
        rules.write_text("\n".join(RULES) + "\n", encoding="utf-8")
        for name, settings in MODELS.items():
            data = train(sentencepiece, lines, settings, rules)
            processor = sentencepiece.SentencePieceProcessor(model_proto=data)
            ids = [processor.encode(text) for text in ALL_TEXTS]
            decoded = [processor.decode(row) for row in ids]
            found[name] = {"model": base64.b64encode(data).decode(), "ids": ids, "decoded": decoded}
    FILE.write_text(json.dumps(found, indent=None, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
