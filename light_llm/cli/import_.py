"""`light-llm import FOLDER|FILE`: import a model from a Hugging Face folder, a GGUF file or nanoGPT's checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..errors import CheckpointError, ConfigError
from .args import PositionalArgs, Words, parse, words_arg
from .output import print_rich

if TYPE_CHECKING:
    from ..checkpoint import LoadedModel

_POSITIONAL = PositionalArgs(
    "folder or file", "light-llm import FOLDER --out FOLDER, or light-llm import ckpt.pt", min_count=1, max_count=1
)


@dataclass(frozen=True)
class ImportFlags:
    """The flags of `import`."""

    source: Annotated[
        Words, words_arg("WHAT", "Hugging Face folder, .gguf or nanoGPT .pt", "(required)"), _POSITIONAL
    ] = ()
    out: Annotated[str, arg(metavar="PATH", help="folder, or a file name with .pt")] = "imported"
    tokenizer: Annotated[
        str,
        arg(
            metavar="NAME|PATH",
            help="instead of its own: gpt2, char, byte, none",
            help_behavior_hint="(default: its own)",
        ),
    ] = ""
    text: Annotated[str, arg(metavar="PATH", help="nanoGPT with char: its training text", help_behavior_hint="")] = ""
    activation: Annotated[str, arg(metavar="NAME", help="gelu_tanh for old nanoGPT")] = "gelu"
    overwrite: Annotated[bool, arg(help="replace a model in --out")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Import a model, and print its description and the next command."""
    about = (
        "Convert a GPT-2, Llama or Qwen3 model in a Hugging Face folder or a GGUF file, or a nanoGPT checkpoint, to "
        "best_model.pt in --out."
    )
    # Earlier versions decoded the token files of nanoGPT to text.
    for word in argv:
        if word.endswith(".bin") and not word.startswith("-") and not Path(word).is_dir():
            raise ConfigError(
                f"{word} is a token file of nanoGPT, or another .bin file, which cannot be imported; train on the text "
                "that token files were made from: light-llm train --data input.txt --tokenizer gpt2"
            )
    flags, given = parse(ImportFlags, argv, prog="light-llm import", about=about)
    from .progress import load_torch, waiting

    load_torch()
    from ..interop.import_model import output_path, write_model
    from ..runtime import expand_path

    out = output_path(expand_path(flags.out), overwrite=flags.overwrite)
    with waiting("reading and verifying the model"):
        loaded = _read(expand_path(flags.source[0]), flags, given)
        write_model(loaded, out)
    print_rich(*_summary(loaded, out))
    return 0


def _read(path: Path, flags: ImportFlags, given: set[str]) -> LoadedModel:
    """Read the folder or checkpoint at a path. Raises ConfigError for a flag without effect on it."""
    from ..checkpoint import contains_run
    from ..interop.gguf_file import is_gguf
    from ..interop.import_gguf import read_gguf
    from ..interop.import_model import read_folder
    from ..interop.nanogpt import read_checkpoint
    from ..runtime import expand_path

    if is_gguf(path):
        for name in ("text", "activation"):
            if name in given:
                raise ConfigError(f"--{name} has no effect on a GGUF file; leave it out")
        return read_gguf(path, tokenizer=flags.tokenizer, offline=flags.offline)
    if path.is_dir() or not path.exists():
        if path.suffix == ".pt":
            raise CheckpointError(f"there is no file {path}; name a checkpoint of nanoGPT, or a Hugging Face folder")
        if contains_run(path) and not (path / "config.json").exists():
            raise CheckpointError(f"{path} is already a run of light-llm; use it directly: --checkpoint {path}")
        for name in ("text", "activation"):
            if name in given:
                raise ConfigError(f"--{name} has no effect on a Hugging Face folder; leave it out")
        return read_folder(path, tokenizer=flags.tokenizer, offline=flags.offline)
    if path.suffix != ".pt":
        folder = path.absolute().parent
        hint = f"the folder that it is in: light-llm import {shlex.quote(str(folder))}"
        if not (folder / "config.json").is_file():
            hint = "the folder that has the model's config.json"
        raise CheckpointError(
            f"{path} is a file, and neither a GGUF file nor a checkpoint (.pt) of nanoGPT; name {hint}"
        )
    return read_checkpoint(
        path,
        tokenizer=flags.tokenizer,
        text=expand_path(flags.text) if flags.text else None,
        activation=flags.activation,
        offline=flags.offline,
    )


def _summary(loaded: LoadedModel, written: Path) -> list[str]:
    """Return the lines that describe the imported model and the next command."""
    from ..config import get_model_size
    from ..interop.architectures import FAMILIES

    config, tokenizer = loaded.model.config, loaded.file.tokenizer
    origin = loaded.file.meta["imported"]
    where = f"a GGUF file in {origin['dtype']}" if origin["format"] == "gguf" else "a Hugging Face folder"
    kind = f"{FAMILIES[origin['family']].title}, {where}" if "family" in origin else "nanoGPT"
    none = "none: the model can be trained further, but not generate or be evaluated"
    about = f"{tokenizer.name}, vocabulary {tokenizer.vocab_size:,}" if tokenizer else none
    path = shlex.quote(str(written))
    use = (
        f"generate text --checkpoint {path}" if tokenizer else f"train --init-from {path} --data FILE --tokenizer NAME"
    )
    return [
        f"model      {origin['name']} ({kind})",
        f"           {get_model_size(config):,} parameters, context {loaded.file.data['max_length']:,} tokens",
        f"tokenizer  {about}",
        f"written    {written}",
        f"next       light-llm {use}",
    ]
