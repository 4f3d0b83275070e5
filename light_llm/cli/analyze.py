"""`light-llm analyze [CHECKPOINT]`: the X-ray of a trained model: curvature, gradient noise, landscape."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from ..config.choices import OPTIMIZERS
from ..errors import CheckpointError, DataError
from ..text_format import format_duration
from .analysis_table import findings_table
from .args import PositionalArgs, parse
from .output import print_rich
from .progress import progress_bar
from .training_data import open_training_data

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..config import TrainConfig
    from ..data import Batch
    from ..model import LightLLM
    from ..observe.analysis import AdamState, AnalysisConfig, CheckpointWeights

ANALYSIS = "analysis.json"
CONTEXT = 64  # tokens of a window, or fewer where the model was trained on shorter ones
MOST_POINTS = 12  # of the run's path: each is all weights in memory
SHARE = 4  # a Lanczos iteration may take one part in so many of the machine's memory
STAGES = {
    "curvature": "products with the Hessian: eigenvalues, density, trace",
    "sharpness": "the same in Adam's metric",
    "noise": "gradients of single sequences",
    "landscape": "the loss along random directions",
    "path": "the loss over the plane of the run's checkpoints",
}
_POSITIONAL = PositionalArgs(
    "checkpoint", "light-llm analyze, or light-llm analyze checkpoints/step-000500", max_count=1
)


@dataclass(frozen=True)
class AnalyzeFlags:
    """The flags of `analyze`."""

    checkpoint: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="[CHECKPOINT]", help="run folder, step folder, .pt", help_behavior_hint="(default: checkpoints)"),
        _POSITIONAL,
    ] = ()
    batch_size: Annotated[int, arg(metavar="N", help="sequences of the batch")] = 4
    context: Annotated[int, arg(metavar="N", help="tokens of a sequence; 0: at most 64")] = 0
    k: Annotated[int, arg(metavar="N", help="largest eigenvalues to find")] = 5
    steps: Annotated[int, arg(metavar="N", help="of each Lanczos iteration")] = 18
    seed: Annotated[int, arg(metavar="N", help="of the text and the directions")] = 1337
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    data: Annotated[str, arg(metavar="PATH", help="where the text is now")] = ""


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = (
        "Measure a trained model: curvature of the loss (eigenvalues, density, trace), sharpness beside the learning "
        "rate, gradient noise and the batch size it suggests, the loss around the weights. Writes analysis.json."
    )
    flags, _ = parse(AnalyzeFlags, argv, prog="light-llm analyze", about=about)
    from ..atomic_io import atomic_write
    from ..checkpoint import load_model
    from ..json_io import canonical_json
    from ..observe.analysis import analyze
    from ..runtime import choose_device, configure_malloc, limit_threads

    start = time.perf_counter()
    configure_malloc()
    limit_threads()
    path = _chosen(Path(flags.checkpoint[0] if flags.checkpoint else "checkpoints"))
    device = choose_device(flags.device).value
    loaded = load_model(path, device)
    config = _recipe(path)
    effort = _effort(flags, loaded.model)
    windows, title, effort = _windows(flags, loaded.file, effort, device)
    step = int(loaded.file.meta.get("step") or 0)
    run, left_out = _run_points(path, loaded.model)
    with progress_bar(stage_help=STAGES) as progress:
        found = analyze(
            loaded.model,
            windows,
            step=step,
            optimizer=_optimizer(path, config, step),
            run=run,
            config=effort,
            seed=flags.seed,
            progress=progress,
        )
    found |= {"step": step, "checkpoint": path.name, "text": title, "seconds": time.perf_counter() - start}
    target, max_length = path.parent / ANALYSIS, loaded.file.data.get("max_length")
    table = findings_table(found, config, max_length)
    try:
        atomic_write(target, canonical_json(found))
    except OSError as error:
        print_rich(f"{path}, step {step:,}", "", table, *left_out)  # what was computed is not lost with the file
        raise CheckpointError(
            f"{target} cannot be written ({error.strerror}), so the report will not have this; it stands above"
        ) from None
    print_rich(f"{path}, step {step:,}", "", table, *left_out)
    print_rich("", f"written to {target} in {format_duration(found['seconds'])}")
    return 0


def _chosen(given: Path) -> Path:
    """The checkpoint a path means: of a run folder the newest good step, which has moments, else the best model."""
    from ..checkpoint import RunFolder
    from ..checkpoint.commit import is_complete
    from ..checkpoint.load import find_model

    if given.is_dir() and not is_complete(given) and RunFolder(given).steps():
        return RunFolder(given).latest_valid_step()[0]
    return find_model(given)


def _recipe(path: Path) -> TrainConfig | None:
    """How the model was trained, from its step folder or the run folder around it; None where nobody says."""
    from ..checkpoint import RunFolder
    from ..checkpoint.commit import read_json
    from ..checkpoint.step_folder import SETTINGS
    from ..config import Run

    if path.is_dir():
        return Run.from_dict(read_json(path / SETTINGS)["run"]).train
    if not (path.parent / "run.json").is_file():
        return None
    return Run.from_dict(RunFolder(path.parent).read_run()["run"]).train


def _optimizer(path: Path, config: TrainConfig | None, step: int) -> AdamState:
    """The learning rate of the next update, and Adam's moments where there are any."""
    from ..checkpoint.tensors import read_tensors
    from ..observe.analysis import AdamState
    from ..optim import learning_rate

    if config is None:
        return AdamState(why_not=f"there is no run.json beside {path.name}: its learning rate is not known")
    lr = learning_rate(step, config)
    known = AdamState(lr=lr, beta1=config.beta1, beta2=config.beta2, eps=config.eps)
    if not OPTIMIZERS[config.optimizer].is_adam:
        return replace(known, why_not=f"the matrices are updated by {config.optimizer}, which has no such metric")
    if not path.is_dir():
        return replace(known, why_not=f"{path.name} keeps no optimizer state; analyse a step folder")
    return replace(known, moments=read_tensors(path / "optimizer.safetensors"))


def _effort(flags: AnalyzeFlags, model: LightLLM) -> AnalysisConfig:
    """As asked for, with fewer Lanczos steps where their vectors would not fit into memory."""
    from ..config import get_model_size
    from ..observe.analysis import AnalysisConfig
    from ..runtime import total_memory

    effort = AnalysisConfig(batch_size=flags.batch_size, k=flags.k, steps=flags.steps)
    memory, vector = total_memory(), 4 * get_model_size(model.config)
    most = memory // SHARE // vector if memory else flags.steps
    return AnalysisConfig(batch_size=flags.batch_size, k=flags.k, steps=min(effort.steps, max(flags.k, most)))


def _windows(
    flags: AnalyzeFlags, file: ModelFile, effort: AnalysisConfig, device: str
) -> tuple[Batch, str, AnalysisConfig]:
    """Windows of the training text, what it is called, and the effort with no more sequences than there are."""
    from ..config import MAX_SEED, check_range
    from ..data import Batch, create_dataloader

    check_range("seed", flags.seed, low=0, high=MAX_SEED, integer=True)
    check_range("context", flags.context, low=0, high=file.config.n_positions, integer=True)
    trained = file.data.get("max_length") or CONTEXT
    dataset = open_training_data(file, flags.data, max_length=flags.context or min(CONTEXT, trained))
    n, needed = min(effort.sequences, len(dataset)), max(3, effort.batch_size)
    if len(dataset) < needed:
        raise DataError(
            f"{dataset.source.title} has {len(dataset)} windows of {dataset.max_length} tokens, and {needed} are "
            "needed; use a smaller --context or --batch-size"
        )
    batch = create_dataloader(dataset, max(n, effort.batch_size), seed=flags.seed).batch(0)
    windows = Batch(batch.tokens.to(device), batch.targets.to(device))
    return windows, dataset.source.title, replace(effort, sequences=n)


def _run_points(path: Path, model: LightLLM) -> tuple[list[CheckpointWeights], list[str]]:
    """The weights of the run's checkpoints, at most MOST_POINTS evenly chosen; and which could not be read."""
    from ..checkpoint import RunFolder, read_model
    from ..observe.analysis import CheckpointWeights
    from ..observe.flat_params import flatten, trainable_parameters

    folder, points, left_out = RunFolder(path.parent), {}, []
    steps, names = folder.steps(), list(trainable_parameters(model))
    if len(steps) > MOST_POINTS:
        steps = [steps[round(i * (len(steps) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    for one in [*steps, *([folder.best_model] if folder.best_model.is_file() else [])]:
        if one == path:
            continue
        try:
            file = read_model(one)
        except CheckpointError as error:  # damaged, or a step that the run has removed since
            left_out.append(f"left out: {str(error).partition(';')[0]}")
            continue
        step = int(file.meta.get("step") or 0)
        if file.config == model.config and step not in points:
            points[step] = CheckpointWeights(step, flatten(file.weights[name].float() for name in names))
    return list(points.values()), left_out
