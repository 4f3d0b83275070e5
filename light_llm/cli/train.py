"""`light-llm train`: turn flags into a Run, and a Run into a trained model."""

from __future__ import annotations

import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from tyro.conf import UseAppendAction, arg

from ..config import ModelConfig, Run, load_recipe, parse_settings, preset_settings
from ..config.choices import POSITIONS
from ..errors import ConfigError, DataError, RankLost, as_flags
from .args import given_settings, parse, with_run_settings
from .processes import launch, number_of_processes, rank_of_environment, started_by_torchrun
from .ranks import join, one_report, quiet_parsing
from .signals import ignore_hangup, stop_on_signals

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..data import TokenDataset
    from ..runtime import World
    from ..train import Trainer
    from .start import Start

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
    requeue: Annotated[bool, arg(help="continue the run in --out if there is one")] = False
    processes: Annotated[str, arg(metavar="N|auto", help="processes of the run; auto: one per GPU")] = "1"
    fit: Annotated[bool, arg(help="choose smaller settings if memory is short")] = False
    budget: Annotated[str, arg(metavar="10min|2GB", help="choose preset, batch size and steps for this limit")] = ""
    force: Annotated[bool, arg(help="start even if memory is short")] = False
    skip_doctor: Annotated[bool, arg(help="do not check that the device computes correctly")] = False
    watch: Annotated[bool, arg(help="show the run live in the browser")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False
    quiet: Annotated[bool, arg(help="print nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Train a model on a text."""
    with ignore_hangup(), one_report():
        with quiet_parsing():
            flags, given = _parse(TrainFlags, argv, prog="light-llm train", about=ABOUT)
        _check_flags(flags)
        explicit = given_settings(flags, given) | parse_settings(flags.set)
        # Only rank 0 needs the recipe: the others get its settings from there.
        settings = explicit if rank_of_environment() else _chosen_settings(flags, given)
        n = number_of_processes(flags.processes, settings.get("train__device", "auto"))
        if n > 1:
            return launch([sys.executable, "-m", "light_llm", "train", *argv], n)
        return _train(flags, given, settings, device=explicit.get("train__device", "auto"))


def _check_flags(flags: TrainFlags) -> None:
    if flags.overwrite and (flags.resume or flags.requeue):
        other = "--resume" if flags.resume else "--requeue"
        raise ConfigError(f"{other} and --overwrite cannot be combined; leave one out")


def _train(flags: TrainFlags, given: set[str], settings: dict[str, Any], *, device: str) -> int:
    """Train in this process, alone or as one rank of several. Returns the exit code.

    Args:
        device: named on the command line, which all ranks have in common; it decides what sends their messages.
    """
    from .progress import load_torch

    if rank_of_environment():
        flags = replace(flags, quiet=True, watch=False)
    load_torch(quiet=flags.quiet)
    world = join(device)
    trainer = _make_trainer(world, flags, given, settings)
    if trainer is None:
        return 0
    with (
        stop_on_signals(trainer.request_stop, trainer.request_save, quiet=not world.is_first) as received,
        _live_page(flags, trainer),
    ):
        status = trainer.train().status
    if status == "interrupted":
        # torchrun takes any other code for a crash, and starts the processes again.
        return 0 if started_by_torchrun() else 128 + _agreed_signal(world, received.number)
    return 2 if status == "nonfinite" else 0


def _agreed_signal(world: World, number: int | None) -> int:
    """Return the number of the signal that interrupted the run; it may have reached one rank alone."""
    with suppress(RankLost):
        number = world.agree(signal=number or 0)["signal"]
    return number or signal.SIGINT


def parse_train(
    kind: type[Flags], argv: Sequence[str], *, prog: str, about: str, no_effect: Collection[str] = ()
) -> tuple[Flags, set[str], dict[str, Any]]:
    """Read the flags of `train` or `plan`, and the recipe that they name.

    Returns:
        The command's own flags, the names of all flags that were given, and the settings that were chosen, as keywords
        of `Run.with_settings`: a recipe's, then those of flags, then those of --set, the later over the earlier.
    """
    flags, given = _parse(kind, argv, prog=prog, about=about, no_effect=no_effect)
    return flags, given, _chosen_settings(flags, given)


def _parse(kind: type[Flags], argv: Sequence[str], **options: Any) -> tuple[Flags, set[str]]:
    return parse(with_run_settings(kind), argv, steps_per_pass=_steps_per_pass, **options)


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


def _make_trainer(world: World, flags: TrainFlags, given: set[str], settings: dict[str, Any]) -> Trainer | None:
    """Return the trainer of a new or resumed run; None for a run that is finished already, after saying so."""
    from ..checkpoint.load import build
    from ..data import create_dataloader
    from ..model import LightLLM
    from ..runtime import configure_process
    from ..train import Trainer
    from .start import choose_start, shared_start

    configure_process()
    start = shared_start(world, flags, lambda: choose_start(flags, given, settings, world))
    if start.run is None:
        return None
    # Each rank has its own --quiet.
    flags = replace(start.flags, quiet=flags.quiet, watch=flags.watch)
    dataset = _load_dataset(world, start, flags, given)
    run = Run.from_dict(world.of_first(lambda: start.fitted_run(dataset).to_dict()))
    # The weights of a trained model reach the other ranks when training begins.
    origin = start.origin
    model = build(replace(origin, config=run.model)) if origin else LightLLM(run.model, seed=run.train.seed)
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
        model_files=start.files,
        world=world,
    )
    trainer.asked = start.asked
    if origin:
        trainer.checkpointer.base = origin.meta.get("imported") or origin.meta.get("base")
    return trainer


def check_tokenizer(given: set[str], run: Run, origin: ModelFile | None) -> None:
    """Raise ConfigError if --tokenizer differs from the tokenizer of the model that the run starts from."""
    if origin and origin.tokenizer and "tokenizer" in given:
        own, spec = origin.tokenizer, run.data.tokenizer
        if spec not in (own.name, f"{own.name}:{own.vocab_size}"):
            raise ConfigError(f"--tokenizer {spec} cannot be used: {origin.path} has its own, {own.name}; leave it out")


def _load_dataset(world: World, start: Start, flags: TrainFlags, given: set[str]) -> TokenDataset:
    """Prepare the text on the first rank of each machine, and open it on all."""
    from ..data import load_dataset
    from ..data.piped_text import STDIN
    from .progress import preparing

    assert start.run is not None
    config, chosen = start.run.data, {name for name in ("data", "tokenizer") if f"data__{name}" in start.settings}
    found: list[TokenDataset] = []

    def load() -> None:
        with preparing(quiet=flags.quiet) as progress:
            dataset = load_dataset(
                config,
                tokenizer=start.tokenizer,
                chosen=chosen | ({"data"} if flags.resume else set()),
                offline=flags.offline,
                progress=progress,
            )
        found.append(dataset)

    try:
        world.once_per_machine(load)
        if world.size > 1:
            # The path of a text that came through the standard input of rank 0.
            name = world.of_first(lambda: found[0].config.data)
            config = replace(config, data=name) if config.data == STDIN else config
        if not found:
            load()
    except DataError as error:
        moved = flags.resume and "data" not in given
        hint = "; if the text of the run was moved, name its new place with --data" if moved else ""
        raise DataError(f"{error.message.rstrip('.')}{hint}") from None
    return found[0]


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
