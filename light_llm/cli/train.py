"""`light-llm train`: turn flags into a Run, and a Run into a trained model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from tyro.conf import UseAppendAction, arg

from ..config import ModelConfig, Run, load_recipe, parse_settings, preset_settings
from ..config.choices import POSITIONS
from ..errors import ConfigError, DataError, as_flags
from ..text_format import print_wrapped
from .args import given_settings, parse, with_run_settings
from .resume import Request, compare_with_start, request_of
from .signals import ignore_hangup, stop_on_signals

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..data import TokenDataset
    from ..train import Trainer
    from ..train.saved_run import SavedRun

Flags = TypeVar("Flags", bound="TrainFlags")
ABOUT = "Train a model on a text. `light-llm settings` lists what --set can change."


@dataclass(frozen=True)
class TrainFlags:
    """The flags of `train` that are not settings of the run, in the order of --help. The settings follow them."""

    preset: Annotated[str, arg(metavar="NAME", help="nano, micro, small, llama-nano ...")] = "micro"
    config: Annotated[str, arg(metavar="NAME|PATH", help="read settings from a recipe")] = ""
    set: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="PART.NAME=VALUE", help="any setting: train.beta2=0.9")
    ] = ()
    out: Annotated[str, arg(metavar="FOLDER", help="write the run to this folder")] = "checkpoints"
    resume: Annotated[bool, arg(help="continue the run in --out")] = False
    overwrite: Annotated[bool, arg(help="replace the run in --out")] = False
    fit: Annotated[bool, arg(help="choose smaller settings if memory is short")] = False
    budget: Annotated[str, arg(metavar="10min|2GB", help="choose preset, batch size and steps for this limit")] = ""
    force: Annotated[bool, arg(help="start even if memory is short")] = False
    skip_doctor: Annotated[bool, arg(help="do not check that the device computes correctly")] = False
    watch: Annotated[bool, arg(help="show the run live in the browser")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False
    quiet: Annotated[bool, arg(help="print nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Train a model on a text."""
    flags, given, settings = parse_train(TrainFlags, argv, prog="light-llm train", about=ABOUT)
    if flags.resume and flags.overwrite:
        raise ConfigError("--resume and --overwrite cannot be combined; leave one out")
    from .progress import load_torch

    with ignore_hangup():
        load_torch(quiet=flags.quiet)
        trainer = _make_trainer(flags, given, settings)
        if trainer is None:
            return 0
        with stop_on_signals(trainer.request_stop, trainer.request_save) as received, _live_page(flags, trainer):
            status = trainer.train().status
    if status == "interrupted":
        return 128 + (received.number or signal.SIGINT)
    return 2 if status == "nonfinite" else 0


def parse_train(
    kind: type[Flags], argv: Sequence[str], *, prog: str, about: str, no_effect: Collection[str] = ()
) -> tuple[Flags, set[str], dict[str, Any]]:
    """Read the flags of `train` or `plan`, and the recipe that they name.

    Returns:
        The command's own flags, the names of all flags that were given, and the settings that were chosen, as keywords
        of `Run.with_settings`: a recipe's, then those of flags, then those of --set, the later over the earlier.
    """
    options: dict[str, Any] = {"no_effect": no_effect, "steps_per_pass": _steps_per_pass}
    flags, given = parse(with_run_settings(kind), argv, prog=prog, about=about, **options)
    return flags, given, _chosen_settings(flags, given)


def _chosen_settings(flags: TrainFlags, given: set[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if flags.config:
        from ..runtime import expand_path

        settings = load_recipe(str(expand_path(flags.config)))
    if "preset" in given:
        settings |= {f"model__{key}": value for key, value in preset_settings(flags.preset).items()}
    return settings | given_settings(flags, given) | parse_settings(flags.set)


class _NotPreparedError(Exception):
    """The text would have to be encoded first."""


def _steps_per_pass(argv: list[str]) -> int | None:
    """Return the optimizer steps of one pass over the text of a command line; None if the text is not prepared."""

    def refuse_to_encode(stage: str, done: int, total: int) -> None:
        if stage != "reading":
            raise _NotPreparedError

    try:
        flags, given = parse(with_run_settings(TrainFlags), argv, prog="light-llm train", about="")
        settings = _chosen_settings(flags, given)
        run = new_run(settings, None)
        from ..data import load_dataset

        chosen = {name for name in ("data", "tokenizer") if f"data__{name}" in settings}
        dataset = load_dataset(run.data, chosen=chosen, offline=True, progress=refuse_to_encode)
    except (ConfigError, DataError, _NotPreparedError, OSError):
        return None
    return -(-len(dataset.tokens) // (run.train.batch_size * run.data.max_length))


def _make_trainer(flags: TrainFlags, given: set[str], settings: dict[str, Any]) -> Trainer | None:
    """Return the trainer of a new or resumed run; None for a run that is finished already, after saying so.

    Checks what it can before the text is read or downloaded.
    """
    from ..checkpoint.load import build
    from ..data import create_dataloader
    from ..model import LightLLM
    from ..runtime import configure_process
    from ..train import Trainer
    from .fit import FitChecker, resolve_auto

    configure_process()
    request, run, origin = _choose_run(flags, given, settings)
    if run is None:
        return None
    flags, settings = request.flags, request.settings
    check_tokenizer(given, run, origin)
    # The device is resolved, and the memory checked, before a text is read or downloaded in vain.
    loaded = sum(t.nbytes for t in origin.weights.values()) if origin else 0
    fit = FitChecker(resolve_auto(run.train), flags, fixed=origin is not None, loaded=loaded)
    changes = fit.check_before_data(run)
    run = run.with_settings(**changes)
    dataset = _load_dataset(run, origin, flags, given, settings | changes)
    if origin is None:
        vocab_size = settings.get("model__vocab_size", dataset.tokenizer.vocab_size)
        run = fit.fit_to_dataset(replace(run, model=replace(run.model, vocab_size=vocab_size)), dataset)
        model = LightLLM(run.model, seed=run.train.seed)
    else:
        model = build(replace(origin, config=run.model))
    # --fit and --budget may have chosen shorter windows.
    dataset = replace(dataset, max_length=run.data.max_length)
    trainer = Trainer(
        model,
        create_dataloader(dataset, run.train.batch_size, seed=run.data.seed),
        run.train,
        # None: a run in the default folder is moved away. One in a folder that the user names is never touched.
        out=flags.out if "out" in given or flags.resume or flags.overwrite else None,
        resume=flags.resume,
        overwrite=flags.overwrite,
        quiet=flags.quiet,
        force=flags.force,
        skip_doctor=flags.skip_doctor,
        spell=as_flags,
        model_files=origin.files if origin else {},
    )
    trainer.asked = request.asked
    if origin:
        trainer.checkpointer.base = origin.meta.get("imported") or origin.meta.get("base")
    return trainer


def _choose_run(
    flags: TrainFlags, given: set[str], settings: dict[str, Any]
) -> tuple[Request, Run | None, ModelFile | None]:
    """Return what is asked for, the run, and the model file that it starts from; no run if it is finished already."""
    from ..checkpoint import RunFolder
    from ..train.messages import finished
    from ..train.saved_run import finished_step, read_saved_run

    folder = RunFolder(flags.out)
    if not flags.resume:
        return request_of(flags, given, settings), *_new_run(flags, given, settings)
    saved = read_saved_run(folder)
    request = compare_with_start(flags, given, settings, saved)
    if saved.step is None:
        return request, *_new_run(request.flags, given, request.settings)
    run, origin = _resumed_run(saved, saved.step, request.settings)
    if (step := finished_step(folder, saved, run.train.max_steps)) is None:
        return request, run, origin
    if not flags.quiet:
        print_wrapped(as_flags(finished(folder.path, step)), sys.stdout)
    return request, None, None


def _resumed_run(saved: SavedRun, step: Path, settings: dict[str, Any]) -> tuple[Run, ModelFile]:
    """Return the run in the folder with the changes of the flags, and its newest checkpoint."""
    import torch

    from ..checkpoint import read_model
    from ..data.piped_text import STDIN, stdin_or_saved
    from ..train.saved_run import refuse_changes

    # The Trainer keeps the device, dtype and compilation of the last process for those that are not given.
    settings = dict.fromkeys(("train__device", "train__dtype", "train__compile"), "auto") | settings
    if settings.get("data__data") == STDIN:
        settings["data__data"] = stdin_or_saved(saved.run.data.data)
    run = saved.run.with_settings(**settings)
    refuse_changes(saved.run, run)
    return run, read_model(step, torch.float32)


def _new_run(flags: TrainFlags, given: set[str], settings: dict[str, Any]) -> tuple[Run, ModelFile | None]:
    """Return a new run, and the model file that it starts from, if any."""
    import torch

    from ..checkpoint import RunFolder, read_model

    RunFolder(flags.out).ensure_folder_available(explicit="out" in given or flags.resume, overwrite=flags.overwrite)
    source = settings.get("train__init_from")
    origin = read_model(source, torch.float32) if source else None
    return new_run(settings, origin, preset="preset" in given), origin


def check_tokenizer(given: set[str], run: Run, origin: ModelFile | None) -> None:
    """Raise ConfigError if --tokenizer differs from the tokenizer of the model that the run starts from."""
    if origin and origin.tokenizer and "tokenizer" in given:
        own, spec = origin.tokenizer, run.data.tokenizer
        if spec not in (own.name, f"{own.name}:{own.vocab_size}"):
            raise ConfigError(f"--tokenizer {spec} cannot be used: {origin.path} has its own, {own.name}; leave it out")


def _load_dataset(
    run: Run, origin: ModelFile | None, flags: TrainFlags, given: set[str], settings: dict[str, Any]
) -> TokenDataset:
    from ..data import load_dataset
    from .progress import preparing

    chosen = {name for name in ("data", "tokenizer") if f"data__{name}" in settings}
    try:
        with preparing(quiet=flags.quiet) as progress:
            return load_dataset(
                run.data,
                tokenizer=origin.tokenizer if origin else None,
                chosen=chosen | ({"data"} if flags.resume else set()),
                offline=flags.offline,
                progress=progress,
            )
    except DataError as error:
        moved = flags.resume and "data" not in given
        hint = "; if the text of the run was moved, name its new place with --data" if moved else ""
        raise DataError(f"{error.message.rstrip('.')}{hint}") from None


def new_run(settings: dict[str, Any], origin: ModelFile | None, *, preset: bool = False) -> Run:
    """Return the Run of a new training: the defaults, or the shape of `origin`, with the settings on top.

    Args:
        preset: the settings of the shape come from --preset, for the message that refuses them.
    """
    if origin is not None:
        return _run_from_model(settings, origin, preset)
    if "data__max_length" in settings:
        # Checked here, so that the error names the flag and not n_positions, which takes its value.
        replace(Run().data, max_length=settings["data__max_length"])
        settings = {"model__n_positions": settings["data__max_length"]} | settings
    return Run().with_settings(**settings)


def _run_from_model(settings: dict[str, Any], origin: ModelFile, preset: bool) -> Run:
    """Return the Run that continues from a trained model. Raises ConfigError for a setting that its weights decide."""
    changeable = {"dropout", "attn_dropout"}
    # No weight depends on the length of the context if positions have no parameters.
    if not POSITIONS[origin.config.positions].param_shapes(origin.config):
        changeable |= {"n_positions", "rope_base", "rope_scaling", "rope_factor", "rope_trained"}
        if settings.get("data__max_length", 0) > origin.config.n_positions:
            settings = {"model__n_positions": settings["data__max_length"]} | settings
    fixed = {f"model__{f.name}" for f in fields(ModelConfig) if f.name not in changeable}
    for name in sorted(fixed & settings.keys()):
        if settings[name] != getattr(origin.config, name.removeprefix("model__")):
            culprit = "--preset" if preset else name.replace("__", ".")
            raise ConfigError(f"--init-from {origin.path} decides the shape of the model; leave out {culprit}")
    return Run(model=origin.config).with_settings(**({"data__max_length": origin.training_window} | settings))


@contextmanager
def _live_page(flags: TrainFlags, trainer: Trainer) -> Iterator[None]:
    """Serve the live page of the run, if --watch was given."""
    if not flags.watch:
        yield
        return
    from ..report.server import serve_while_training

    def warn(line: str) -> None:
        print(f"notice   {line}", file=sys.stderr, flush=True)

    with serve_while_training(trainer.folder.path, warn=warn) as address:
        if address and not flags.quiet:
            print(f"watch    {address}", flush=True)
        yield
