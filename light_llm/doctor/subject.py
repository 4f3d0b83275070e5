"""What the cases work on: a small model with a full vocabulary on the device, and its twin in float64 on the CPU.

The model is the real one, with weights large enough that attention, GELU and softmax are all far from linear: at its
initial weights most faults would hide. The twin goes by the formulas: attention as written, the loss of full logits.
It stays on the CPU; some devices have no float64.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..config import ModelConfig
from ..layers.attention import attend
from ..model import LightLLM, attend_by_formula
from .remedies import use_attention

Attention = Callable[..., Tensor]

V, LONGEST, MOST = 50_257, 1024, 16  # ids, tokens of a sequence, sequences
SHAPE = ModelConfig(vocab_size=V, n_positions=LONGEST, n_embd=64, n_layer=2, n_head=2)
ROWS = 64  # of logits in float64 at a time: 26 MB, where all of 16 x 1,024 would be 6.6 GB
REPEATED = 8  # ids that come again and again, so that their gradients have to be added up


def numbers(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Normal float32 numbers on the CPU, from a generator of their own."""
    return torch.randn(*shape, generator=Generator().manual_seed(seed)) * scale


def opinionated(config: ModelConfig, seed: int = 1) -> LightLLM:
    """A float32 model on the CPU with weights as above. Draws nothing from the program's generators."""
    with torch.random.fork_rng(devices=[]):
        model = LightLLM(config).eval()
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = {"wte": 0.25, "wpe": 0.1}.get(name.split(".")[0], 0.1)
            if parameter.ndim == 2 and name.startswith("h."):
                std = 1.5 / parameter.size(1) ** 0.5
            parameter.normal_(std=std, generator=generator)
            if parameter.ndim == 1 and ".ln_" in f".{name}" and name.endswith("weight"):
                parameter.add_(1)
    return model


def in_float64(model: LightLLM) -> LightLLM:
    """A copy in float64 on the CPU, by the formulas."""
    return use_attention(deepcopy(model).double(), attend_by_formula)


class Reference:
    """The exact side, on the CPU in float64; each part is made when it is first asked for, and kept."""

    def __init__(self) -> None:
        self._hidden: dict[tuple[int, int], Tensor] = {}
        self._gradients: dict[tuple[int, int], tuple[float, dict[str, Tensor]]] = {}

    @cached_property
    def plain(self) -> LightLLM:
        """The model in float32 on the CPU: what is copied to the device."""
        return opinionated(SHAPE)

    @cached_property
    def twin(self) -> LightLLM:
        """The same in float64."""
        return in_float64(self.plain)

    @cached_property
    def ids(self) -> Tensor:
        """(16, 1,025) ids, the first and the last of the vocabulary among them, a quarter of them few and often."""
        generator = Generator().manual_seed(2)
        ids = torch.randint(V, (MOST, LONGEST + 1), generator=generator)
        often = torch.randint(V, (REPEATED,), generator=generator)
        which = torch.randint(REPEATED, ids.shape, generator=generator)
        ids = torch.where(torch.rand(ids.shape, generator=generator) < 0.25, often[which], ids)
        ids[:, 2], ids[:, 4] = V - 1, 0
        return ids

    def tokens(self, B: int, T: int) -> Tensor:
        """(B, T) ids, a view with gaps between its rows, as the data room gives it."""
        return self.ids[:B, :T]

    def targets(self, B: int, T: int) -> Tensor:
        """(B, T) ids, each the next one."""
        return self.ids[:B, 1 : T + 1]

    def hidden(self, B: int, T: int) -> Tensor:
        """(B, T, C). A token knows nothing of later ones or of other sequences: so part of a larger one will do."""
        for (rows, length), known in self._hidden.items():
            if rows >= B and length >= T:
                return known[:B, :T]
        with torch.no_grad():
            parts = [self.twin.hidden_states(tokens[None]) for tokens in self.tokens(B, T)]
        self._hidden[B, T] = torch.cat(parts)
        return self._hidden[B, T]

    def logits(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """(N, C) hidden states -> which rows, and their (n, V) logits, a few rows at a time."""
        for start in range(0, len(rows), ROWS):
            part = slice(start, min(start + ROWS, len(rows)))
            yield part, F.linear(rows[part], self.twin.head_weight.detach())

    def nats(self, B: int, T: int) -> Tensor:
        """-log P(target) of each position: (B, T)."""
        targets, found = self.targets(B, T).flatten(), []
        for part, z in self.logits(self.hidden(B, T).flatten(0, 1)):
            found.append(F.cross_entropy(z, targets[part], reduction="none"))
        return torch.cat(found).view(B, T)

    def gradients(self, B: int, T: int) -> tuple[float, dict[str, Tensor]]:
        """The summed nats and their gradients by name, the logits' part a few rows at a time."""
        if (B, T) not in self._gradients:
            self.twin.zero_grad()
            targets, total = self.targets(B, T).flatten(), 0.0
            hidden = self.twin.hidden_states(self.tokens(B, T)).flatten(0, 1)
            states = hidden.detach().requires_grad_()
            for h, y in zip(states.split(ROWS), targets.split(ROWS), strict=True):
                part = F.cross_entropy(F.linear(h, self.twin.head_weight), y, reduction="sum")
                part.backward()
                total += float(part.detach())
            hidden.backward(states.grad)
            self._gradients[B, T] = total, taken(self.twin)
        return self._gradients[B, T]


class Subject:
    """The device's side of every comparison.

    Args:
        device: by name.
        reference: the exact side; it can serve several subjects.
        attention: what the model attends by.
        plain_update: AdamW goes operation by operation.
    """

    def __init__(
        self, device: str, reference: Reference, attention: Attention = attend, plain_update: bool = False
    ) -> None:
        self.device, self.reference, self.attention, self.plain_update = device, reference, attention, plain_update

    @cached_property
    def model(self) -> LightLLM:
        """The model on the device."""
        return use_attention(deepcopy(self.reference.plain), self.attention).to(self.device)

    @cached_property
    def ids(self) -> Tensor:
        """(16, 1,025) ids on the device."""
        return self.reference.ids.to(self.device)

    def tokens(self, B: int, T: int) -> Tensor:
        """(B, T) ids, a view with gaps between its rows."""
        return self.ids[:B, :T]

    def targets(self, B: int, T: int) -> Tensor:
        """(B, T) ids, each the next one."""
        return self.ids[:B, 1 : T + 1]


def taken(model: LightLLM) -> dict[str, Tensor]:
    """The gradients by name, taken away from the model."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
