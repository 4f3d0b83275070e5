"""`light-llm export hf|gguf|onnx|push`: export a model for Transformers, llama.cpp or ONNX Runtime, and verify it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.text import Text
from tyro.conf import arg

from ..errors import ConfigError
from ..text_format import format_bytes
from .args import parse_mode
from .output import print_rich


@dataclass(frozen=True)
class ExportFlags:
    """The flags of `export`, in the order help shows them."""

    checkpoint: Annotated[str, arg(metavar="PATH", help="run folder, step folder, .pt")] = "checkpoints"
    out: Annotated[str, arg(metavar="PATH", help="default: model-hf, model.gguf or model-onnx")] = ""
    dtype: Annotated[str, arg(metavar="NAME", help="number format of the weights; see above")] = ""
    overwrite: Annotated[bool, arg(help="replace an export in --out")] = False
    push: Annotated[str, arg(metavar="NAME", help="hf, push: upload to this name: you/my-model")] = ""
    public: Annotated[bool, arg(help="with --push: visible to everyone")] = False


NO_EFFECT = {
    "hf": set[str](),
    "gguf": {"push", "public"},
    "onnx": {"push", "public", "dtype"},
    "push": {"checkpoint", "dtype", "overwrite"},
}


def command(argv: Sequence[str]) -> int:
    """Export a model and verify the result, or upload an exported folder."""
    about = (
        "hf: a folder for Transformers (--dtype float32, bfloat16, float16). gguf: a file for llama.cpp, Ollama and "
        "others (--dtype f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0). onnx: a folder for ONNX Runtime. push: upload "
        "the folder --out that hf wrote. If the target program is installed, the export is run in it and compared with "
        "the model, and deleted if it differs."
    )
    mode, flags, _ = parse_mode(ExportFlags, argv, command="export", about=about, no_effect=NO_EFFECT)
    if flags.public and not flags.push:
        raise ConfigError("--public needs --push NAME: it is for an upload")
    from .progress import load_torch, waiting

    load_torch()
    from ..checkpoint import load_model
    from ..config import get_model_size
    from ..interop.export import TARGETS, check_request, export
    from ..interop.hub import check_push, push
    from ..interop.model_card import PROMPT, max_example_tokens
    from ..runtime import expand_path

    if mode == "push":
        if not flags.push:
            raise ConfigError("the model needs a name on the hub, as in: light-llm export push --push you/my-model")
        print(f"uploaded  {push(expand_path(flags.out or TARGETS['hf'].out), flags.push, private=not flags.public)}")
        return 0
    exporter = TARGETS[mode]
    out = expand_path(flags.out or exporter.out)
    check_request(exporter, out, flags.dtype, overwrite=flags.overwrite)
    if flags.push:
        check_push(flags.push)
    with waiting("loading the model"):
        loaded = load_model(flags.checkpoint)
    print(f"model     {loaded.file.path}: {get_model_size(loaded.file.config):,} parameters")
    with waiting("writing and verifying the export") as say:
        result = export(loaded, exporter, out, dtype=flags.dtype, overwrite=flags.overwrite, log=say)
    print_rich(Text(f"result    {result.summary}"))
    print(f"written   {result.path} ({format_bytes(result.size)})")
    if flags.push:
        print(f"uploaded  {push(out, flags.push, private=not flags.public)}")
    if (n := max_example_tokens(loaded.model.config.n_positions)) > 0:
        has_tokenizer = loaded.file.tokenizer is not None
        if words := exporter.try_command(str(out), PROMPT, min(40, n), has_tokenizer=has_tokenizer):
            print_rich(Text(f"try it    {shlex.join(words)}"))
        if not has_tokenizer:
            print("note      the model has no tokenizer: programs can give it token ids, but no text")
    return 0
