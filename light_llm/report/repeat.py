"""The command that repeats a run, from what the run wrote down of itself."""

import shlex
from dataclasses import fields
from typing import Any

from ..config import FLAGS, PRESETS, DataConfig, ModelConfig, Run, TrainConfig, differences


def changed_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Each setting that is not at its default: `part.name`, the default, the value; in the order of the config."""
    found = differences(Run(), run)
    return [d for d in found if d[0] != "train.lr_horizon" or d[2] != run.train.max_steps]


def repeat_command(run: Run) -> str:
    """The command line of a training with these settings.

    >>> repeat_command(Run().with_settings(train__lr=0.003, train__beta2=0.99, model__n_layer=2))
    'light-llm train --data shakespeare --set model.n_layer=2 --lr 0.003 --set train.beta2=0.99'
    """
    words = ["light-llm", "train"]
    model = run.model
    preset = next((name for name, known in PRESETS.items() if known.items() <= vars(model).items()), None)
    if preset not in (None, "micro"):
        words += ["--preset", str(preset)]
    words += ["--data", run.data.data]
    if run.data.tokenizer != DataConfig().tokenizer:
        # The size of a trained vocabulary is that of the model's table.
        size = f":{model.vocab_size}" if run.data.tokenizer == "bpe" else ""
        words += ["--tokenizer", f"{run.data.tokenizer}{size}"]
    if run.train.seed == run.data.seed != TrainConfig().seed:
        words += ["--seed", str(run.train.seed)]
    for name, _, value in changed_settings(run):
        flag = name.partition(".")[2]
        if _is_said(name, run, preset):
            continue
        if FLAGS.get(flag) == [name]:  # --seed sets two settings, and cannot give them different values
            words += [f"--{flag.replace('_', '-')}", _written(value)]
        else:
            words += ["--set", f"{name}={_written(value)}"]
    return shlex.join(words)


def all_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Every setting: `part.name`, its value, its default."""
    default = Run()
    return [
        (f"{part}.{f.name}", getattr(getattr(run, part), f.name), getattr(getattr(default, part), f.name))
        for part, kind in (("model", ModelConfig), ("data", DataConfig), ("train", TrainConfig))
        for f in fields(kind)
    ]


def _is_said(name: str, run: Run, preset: str | None) -> bool:
    """Whether a setting follows from a word that the command has already."""
    if preset is not None and name.removeprefix("model.") in PRESETS[preset]:
        return True
    if name in ("train.seed", "data.seed"):
        return run.train.seed == run.data.seed
    if name == "model.vocab_size":  # it is the tokenizer's
        return run.data.tokenizer != DataConfig().tokenizer
    return name in ("data.data", "data.tokenizer")


def _written(value: Any) -> str:
    return "none" if value is None else str(value)
