"""The shapes of models: `from model_config import ModelConfig, get_model_size`."""

from light_llm.config import PRESETS, DataConfig, ModelConfig, Run, TrainConfig, get_model_size

__all__ = ["PRESETS", "DataConfig", "ModelConfig", "Run", "TrainConfig", "get_model_size"]
