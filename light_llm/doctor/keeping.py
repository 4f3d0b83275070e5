"""To a file and back: the bytes of safetensors, as a checkpoint has them, bit for bit."""

from collections.abc import Iterator

import safetensors.torch
import torch
from torch import Tensor

from .subject import Subject, numbers
from .values import KEEPING, Case, Measured

# Numbers that careless copies lose: the smallest, the largest, without a bit pattern of their own, signed zeros.
SPECIAL = (2.0**-149, -(2.0**-126), 3.4028234663852886e38, 1 + 2.0**-23, -0.0, 0.0, 1 / 3)
FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def there_and_back(subject: Subject) -> Iterator[Measured]:
    """CPU, device, CPU, bytes, CPU, device, CPU: how many numbers have changed on the way."""
    for dtype in FORMATS:
        tensors = {
            "special": torch.tensor(SPECIAL).to(dtype),
            "weights": numbers(129, 65, seed=71).to(dtype),
            "transposed": numbers(65, 129, seed=72).to(dtype).T,
        }
        once = {name: t.to(subject.device).cpu().contiguous() for name, t in tensors.items()}
        read = safetensors.torch.load(safetensors.torch.save(once))
        for name, tensor in tensors.items():
            back = read[name].to(subject.device).cpu()
            kind = str(dtype).removeprefix("torch.")
            yield Measured(float((bits(back) != bits(tensor)).sum()), 0.0, f"{name}, {kind}: numbers that differ")


def bits(tensor: Tensor) -> Tensor:
    """The bit patterns, for which zeros have signs."""
    return tensor.contiguous().view(torch.int32 if tensor.element_size() == 4 else torch.int16)


CORE = (Case("save and load", "saving and loading", there_and_back, KEEPING),)
