"""Compare a model with its export: logits, greedy tokens and token ids from the program that opens it.

A file that was not opened by the program it is for is a guess. So each target opens its exports as a `Runtime`, and an
export whose runtime answers differently is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..checkpoint import LoadedModel
from ..data import Tokenizer
from ..errors import CheckpointError
from ..generate.decode import decode
from ..generate.sampling import Sampling
from ..model import LightLLM
from .architectures import trimmed_config
from .exporter import MAX_LOGIT_ERROR, Runtime
from .exporter import TOKENIZER_TEXTS as TOKENIZER_TEXTS

GREEDY_TOKENS = 64
SHORT_WINDOW = 48  # tokens of the two short windows
MAX_LOGITS = 1 << 26  # of the long window, 0.27 GB: 1,335 tokens with GPT-2's vocabulary
MAX_TIES = 8  # greedy tokens where two logits are closer than the tolerance
ROUNDING_FACTOR = 4.0  # times the rounding error of our own float32, which another order of sums can also have
MAX_SPREAD = 0.25  # of the standard deviation of the logits, for the root mean square; another model's is above 1
TIE_FACTOR = 16.0  # times the root mean square: both logits may be off, by several times that


@dataclass(frozen=True)
class ExportCheck:
    """The comparison of a model with its export."""

    runtime: str
    max_logit_error: float
    rms_logit_error: float  # the root mean square
    limit: float  # of max_logit_error
    positions: int  # of the long window, whose logits were compared
    greedy_compared: int  # tokens
    greedy_equal: int  # tokens; the others tie
    same_tokenizer: bool | None  # None: the export has no tokenizer

    @property
    def summary(self) -> str:
        """Return the result in one line."""
        ids = ", the tokenizer gives the same ids" if self.same_tokenizer else ""
        tie = "" if self.greedy_equal == self.greedy_compared else " (the others tie)"
        return (
            f"verified with {self.runtime}: logits at {self.positions:,} positions differ by "
            f"{self.max_logit_error:.1e} at most (tolerance {self.limit:.0e}; root mean square "
            f"{self.rms_logit_error:.0e}), {self.greedy_equal} of "
            f"{self.greedy_compared} greedy tokens are equal{tie}{ids}"
        )


@torch.inference_mode()
def verify(
    loaded: LoadedModel, runtime: Runtime, *, limit: float = MAX_LOGIT_ERROR, texts: Sequence[str] = TOKENIZER_TEXTS
) -> ExportCheck:
    """Compare a model with its export: logits of two short windows and a long one, a greedy text, the tokenizer.

    The long window is the whole context where that is at most MAX_LOGITS logits; differences further on are not found.

    Args:
        loaded: our side, in float32 on the CPU. If the export rounds, a model with the same rounded weights.
        limit: of the difference between two logits.
        texts: that are tokenized by both.

    Raises CheckpointError if they are not the same model, and says in what they differ.
    """
    tokenizer, config = loaded.file.tokenizer, loaded.model.config
    n_ids = trimmed_config(loaded).vocab_size
    short, long = probe_windows(n_ids, config.n_positions)
    expected = loaded.model(torch.tensor(short)).float()[..., :n_ids]
    if not expected.isfinite().all():
        raise CheckpointError(
            "the model itself gives logits that are NaN or infinite; train it again, or export another step"
        )
    # Logits that hardly vary are within any fixed limit of those of another model.
    max_rms = MAX_SPREAD * float(expected.std())
    max_error, rms, allowed = 0.0, 0.0, limit
    for rows in (short, long):
        difference = _logit_difference(loaded, runtime, rows, n_ids)
        error, root = float(difference.abs().max()), float(difference.square().mean().sqrt())
        max_error, rms = max(max_error, error), max(rms, root)
        # Many layers can amplify rounding far beyond a limit for small models; a larger limit has allowed for that.
        if limit <= MAX_LOGIT_ERROR < error and root <= max_rms:
            allowed = max(allowed, ROUNDING_FACTOR * float32_rounding(loaded.model, rows))
        if not error <= allowed:  # also true for NaN
            raise _mismatch(runtime, f"its logits are off by {error:.1e}, and the tolerance is {allowed:.0e}")
        if root > max_rms:
            raise _mismatch(
                runtime, f"its logits are off by {root:.1e} in root mean square, and vary by {max_rms / MAX_SPREAD:.1e}"
            )
    # Two logits tie if rounding can exchange them; the largest difference of millions would make ties of most.
    tie = max(2 * MAX_LOGIT_ERROR, min(2 * allowed, TIE_FACTOR * rms))
    prompt = short[0][: max(1, min(8, config.n_positions // 2))]
    compared, equal = _compare_greedy(loaded, runtime, prompt, n_ids, tie)
    same_tokenizer = None if tokenizer is None else _compare_tokenizer(tokenizer, runtime, texts)
    return ExportCheck(runtime.name, max_error, rms, allowed, len(long[0]), compared, equal, same_tokenizer)


@torch.inference_mode()
def change_by_rounding(loaded: LoadedModel, rounded: LoadedModel) -> float | None:
    """Return the largest change of a logit by rounded weights, in the short windows; None if no weight changed."""
    weights = rounded.model.state_dict()
    if rounded is loaded or all(torch.equal(t, weights[name]) for name, t in loaded.model.state_dict().items()):
        return None
    n_ids = trimmed_config(loaded).vocab_size
    short, _ = probe_windows(n_ids, loaded.model.config.n_positions)
    before, after = (each.model(torch.tensor(short)).float()[..., :n_ids] for each in (loaded, rounded))
    return float((before - after).abs().max())


def _logit_difference(loaded: LoadedModel, runtime: Runtime, rows: list[list[int]], n_ids: int) -> Tensor:
    """Return the differences of the logits of some windows. Raises CheckpointError for another vocabulary."""
    expected, actual = loaded.model(torch.tensor(rows)).float()[..., :n_ids], runtime.logits(rows).float()
    if actual.shape != expected.shape:
        raise _mismatch(runtime, f"it has logits for {actual.size(-1):,} ids, and the model has {n_ids:,}")
    return actual.sub_(expected)


def float32_rounding(model: LightLLM, rows: list[list[int]]) -> float:
    """Return the largest difference between the logits of a float32 model and the same in float64."""
    # Weights that are converted in inference mode could not be trained any more.
    with torch.inference_mode(False), torch.no_grad():
        tokens = torch.tensor(rows)
        single = model(tokens)
        try:
            # In place, and back without a loss: a second model might not fit into memory.
            exact = model.double()(tokens)
        finally:
            model.float()
        return float((single - exact).abs().max())


def probe_windows(n_ids: int, n_positions: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return two short windows and one of the context, as rows of ids: (2, <= SHORT_WINDOW) and (1, <= n_positions)."""
    # Windows and rope scaling change the logits only far from the start, so the long window matters.
    long = min(n_positions, max(SHORT_WINDOW, MAX_LOGITS // n_ids))
    # Uniformly random, so that every row of a table is as likely to be compared.
    short_rows, long_rows = (
        torch.randint(n_ids, (2, T), generator=Generator().manual_seed(1)).tolist()
        for T in (min(SHORT_WINDOW, n_positions), long)
    )
    return short_rows, long_rows[1:]


def _compare_greedy(
    loaded: LoadedModel, runtime: Runtime, prompt: list[int], n_ids: int, tie: float
) -> tuple[int, int]:
    """Return the number of greedy tokens that were compared, and of those that are equal.

    Where two logits differ by at most `tie`, both texts continue from our token.

    Raises CheckpointError if a token differs without a tie, or more than MAX_TIES tokens tie.
    """
    n = min(GREEDY_TOKENS, loaded.model.config.n_positions - len(prompt))
    # No end token: a model that ends its text at once would be compared on nothing.
    steps = decode(loaded.model, [prompt], sampling=Sampling(temperature=0), seeds=[0], max_new_tokens=n, n_ids=n_ids)
    expected = [token for (token,) in steps if token is not None]
    done = ties = 0
    while done < n:
        actual = runtime.greedy([*prompt, *expected[:done]], n - done)
        same = next((i for i, (a, b) in enumerate(zip(expected[done:], actual, strict=False)) if a != b), len(actual))
        done += same
        if done == n:
            break
        ties += 1
        logits = loaded.model(torch.tensor([[*prompt, *expected[:done]]]))[0, -1].float()
        is_tie = same < len(actual) and float(logits[expected[done]] - logits[actual[same]]) <= tie
        if not is_tie or ties > MAX_TIES:
            raise _mismatch(runtime, f"its greedy text is another one from token {done} of {n} on")
        done += 1
    return n, n - ties


def _compare_tokenizer(tokenizer: Tokenizer, runtime: Runtime, texts: Sequence[str]) -> bool | None:
    """Return True if texts have the same ids there and come back whole; None if the export has no tokenizer.

    Characters that an alphabet lacks are left out of the texts, and the alphabet is a text of its own.
    """
    # Only CharTokenizer has an alphabet; the others encode any text.
    alphabet = getattr(tokenizer, "alphabet", None)
    for text in (*texts, *([alphabet] if alphabet else [])):
        known = text if alphabet is None else "".join(c for c in text if c in alphabet)
        actual, expected = runtime.encode(known), tokenizer.encode(known)
        if actual is None:
            return None
        if actual != expected:
            raise _mismatch(runtime, f"its tokenizer gives other ids for {known!r}: {actual[:8]}, not {expected[:8]}")
        whole, with_ends = [*tokenizer.prefix, *expected, *tokenizer.suffix], runtime.encode_with_ends(known)
        if with_ends is not None and with_ends != whole:
            raise _mismatch(runtime, f"its tokenizer puts other ids around {known!r}: {with_ends}, not {whole}")
        if runtime.decode(expected) != tokenizer.decode(expected):
            raise _mismatch(runtime, f"its tokenizer does not decode to {known!r}")
    return True


def _mismatch(runtime: Runtime, difference: str) -> CheckpointError:
    return CheckpointError(
        f"{runtime.name} opened the export, and it is not the same model: {difference}. The export was deleted; "
        "please report it, with the versions of torch and of that program"
    )
