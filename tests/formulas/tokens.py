"""T: tokens, windows, embeddings."""

import math
from itertools import pairwise

import numpy as np
import torch

from light_llm.config import DataConfig
from light_llm.data.bpe import train_bpe
from light_llm.data.loader import DataLoader
from light_llm.data.order import WindowOrder, permuted_index
from light_llm.data.shards import TokensInMemory
from light_llm.data.tokenizers import ByteTokenizer, byte_lengths
from light_llm.objective import token_cross_entropy
from tests.support.tools import some_tokens, tiny_model

from .tools import agree, array, softmax


def T1_the_ids_of_a_text_are_its_bytes() -> None:
    for text, ids in {"Ab": [65, 98], "é": [195, 169], "日": [230, 151, 165]}.items():
        assert ByteTokenizer().encode(text) == ids


def T2_a_merge_joins_the_pair_with_the_smallest_id() -> None:
    tokenizer = train_bpe(["the cat sat on the mat, the bat sat on the hat "] * 40, 280)
    ids_of = {token: i for i, token in enumerate(tokenizer.tokens) if token}
    for word in ("the", " that", " mattress", " on"):
        parts = [bytes([b]) for b in word.encode()]
        while True:
            joins = [(ids_of[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids_of]
            if not joins:
                break
            _, i = min(joins)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        assert tokenizer.encode(word) == [ids_of[part] for part in parts]


def T3_the_size_of_a_vocabulary() -> None:
    tokenizer = train_bpe(["the cat sat on the mat, the bat sat on the hat "] * 40, 280)
    merges = sum(len(token) > 1 for token in tokenizer.tokens)
    assert tokenizer.vocab_size == 256 + merges + 1
    assert len(byte_lengths(tokenizer)) == tokenizer.vocab_size


class _Windows:
    """Forty ids in windows of eight: what a loader asks of a dataset."""

    tokens, max_length, config, sources = TokensInMemory(range(100, 140)), 8, DataConfig(), ()


def T4_a_target_is_the_next_token() -> None:
    loader = DataLoader(_Windows(), batch_size=2, seed=3)  # type: ignore[arg-type]
    w = np.arange(100, 140)
    for k in range(4):
        for row in range(2):
            s = loader.order.start(2 * k + row)
            agree(loader.batch(k).tokens[row], w[s : s + 8])
            agree(loader.batch(k).targets[row], w[s + 1 : s + 9])


def T5_windows_start_T_apart_from_an_offset() -> None:
    order = WindowOrder(n_tokens=44, T=8, seed=3)
    n, offsets, orders = (44 - 8) // 8, set(), set()
    for epoch in range(12):
        starts = [order.start(epoch * n + i) for i in range(n)]
        offset = min(starts)
        assert sorted(starts) == [offset + 8 * i for i in range(n)] and 0 <= offset < 8
        offsets.add(offset)
        orders.add(tuple((s - offset) // 8 for s in starts))
    assert len(offsets) > 3 and len(orders) > 3
    assert sorted(permuted_index(i, n, key=5) for i in range(n)) == list(range(n))


def T6_the_probability_of_a_text_is_a_product() -> None:
    model, ids = tiny_model(scale=5).double(), some_tokens(1, 9)
    nats = 0.0
    for t in range(1, 9):  # each factor from the text before it alone
        p = softmax(array(model(ids[:, :t])[0, -1]))
        nats -= math.log(p[ids[0, t]])
    agree(token_cross_entropy(model, ids[:, :-1], ids[:, 1:]).sum(), nats, rtol=1e-5)


def T7_an_embedding_is_a_row_of_the_table_and_one_of_the_positions() -> None:
    model, ids = tiny_model(n_layer=1).double(), some_tokens(2, 5)
    seen: list[torch.Tensor] = []
    model.h[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(ids)
    W_E, W_P = array(model.wte.weight), array(model.wpe.weight)
    agree(seen[0], [[W_E[w] + W_P[t] for t, w in enumerate(row)] for row in ids.tolist()])


def T8_a_lookup_is_a_product_with_a_unit_vector() -> None:
    model, ids = tiny_model().double(), some_tokens(1, 5)
    one_hot = np.eye(model.config.vocab_size)[ids[0].numpy()]
    agree(model.wte(ids)[0], one_hot @ array(model.wte.weight))
