"""Room on the disk for what a run will keep."""

from pathlib import Path

from ..checkpoint import RunFolder
from ..checkpoint.run_folder import RECENT_STEPS
from ..config import TrainConfig
from ..config.choices import OPTIMIZERS
from ..errors import CheckpointError
from ..model import LightLLM
from ..optim import group_parameters
from ..optim.groups import MATRIX
from ..text_format import format_bytes

OTHER = 4 << 20  # bytes: tokenizer, generators, records, what a file system adds


def step_bytes(model: LightLLM, config: TrainConfig) -> int:
    """Return about the bytes of a step folder: each weight and the optimizer's state in float32."""
    matrices = sum(p.numel() for p in group_parameters(model)[MATRIX].values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = OPTIMIZERS[config.optimizer].state_bytes(matrices=matrices, others=trained - matrices)
    return 4 * sum(p.numel() for p in model.parameters()) + state + OTHER


def check_room(folder: RunFolder, model: LightLLM, config: TrainConfig, *, resumes: bool = False) -> None:
    """Raise CheckpointError unless the disk holds the steps that are kept, one more, and the best model twice.

    One more, and twice, because the old one goes only when the new one is complete. What a run that goes on has there
    already counts.
    """
    step, best = step_bytes(model, config), 4 * sum(p.numel() for p in model.parameters()) + OTHER
    old = [path for path in [*folder.steps(), folder.best_model] if path.exists()] if resumes else []
    there = sum(size_of(path) for path in old)
    needed = (RECENT_STEPS + 1) * step + 2 * best - there
    free = folder.files.free(folder.path)
    if free is not None and free < needed:
        raise CheckpointError(
            f"the checkpoints of this run need {format_bytes(needed)} in {folder.path}, and {format_bytes(free)} are "
            "free; make room, or name a folder on another disk with --out"
        )


def check_room_for_step(folder: RunFolder, path: Path, needed: int) -> None:
    """Raise CheckpointError unless one more step folder fits."""
    free = folder.files.free(folder.path)
    if free is not None and free < needed:
        raise no_room(folder, path, needed, "the disk is full")


def no_room(folder: RunFolder, path: Path, needed: int, reason: str) -> CheckpointError:
    """The error for a save that failed: what is needed, what is free, what is still there."""
    free = folder.files.free(folder.path)
    steps = folder.steps()
    left = f"{steps[-1]} is complete: make room and go on with --resume" if steps else "there is no checkpoint yet"
    return CheckpointError(
        f"{path} could not be written ({reason}): it needs {format_bytes(needed)}, "
        f"{'unknown' if free is None else format_bytes(free)} free; {left}"
    )


def size_of(path: Path) -> int:
    """Bytes of a file or of the files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def halved(config: TrainConfig) -> int | None:
    """The largest micro-batch of at most half the size that divides the batch; None when it is one sequence already."""
    size = config.micro_batch or config.batch_size
    fits = [n for n in range(1, size // 2 + 1) if config.batch_size % n == 0]
    return max(fits, default=None)
