"""`light-llm plan`: estimate memory, time and disk of a run, without downloading or starting anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ..config import ModelConfig, Run
from ..config.schedule import rate_notes
from ..errors import ConfigError, as_flags
from ..plan.machine import Machine, load_machine
from ..text_format import wrap_line
from .processes import number_of_processes
from .train import TrainFlags, check_tokenizer, new_run, parse_train

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..plan.plan import DatasetSize, Plan


@dataclass(frozen=True)
class PlanFlags(TrainFlags):
    """The flags of `train`, and the format of the output."""

    machine: Annotated[
        str, arg(metavar="NAME|PATH", help="plan the GPUs of a machine file: h100x8, a100x8, 4090x2, l4x1 or your own")
    ] = ""
    measure: Annotated[bool, arg(help="measure the speed of this machine again")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


WIDTH = 80  # columns of the table
MAX_PROCESSES = 100_000  # the largest clusters have fewer GPUs
NO_EFFECT = ("resume", "overwrite", "requeue", "watch", "quiet", "out", "force", "skip_doctor", "tracker")


def command(argv: Sequence[str]) -> int:
    """Print the plan. Returns 0 if the run fits and 2 if it does not."""
    about = (
        "Predict what a run costs: parameters, memory, time, disk. If it does not fit into memory, suggest settings "
        "that do. Takes the flags of train. Downloads and starts nothing. Exit code 0: it fits; 2: it does not."
    )
    flags, given, settings = parse_train(PlanFlags, argv, prog="light-llm plan", about=about, no_effect=NO_EFFECT)
    source = settings.get("train__init_from")
    if source and flags.budget:
        raise ConfigError("--budget chooses the model, and --init-from has one already; leave one out")
    machine = load_machine(flags.machine) if flags.machine else None
    asked = flags.processes if "processes" in given else "auto"
    if machine:
        world_size = number_of_gpus(machine, asked)
    else:
        world_size = number_of_processes(flags.processes, settings.get("train__device", "auto"))
    if flags.budget and (world_size > 1 or machine):
        given_flag = "--machine" if machine else "--processes"
        raise ConfigError(f"--budget plans a single process of this machine; leave out {given_flag}")
    run = None if source else new_run(settings, None)
    from .progress import load_torch

    load_torch(quiet=flags.json)
    from ..checkpoint import describe_model
    from ..plan.budget import parse_budget
    from ..plan.render import refusal, table
    from ..plan.suggest import suggest_settings, without_fixed
    from ..runtime import configure_process

    if flags.budget:
        parse_budget(flags.budget)
    configure_process()
    origin = describe_model(source) if source else None
    run = run or new_run(settings, origin, preset="preset" in given)
    check_tokenizer(given, run, origin)
    if machine:
        return _on_machine(run, settings, flags, origin, machine, world_size)
    plan, notes = _planned(run, settings, flags, origin, world_size)
    suggestions = [] if plan.fits else suggest_settings(plan)
    if origin:
        suggestions = without_fixed(suggestions, resumed=False)
    if suggestions and flags.fit:
        notes.append(f"fit          {suggestions[0].flags}: {suggestions[0].effect}")
        plan, suggestions = suggestions[0].plan, []
    if flags.json:
        ways = [{"flags": s.flags, "effect": s.effect, "plan": s.plan.to_dict()} for s in suggestions]
        print(json.dumps({"fits": plan.fits, **plan.to_dict(), "ways": ways, "notes": notes}, indent=1))
        return 0 if plan.fits else 2
    print(*table(plan), *(part for note in notes for part in wrap_line(note, WIDTH)), sep="\n")
    # Raised after the plan is printed: the refusal belongs on standard error, and the exit code is 2.
    if not plan.fits:
        raise ConfigError(refusal(plan, suggestions, untouched="no run was started"))
    return 0


def _on_machine(
    run: Run,
    settings: dict[str, Any],
    flags: PlanFlags,
    origin: ModelFile | None,
    machine: Machine,
    W: int,
) -> int:
    """Print the plan of a run on W GPUs of a machine file. Returns the exit code."""
    from ..plan.suggest import suggest_settings, without_fixed
    from .plan_cluster import plan_on_machine, print_plan

    text, V, notes = _text_size(run, settings, flags, origin)
    if origin is None:
        run = replace(run, model=replace(run.model, vocab_size=settings.get("model__vocab_size", V)))
    planned = partial(plan_on_machine, text=text, machine=machine, W=W, measure=flags.measure)
    cluster = planned(run)
    suggestions = [] if cluster.plan.fits else suggest_settings(cluster.plan, timed=False)
    if origin:
        suggestions = without_fixed(suggestions, resumed=False)
    notes = [note.partition(" ")[2].strip() for note in notes]
    if suggestions and flags.fit:
        first, suggestions = suggestions[0], []
        notes.append(f"{first.flags}: {first.effect}")
        cluster = planned(run.with_settings(**first.changes))
    return print_plan(cluster, notes, suggestions, flags)


def number_of_gpus(machine: Machine, asked: str) -> int:
    """Return the GPUs of a machine file that `--processes` asks for; "auto": all of them.

    Raises:
        ConfigError: no number above 0, or one that the machines cannot have.
    """
    if asked == "auto":
        return machine.gpus * (machine.machines or 1)
    if not asked.isdecimal() or not 0 < int(asked[:9]) <= MAX_PROCESSES:
        raise ConfigError(f"--processes {asked} cannot be used; it must be auto or a number from 1 to {MAX_PROCESSES}")
    machine.check_processes(int(asked))
    return int(asked)


def _planned(
    run: Run, settings: dict[str, Any], flags: PlanFlags, origin: ModelFile | None, world_size: int
) -> tuple[Plan, list[str]]:
    """Return the plan, fitted to the budget if there is one, and notes to print below it.

    Args:
        origin: the model that the run starts from, which decides the shape.
        world_size: processes, all on this machine.
    """
    from ..plan.budget import fit_to_budget, parse_budget
    from ..plan.plan import make_plan
    from ..plan.profile import is_known
    from ..plan.speed import forget_speed
    from ..train.measure import measure_machine
    from .fit import resolve_auto

    train = resolve_auto(run.train)
    text, V, notes = _text_size(run, settings, flags, origin)
    if origin is None:
        run = replace(run, model=replace(run.model, vocab_size=settings.get("model__vocab_size", V)))
    notes += [f"note         {note}" for note in map(as_flags, rate_notes(train))]
    if flags.measure:
        forget_speed()
    planned = partial(make_plan, run.model, train, run.data.max_length, text, world_size=world_size)
    untimed = planned(timed=False)
    if not flags.budget and not untimed.fits and not is_known(train.device, train.dtype, run.model):
        return untimed, notes  # it is refused at once, before this machine is measured
    # On standard error: standard output is the plan, or its JSON.
    measure_machine(run.model, train.device, train.dtype, doctor=False, say=partial(print, file=sys.stderr, flush=True))
    if not flags.budget:
        return planned(), notes
    choice = fit_to_budget(parse_budget(flags.budget), run.model, train, run.data.max_length, text)
    return choice.plan, [*notes, f"budget       {flags.budget}: {as_flags(choice.why)}"]


def _text_size(
    run: Run, settings: dict[str, Any], flags: PlanFlags, origin: ModelFile | None
) -> tuple[DatasetSize, int, list[str]]:
    """Return the size of the text, the size of the vocabulary, and notes.

    Raises:
        DataError: `train` would refuse the text. One that `train` would download first is no error: its size is left
            out, and that of the vocabulary estimated.
    """
    from ..data import load_dataset
    from ..data.download import Unavailable
    from ..plan.plan import DatasetSize
    from ..train.preflight import dataset_size
    from .fit import expected_vocab_size
    from .progress import preparing

    try:
        with preparing(quiet=flags.json) as progress:
            chosen = {name for name in ("data", "tokenizer") if f"data__{name}" in settings}
            own = origin.tokenizer if origin else None
            dataset = load_dataset(run.data, tokenizer=own, chosen=chosen, offline=True, progress=progress)
    except Unavailable as error:
        V = expected_vocab_size(settings.get("data__tokenizer", run.data.tokenizer), ModelConfig().vocab_size)
        missing = error.message.partition(" is not on this machine")[0]
        return DatasetSize(), V, [f"note         {missing} has not been downloaded yet; train downloads it"]
    notes = [f"note         {note}" for note in map(as_flags, dataset.notes)]
    return dataset_size(dataset), dataset.tokenizer.vocab_size, notes
