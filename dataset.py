"""The data: `from dataset import prepare_dataset, create_dataloader`."""

from light_llm.data import create_dataloader, prepare_dataset

__all__ = ["create_dataloader", "prepare_dataset"]
