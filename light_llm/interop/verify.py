"""Whether an exported model is the model: the other program opens the file, and both are asked the same.

An export that was not opened by the program it is for is a guess. So each target is a `Runtime`, and a file that
answers differently is refused before anybody uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..checkpoint import LoadedModel
from ..data import Tokenizer
from ..data.tokenizers import decode as decode_ids
from ..errors import CheckpointError
from ..generate.decode import decode
from ..generate.sampling import Sampling

GREEDY = 64  # tokens that are continued
WINDOW = 48  # tokens of the two short windows whose logits are compared
MOST = 1 << 26  # logits of the long window, 0.27 GB: 1,335 tokens with GPT-2's vocabulary
TIES = 8  # tokens at which two logits are as near as they may differ, in a greedy text
SPREAD = 0.25  # of the logits' own deviation: a limit beyond that would pass another model
TEXTS = (  # what a tokenizer must give back: words, signs, numbers, lines, letters of several bytes
    "To be, or not to be: that is the question.\n",
    "  two spaces,\ttab, 1234 and don't!\n\n",
    "naïve café — Ωμέγα, 東京 🙂",
)


class Runtime(Protocol):
    """An exported model, opened by the program it is for."""

    name: str  # and its version: "transformers 5.23.0"

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(B, T) ids, rows of one length -> (B, T, V) float32."""

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n likeliest tokens after ids, one by one, as the program usually decodes (with its cache)."""

    def encode(self, text: str) -> list[int] | None:
        """Ids by the tokenizer that was exported; None where the format has none."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""


@dataclass(frozen=True)
class Verdict:
    """What was compared, and how far apart it was."""

    runtime: str
    largest: float  # difference of two logits
    limit: float
    places: int  # positions whose logits were compared
    compared: int  # greedy tokens that were compared
    equal: int  # of them the same; the others tie
    tokenizer: bool | None  # the same ids and texts; None where the format has none

    @property
    def words(self) -> str:
        """One line."""
        ids = {True: ", the tokenizer gives the same ids", False: "", None: ""}[self.tokenizer]
        tie = "" if self.equal == self.compared else " (the others tie)"
        return (
            f"verified with {self.runtime}: logits at {self.places:,} positions differ by {self.largest:.1e} at most "
            f"(allowed {self.limit:.0e}), {self.equal} of {self.compared} greedy tokens are equal{tie}{ids}"
        )


@torch.inference_mode()
def verify(loaded: LoadedModel, runtime: Runtime, *, limit: float = 1e-4) -> Verdict:
    """Compare a model with its export: logits of two short windows and a long one, a greedy text, the tokenizer.

    The long one is the whole context, where that is at most MOST logits; what a model does further on is not seen.

    Args:
        loaded: our side, in float32 on the CPU. Where the export rounds, a model with the same rounded weights.
        limit: of the difference between two logits.

    Raises:
        CheckpointError: they are not the same model; the message says in what.
    """
    tokenizer = loaded.file.tokenizer
    config = loaded.model.config
    n_ids = tokenizer.vocab_size if tokenizer else config.vocab_size
    drawn, long = looked_at(n_ids, config.n_positions)
    ours = loaded.model(torch.tensor(drawn)).float()[..., :n_ids]
    if not ours.isfinite().all():
        raise CheckpointError(
            "the model itself gives logits that are no numbers; train it again, or export another step"
        )
    limit = min(limit, SPREAD * float(ours.std()))
    largest = max(_apart(loaded, runtime, rows, n_ids, limit) for rows in (drawn, long))
    compared, equal = _greedy(loaded, runtime, drawn[0][: max(1, min(8, config.n_positions // 2))], n_ids, limit)
    fits = None if tokenizer is None else _same_tokenizer(tokenizer, runtime)
    return Verdict(runtime.name, largest, limit, len(long[0]), compared, equal, fits)


def _apart(loaded: LoadedModel, runtime: Runtime, rows: list[list[int]], n_ids: int, limit: float) -> float:
    """The largest difference of two logits of some windows. Raises CheckpointError where it is too large."""
    ours, theirs = loaded.model(torch.tensor(rows)).float()[..., :n_ids], runtime.logits(rows).float()
    if theirs.shape != ours.shape:
        raise _wrong(runtime, f"it has logits for {theirs.size(-1):,} ids, and the model has {n_ids:,}")
    largest = float((ours - theirs).abs().max())
    if not largest <= limit:  # NaN is not
        raise _wrong(runtime, f"its logits are off by {largest:.1e}, and {limit:.0e} is allowed")
    return largest


def looked_at(n_ids: int, n_positions: int) -> tuple[list[list[int]], list[list[int]]]:
    """Two short windows and one of the context, as rows of ids: (2, <= WINDOW) and (1, <= n_positions)."""
    long = min(n_positions, max(WINDOW, MOST // n_ids))
    return windows(n_ids, min(WINDOW, n_positions)), windows(n_ids, long)[1:]


def windows(n_ids: int, T: int) -> list[list[int]]:
    """Two windows of ids drawn evenly: every part of a table is as likely to be looked at."""
    drawn = torch.randint(n_ids, (2, T), generator=Generator().manual_seed(1))
    return [[int(i) for i in row] for row in drawn.tolist()]


def _greedy(loaded: LoadedModel, runtime: Runtime, prompt: list[int], n_ids: int, limit: float) -> tuple[int, int]:
    """How many tokens were compared, and how many of them are equal.

    Where two tokens tie, ours is taken, and the text goes on from there.
    """
    n = min(GREEDY, loaded.model.config.n_positions - len(prompt))
    steps = decode(loaded.model, [prompt], sampling=Sampling(temperature=0), seeds=[0], max_new_tokens=n, n_ids=n_ids)
    ours = [token for (token,) in steps if token is not None]
    done = ties = 0
    while done < n:
        theirs = runtime.greedy([*prompt, *ours[:done]], n - done)
        same = next((i for i, (a, b) in enumerate(zip(ours[done:], theirs, strict=False)) if a != b), len(theirs))
        done += same
        if done == n:
            break
        ties += 1
        logits = loaded.model(torch.tensor([[*prompt, *ours[:done]]]))[0, -1].float()
        near = same < len(theirs) and float(logits[ours[done]] - logits[theirs[same]]) <= 2 * limit
        if not near or ties > TIES:
            raise _wrong(runtime, f"its greedy text is another one from token {done} of {n} on")
        done += 1
    return n, n - ties


def _same_tokenizer(tokenizer: Tokenizer, runtime: Runtime) -> bool | None:
    """Whether texts have the same ids there, and come back whole. An alphabet is a text itself; what it lacks is left
    out of the others."""
    alphabet = getattr(tokenizer, "alphabet", None)
    for text in (*TEXTS, *([alphabet] if alphabet else [])):
        known = text if alphabet is None else "".join(c for c in text if c in alphabet)
        found, ids = runtime.encode(known), tokenizer.encode(known)
        if found is None:
            return None
        if found != ids:
            raise _wrong(runtime, f"its tokenizer makes other ids of {known!r}: {found[:8]} and not {ids[:8]}")
        if runtime.decode(ids) != decode_ids(tokenizer, ids):
            raise _wrong(runtime, f"its tokenizer does not give back {known!r}")
    return True


def _wrong(runtime: Runtime, what: str) -> CheckpointError:
    return CheckpointError(
        f"{runtime.name} opened the export, and it is not the model: {what}. Nothing was kept; "
        "please report it, with the versions of torch and of that program"
    )
