"""`light-llm generate demo|text|interactive|eval`: generate text with a trained model, or evaluate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from ..config import DEFAULT_SAMPLING, Sampling, check_range, settings_of
from ..errors import ConfigError, DataError
from .args import parse_mode, with_settings
from .model_text import evaluate_held_out
from .signals import default_sigint

if TYPE_CHECKING:
    from ..generate import TextGenerator

DEMO_PROMPTS = ("To be or not to be", "ROMEO:", "My lord, I", "Once upon a time")
STORY_PROMPTS = ("", "Once upon a time", "Lily was", "Tom lived in")  # for a model of the built-in corpus
MAX_SAMPLES = 10_000  # they are generated together
STORY_TOKENS = 300  # enough for all but the longest stories


@dataclass(frozen=True)
class GenerateFlags:
    """The flags of `generate`, in the order of --help. The sampling settings follow them."""

    checkpoint: Annotated[str, arg(metavar="PATH", help="run folder, step folder, .pt")] = "checkpoints"
    prompt: Annotated[str, arg(metavar="TEXT", help="text to continue")] = ""
    max_new_tokens: Annotated[int, arg(metavar="N", help="stop after this many tokens")] = 100
    stop: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT", help="stop before this text")] = ()
    num_samples: Annotated[int, arg(metavar="N", help="number of continuations")] = 1
    seed: Annotated[int, arg(metavar="N", help="same seed, same text; -1: random")] = -1
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    dtype: Annotated[str, arg(metavar="NAME", help="auto is float32; bfloat16 is faster")] = "auto"
    quantize: Annotated[str, arg(metavar="NAME", help="none, or int8 weights (faster)")] = "none"
    data: Annotated[str, arg(metavar="PATH", help="eval: path of the text, if it has moved")] = ""


# The flags above and one for each sampling setting.
ALL_FLAGS = with_settings(GenerateFlags, DEFAULT_SAMPLING)
NO_EFFECT = {
    "demo": {"num_samples", "data"},
    "text": {"data"},
    "interactive": {"num_samples", "data"},
    "eval": {f.name for f in fields(ALL_FLAGS)} - {"checkpoint", "device", "data"},
}


def command(argv: Sequence[str]) -> int:
    """Generate text, or evaluate the model, as the mode says."""
    about = (
        "demo: continue a few built-in prompts.\n\ntext: continue the text of --prompt.\n\n"
        "interactive: type prompts, and change settings between them.\n\n"
        "eval: measure loss, perplexity and bits per byte on the held-out text."
    )
    mode, flags, given = parse_mode(ALL_FLAGS, argv, command="generate", about=about, no_effect=NO_EFFECT)
    if mode == "eval":
        evaluate_held_out(flags.checkpoint, flags.device, flags.data)
        return 0
    _sampling(flags)  # checked before a model is loaded in vain
    from .progress import waiting

    with waiting("loading the model"):
        from ..generate import TextGenerator

        generator = TextGenerator(flags.checkpoint, device=flags.device, dtype=flags.dtype, quantize=flags.quantize)
    if mode == "demo":
        demo(generator, flags, given)
    elif mode == "text":
        continue_prompt(generator, flags)
    else:
        return interactive(generator, flags)
    return 0


def demo(generator: TextGenerator, flags: GenerateFlags, given: set[str]) -> None:
    """Continue a few prompts, and print each text while it is generated."""
    usual = DEMO_PROMPTS
    if str(generator.file.data.get("source")).partition(":")[0] == "tales":
        usual = STORY_PROMPTS
        if "max_new_tokens" not in given:
            flags = replace(flags, max_new_tokens=STORY_TOKENS)
    prompts = [flags.prompt] if flags.prompt else [p for p in usual if _can_read(generator, p)] or [""]
    for i, prompt in enumerate(prompts):
        print(f"--- {prompt!r}" if prompt else "--- (no prompt)")
        _stream(generator, flags, prompt, _seed(flags) + i)


def continue_prompt(generator: TextGenerator, flags: GenerateFlags) -> None:
    """Continue one prompt, printed while it is generated, or as several samples in one batch."""
    check_range("num_samples", flags.num_samples, low=1, high=MAX_SAMPLES, integer=True)
    if flags.num_samples == 1:
        _stream(generator, flags, flags.prompt, _seed(flags))
        return
    texts = generator.generate_many(
        [flags.prompt] * flags.num_samples,
        max_new_tokens=flags.max_new_tokens,
        sampling=_sampling(flags),
        stop=flags.stop,
        seed=_seed(flags),
    )
    for i, continuation in enumerate(texts):
        print(f"--- sample {i + 1}")
        print(flags.prompt + continuation)


def interactive(generator: TextGenerator, flags: GenerateFlags) -> int:
    """Continue each line that is typed or piped in."""
    import io
    import sys

    from ..generate.repl import COMPLETIONS, SETTINGS, Repl, ReplSettings
    from ..generate.terminal import detect_terminal, line_reader

    settings = ReplSettings(**{name: getattr(flags, name) for name in SETTINGS})
    # sys.stdin is None when a program without a console, such as pythonw, starts this one.
    source = sys.stdin or io.StringIO()
    # A prompt may hold any bytes.
    if isinstance(source, io.TextIOWrapper):
        source.reconfigure(encoding="utf-8", errors="replace")
    terminal = detect_terminal(source, sys.stdout, sys.stderr)
    repl = Repl(generator, settings, terminal)
    with default_sigint():
        for line in repl.header() if terminal.interactive else ():
            terminal.note(line)
        return repl.run(line_reader(source, terminal, COMPLETIONS), first=flags.prompt)


def _sampling(flags: GenerateFlags) -> Sampling:
    """Return the sampling settings of the flags. Raises ConfigError for a value out of range."""
    return Sampling(**{name: getattr(flags, name) for name in settings_of(Sampling)})


def _seed(flags: GenerateFlags) -> int:
    """Return the seed of the flags, or a new one for -1."""
    import secrets

    check_range("seed", flags.seed, low=-1, integer=True)
    return flags.seed if flags.seed >= 0 else secrets.randbits(32)


def _stream(generator: TextGenerator, flags: GenerateFlags, prompt: str, seed: int) -> None:
    """Print a prompt and its continuation, piece by piece."""
    pieces = generator.stream(
        prompt, max_new_tokens=flags.max_new_tokens, sampling=_sampling(flags), stop=flags.stop, seed=seed
    )
    # The first piece before anything is printed: a prompt that cannot be used raises here.
    print(prompt + next(pieces, ""), end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _can_read(generator: TextGenerator, prompt: str) -> bool:
    """Return whether the tokenizer has all characters of a prompt."""
    try:
        generator.encode_prompt(prompt)
    except (DataError, ConfigError):
        return False
    return True
