"""Measure how fast micro generates on the CPU, in comparison with plain code and the limits of this machine.

    python benchmarks/generate_speed.py

The weights are random, which are multiplied as fast as trained ones. Needs `transformers` and GPT-2's vocabulary.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from measure import (
    CHECKOUT,
    Row,
    as_table,
    best_in_turn,
    fastest_process,
    intervals,
    matmul_rate,
    memory_bandwidth,
    save_results,
    steps_in_turn,
)
from torch import Tensor, nn

from light_llm.checkpoint import Files, model_meta, write_model_file
from light_llm.config import ModelConfig
from light_llm.data.tokenizers import make_tokenizer
from light_llm.generate import Sampling, convert_for_inference, decode
from light_llm.generate.sampling import sample, sample_batch
from light_llm.model import LightLLM

CONFIG = ModelConfig.micro()
N = 32  # tokens a turn
GREEDY, USUAL = Sampling(temperature=0.0), Sampling(temperature=0.8, top_k=40)
ROWS = 32


def main() -> None:
    """Measure, print and save."""
    rows = measure()
    save_results("generate_speed", rows)
    print(as_table(rows))


def measure() -> list[Row]:
    """Measure everything, in under two minutes."""
    bandwidth = memory_bandwidth()
    models = {
        "float32": made(),
        "float32 plain": made(change=False),
        "bfloat16": made("bfloat16"),
        "bfloat16 plain": made(change=False).to(torch.bfloat16),
        "int8": made(quantize="int8"),
    }
    return [
        Row("memory, read", "GB/s", bandwidth / 1e9),
        *one_stream(models, bandwidth),
        *contexts(models["bfloat16"], bandwidth),
        reading(models["bfloat16"]),
        *many_streams(models["bfloat16"]),
        *choosing(),
        *from_the_shell(),
    ]


def made(dtype: str = "auto", quantize: str = "none", *, change: bool = True) -> LightLLM:
    """Return micro, always with the same weights."""
    torch.manual_seed(0)
    model = LightLLM(CONFIG).eval()
    if change:
        convert_for_inference(model, dtype, quantize)
    return model


def steps(
    model: LightLLM, n: int = N, *, rows: int = 1, prompt: int = 16, sampling: Sampling = GREEDY
) -> Callable[[], list[float]]:
    """Return a function that measures the seconds of each of n tokens after the first."""
    prompts = [[(7 * i + b) % CONFIG.vocab_size for i in range(prompt)] for b in range(rows)]
    return lambda: intervals(decode(model, prompts, seeds=range(rows), sampling=sampling, max_new_tokens=n + 1))


def one_stream(models: dict[str, LightLLM], bandwidth: float) -> list[Row]:
    """Measure a single text, greedy, after a prompt of 16."""
    variants = {name: steps(model) for name, model in models.items()}
    variants["transformers"] = as_transformers(models["float32 plain"])
    variants["products"] = products_alone(models["float32 plain"])
    speed = {name: 1 / seconds for name, seconds in steps_in_turn(variants).items()}
    moved = 2 * sum(w.numel() for w in matrices(models["float32 plain"]))  # bytes a token, in 16 bits
    half, plain, int8 = speed["bfloat16"], speed["bfloat16 plain"], speed["int8"]
    alone = speed["products"]
    return [
        Row(
            "one stream, bfloat16", "tokens/s", half, speed["transformers"], alone, "transformers; products by F.linear"
        ),
        Row("its weights, read", "GB/s", half * moved / 1e9, plain * moved / 1e9, bandwidth / 1e9, "F.linear; memory"),
        Row("one stream, int8", "tokens/s", int8, plain, None, "bfloat16 by F.linear"),
        Row("one stream, int8", "tokens/s", int8, half, None, "our bfloat16"),
        Row("one stream, float32", "tokens/s", speed["float32"], speed["float32 plain"], None, "F.linear"),
    ]


def contexts(model: LightLLM, bandwidth: float) -> list[Row]:
    """Measure a token after growing contexts. The limit: the shortest one, plus reading the other keys and values."""
    lengths = (64, 512, 984)
    seconds = steps_in_turn({str(n): steps(model, prompt=n) for n in lengths}, turns=3)
    whole = torch.zeros(1, lengths[-1], dtype=torch.long)
    with torch.inference_mode():
        again = best_in_turn({"": lambda: model.logits(model.hidden_states(whole)[:, -1])}, turns=3)[""]
    rows = []
    for n in lengths:
        kept = 2 * CONFIG.n_layer * (n - lengths[0]) * CONFIG.n_embd * 4  # float32
        limit = seconds[str(lengths[0])] + kept / bandwidth
        plain = again * 1e3 if n == lengths[-1] else None
        note = "all read again; context 64 and memory" if plain else "context 64 and memory"
        rows.append(Row(f"a token at context {n}", "ms", seconds[str(n)] * 1e3, plain, limit * 1e3, note))
    return rows


def reading(model: LightLLM, n: int = 512) -> Row:
    """Measure a prompt: logits of its last position only."""
    body = sum(w.numel() for w in matrices(model, head=False))
    attention = 2 * CONFIG.n_layer * n * n * CONFIG.n_embd  # scores and sums over what is visible, half of all
    flop = 2 * body * n + attention
    prompt = [list(range(n))]

    def read() -> None:
        next(decode(model, prompt, seeds=[0], sampling=GREEDY, max_new_tokens=1))

    best = best_in_turn({"": read}, turns=20)[""]
    limit = matmul_rate(30) / 1e9
    return Row(f"a prompt of {n} tokens", "GFLOP/s", flop / best / 1e9, None, limit, "bfloat16 products")


def many_streams(model: LightLLM) -> list[Row]:
    """Measure several texts in one batch, with default sampling."""
    both = {"one": steps(model, sampling=USUAL), "many": steps(model, rows=ROWS, sampling=USUAL)}
    seconds = steps_in_turn(both, turns=4)
    speed = (ROWS / seconds["many"], 1 / seconds["one"])
    return [
        Row("one stream, bfloat16, top-k 40", "tokens/s", speed[1]),
        Row(f"{ROWS} streams, bfloat16, top-k 40", "tokens/s", *speed, 8 * speed[1], "one stream; 8 times that"),
    ]


def choosing() -> list[Row]:
    """Measure the sampling of some rows with top-k 40 and temperature 0.8."""
    rows = []
    for B in (1, ROWS):
        logits = torch.randn(B, CONFIG.vocab_size)
        generators = [torch.Generator().manual_seed(b) for b in range(B)]
        seen: list[list[int]] = [[] for _ in range(B)]

        def fast(logits: Tensor = logits, seen: list[list[int]] = seen, g: list[torch.Generator] = generators) -> None:
            sample_batch(logits, seen, USUAL, g)

        def plain(logits: Tensor = logits, g: list[torch.Generator] = generators) -> None:
            for z, generator in zip(logits, g, strict=True):
                sample(z, (), USUAL, generator)

        best = best_in_turn({"fast": fast, "plain": plain})
        rows.append(Row(f"choosing {B}", "ms", best["fast"] * 1e3, best["plain"] * 1e3, None, "row by row"))
    return rows


def from_the_shell() -> list[Row]:
    """Measure the time to the first token and to --help; the limits are what we allow."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "best_model.pt")
        model, tokenizer = made(change=False), make_tokenizer("gpt2")
        meta = model_meta(model, None, step=1, dtype="float32", evaluation=None)
        write_model_file(path, model.state_dict(), meta | {"tokenizer": tokenizer.to_dict(), "data": {}}, Files())
        demo = [str(CHECKOUT / "generate.py"), "demo", "--checkpoint", str(path), "--max-new-tokens", "1"]
        first = fastest_process(demo, until=b"\nTo be or not to be")
    torch_alone = fastest_process(["-c", "import torch"])
    rows = [Row("first token of generate.py demo", "s", first, None, 3.0, f"allowed; import torch {torch_alone:.2f}")]
    for words in ("generate.py --help", "train.py --help", "-m light_llm --help", "-m light_llm generate --help"):
        asked = [str(CHECKOUT / word) if word.endswith(".py") else word for word in words.split()]
        rows.append(Row(f"python {words}", "s", fastest_process(asked), None, 0.4, "allowed"))
    return rows


def matrices(model: LightLLM, *, head: bool = True) -> list[Tensor]:
    """Return the weights that a token is multiplied with."""
    body = [p.detach() for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("h.")]
    return [*body, model.head_weight.detach()] if head else body


def products_alone(model: LightLLM) -> Callable[[], list[float]]:
    """Return a function that runs only the products of one token, by F.linear in bfloat16."""
    weights = [w.bfloat16() for w in matrices(model)]
    rows = {w.size(1): torch.randn(1, w.size(1)).bfloat16() for w in weights}

    def tokens() -> Iterator[None]:
        with torch.inference_mode():
            for _ in range(N + 1):
                for weight in weights:
                    F.linear(rows[weight.size(1)], weight)
                yield

    return lambda: intervals(tokens())


def as_transformers(model: LightLLM) -> Callable[[], list[float]]:
    """Return a function that runs `generate` of transformers with the same weights, in bfloat16."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=CONFIG.vocab_size, n_embd=CONFIG.n_embd, n_layer=CONFIG.n_layer, n_head=CONFIG.n_head
    )
    theirs = GPT2LMHeadModel(config).eval()
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    state = {f"transformer.{k}": (v.t() if k in linear else v) for k, v in model.state_dict().items()}
    theirs.load_state_dict(state, strict=False)
    theirs.to(torch.bfloat16)
    prompt = torch.arange(16)[None]

    def write() -> list[float]:
        clock = Clock()
        options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        theirs.generate(prompt, max_new_tokens=N + 1, streamer=clock, **options)
        return [after - before for before, after in pairwise(clock.times[1:])]  # the first is the prompt

    return write


class Clock:
    """Record when transformers returns each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: object) -> None:
        """Record the time of a token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing at the end of the text."""


if __name__ == "__main__":
    main()
