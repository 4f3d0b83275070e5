"""`light-llm analyze [CHECKPOINT]`: curvature, gradient noise and loss landscape of a trained model."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ..config.choices import OPTIMIZERS
from ..errors import CheckpointError, DataError, did_you_mean
from ..report import find_runs
from ..text_format import format_duration
from .analysis_table import analysis_table
from .args import CHECKPOINT_ARG, PositionalArgs, Words, parse
from .model_text import open_training_data
from .output import print_rich
from .progress import progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from ..checkpoint import LoadedModel, ModelFile
    from ..config import TrainConfig
    from ..data import Batch
    from ..model import LightLLM
    from ..observe.analysis import AdamState, AnalysisConfig

ANALYSIS = "analysis.json"
CONTEXT = 64  # tokens of a window; fewer if the model was trained on shorter ones
MAX_CHECKPOINTS = 12  # on the path of the run: each is a copy of all weights in memory
STAGES = {
    "curvature": "Hessian-vector products: eigenvalues, density, trace",
    "sharpness": "the same, preconditioned by Adam",
    "noise": "gradients of single sequences",
    "landscape": "the loss along random directions",
    "path": "the loss over the plane of the run's checkpoints",
}
_EXAMPLE = "light-llm analyze, or light-llm analyze checkpoints/step-000500"


@dataclass(frozen=True)
class AnalyzeFlags:
    """The flags of `analyze`."""

    checkpoint: Annotated[Words, CHECKPOINT_ARG, PositionalArgs("checkpoint", _EXAMPLE, max_count=1)] = ()
    batch_size: Annotated[int, arg(metavar="N", help="sequences in the batch")] = 4
    context: Annotated[int, arg(metavar="N", help="tokens per sequence; 0: up to 64")] = 0
    k: Annotated[int, arg(metavar="N", help="number of largest eigenvalues")] = 5
    steps: Annotated[int, arg(metavar="N", help="steps of each Lanczos iteration")] = 18
    seed: Annotated[int, arg(metavar="N", help="seed of text sample and random directions")] = 1337
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    data: Annotated[str, arg(metavar="PATH", help="path of the training text, if it has moved")] = ""


def command(argv: Sequence[str]) -> int:
    """Measure a trained model, write analysis.json into its run folder, and print the results."""
    about = (
        "Measure a trained model: the curvature of the loss (eigenvalues, their density, the trace), the sharpness "
        "relative to the learning rate, the gradient noise and the batch size that it suggests, and the loss around "
        "the weights. Writes analysis.json."
    )
    flags, _ = parse(AnalyzeFlags, argv, prog="light-llm analyze", about=about)
    from .progress import load_torch

    load_torch()
    from ..checkpoint import load_model
    from ..runtime import choose_device, configure_process

    start = time.perf_counter()
    configure_process()
    path = _find_checkpoint(Path(flags.checkpoint[0] if flags.checkpoint else "checkpoints"))
    device = choose_device(flags.device).value
    loaded = load_model(path, device)
    train_config = _read_train_config(path)
    results, skipped = _analyze(flags, path, loaded, train_config, device)
    results["seconds"] = time.perf_counter() - start
    table = analysis_table(results, train_config, loaded.file.data.get("max_length"))
    print_rich(f"{path}, step {results['step']:,}", "", table, *skipped)
    # Written after the results are printed, so that a failing write does not lose them.
    _write(path.parent / ANALYSIS, results)
    return 0


def _analyze(
    flags: AnalyzeFlags, path: Path, loaded: LoadedModel, train_config: TrainConfig | None, device: str
) -> tuple[dict[str, Any], list[str]]:
    """Return the results, and a line for each checkpoint that was skipped."""
    from ..observe.analysis import analyze

    config = _analysis_config(flags, loaded.model)
    windows, title, config = _windows(flags, loaded.file, config, device)
    step = int(loaded.file.meta.get("step") or 0)
    checkpoints, skipped = _run_checkpoints(path, loaded.model)
    with progress_bar(stage_help=STAGES) as progress:
        results = analyze(
            loaded.model,
            windows,
            step=step,
            optimizer=_adam_state(path, train_config, step),
            run=checkpoints,
            config=config,
            seed=flags.seed,
            progress=progress,
        )
    return results | {"step": step, "checkpoint": path.name, "text": title}, skipped


def _write(target: Path, results: Mapping[str, Any]) -> None:
    from ..atomic_io import atomic_write
    from ..json_io import canonical_json

    try:
        atomic_write(target, canonical_json(results))
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written ({error.strerror}), so the report lacks this analysis; it is printed above"
        ) from None
    print_rich("", f"written to {target} in {format_duration(results['seconds'])}")


def _find_checkpoint(given: Path) -> Path:
    """Return the checkpoint to analyze: of a run folder the newest valid step, which has the optimizer's moments."""
    from ..checkpoint import RunFolder
    from ..checkpoint.commit import is_complete
    from ..checkpoint.load import find_model

    if not given.exists():
        siblings = find_runs([given.parent]) if given.parent.is_dir() else []
        hint = did_you_mean(given.name, [run.name for run in siblings])
        advice = "light-llm runs lists the runs" if siblings else "Train a model with: light-llm train"
        raise CheckpointError(f"there is no run or checkpoint {given}{hint} {advice}")
    if given.is_dir() and not is_complete(given) and RunFolder(given).steps():
        return RunFolder(given).latest_valid_step()[0]
    return find_model(given)


def _read_train_config(path: Path) -> TrainConfig | None:
    """Return the training settings from the step folder or the run folder around the model; None if it has neither."""
    from ..checkpoint import RunFolder
    from ..checkpoint.commit import read_json
    from ..checkpoint.step_folder import SETTINGS
    from ..config import Run

    if path.is_dir():
        return Run.from_dict(read_json(path / SETTINGS)["run"]).train
    if not (path.parent / "run.json").is_file():
        return None
    return Run.from_dict(RunFolder(path.parent).read_run()["run"]).train


def _adam_state(path: Path, config: TrainConfig | None, step: int) -> AdamState:
    """Return the learning rate of the next update, and Adam's moments if the checkpoint has them."""
    from ..checkpoint.tensors import read_parts
    from ..observe.analysis import AdamState
    from ..optim import learning_rate

    if config is None:
        return AdamState(why_not=f"there is no run.json beside {path.name}, so its learning rate is not known")
    lr = learning_rate(step, config)
    known = AdamState(lr=lr, beta1=config.beta1, beta2=config.beta2, eps=config.eps)
    if not OPTIMIZERS[config.optimizer].is_adam:
        return replace(known, why_not=f"the matrices are updated by {config.optimizer}, which has no such metric")
    if not path.is_dir():
        return replace(known, why_not=f"{path.name} has no optimizer state; analyze a step folder")
    return replace(known, moments=read_parts(path, "optimizer", os.listdir(path)))


def _analysis_config(flags: AnalyzeFlags, model: LightLLM) -> AnalysisConfig:
    """Return the settings of the flags, with fewer Lanczos steps if their vectors would not fit into memory."""
    from ..config import get_model_size
    from ..observe.analysis import AnalysisConfig
    from ..runtime import total_memory

    config = AnalysisConfig(batch_size=flags.batch_size, k=flags.k, steps=flags.steps)
    memory, vector_bytes = total_memory(), 4 * get_model_size(model.config)
    limit = memory // 4 // vector_bytes if memory else flags.steps  # a quarter of the machine's memory
    return replace(config, steps=min(config.steps, max(flags.k, limit)))


def _windows(
    flags: AnalyzeFlags, file: ModelFile, config: AnalysisConfig, device: str
) -> tuple[Batch, str, AnalysisConfig]:
    """Return windows of the training text, its title, and the settings with no more sequences than the text has."""
    from ..config import MAX_SEED, check_range
    from ..data import Batch, create_dataloader

    check_range("seed", flags.seed, low=0, high=MAX_SEED, integer=True)
    check_range("context", flags.context, low=0, high=file.config.n_positions, integer=True)
    dataset = open_training_data(file, flags.data, max_length=flags.context or min(CONTEXT, file.training_window))
    # The error of the noise scale needs at least three gradients.
    n, needed = min(config.sequences, len(dataset)), max(3, config.batch_size)
    if len(dataset) < needed:
        raise DataError(
            f"{dataset.source.title} has {len(dataset)} windows of {dataset.max_length} tokens, and {needed} are "
            "needed; use a smaller --context or --batch-size"
        )
    batch = create_dataloader(dataset, max(n, config.batch_size), seed=flags.seed).batch(0)
    windows = Batch(batch.tokens.to(device), batch.targets.to(device))
    return windows, dataset.source.title, replace(config, sequences=n)


def _run_checkpoints(path: Path, model: LightLLM) -> tuple[dict[int, Tensor], list[str]]:
    """Return the weights of at most MAX_CHECKPOINTS checkpoints by step, and a line for each that was skipped."""
    from ..checkpoint import RunFolder, read_model
    from ..observe.flat_params import flatten, trainable_parameters

    folder, skipped = RunFolder(path.parent), list[str]()
    weights: dict[int, Tensor] = {}
    steps, names = folder.steps(), list(trainable_parameters(model))
    if len(steps) > MAX_CHECKPOINTS:
        steps = [steps[round(i * (len(steps) - 1) / (MAX_CHECKPOINTS - 1))] for i in range(MAX_CHECKPOINTS)]
    # The best model may be a step whose folder was removed. The analysed checkpoint itself is the end of the path.
    for checkpoint in [*steps, *([folder.best_model] if folder.best_model.is_file() else [])]:
        if checkpoint == path:
            continue
        try:
            file = read_model(checkpoint)
        except CheckpointError as error:
            # Damaged, or removed meanwhile by the run that is still training.
            skipped.append(f"skipped: {str(error).partition(';')[0]}")
            continue
        step = int(file.meta.get("step") or 0)
        if file.config == model.config and step not in weights:
            weights[step] = flatten(file.weights[name].float() for name in names)
    return weights, skipped
