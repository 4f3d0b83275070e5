"""What only lower formats get wrong: products whose sums are not made in float32."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from ..runtime import autocast
from . import attention, whole
from .subject import Subject
from .tolerance import allowed, worst_error
from .values import Case, Measured

TERMS = 4096


def long_sums(subject: Subject, dtype: str) -> Iterator[Measured]:
    """Products of positive numbers, 4,096 terms each: a sum kept in bfloat16 stops growing at 256 times a term."""
    generator = torch.Generator().manual_seed(61)
    weight = torch.rand(24, TERMS, generator=generator)
    for rows in (1, 9, 64):
        x = torch.rand(rows, TERMS, generator=generator)
        with torch.no_grad(), autocast(subject.device, dtype):
            found = F.linear(x.to(subject.device), weight.to(subject.device))
        limit = allowed([TERMS], getattr(torch, dtype))
        yield Measured(worst_error(found, x.double() @ weight.double().T), limit, f"{rows} rows, {TERMS:,} terms")


def of_format(dtype: str) -> tuple[Case, ...]:
    """All cases of bfloat16 or float16."""
    name = f"products, {dtype}"
    sums = Case(name, f"a matrix product in {dtype}", partial(long_sums, dtype=dtype), dtype=dtype)
    return (sums, attention.low_format(dtype), *whole.low_formats(dtype))
