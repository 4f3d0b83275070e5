"""Writing speed: one stream from a model of random weights, by the decoder and in the number format of `generate`."""

from collections.abc import Callable

import torch

from ..config import ModelConfig
from ..generate import Sampling, change_format, decode
from ..model import LightLLM
from .timing import Repeats, nothing, seconds_of, waiter

PROMPT = 16  # tokens


def writing_rates(
    config: ModelConfig,
    tokens: int,
    *,
    device: str,
    repeats: Repeats,
    tick: Callable[[], None] = nothing,
) -> tuple[list[float], str]:
    """Tokens/s of one text of so many tokens after a prompt of 16, one value a repetition, and the number format.

    Reading the prompt is part of it. Random weights are multiplied no faster than trained ones; the rules of sampling
    are the defaults of `light-llm generate`.
    """
    model = LightLLM(config).to(device).eval()
    chosen = change_format(model).value
    prompt = torch.randint(config.vocab_size, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    sampling = Sampling(temperature=0.8, top_k=min(40, config.vocab_size))

    def write() -> None:
        written = sum(1 for _ in decode(model, [prompt], seeds=[0], sampling=sampling, max_new_tokens=tokens))
        assert written == tokens, "no id ends a text here"

    seconds = seconds_of(write, repeats, wait=waiter(device), tick=tick)
    return [tokens / s for s in seconds], chosen
