"""`light-llm plan`: what a run would cost, and whether it fits. Nothing is downloaded or started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ..config import ModelConfig, Run
from ..errors import ConfigError, DataError
from .args import flag_of
from .train import TrainFlags, new_run, parse_train

if TYPE_CHECKING:
    from ..plan.plan import DatasetSize, Plan


@dataclass(frozen=True)
class PlanFlags(TrainFlags):
    """Those of `train`, and how to print."""

    json: Annotated[bool, arg(help="one JSON object, nothing else")] = False


NO_EFFECT = ("resume", "overwrite", "watch", "quiet", "out", "force", "skip_doctor", "tracker", "init_from")


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns 0 where the run fits and 2 where it does not."""
    about = (
        "What a run would cost before it starts: parameters, memory, time, disk; and what fits where it does not. "
        "Takes the flags of train. Downloads and starts nothing. Exit code 0: it fits; 2: it does not."
    )
    flags, given, settings = parse_train(PlanFlags, argv, prog="light-llm plan", about=about)
    for name in sorted(given.intersection(NO_EFFECT)):
        raise ConfigError(f"{flag_of(name)} has no effect on plan; leave it out")
    run = new_run(settings, None)
    from ..plan.budget import parse_budget
    from ..plan.render import refusal, table
    from ..plan.suggest import suggest_settings
    from ..runtime import configure_malloc, limit_threads

    if flags.budget:
        parse_budget(flags.budget)
    configure_malloc()
    limit_threads()
    plan, notes = _planned(run, settings, flags)
    ways = [] if plan.fits else suggest_settings(plan)
    if ways and flags.fit:
        notes.append(f"fit          {ways[0].flags}: {ways[0].effect}")
        plan, ways = ways[0].plan, []
    if flags.json:
        others = [{"flags": way.flags, "effect": way.effect, "plan": way.plan.to_dict()} for way in ways]
        print(json.dumps({"fits": plan.fits, **plan.to_dict(), "ways": others, "notes": notes}, indent=1))
        return 0 if plan.fits else 2
    print("\n".join([*table(plan), *notes]))
    if not plan.fits:
        raise ConfigError(refusal(plan, ways, untouched="no run was started"))
    return 0


def _planned(run: Run, settings: dict[str, Any], flags: PlanFlags) -> tuple[Plan, list[str]]:
    """The plan, with or without a budget, and what is to be said of it."""
    from ..plan.budget import fit_to_budget, parse_budget
    from ..plan.plan import make_plan
    from .fit import resolve_auto

    settled = resolve_auto(run.train)
    text, V, notes = _text_at_hand(run, settings, flags)
    run = replace(run, model=replace(run.model, vocab_size=settings.get("model__vocab_size", V)))
    if not flags.budget:
        return make_plan(run.model, settled, run.data.max_length, text), notes
    chosen = fit_to_budget(parse_budget(flags.budget), run.model, settled, run.data.max_length, text)
    return chosen.plan, [*notes, f"budget       {flags.budget}: {chosen.why}"]


def _text_at_hand(run: Run, settings: dict[str, Any], flags: PlanFlags) -> tuple[DatasetSize, int, list[str]]:
    """The size of the text and of its vocabulary; of one that is not here yet, what is known of it."""
    from ..data import load_dataset
    from ..plan.plan import DatasetSize
    from ..train.preflight import dataset_size
    from .fit import expected_vocab_size
    from .progress import preparing

    try:
        with preparing(quiet=flags.json) as progress:
            chosen = {name for name in ("data", "tokenizer") if f"data__{name}" in settings}
            dataset = load_dataset(run.data, chosen=chosen, offline=True, progress=progress)
    except DataError as error:
        V = expected_vocab_size(settings.get("data__tokenizer", run.data.tokenizer), ModelConfig().vocab_size)
        return DatasetSize(), V, [f"note         {str(error).partition('; ')[0]}"]
    return dataset_size(dataset), dataset.tokenizer.vocab_size, [f"note         {note}" for note in dataset.notes]
