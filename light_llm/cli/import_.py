"""`light-llm import FOLDER|FILE`: models of Hugging Face folders and nanoGPT, and nanoGPT's token files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..errors import CheckpointError, ConfigError
from .args import PositionalArgs, parse
from .output import print_rich

if TYPE_CHECKING:
    from ..checkpoint import LoadedModel

_POSITIONAL = PositionalArgs(
    "folder or file", "light-llm import FOLDER --out FOLDER, or light-llm import ckpt.pt", min_count=1
)
OUT = "imported"
OF_CHECKPOINTS = ("text", "activation")  # flags that nanoGPT's checkpoints alone have a use for


@dataclass(frozen=True)
class ImportFlags:
    """The flags of `import`."""

    what: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="WHAT ...", help="HF folder, nanoGPT .pt or .bin", help_behavior_hint="(needed)"),
        _POSITIONAL,
    ] = ()
    out: Annotated[str, arg(metavar="PATH", help="folder, or file that ends in .pt")] = OUT
    tokenizer: Annotated[
        str, arg(metavar="NAME|PATH", help="gpt2, byte, char, none", help_behavior_hint="(default: its own)")
    ] = ""
    text: Annotated[str, arg(metavar="PATH", help="of nanoGPT: for char", help_behavior_hint="")] = ""
    activation: Annotated[str, arg(metavar="NAME", help="of old nanoGPT: gelu_tanh")] = "gelu"
    overwrite: Annotated[bool, arg(help="replace what is there")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = (
        "A GPT-2, Llama or Qwen3 in a Hugging Face folder, or a checkpoint of nanoGPT, becomes best_model.pt in --out. "
        "Token files of nanoGPT (train.bin val.bin) become texts."
    )
    flags, given = parse(ImportFlags, argv, prog="light-llm import", about=about)
    paths = [Path(word) for word in flags.what]
    if all(path.suffix == ".bin" and not path.is_dir() for path in paths):
        _refuse(given, OF_CHECKPOINTS, "token files")
        _tokens(paths, flags)
        return 0
    if len(paths) > 1:
        raise ConfigError(f"one model is imported at a time, {len(paths)} given: {' '.join(flags.what)}; name one")
    _model(paths[0], flags, given)
    return 0


def _refuse(given: set[str], names: Sequence[str], what: str) -> None:
    """Raise ConfigError for flags that have no effect."""
    for name in names:
        if name in given:
            raise ConfigError(f"--{name} has no effect on {what}; leave it out")


def _model(path: Path, flags: ImportFlags, given: set[str]) -> None:
    from ..interop.import_model import place_for, write_model

    out = place_for(Path(flags.out), overwrite=flags.overwrite)
    loaded = _read(path, flags, given)
    write_model(loaded, out)
    print_rich(*_lines(loaded, out))


def _read(path: Path, flags: ImportFlags, given: set[str]) -> LoadedModel:
    """The model at a path, by what stands there."""
    from ..interop.import_model import read_folder
    from ..interop.nanogpt import read_checkpoint

    if path.is_dir() or not path.exists():
        if path.suffix == ".pt":
            raise CheckpointError(f"there is no file {path}; name a checkpoint of nanoGPT, or the folder of a model")
        _refuse(given, OF_CHECKPOINTS, "a Hugging Face folder")
        return read_folder(path, tokenizer=flags.tokenizer, offline=flags.offline)
    if path.suffix != ".pt":
        raise CheckpointError(
            f"{path} is neither a folder of a model, nor a checkpoint (.pt) or token file (.bin) of nanoGPT; "
            "name the folder that its config.json is in"
        )
    return read_checkpoint(
        path,
        tokenizer=flags.tokenizer,
        text=Path(flags.text) if flags.text else None,
        activation=flags.activation,
        offline=flags.offline,
    )


def _lines(loaded: LoadedModel, written: Path) -> list[str]:
    """What was imported, and what to do with it."""
    from ..config import get_model_size

    config, tokenizer = loaded.model.config, loaded.file.tokenizer
    origin = loaded.file.meta["imported"]
    names = {"gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3"}
    kind = f"{names[origin['family']]}, a Hugging Face folder" if "family" in origin else "nanoGPT"
    what = f"{tokenizer.name}, {tokenizer.vocab_size:,} ids" if tokenizer else "none: its ids have no texts here"
    path = shlex.quote(str(written))
    use = (
        f"generate text --checkpoint {path}" if tokenizer else f"train --init-from {path} --data FILE --tokenizer NAME"
    )
    return [
        f"model      {origin['name']} ({kind})",
        f"           {get_model_size(config):,} parameters, context {loaded.file.data['max_length']:,} tokens",
        f"tokenizer  {what}",
        f"written    {written}",
        f"next       light-llm {use}",
    ]


def _tokens(paths: list[Path], flags: ImportFlags) -> None:
    from ..interop.import_tokenizer import named_tokenizer
    from ..interop.nanogpt_tokens import write_texts
    from .progress import counting

    if flags.tokenizer == "none":
        raise ConfigError("--tokenizer none cannot be used with token files: their ids become texts; name gpt2, say")
    tokenizer = named_tokenizer(flags.tokenizer or "gpt2", offline=flags.offline)
    with counting("decoding") as progress:
        texts = write_texts(paths, tokenizer, Path(flags.out), overwrite=flags.overwrite, progress=progress)
    for text in texts:
        n = f"{text.documents:,} document{'s' * (text.documents > 1)}"
        same = "encoded again, the same ids" if not text.other else f"{text.other:,} of them give other ids"
        print_rich(f"written    {text.path}", f"           {text.tokens:,} tokens, {n}; {same}")
    data = " --val-data ".join(shlex.quote(str(text.path)) for text in texts[:2])
    print_rich(f"next       light-llm train --data {data} --tokenizer {shlex.quote(flags.tokenizer or 'gpt2')}")
