"""Build the command line that repeats a run, from the settings in its run.json."""

import shlex
from typing import Any

from ..config import FLAGS, PRESETS, DataConfig, Run, TrainConfig, differences


def changed_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Return "part.name", default and value of each setting that is not at its default, in the order of the config."""
    changed = differences(Run(), run)
    # lr_horizon follows max_steps unless it was set to something else.
    return [entry for entry in changed if entry[0] != "train.lr_horizon" or entry[2] != run.train.max_steps]


def repro_command(run: Run) -> str:
    """Return the command line that trains with these settings.

    >>> repro_command(Run().with_settings(train__lr=0.003, train__beta2=0.99, model__n_layer=2))
    'light-llm train --data shakespeare --set model.n_layer=2 --lr 0.003 --set train.beta2=0.99'
    """
    words = ["light-llm", "train"]
    preset = next((name for name, sizes in PRESETS.items() if sizes.items() <= vars(run.model).items()), None)
    if preset not in (None, "micro"):
        words += ["--preset", str(preset)]
    words += ["--data", run.data.data]
    if run.data.tokenizer != DataConfig().tokenizer:
        # The size of a trained vocabulary is that of the model's table.
        size = f":{run.model.vocab_size}" if run.data.tokenizer == "bpe" else ""
        words += ["--tokenizer", f"{run.data.tokenizer}{size}"]
    if run.train.seed == run.data.seed != TrainConfig().seed:
        words += ["--seed", str(run.train.seed)]
    for name, _, value in changed_settings(run):
        if _is_implied(name, run, preset):
            continue
        flag, text = name.partition(".")[2], "none" if value is None else str(value)
        # --seed sets two settings, and cannot give them different values.
        if FLAGS.get(flag) == [name]:
            words += [f"--{flag.replace('_', '-')}", text]
        else:
            words += ["--set", f"{name}={text}"]
    return shlex.join(words)


def all_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Return "part.name", value and default of every setting."""
    defaults = Run().to_dict()
    return [
        (f"{part}.{name}", value, defaults[part][name])
        for part, values in run.to_dict().items()
        for name, value in values.items()
    ]


def _is_implied(name: str, run: Run, preset: str | None) -> bool:
    """Return whether a setting follows from the preset, the data, the tokenizer or the seed of the command."""
    if preset is not None and name.removeprefix("model.") in PRESETS[preset]:
        return True
    if name in ("train.seed", "data.seed"):
        return run.train.seed == run.data.seed
    if name == "model.vocab_size":
        return run.data.tokenizer != DataConfig().tokenizer
    return name in ("data.data", "data.tokenizer")
