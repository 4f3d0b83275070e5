"""`light-llm generate demo|text|interactive|eval`: write with a trained model, or measure it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from ..config import DEFAULT_SAMPLING, Sampling, settings_of
from ..errors import ConfigError, DataError
from .args import parse_mode, with_settings
from .signals import default_sigint
from .training_data import open_training_data

if TYPE_CHECKING:
    from ..generate import TextGenerator

DEMO_PROMPTS = ("To be or not to be", "ROMEO:", "My lord, I", "Once upon a time")
STORY_PROMPTS = ("", "Once upon a time", "Lily was", "Tom lived in")  # of a model of the built-in corpus
WHOLE_STORY = 300  # tokens: all but the longest end by themselves before


@dataclass(frozen=True)
class GenerateFlags:
    """The flags of `generate`, in the order help shows them."""

    checkpoint: Annotated[str, arg(metavar="PATH", help="run folder, step folder, .pt")] = "checkpoints"
    prompt: Annotated[str, arg(metavar="TEXT", help="what the text starts with")] = ""
    max_new_tokens: Annotated[int, arg(metavar="N", help="tokens to write at most")] = 100
    stop: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT", help="end before it")] = ()
    num_samples: Annotated[int, arg(metavar="N", help="texts to write")] = 1
    seed: Annotated[int, arg(metavar="N", help="repeats a text; -1: a new one")] = -1
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    dtype: Annotated[str, arg(metavar="NAME", help="auto: float32; bfloat16: faster")] = "auto"
    quantize: Annotated[str, arg(metavar="NAME", help="none; int8: fastest")] = "none"
    data: Annotated[str, arg(metavar="PATH", help="eval: where the text is now")] = ""


# The flags above and one for each sampling setting.
ALL_FLAGS = with_settings(GenerateFlags, DEFAULT_SAMPLING)
NO_EFFECT = {
    "demo": {"num_samples", "data"},
    "text": {"data"},
    "interactive": {"num_samples", "data"},
    "eval": {f.name for f in fields(ALL_FLAGS)} - {"checkpoint", "device", "data"},
}


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    modes: dict[str, Callable[[GenerateFlags, set[str]], int]] = {
        "demo": demo,
        "text": text,
        "interactive": interactive,
        "eval": evaluate,
    }
    about = (
        "demo: a few prompts. text: continue --prompt. interactive: type prompts, change settings as you go. "
        "eval: loss, perplexity and bits per byte of the held-out text."
    )
    mode, flags, given = parse_mode(ALL_FLAGS, argv, command="generate", about=about, no_effect=NO_EFFECT)
    return modes[mode](flags, given)


def demo(flags: GenerateFlags, given: set[str]) -> int:
    """A few prompts, each continued as it is written."""
    writer = _open(flags)
    usual = DEMO_PROMPTS
    if str(writer.file.data.get("source")).partition(":")[0] == "tales":
        usual = STORY_PROMPTS
        if "max_new_tokens" not in given:
            flags = replace(flags, max_new_tokens=WHOLE_STORY)
    prompts = [flags.prompt] if flags.prompt else [p for p in usual if _can_read(writer, p)] or [""]
    for i, prompt in enumerate(prompts):
        print(f"--- {prompt!r}" if prompt else "--- from nothing")
        _stream(writer, flags, prompt, _seed(flags) + i)
    return 0


def text(flags: GenerateFlags, given: set[str]) -> int:
    """Continue one prompt: as it is written, or several samples in one batch."""
    writer = _open(flags)
    if flags.num_samples < 1:
        raise ConfigError(f"num_samples={flags.num_samples} cannot be used; it must be a whole number at least 1")
    if flags.num_samples == 1:
        _stream(writer, flags, flags.prompt, _seed(flags))
        return 0
    texts = writer.generate_many(
        [flags.prompt] * flags.num_samples,
        max_new_tokens=flags.max_new_tokens,
        sampling=_sampling(flags),
        stop=flags.stop,
        seed=_seed(flags),
    )
    for i, continuation in enumerate(texts):
        print(f"--- sample {i + 1}")
        print(flags.prompt + continuation)
    return 0


def interactive(flags: GenerateFlags, given: set[str]) -> int:
    """Continue what is typed, or piped in, line after line."""
    import io
    import sys

    from ..generate.repl import COMPLETIONS, SETTINGS, Repl, ReplSettings
    from ..generate.terminal import detect_terminal, line_reader

    settings = ReplSettings(**{name: getattr(flags, name) for name in SETTINGS})
    source = sys.stdin or io.StringIO()  # none at all, where a program without a console started this one
    if isinstance(source, io.TextIOWrapper):
        source.reconfigure(encoding="utf-8", errors="replace")  # a byte that is no text is a prompt's, not a crash's
    terminal = detect_terminal(source, sys.stdout, sys.stderr)
    repl = Repl(_open(flags), settings, terminal)
    with default_sigint():
        for line in repl.header() if terminal.interactive else ():
            terminal.note(line)
        return repl.run(line_reader(source, terminal, COMPLETIONS), first=flags.prompt)


def evaluate(flags: GenerateFlags, given: set[str]) -> int:
    """Loss, perplexity and bits per byte of the text the model never saw."""
    import numpy as np

    from ..checkpoint import load_model
    from ..data.tokenizers import byte_lengths
    from ..evaluate import evaluate_held_out
    from ..runtime import choose_device
    from .progress import counting

    device = choose_device(flags.device)
    loaded = load_model(flags.checkpoint, device.value)
    file, data = loaded.file, loaded.file.data
    dataset = open_training_data(file, flags.data)
    validation = dataset.source.held_out
    if validation and data.get("source") and validation.sha256 != data.get("held_out_sha256"):
        raise DataError(
            f"{validation.path} is not the text that was held out when {file.path} was trained (its SHA-256 differs); "
            "put the old one back"
        )
    dtype = file.meta.get("dtype", "float32")
    with counting("evaluating") as progress:
        found, distance = evaluate_held_out(
            loaded.model,
            dataset,
            np.array(byte_lengths(dataset.tokenizer)),
            context=dataset.max_length,
            dtype=dtype,
            progress=progress,
        )
    give_or_take = f" ± {found.stderr:.3f}" if found.stderr is not None else ""
    print(f"model       {file.path}, step {file.meta.get('step')}")
    what = validation.title if validation else f"the held-out end of {dataset.source.title}"
    print(f"text        {what}: {found.tokens:,} targets, {found.bytes:,} bytes")
    print(f"loss        {found.loss:.4f}{give_or_take} nats per token")
    print(f"perplexity  {found.perplexity:.2f}")
    print(f"bits/byte   {found.bits_per_byte:.4f}")
    if distance:
        print(
            f"limit       {distance.limit:.4f} bits/byte: what the text itself holds; no model does better on average"
        )
        places = (("seen whole", distance.whole), ("cut by a window's edge", distance.cut))
        where = "; ".join(f"{value:.4f} in stories {place}" for place, value in places if value is not None)
        print(f"distance    {distance.distance:.4f} bits/byte: {where}")
        far, near = distance.kinds[:3], distance.kinds[-2:]
        print(f"farthest    {', '.join(f'{kind} {value:.4f}' for kind, value in far)}")
        print(f"nearest     {', '.join(f'{kind} {value:.4f}' for kind, value in near)}")
    print(
        f"context     {found.context:,} tokens, {found.windows} windows, each starting cold; {dtype} on {device.value}"
    )
    return 0


def _open(flags: GenerateFlags) -> TextGenerator:
    _sampling(flags)  # a value out of range is said before a model is loaded
    from ..generate import TextGenerator

    return TextGenerator(flags.checkpoint, device=flags.device, dtype=flags.dtype, quantize=flags.quantize)


def _sampling(flags: GenerateFlags) -> Sampling:
    """Return the sampling settings of the flags. Raises ConfigError for a value out of range."""
    return Sampling(**{name: getattr(flags, name) for name in settings_of(Sampling)})


def _seed(flags: GenerateFlags) -> int:
    import secrets

    return flags.seed if flags.seed >= 0 else secrets.randbits(32)


def _stream(writer: TextGenerator, flags: GenerateFlags, prompt: str, seed: int) -> None:
    pieces = writer.stream(
        prompt, max_new_tokens=flags.max_new_tokens, sampling=_sampling(flags), stop=flags.stop, seed=seed
    )
    first = next(pieces, "")  # a prompt that cannot be used is refused before anything is printed
    print(prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _can_read(writer: TextGenerator, prompt: str) -> bool:
    try:
        writer.encode_prompt(prompt)
    except (DataError, ConfigError):
        return False
    return True
