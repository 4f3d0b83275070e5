"""`light-llm import WHAT`: import a model from a folder or the hub of Hugging Face, a GGUF file or nanoGPT's file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction, arg

from ..errors import CheckpointError, ConfigError
from .args import PositionalArgs, Words, parse, words_arg
from .output import print_rich

if TYPE_CHECKING:
    from ..checkpoint import LoadedModel
    from ..interop.hub_model import FoundModel

_POSITIONAL = PositionalArgs(
    "folder, file or name",
    "light-llm import FOLDER --out FOLDER, or light-llm import OWNER/NAME",
    min_count=1,
    max_count=1,
)


@dataclass(frozen=True)
class ImportFlags:
    """The flags of `import`."""

    source: Annotated[
        Words, words_arg("WHAT", "folder, OWNER/NAME, .gguf, nanoGPT .pt", "(required)"), _POSITIONAL
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
    revision: Annotated[
        str, arg(metavar="REV", help="OWNER/NAME: a branch, tag or commit", help_behavior_hint="(default: main)")
    ] = ""
    ignore_field: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="NAME", help="a field of its config, at your own risk")
    ] = ()
    text: Annotated[str, arg(metavar="PATH", help="nanoGPT with char: its training text", help_behavior_hint="")] = ""
    activation: Annotated[str, arg(metavar="NAME", help="gelu_tanh for old nanoGPT")] = "gelu"
    overwrite: Annotated[bool, arg(help="replace a model in --out")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Import a model, and print its description and the next command."""
    about = (
        "Convert a published model to best_model.pt in --out: of the families GPT-2, Llama, Mistral, Qwen2, Qwen3, "
        "GPT-NeoX, GPT-Neo and Gemma 3, in a Hugging Face folder, on the hub (OWNER/NAME or OWNER/NAME@REVISION) or "
        "in a GGUF file; or a nanoGPT checkpoint."
    )
    # Earlier versions decoded the token files of nanoGPT to text, several at once.
    for word in argv:
        if word.endswith(".bin") and not word.startswith("-") and Path(word).is_file():
            from ..interop.bin_files import bin_file_error
            from ..interop.gguf_file import is_gguf

            if not is_gguf(Path(word)):
                raise bin_file_error(Path(word))
    flags, given = parse(ImportFlags, argv, prog="light-llm import", about=about)
    from .progress import load_torch, waiting

    load_torch()
    from ..interop.import_model import output_path, write_model
    from ..runtime import expand_path

    out = output_path(expand_path(flags.out), overwrite=flags.overwrite)
    found = _find_on_hub(flags.source[0], flags, given)
    with waiting("reading and verifying the model"):
        loaded = _read(flags.source[0], flags, given, found)
        write_model(loaded, out)
    print_rich(*_summary(loaded, out))
    return 0


def _find_on_hub(what: str, flags: ImportFlags, given: set[str]) -> FoundModel | None:
    """Return the model of the hub that is named, downloaded; None for a path. Raises ConfigError for a wrong flag."""
    from ..interop.hub_model import find_model, parse_name
    from ..runtime import expand_path
    from .progress import progress_bar

    path = expand_path(what)
    if path.exists() or path.suffix == ".pt":
        return None
    if (name := parse_name(what, flags.revision)) is None:
        raise CheckpointError(
            f"there is no folder or file {path}; name a folder, a file, or a model of the Hugging Face hub as in: "
            "light-llm import OWNER/NAME"
        )
    _refuse_flags(given, "a model of the hub", "text", "activation")
    with progress_bar(in_bytes=True) as show:
        return find_model(name, offline=flags.offline, progress=partial(show, "downloading"))


def _read(what: str, flags: ImportFlags, given: set[str], found: FoundModel | None) -> LoadedModel:
    """Read the folder, the file or the model of the hub that is named. Raises ConfigError for a flag without effect."""
    from ..checkpoint import contains_run
    from ..interop.gguf_file import is_gguf
    from ..interop.import_gguf import read_gguf
    from ..interop.import_model import read_folder
    from ..runtime import expand_path

    path = expand_path(what)
    how: dict[str, Any] = {"tokenizer": flags.tokenizer, "offline": flags.offline, "ignore_fields": flags.ignore_field}
    if found:
        return read_folder(found.folder, **how, source={"name": found.repo, "revision": found.commit})
    if path.is_dir():
        if contains_run(path) and not (path / "config.json").exists():
            raise CheckpointError(f"{path} is already a run of light-llm; use it directly: --checkpoint {path}")
        _refuse_flags(given, "a Hugging Face folder", "text", "activation", "revision")
        return read_folder(path, **how)
    if is_gguf(path):
        _refuse_flags(given, "a GGUF file", "text", "activation", "revision")
        return read_gguf(path, **how)
    _refuse_flags(given, "a nanoGPT checkpoint", "ignore_field", "revision")
    return _read_nanogpt(path, flags)


def _refuse_flags(given: set[str], what: str, *names: str) -> None:
    """Raise ConfigError for a flag that has no effect on what is imported."""
    for name in names:
        if name in given:
            raise ConfigError(f"--{name.replace('_', '-')} has no effect on {what}; leave it out")


def _read_nanogpt(path: Path, flags: ImportFlags) -> LoadedModel:
    from ..interop.nanogpt import read_checkpoint
    from ..runtime import expand_path

    if not path.exists():
        raise CheckpointError(f"there is no file {path}; name a checkpoint of nanoGPT, or a Hugging Face folder")
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
    """Return the lines that describe the imported model, and the next commands."""
    from ..config import get_model_size, repr_short
    from ..interop.architectures import FAMILIES

    config, tokenizer = loaded.model.config, loaded.file.tokenizer
    origin = loaded.file.meta["imported"]
    where = f"a GGUF file in {origin['dtype']}" if origin["format"] == "gguf" else "a Hugging Face folder"
    if origin.get("revision"):
        where = f"revision {origin['revision'][:12]} on the hub"
    kind = f"{FAMILIES[origin['family']].title}, {where}" if "family" in origin else "nanoGPT"
    none = "none: the model can be trained further, but not generate or be evaluated"
    about = f"{tokenizer.name}, vocabulary {tokenizer.vocab_size:,}" if tokenizer else none
    stored = origin.get("weights", {"dtype": "float32"})
    dtype = stored["dtype"] + (", some tensors in others" if "others" in stored else "")
    lines = [
        f"model      {origin['name']} ({kind})",
        f"           {get_model_size(config):,} parameters in {dtype}",
        f"           context {loaded.file.data['max_length']:,} tokens",
        f"tokenizer  {about}",
    ]
    for name, value in origin.get("ignored_fields", {}).items():
        lines.append(f"warning    {name}={repr_short(value)} was ignored: the model may compute something else")
    lines.append(f"written    {written}")
    path = shlex.quote(str(written))
    next_commands = [f"train --init-from {path} --data FILE --tokenizer NAME"]
    if tokenizer:
        next_commands = [
            f"generate text --checkpoint {path}",
            f"eval {path} --text FILE",
            f"train --init-from {path} --data FILE",
        ]
    return [*lines, *(f"{'next' if i == 0 else '':11}light-llm {words}" for i, words in enumerate(next_commands))]
