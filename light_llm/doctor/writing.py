"""Writing: logits on a cache, greedy continuations, and the statistics of what is drawn."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Generator, Tensor

from ..config import ModelConfig
from ..generate import sampling
from ..generate.cache import KVCache, visible
from ..generate.decode import decode, window_start
from ..generate.packed_linear import PackedLinear, can_pack
from ..generate.sampling import Sampling
from ..model import LightLLM
from .remedies import use_attention
from .subject import Subject, in_float64, numbers, opinionated
from .tolerance import allowed, chi_square_limit, forward_sums, worst_error
from .values import WRITING, Case, Measured

SHAPE = ModelConfig(vocab_size=257, n_positions=32, n_embd=64, n_layer=2, n_head=2)
PROMPTS = ([5, 17, 200], [31, 4, 99, 250, 7, 7, 120, 64, 3])
NEW = 40  # tokens: more than the window holds, so that it moves
BINS = 16
DRAWS = 100_000
ROWS = 2000  # drawn at a time
LIMIT = allowed(forward_sums(SHAPE, SHAPE.n_positions))


def writer(subject: Subject) -> LightLLM:
    """A small model on the device."""
    return use_attention(opinionated(SHAPE, seed=3), subject.attention).to(subject.device)


@torch.no_grad()
def cached(subject: Subject) -> Iterator[Measured]:
    """A text read in pieces on a cache, and rows of different lengths: logits as if all were read at once."""
    model, twin = writer(subject), in_float64(opinionated(SHAPE, seed=3))
    ids = subject.reference.ids[:3, :24] % SHAPE.vocab_size
    exact = twin(ids)  # (3, 24, V)
    cache = KVCache(SHAPE, 3, 24, torch.device(subject.device), torch.float32)
    for start, end in ((0, 7), (7, 8), (8, 9), (9, 16)):
        at = torch.arange(start, end, device=subject.device)
        found = model.logits(model.hidden_states(ids[:, start:end].to(subject.device), at, None, cache))
        yield Measured(worst_error(found, exact[:, start:end]), LIMIT, f"tokens {start + 1} to {end}, all rows alike")
    at = torch.tensor([[16], [9], [12]])  # (B, 1): one row goes on, others read again from further back
    for step in range(3):
        here = (at + step).to(subject.device)
        tokens = ids.gather(1, at + step).to(subject.device)
        found = model.logits(model.hidden_states(tokens, here, visible(here), cache))
        right = exact[torch.arange(3), (at + step)[:, 0]][:, None]
        yield Measured(worst_error(found, right), LIMIT, "rows of different lengths")


@torch.no_grad()
def greedy(subject: Subject) -> Iterator[Measured]:
    """The likeliest token each time: how far its exact logit is below the largest, on a cache and without."""
    model, twin = writer(subject), in_float64(opinionated(SHAPE, seed=3))
    for use_cache in (True, False):
        steps = decode(
            model,
            PROMPTS,
            sampling=Sampling(temperature=0.0),
            seeds=[0] * len(PROMPTS),
            max_new_tokens=NEW,
            use_cache=use_cache,
        )
        rows = [list(prompt) for prompt in PROMPTS]
        way = "on a cache" if use_cache else "all read again"
        for n, step in enumerate(steps, start=1):
            for row, token in zip(rows, step, strict=True):
                yield Measured(shortfall(twin, row, token), LIMIT, f"token {n}, {way}: id {token}")
                row.append(token if token is not None and 0 <= token < SHAPE.vocab_size else 0)


def shortfall(twin: LightLLM, row: Sequence[int], token: int | None) -> float:
    """How far a token is from being the likeliest one, as a share of the largest logit."""
    if token is None or not 0 <= token < SHAPE.vocab_size:
        return float("inf")
    window = torch.tensor([row[window_start(len(row), SHAPE.n_positions) :]])
    exact = twin.logits(twin.hidden_states(window)[0, -1])
    return float((exact.max() - exact[token]) / exact.abs().max())


def drawn(subject: Subject, draws: int, top_k: int) -> Iterator[Measured]:
    """Chi-square of many draws by the sampler of `generate`, and that all are ids."""
    logits = torch.linspace(0, 3, BINS).sin().mul(2).to(subject.device).float().cpu()
    rules = Sampling(temperature=0.8, top_k=top_k)
    expected = (logits.double() / rules.temperature).softmax(0)
    if top_k:
        expected = torch.where(expected >= expected.topk(top_k).values[-1], expected, 0.0)
        expected /= expected.sum()
    generator = Generator().manual_seed(51)
    counts = torch.zeros(BINS, dtype=torch.long)
    batch = logits.expand(ROWS, BINS)
    for _ in range(draws // ROWS):
        ids = torch.tensor(sampling.sample_batch(batch, [()] * ROWS, rules, [generator] * ROWS))
        bad = ids[(ids < 0) | (ids >= BINS)]
        if len(bad):
            yield Measured(float("inf"), 0.0, f"{int(bad[0]):,} is drawn, and there are {BINS} ids")
            return
        counts += ids.bincount(minlength=BINS)
    yield _chi_square(counts, expected, f"{draws:,} draws{f', top-k {top_k}' if top_k else ''}")


@torch.no_grad()
def packed(subject: Subject, dtype: torch.dtype) -> Iterator[Measured]:
    """The products of a writing model, whose weights are laid out for few rows, where this machine has them."""
    if not can_pack(torch.device(subject.device), dtype):
        return
    weight, bias = numbers(257, 384, seed=52), numbers(257, seed=53)
    product = PackedLinear(weight, bias, dtype)
    for rows in (1, 3, 9, 64):
        x = numbers(rows, 384, seed=54)
        exact = x.double() @ weight.double().T + bias.double()
        yield Measured(worst_error(product(x), exact), allowed([384], dtype), f"{rows} rows")


def _chi_square(counts: Tensor, probabilities: Tensor, where: str) -> Measured:
    total, possible = int(counts.sum()), probabilities > 0
    if int(counts[~possible].sum()):
        return Measured(float("inf"), 0.0, f"{where}: an id that was left out is drawn")
    mean = total * probabilities[possible]
    statistic = float(((counts[possible] - mean) ** 2 / mean).sum())
    return Measured(statistic, chi_square_limit(int(possible.sum())), where)


CORE = (
    Case("cache", "logits on a cache", cached, WRITING),
    Case("greedy", "a greedy continuation", greedy, WRITING),
    Case("sampling", "drawing by probability", partial(drawn, draws=10_000, top_k=0), WRITING),
    Case("packed products", "the product of a writing model", partial(packed, dtype=torch.float32), WRITING),
    Case(
        "packed, bfloat16",
        "the product of a writing model in bfloat16",
        partial(packed, dtype=torch.bfloat16),
        WRITING,
        "bfloat16",
    ),
    Case("sampling, top-k", "drawing among the likeliest", partial(drawn, draws=DRAWS, top_k=9), WRITING),
)
MORE = (Case("sampling, more", "drawing by probability", partial(drawn, draws=DRAWS, top_k=0), WRITING),)
