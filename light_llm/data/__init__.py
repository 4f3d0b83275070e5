"""From a text to batches: sources, tokenizers, shards, windows and the order they are read in."""

from .batches import Batches as Batches
from .batches import IndexedBatches as IndexedBatches
from .batches import IterableBatches as IterableBatches
from .batches import batches_from as batches_from
from .dataset import TokenDataset as TokenDataset
from .dataset import load_dataset as load_dataset
from .dataset import prepare_dataset as prepare_dataset
from .loader import Batch as Batch
from .loader import DataLoader as DataLoader
from .loader import create_dataloader as create_dataloader
from .shards import Shard as Shard
from .shards import TokenArray as TokenArray
from .sources import SOURCES as SOURCES
from .sources import Source as Source
from .tokenizers import Tokenizer as Tokenizer
from .tokenizers import tokenizer_from_dict as tokenizer_from_dict
from .tokenizers import tokenizer_hash as tokenizer_hash
