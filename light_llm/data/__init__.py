"""From a text to batches, in this order:

    source        find the text                     sources.py   (download.py, hub.py, piped_text.py, tales/)
    text stream   read its documents in chunks      text_files.py   (documents.py, json_records.py, csv_rows.py,
                                                    parquet.py, decode_utf8.py, file_formats.py)
                  hash and count it, once           fingerprint.py
    tokenizer     text to ids                       tokenizers.py   (bpe.py; tokenizer_file.py, hf_tokenizer.py)
    shards        encode both splits to disk        encode.py, shards.py
    loader        batches of windows, shuffled      loader.py

`prepare_dataset` (dataset.py, with resolve.py for defaults and their substitutes) does all but the last step;
`text_stream.py` has the stream type and the operations on it.
"""

from .dataset import TokenDataset as TokenDataset
from .dataset import load_dataset as load_dataset
from .dataset import prepare_dataset as prepare_dataset
from .loader import Batch as Batch
from .loader import Batches as Batches
from .loader import DataLoader as DataLoader
from .loader import batches_from as batches_from
from .loader import create_dataloader as create_dataloader
from .shards import TokenArray as TokenArray
from .sources import Source as Source
from .tokenizers import Tokenizer as Tokenizer
from .tokenizers import tokenizer_from_dict as tokenizer_from_dict
from .tokenizers import tokenizer_hash as tokenizer_hash
