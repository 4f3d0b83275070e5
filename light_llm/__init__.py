"""light-llm: train, understand and ship small language models on the machine you have, with maths you can check.

    load                        a trained model and its tokenizer, from a run folder or a model file
    TextGenerator               generates text: TextGenerator("my-run").generate("Once upon a time")
    Sampling                    temperature, top_k, top_p, min_p and repetition_penalty as one value
    prepare_dataset             finds a text, splits and encodes it: a dataset and its tokenizer
    create_dataloader           batches of a dataset, shuffled, the same for the same seed
    LightLLM                    the model: tokens (B, T) to logits (B, T, V)
    Trainer                     trains a model, evaluates and saves it: Trainer(model, loader, max_steps=500).train()
    NextTokenLoss               the loss as a module, for a training loop of your own
    evaluate_loss               loss, perplexity and bits per byte on held-out text
    evaluate_text               the same on any texts: files, folders, JSON Lines, Parquet, lists of documents
    analyze_training_dynamics   gradients, attention, activations and curvature of a model, as a dict
    ModelConfig, DataConfig, TrainConfig, Run      the settings of a run, frozen and checked
    get_model_size              the number of parameters of a config
    LightLLMError               the base class of all errors that a user can fix

The guide is docs/python.md. On the command line: light-llm --help.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import DataConfig as DataConfig
    from .config import ModelConfig as ModelConfig
    from .config import Run as Run
    from .config import Sampling as Sampling
    from .config import TrainConfig as TrainConfig
    from .config import get_model_size as get_model_size
    from .data import Tokenizer
    from .data import create_dataloader as create_dataloader
    from .data import prepare_dataset as prepare_dataset
    from .errors import LightLLMError as LightLLMError
    from .evaluate import evaluate_loss as evaluate_loss
    from .evaluate import evaluate_text as evaluate_text
    from .generate import TextGenerator as TextGenerator
    from .model import LightLLM as LightLLM
    from .objective import NextTokenLoss as NextTokenLoss
    from .train import Trainer as Trainer
    from .train import analyze_training_dynamics as analyze_training_dynamics

__version__ = "0.1.0"

# Imported at first use, so that `import light_llm` and `--help` never wait for torch.
_MODULES = {
    "DataConfig": "config",
    "ModelConfig": "config",
    "Run": "config",
    "Sampling": "config",
    "TrainConfig": "config",
    "get_model_size": "config",
    "create_dataloader": "data",
    "prepare_dataset": "data",
    "LightLLMError": "errors",
    "evaluate_loss": "evaluate",
    "evaluate_text": "evaluate",
    "TextGenerator": "generate",
    "LightLLM": "model",
    "NextTokenLoss": "objective",
    "Trainer": "train",
    "analyze_training_dynamics": "train",
}
__all__ = ["__version__", "load", *_MODULES]  # noqa: PLE0604  (the names of the table above)


def load(path: str | Path, device: str = "cpu") -> "tuple[LightLLM, Tokenizer | None]":
    """Return the model stored at a path, in evaluation mode, and its tokenizer.

    Args:
        path: a run folder (its best model), a step folder, or a model file such as `best_model.pt`.
        device: auto, cpu, cuda, cuda:N or mps.

    Returns:
        The model, and its tokenizer: None if it was trained on batches of a loader without one.

    Raises:
        CheckpointError: nothing there, or a damaged file.
        DeviceError: a device that this machine does not have.
    """
    from .checkpoint import load_model
    from .runtime import choose_device

    loaded = load_model(path, choose_device(device).value)
    return loaded.model, loaded.file.tokenizer


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'light_llm' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    modules = [name for name, value in globals().items() if isinstance(value, ModuleType)]
    return sorted({*__all__, *modules})
