"""light-llm: train, understand and ship small language models on the machine you have, with maths you can check."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import DataConfig as DataConfig
    from .config import ModelConfig as ModelConfig
    from .config import Run as Run
    from .config import TrainConfig as TrainConfig
    from .config import get_model_size as get_model_size
    from .data import create_dataloader as create_dataloader
    from .data import prepare_dataset as prepare_dataset
    from .errors import LightLLMError as LightLLMError
    from .evaluate import evaluate_loss as evaluate_loss
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
    "TrainConfig": "config",
    "get_model_size": "config",
    "create_dataloader": "data",
    "prepare_dataset": "data",
    "LightLLMError": "errors",
    "evaluate_loss": "evaluate",
    "TextGenerator": "generate",
    "LightLLM": "model",
    "NextTokenLoss": "objective",
    "Trainer": "train",
    "analyze_training_dynamics": "train",
}
__all__ = ["__version__", *_MODULES]  # noqa: PLE0604  (the names of the table above)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'light_llm' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
