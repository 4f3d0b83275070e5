"""`light-llm train`: from flags to a Run, and from a Run to a trained model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import UseAppendAction, arg

from ..config import DataConfig, ModelConfig, Run, TrainConfig, load_recipe, parse_settings, preset_settings
from ..errors import ConfigError, DataError
from .args import parse
from .signals import left_alone, stop_on_signals

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..data import Tokenizer
    from ..train import Result, Trainer

_M, _D, _T = ModelConfig(), DataConfig(), TrainConfig()


@dataclass(frozen=True)
class TrainFlags:
    """The flags of `train`, in the order help shows them."""

    preset: Annotated[str, arg(metavar="NAME", help="nano, micro, small, llama-nano ...")] = "micro"
    data: Annotated[str, arg(metavar="NAME|PATH", help="a source, file, folder, -")] = _D.data
    held_out: Annotated[float, arg(metavar="X", help="share not trained on")] = _D.held_out
    val_data: Annotated[str, arg(metavar="PATH", help="hold out this text instead")] = ""
    text_field: Annotated[str, arg(metavar="NAME", help="of JSONL and Parquet")] = _D.text_field
    errors: Annotated[str, arg(metavar="WHAT", help="bad bytes: strict, replace")] = _D.errors
    tokenizer: Annotated[str, arg(metavar="NAME|PATH", help="gpt2, bpe, bpe:N, char, byte")] = _D.tokenizer
    max_steps: Annotated[int, arg(metavar="N", help="optimizer steps")] = _T.max_steps
    batch_size: Annotated[int, arg(metavar="N", help="sequences of one step")] = _T.batch_size
    micro_batch: Annotated[int, arg(metavar="N", help="sequences at a time; 0: all")] = 0
    max_length: Annotated[int, arg(metavar="N", help="context, tokens")] = _D.max_length
    lr: Annotated[float, arg(metavar="X", help="peak learning rate")] = _T.lr
    warmup_steps: Annotated[int, arg(metavar="N", help="linear warm-up")] = _T.warmup_steps
    weight_decay: Annotated[float, arg(metavar="X", help="on matrices, tables")] = _T.weight_decay
    dropout: Annotated[float, arg(metavar="P", help="embeddings, branches")] = _M.dropout
    optimizer: Annotated[str, arg(metavar="NAME", help="adamw or muon")] = _T.optimizer
    eval_interval: Annotated[int, arg(metavar="N", help="evaluate every N steps")] = _T.eval_interval
    patience: Annotated[int, arg(metavar="N", help="evaluations to wait; 0: all")] = _T.patience
    save_interval: Annotated[int, arg(metavar="N", help="save every N steps")] = _T.save_interval
    on_nonfinite: Annotated[str, arg(metavar="WHAT", help="stop, skip or rollback")] = _T.on_nonfinite
    out: Annotated[str, arg(metavar="FOLDER", help="run folder")] = "checkpoints"
    resume: Annotated[bool, arg(help="go on with the run in --out")] = False
    overwrite: Annotated[bool, arg(help="replace the run in --out")] = False
    init_from: Annotated[str, arg(metavar="PATH", help="weights to start from")] = ""
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = _T.device
    dtype: Annotated[str, arg(metavar="NAME", help="auto, float32, bfloat16")] = _T.dtype
    compile: Annotated[str, arg(metavar="WHEN", help="auto, on or off")] = _T.compile
    tracker: Annotated[str, arg(metavar="NAME", help="none, wandb, tensorboard")] = _T.tracker
    seed: Annotated[int, arg(metavar="N", help="weights, dropout, order")] = _T.seed
    offline: Annotated[bool, arg(help="download nothing")] = False
    fit: Annotated[bool, arg(help="too large: take what fits")] = False
    budget: Annotated[str, arg(metavar="10min|2GB", help="preset, batch, steps for it")] = ""
    force: Annotated[bool, arg(help="start although it is too large")] = False
    skip_doctor: Annotated[bool, arg(help="do not check the device")] = False
    watch: Annotated[bool, arg(help="a live page of the run")] = False
    quiet: Annotated[bool, arg(help="print nothing")] = False
    config: Annotated[str, arg(metavar="NAME|PATH", help="a recipe")] = ""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATH=VALUE", help="as train.beta2=0.99")] = ()


# The settings a flag stands for.
SETTINGS = {
    "data": ["data__data"],
    "held_out": ["data__held_out"],
    "val_data": ["data__val_data"],
    "text_field": ["data__text_field"],
    "errors": ["data__errors"],
    "tokenizer": ["data__tokenizer"],
    "max_length": ["data__max_length"],
    "dropout": ["model__dropout"],
    "seed": ["train__seed", "data__seed"],
} | {
    name: [f"train__{name}"]
    for name in TrainConfig.__dataclass_fields__.keys()
    & TrainFlags.__dataclass_fields__.keys() - {"seed", "micro_batch"}
}


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    flags, given = parse(TrainFlags, argv, prog="light-llm train", about="Train a model on a text.")
    settings = settings_of(flags, given)
    if flags.resume and (flags.overwrite or flags.init_from):
        other = "--overwrite" if flags.overwrite else "--init-from"
        raise ConfigError(f"--resume and {other} cannot go together; leave one out")
    with left_alone():
        return _train(flags, given, settings)


def settings_of(flags: TrainFlags, given: set[str]) -> dict[str, Any]:
    """What recipe, flags and --set say, the later over the earlier, as keywords of `Run.with_settings`."""
    settings = load_recipe(flags.config) if flags.config else {}
    if "preset" in given:
        settings |= {f"model__{key}": value for key, value in preset_settings(flags.preset).items()}
    for name in given & SETTINGS.keys():
        settings |= dict.fromkeys(SETTINGS[name], getattr(flags, name))
    if "micro_batch" in given:
        settings["train__micro_batch"] = flags.micro_batch or None
    return settings | parse_settings(flags.set)


def _train(flags: TrainFlags, given: set[str], settings: dict[str, Any]) -> int:
    from ..checkpoint import RunFolder, read_model
    from ..checkpoint.load import build
    from ..data import create_dataloader, prepare_dataset
    from ..model import LightLLM
    from ..runtime import configure_malloc, limit_threads, seed_everything
    from ..train import Trainer
    from ..train.resume import read_run, refuse_changes
    from .fit import Ahead, settle
    from .progress import preparing

    configure_malloc()
    limit_threads()
    folder = RunFolder(flags.out)
    named = "out" in given
    origin: ModelFile | None = None
    if flags.resume:
        found = read_run(folder)
        origin, earlier = read_model(found.step), found.run
        # Device, format and compilation are as the run was started unless they are given; the Trainer sees to it.
        again = dict.fromkeys(("train__device", "train__dtype", "train__compile"), "auto")
        run = earlier.with_settings(**(again | settings))
        refuse_changes(earlier, run)
    else:
        folder.ensure_folder_available(explicit=named, overwrite=flags.overwrite)
        if flags.init_from:
            origin = read_model(flags.init_from)
        run = start_of(settings, origin)
    if origin and origin.tokenizer and "tokenizer" in given and not _is(flags.tokenizer, origin.tokenizer):
        raise ConfigError(
            f"--tokenizer {flags.tokenizer} cannot be used: {origin.path} has its own, {origin.tokenizer.name}; "
            "leave it out"
        )
    settled = settle(run.train)  # a device that is not there is said before any text is read
    ahead = Ahead(settled, flags, fixed=origin is not None)
    settings |= (changes := ahead.before_the_text(run))
    run = run.with_settings(**changes)

    with preparing(quiet=flags.quiet) as progress, _moved(flags.resume and "data" not in given):
        dataset, tokenizer = prepare_dataset(
            run.data.data if flags.resume or "data__data" in settings else None,
            max_length=run.data.max_length,
            tokenizer=(origin and origin.tokenizer) or settings.get("data__tokenizer"),
            held_out=run.data.held_out,
            val_data=run.data.val_data,
            text_field=run.data.text_field,
            errors=run.data.errors,
            offline=flags.offline,
            progress=progress,
        )
    seed_everything(run.train.seed)
    if origin is None:
        shape = replace(run.model, vocab_size=settings.get("model__vocab_size", tokenizer.vocab_size))
        run = ahead.with_the_text(replace(run, model=shape), dataset)
        model = LightLLM(run.model)
    else:
        model = build(replace(origin, config=run.model))
    trainer = Trainer(
        model,
        create_dataloader(replace(dataset, max_length=run.data.max_length), run.train.batch_size, seed=run.data.seed),
        run.train,
        out=flags.out if named or flags.resume or flags.overwrite else None,
        resume=flags.resume,
        overwrite=flags.overwrite,
        quiet=flags.quiet,
        force=flags.force,
        skip_doctor=flags.skip_doctor,
    )
    with stop_on_signals(trainer.request_stop, trainer.request_save) as caught, _live_page(flags, trainer):
        result = trainer.train()
    return _exit_code(result, caught.number)


@contextmanager
def _live_page(flags: TrainFlags, trainer: Trainer) -> Iterator[None]:
    """Serve the live page of the run, if --watch was given."""
    if not flags.watch:
        yield
        return
    from ..report.live import watching

    def warn(line: str) -> None:
        print(f"notice   {line}", file=sys.stderr, flush=True)

    with watching(trainer.folder.path, warn=warn) as address:
        if address and not flags.quiet:
            print(f"watch    {address}", flush=True)
        yield


@contextmanager
def _moved(resumes: bool) -> Iterator[None]:
    """What to do when the text of a run that goes on is not where it was."""
    try:
        yield
    except DataError as error:
        hint = "; if the text of the run was moved, name its new place with --data" if resumes else ""
        raise DataError(f"{str(error).rstrip('.')}{hint}") from None


def _is(spec: str, tokenizer: Tokenizer) -> bool:
    """Whether `--tokenizer spec` may mean this one."""
    kind, _, size = spec.partition(":")
    return kind == tokenizer.name and (not size or size == str(tokenizer.vocab_size))


def start_of(settings: dict[str, Any], origin: ModelFile | None) -> Run:
    """The Run of a new training: from the defaults, or around a model that is there already."""
    if origin is not None:
        free = {"dropout", "attn_dropout"}  # the rest is the shape of the weights, or what they were trained to be
        if origin.config.positions == "rope":  # no weight knows how far its context goes
            free |= {"n_positions", "rope_base", "rope_scaling", "rope_factor", "rope_trained"}
            if settings.get("data__max_length", 0) > origin.config.n_positions:
                settings = {"model__n_positions": settings["data__max_length"]} | settings
        shape = {f"model__{f.name}" for f in fields(ModelConfig) if f.name not in free}
        for name in sorted(shape & settings.keys()):
            if settings[name] != getattr(origin.config, name.removeprefix("model__")):
                raise ConfigError(
                    f"--init-from {origin.path} decides the shape of the model; leave out --preset and "
                    f"{name.replace('__', '.')}"
                )
        start = Run(model=origin.config)
        settings = {"data__max_length": origin.data.get("max_length", origin.config.n_positions)} | settings
        return start.with_settings(**settings)
    if "data__max_length" in settings:
        replace(_D, max_length=settings["data__max_length"])  # said of the flag, before the model sees it
        settings = {"model__n_positions": settings["data__max_length"]} | settings
    return Run().with_settings(**settings)


def _exit_code(result: Result, signal_number: int | None) -> int:
    if result.status == "interrupted":
        return 128 + (signal_number or 2)
    return 2 if result.status == "nonfinite" else 0
