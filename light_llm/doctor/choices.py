"""The layers that a config may choose, and which the examined model does not have: value and gradient."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ..layers.norms import rms_norm
from ..layers.positions import RotaryAngles, rotate
from .operations import ELEMENTWISE, C, as_it_is, compared
from .subject import Subject, numbers
from .tolerance import allowed, worst_error
from .values import Case, Measured


def rotation(subject: Subject) -> Iterator[Measured]:
    """Heads turned by the angles of 1,024 positions, and the angles' own cosines."""
    x = numbers(2, 3, 1024, C, seed=41)
    angles = torch.arange(1024.0)[:, None] * 10000.0 ** -torch.linspace(0, 1, C // 2)
    turn = RotaryAngles(angles.double().cos(), angles.double().sin())
    found = angles.to(subject.device).cos()
    yield Measured(worst_error(found, turn.cos), allowed([ELEMENTWISE]), "cosines up to 1,023 radians")

    def turned(x: torch.Tensor) -> torch.Tensor:
        return rotate(x, RotaryAngles(*(part.to(x.device) for part in turn)))

    yield from compared(turned, [(x, as_it_is)], subject.device, sums=[2], back=[2], where="1,024 positions")


def root_mean_square(subject: Subject) -> Iterator[Measured]:
    """RMSNorm, also of rows so small that its eps counts."""
    gain = numbers(C, seed=42, scale=0.1) + 1, as_it_is
    for where, scale in (("rows of size 1", 1.0), ("rows of size 0.002", 0.002)):
        x = numbers(9, 7, C, seed=43, scale=scale), as_it_is
        norm = lambda x, g: rms_norm(x, g, 1e-5)  # noqa: E731
        yield from compared(norm, [x, gain], subject.device, sums=[C, ELEMENTWISE], back=[C, C, 63], where=where)


def gates(subject: Subject) -> Iterator[Measured]:
    """SwiGLU and the squared ReLU."""
    g, u = (numbers(9, 7, C, seed=seed, scale=3) for seed in (44, 45))
    chain, pair = [ELEMENTWISE, ELEMENTWISE], [(g, as_it_is), (u, as_it_is)]
    yield from compared(lambda g, u: F.silu(g) * u, pair, subject.device, sums=chain, back=chain, where="SwiGLU")
    square = lambda x: torch.relu(x).square()  # noqa: E731
    yield from compared(square, [(g, as_it_is)], subject.device, sums=chain, back=chain, where="squared ReLU")


CHOICES = (
    Case("rotation", "the rotation of queries and keys", rotation),
    Case("RMSNorm", "RMSNorm", root_mean_square),
    Case("gates", "a gated MLP", gates),
)
