"""Published models in the harness: BOS and the start token as in the harness's own class."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from light_llm.checkpoint import LoadedModel
from light_llm.interop.import_model import read_folder
from light_llm.lm_eval import LightLLMForEval
from tests.lm_eval.conftest import score_by_logits
from tests.support import published
from tests.support.tokenizer_kinds import tokenizer_kind

PAIRS = [("The cat", " sat on"), ("The cat ", "sat"), ("", "hello"), ("x", "\n"), ("to be " * 9, " naïve 東京")]
TEXTS = ["To be, or not to be.\n" * 4, "a", "  naïve\n\n", "x y z w " * 30]


def published_folder(folder: Path, name: str, kind_name: str) -> tuple[LoadedModel, Any]:
    """Write the folder of a published model with its tokenizer; return it as imported, and as transformers has it."""
    kind = tokenizer_kind(kind_name)
    ids: dict[str, Any] = {"bos_token_id": kind.bos, "eos_token_id": kind.eos, "pad_token_id": None}
    theirs = published.write_folder(
        folder, name, dtype="float32", files=kind.files(), vocab_size=kind.vocab_size, **ids
    )
    return read_folder(folder), theirs


@pytest.mark.parametrize(
    ("name", "kind", "start", "start_name"),
    [
        ("tinyllama", "llama2", "<s>", "BOS"),
        ("gpt2", "gpt2", "<|endoftext|>", "separator"),
        ("smollm2", "smollm", "<|im_start|>", "im_start"),  # its BOS is not put before texts
    ],
)
def test_bos_begins_every_context(name: str, kind: str, start: str, start_name: str, tmp_path: Path) -> None:
    loaded, _ = published_folder(tmp_path / name, name, kind)
    lm = LightLLMForEval(loaded)
    tokenizer = lm.tokenizer
    bos = list(tokenizer.prefix)
    assert bos == list(tokenizer_kind(kind).prefix) and start_name in lm.start_name
    i = lm.start
    assert Tokenizer.from_str(tokenizer_kind(kind).data.decode()).id_to_token(i) == start
    assert lm.context == published.CONTEXT
    assert lm.encode_pair("The", " cat")[0] == [*bos, *tokenizer.encode("The")]
    assert lm.encode_pair("", "The cat") == ([i], tokenizer.encode("The cat"))
    ids = [i, *bos, *tokenizer.encode("To be")]
    assert lm.loglikelihood_rolling(["To be"]) == [pytest.approx(score_by_logits(loaded, ids, len(ids) - 1)[0])]
    prompt = [*bos, *tokenizer.encode("To")]
    (text,) = lm.generate_until([("To", {"max_gen_toks": 1})])
    best = int(loaded.model(torch.tensor([prompt]))[0, -1, : tokenizer.vocab_size].argmax())
    assert text.strip() == tokenizer.decode([*prompt, best])[len(tokenizer.decode(prompt)) :].strip()


@pytest.mark.parametrize(("name", "kind"), [("tinyllama", "llama2"), ("mistral-v0.3", "mistral"), ("gpt2", "gpt2")])
def test_new_tokens_are_decoded_alone(name: str, kind: str, tmp_path: Path) -> None:
    """As in the harness: without the space that a SentencePiece tokenizer takes from the beginning of a text."""
    loaded, _ = published_folder(tmp_path / name, name, kind)
    lm = LightLLMForEval(loaded)
    begins_word = [lm.tokenizer.token_bytes(i).startswith(b" ") for i in range(lm.tokenizer.vocab_size)]
    with torch.no_grad():
        loaded.model.head_weight[~torch.tensor(begins_word)] = 0.0  # the likeliest token begins a word
    prompt = [*lm.tokenizer.prefix, *lm.tokenizer.encode("To be or")]
    best = int(loaded.model(torch.tensor([prompt]))[0, -1].argmax())
    assert begins_word[best]
    assert lm.generate_until([("To be or", {"max_gen_toks": 1})]) == [lm.tokenizer.decode([best])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [("gpt2", "gpt2"), ("tinyllama", "llama2"), ("llama3.2", "llama3"), ("gemma3", "gemma"), ("smollm2", "smollm")],
)
def test_the_harness_s_own_class_gives_the_same_likelihoods(name: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="NOT RUN: lm_eval's own class needs accelerate; pip install 'lm-eval[hf]'")
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    loaded, model = published_folder(tmp_path / name, name, kind)
    # The file as it is: AutoTokenizer builds the tokenizers of Llama from parts of it.
    config = tokenizer_kind(kind).config
    names = {key: config[key] for key in ("bos_token", "eos_token") if config.get(key)}
    file = str(tmp_path / name / "tokenizer.json")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=file, **names)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, max_length=24, batch_size=3, device="cpu")
    ours = LightLLMForEval(loaded, last_window="full", batch_size=3)
    ours.context = 24

    def expected(request: str, arguments: list[Any]) -> Any:
        return getattr(theirs, request)([Instance(request, {}, args, i) for i, args in enumerate(arguments)])

    log_ps, greedy = zip(*expected("loglikelihood", PAIRS), strict=True)
    answers = ours.loglikelihood(PAIRS)
    assert [log_p for log_p, _ in answers] == pytest.approx(list(log_ps), rel=1e-5)
    assert [is_greedy for _, is_greedy in answers] == list(greedy)
    rolling = expected("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert ours.loglikelihood_rolling(TEXTS) == pytest.approx(rolling, rel=1e-5)
    prompts = ["The cat", "to be or not to be, that is it", "x", *(f"{word} and" for word in TEXTS[0].split())]
    requests = [(prompt, {"until": ["q"], "max_gen_toks": 6}) for prompt in prompts]
    expected_texts = expected("generate_until", [(prompt, dict(kwargs)) for prompt, kwargs in requests])
    assert ours.generate_until(requests) == expected_texts and len(set(expected_texts)) > 6
