"""What helps where a device computes wrong: chosen from the findings, applied from outside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import LightLLM, SelfAttention, attend_by_formula
from .values import ADAMW, ATTENTION, COMPILED, FORMULA, MUON, PLAIN_ADAMW, Finding

REFUSE = "refuse"
USE_FORMULA = "formula"
PLAIN_UPDATE = "plain optimizer"
NO_MUON = "adamw"
FLOAT32 = "float32"
EAGER = "eager"


@dataclass(frozen=True)
class Remedy:
    """Something to do differently on a device."""

    name: str  # refuse, float32, eager, formula, plain optimizer or adamw
    because: str  # what is wrong
    action: str  # what light-llm does about it


def remedies_for(device: str, findings: Sequence[Finding]) -> tuple[Remedy, ...]:
    """What helps against all that is wrong, the gravest first."""
    wrong = [f for f in findings if f.wrong]
    exact = [f for f in wrong if f.dtype == "float32" and f.part != COMPILED]
    by_part = {part: [f for f in exact if f.part == part] for part in {f.part for f in exact}}
    tried = {f.part for f in findings if f.checked}
    fatal = [f for f in exact if f.part not in (ATTENTION, ADAMW, MUON)]  # a twin that is wrong too among them
    for quick, twin in ((ATTENTION, FORMULA), (ADAMW, PLAIN_ADAMW)):
        fatal += by_part.get(quick, []) if twin not in tried else []
    if fatal:
        return (Remedy(REFUSE, _named(fatal), _refusal(device)),)
    low = [f for f in wrong if f.dtype == "bfloat16" and f.part != COMPILED]
    chosen = [
        (USE_FORMULA, by_part.get(ATTENTION), "attention goes by its formula, which is slower and takes more memory"),
        (PLAIN_UPDATE, by_part.get(ADAMW), "AdamW makes its update operation by operation, not in one call"),
        (NO_MUON, by_part.get(MUON), "Muon is not used on this device; train with optimizer adamw"),
        (FLOAT32, low, "products are made in float32: --dtype float32"),
        (EAGER, [f for f in wrong if f.part == COMPILED], "nothing is compiled: --compile off"),
    ]
    return tuple(Remedy(name, _named(found), action) for name, found, action in chosen if found)


def use_attention(model: LightLLM, attention: Callable[..., Tensor]) -> LightLLM:
    """Let every layer of a model attend by this function: (B, H, T, D) and so on, as `attend`."""
    for module in model.modules():
        if isinstance(module, SelfAttention):
            module.attend = attention
    return model


def use_formula(model: LightLLM) -> LightLLM:
    """Let a model attend by the formula, in training and in writing."""
    return use_attention(model, attend_by_formula)


def use_plain_update(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let AdamW make its updates tensor by tensor, operation by operation; also within Muon. Its state stays."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            group.update(fused=False, foreach=False)
    return optimizer


def _named(findings: Sequence[Finding]) -> str:
    """The first wrong operation in words, and how many more: single operations come before what is made of them."""
    first = findings[0]
    more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
    return f"{first.operation} is wrong ({first.note}){more}"


def _refusal(device: str) -> str:
    if torch.device(device).type == "cpu":
        return "nothing is computed with this torch on this processor; install another version of torch"
    return "nothing is computed on this device; use --device cpu"
