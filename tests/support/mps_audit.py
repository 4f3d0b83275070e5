"""Record the operations that a program would run on Apple's GPU, on a machine without one.

Inside `fake_mps` a tensor that was moved to "mps" reports that device to Python, so that light-llm takes its branches
for MPS, while torch computes on the CPU. Each operation on such a tensor is recorded with the line that called it, and
looked up in torch's table of operations, which lists the kernels for MPS. Choices that torch makes by device in C++
cannot be recorded this way and are imitated (`ONLY_ON_MPS`).

The audit cannot tell whether a kernel is correct, or how fast it is.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
import torchgen
import yaml
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHECKOUT = Path(__file__).parents[2]
TABLE = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
MPS = torch.device("mps", 0)
MISSING_DTYPES = {torch.float64, torch.complex128}  # Metal has no 64-bit floats (at/native/mps/OperationUtils.mm)


# Operations that torch chooses for MPS in C++, where the CPU gets others, with the reason and the source in torch:
# - attention with gradients or dropout is _scaled_dot_product_attention_math, because the fused form has neither, and
#   otherwise _scaled_dot_product_attention_math_for_mps (ATen/native/transformers/attention.cpp);
# - linear has a kernel for each pass, where the CPU has t and addmm (native_functions.yaml);
# - norms are not linalg_vector_norm, which only the CPU and CUDA have (torch/functional.py);
# - optimizers are fused or loop over tensors, because there are no foreach kernels (torch/utils/_foreach_utils.py);
# - dropout is made of bernoulli_, because native_dropout is for CUDA (ATen/native/Dropout.cpp);
# - a block that is recomputed draws another dropout, because torch keeps a device's generator only if its module has
#   `_initialized`, which torch.mps has not (torch/utils/checkpoint.py, pytorch/pytorch#127676).
ONLY_ON_MPS = ("linear", "linear_backward", "frobenius_norm.dim", "norm.ScalarOpt_dim")
ONLY_ON_MPS += ("empty_like", "bernoulli_", "div_")
# Kernels of MPS that computed wrong results without an error, in versions that light-llm may run on:
MASK_PER_ROW = "a mask of its own for each row"  # each row got the first one's, until May 2026 (pytorch/pytorch#184180)
CAUSAL_IN_16_BITS = "is_causal in a 16-bit format"  # saw later tokens, until September 2026 (pytorch/pytorch#195910)

# Operations that wait for the device, or whose result has a size that only the device knows.
WAITS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
WAITS |= {"repeat_interleave.Tensor", "allclose", "is_nonzero", "bincount"}
# The functions that compute a step, where nothing may wait. `PendingStep.read` reads its loss and norm, and may.
HOT = {"Trainer.accumulate", "StepMetrics.clip", "StepMetrics._before", "StepMetrics._after", "StepQueue.push"}
MAY_WAIT = {"PendingStep.read"}


@dataclass(frozen=True)
class Kernels:
    """The operations that MPS has."""

    own: frozenset[str]  # with a kernel of its own
    composed: frozenset[str]  # of others

    def __contains__(self, name: str) -> bool:
        return name in self.own or name in self.composed


@cache
def kernels(table: Path = TABLE) -> Kernels:
    """Read torch's table: dispatch keys, those of the structured form, and generated variants."""
    entries = {e["func"].split("(")[0]: e for e in yaml.load(table.read_text(), Loader=yaml.CSafeLoader)}
    own, composed = set(), set()
    for name, entry in entries.items():
        keys = dispatch_keys(entries[entry.get("structured_delegate", name)])
        variants = [name, *filter(None, re.split(r"[,\s]+", entry.get("autogen", "")))]
        if "MPS" in keys:
            own.add(name)
            composed.update(variants[1:])
        elif any(key.startswith("Composite") for key in keys):
            composed.update(variants)
        if "dispatch" not in entry and "structured_delegate" not in entry:
            composed.add(name)
    return Kernels(frozenset(own), frozenset(composed))


def dispatch_keys(entry: Mapping[str, Any]) -> set[str]:
    """Return the dispatch keys of an operation; an operation without any is composed of others."""
    return {key.strip() for keys in entry.get("dispatch") or {} for key in keys.split(",")}


@dataclass(frozen=True)
class Finding:
    """An operation that MPS does not have, gets wrong, or would wait for."""

    # kernel: MPS has none; format: makes a tensor of a dtype that MPS does not have; wait: waits for the device;
    # mixed: has tensors of the device and of the host; wrong: is known to be wrong
    kind: str
    name: str  # of the operation
    where: str  # file, line and function of the nearest frame in this repository
    hot: bool  # in a function that computes a training step


@dataclass
class Audit:
    """Everything that was run on the device."""

    operations: dict[str, str] = field(default_factory=dict)  # name: first caller
    whole_numbers: set[str] = field(default_factory=set)  # operations with int64 inputs
    uploads: Counter[str] = field(default_factory=Counter)  # callers that copied tensors to the device
    findings: set[Finding] = field(default_factory=set)

    def of(self, kind: str, *, hot: bool | None = None) -> list[Finding]:
        return [f for f in self.findings if f.kind == kind and hot in (None, f.hot)]


def tensors_in(x: Any) -> list[Tensor]:
    """Return the tensors in arguments or results."""
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


class DeviceTensors:
    """The set of tensors on the device, by storage, so that views are in it too."""

    def __init__(self) -> None:
        # The weak reference keeps the address of a freed storage from being reused.
        self.known: dict[int, StorageWeakRef] = {}

    def __contains__(self, x: object) -> bool:
        return isinstance(x, Tensor) and x.layout == torch.strided and x.untyped_storage()._cdata in self.known

    def add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        self.known.setdefault(storage._cdata, StorageWeakRef(storage))


class Recorder(TorchDispatchMode):
    """Record each operation on a tensor of the device, and put its results on the device too."""

    def __init__(self, tensors: DeviceTensors, table: Kernels) -> None:
        super().__init__()
        self.tensors, self.table, self.audit = tensors, table, Audit()
        self.placing = False  # new tensors are made on the device
        self.quiet = False
        self.generator = torch.Generator()  # the device has its own; saving the CPU's does not save it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            inputs = tensors_in((args, kwargs))
            on_device = [x for x in inputs if x in self.tensors]
            if self.quiet or not (on_device or (self.placing and not inputs)):
                return func(*args, **kwargs)
            name = func._schema.name.removeprefix("aten::") + f".{func._overloadname}".removesuffix(".default")
            new, index = name not in self.audit.operations, name.split(".")[0] in INDEXING
            self.operation(name)
            if any(x.dtype == torch.int64 for x in on_device):
                self.audit.whole_numbers.add(name)
            by_mask = index and any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
            by_data = not index and any(tag in func.tags for tag in DATA_DEPENDENT)
            # The True elements of a mask have to be counted before its rows can be copied.
            if name in WAITS or by_mask or by_data or (name == "copy_" and args[0] not in self.tensors):
                self.find("wait", name)
            if name != "copy_" and not index and any(x.ndim and x not in self.tensors for x in inputs):
                self.find("mixed", name)
            if any(a.name == "generator" for a in func._schema.arguments):
                kwargs = {"generator": self.generator} | kwargs
            out = self.inside(func, args, kwargs) if new and name in self.table.composed else func(*args, **kwargs)
            for x in tensors_in(out):
                self.tensors.add(x)
                if x.dtype in MISSING_DTYPES:
                    self.find("format", name)
            return out

    def operation(self, name: str) -> None:
        """Record an operation; a finding if MPS has no kernel for it."""
        if name not in self.audit.operations:
            self.audit.operations[name] = caller()[0]
        if name not in self.table:
            self.find("kernel", name)

    def inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation composed of others, and look up those. Modes do not see them; the profiler does."""
        with torch.autograd.profiler_legacy.profile() as profile:
            out = func(*args, **kwargs)
        stack = [event for event in profile.function_events if event.cpu_parent is None]
        while stack:
            event = stack.pop()
            bare = event.name.removeprefix("aten::")
            if bare in bare_names(self.table.own):
                continue
            if event.name.startswith("aten::") and bare not in bare_names(self.table.composed):
                self.find("kernel", bare)
            stack += event.cpu_children
        return out

    def find(self, kind: str, name: str) -> None:
        self.audit.findings.add(Finding(kind, name, *caller()))


INDEXING = ("index", "index_put", "index_put_")  # by ids or by a mask
DATA_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@cache
def bare_names(names: frozenset[str]) -> frozenset[str]:
    """Drop the overloads, which the profiler does not report."""
    return frozenset(name.split(".")[0] for name in names)


@cache
def path_in_repository(file: str) -> str | None:
    """Return the path of a file in this repository; None for other files and this one."""
    path = Path(file)
    in_repository = CHECKOUT in path.parents and "site-packages" not in path.parts and path != Path(__file__)
    return str(path.relative_to(CHECKOUT)) if in_repository else None


def caller() -> tuple[str, bool]:
    """Return the nearest caller in this repository, and True if a function of HOT is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    where, names = "outside", set()
    while frame is not None:
        if file := path_in_repository(frame.f_code.co_filename):
            if where == "outside":
                where = f"{file}:{frame.f_lineno} in {frame.f_code.co_qualname}"
            names.add(frame.f_code.co_qualname)
        frame = frame.f_back
    return where, bool(names & HOT) and not names & MAY_WAIT


class DeviceView(TorchFunctionMode):
    """Answer questions about the device of a tensor, and move tensors."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder, self.tensors = recorder, recorder.tensors

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        on_device = any(x in self.tensors for x in tensors_in((args, kwargs)))
        if func in ANSWERS:
            return ANSWERS[func](on_device, lambda: func(*args, **kwargs))
        if on_device and getattr(func, "__name__", "") in ("tolist", "numpy", "__array__"):
            self.recorder.find("wait", func.__name__)
        if func in (Tensor.to, Tensor.cpu):
            return self.move(func, args, kwargs)
        if (requested := kwargs.get("device")) and is_mps(requested):
            kwargs["device"] = "cpu"
        with self.placing(is_mps(requested) if requested else on_device):
            if on_device and (form := FORMS.get(func)):
                return form(self.recorder, *args, **kwargs)
            out = func(*args, **kwargs)
        if requested and is_mps(requested):  # `torch.tensor` is invisible to the other mode
            for x in tensors_in(out):
                self.tensors.add(x)
        return out

    @contextmanager
    def placing(self, on_device: bool) -> Iterator[None]:
        before, self.recorder.placing = self.recorder.placing, on_device
        try:
            yield
        finally:
            self.recorder.placing = before

    def move(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Run x.to(...) or x.cpu(), with a copy if the device changes, as between real devices."""
        x: Tensor = args[0]
        on_device = to_device = x in self.tensors
        if func is Tensor.cpu:
            to_device = False
        for a in [*args[1:], kwargs.get("device")]:
            if isinstance(a, (str, torch.device, Tensor)):
                to_device = a in self.tensors if isinstance(a, Tensor) else is_mps(a)
        args = [x, *("cpu" if isinstance(a, (str, torch.device)) else a for a in args[1:])]
        kwargs |= {"device": "cpu"} if "device" in kwargs else {}
        if on_device == to_device:
            return func(*args, **kwargs)
        if on_device:
            self.recorder.find("wait", "_to_copy")
        else:
            self.recorder.audit.uploads[caller()[0]] += 1
        self.recorder.quiet = True
        try:
            moved = func(x.clone(), *args[1:], **kwargs)
        finally:
            self.recorder.quiet = False
        if to_device:
            self.tensors.add(moved)
            self.recorder.operation("_to_copy")
            if moved.dtype in MISSING_DTYPES:
                self.recorder.find("format", "_to_copy")
        return moved


ANSWERS: dict[Any, Callable[[bool, Callable[[], Any]], Any]] = {
    Tensor.device.__get__: lambda on_device, otherwise: MPS if on_device else otherwise(),  # type: ignore[attr-defined]
    Tensor.is_mps.__get__: lambda on_device, otherwise: on_device,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda on_device, otherwise: not on_device,  # type: ignore[attr-defined]
}


def is_mps(device: Any) -> bool:
    return torch.device(device).type == "mps"


def _attention(recorder: Recorder, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
    wants = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    options = dict(zip(("attn_mask", "dropout_p", "is_causal"), rest, strict=False)) | named
    mask = options.pop("attn_mask", None)
    if not wants and not options.get("dropout_p"):
        recorder.operation("_scaled_dot_product_attention_math_for_mps")
        by_vectors = q.size(-2) <= 8 and q.size(-1) in (64, 96, 128)  # the form for few queries
        mask_per_row = mask is not None and mask.ndim == 4 and mask.size(0) > 1
        if by_vectors and mask_per_row and not mask.expand(-1, q.size(1), -1, -1).stride(1):
            recorder.find("wrong", MASK_PER_ROW)
        if options.get("is_causal") and q.dtype in (torch.bfloat16, torch.float16) and q.size(-2) > 1:
            recorder.find("wrong", CAUSAL_IN_16_BITS)
    if mask is not None and mask.dtype == torch.bool:  # as the function does before it chooses a form
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask.logical_not(), -math.inf)
    return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, mask, **options)[0]


def _linear(recorder: Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    recorder.operation("linear")
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        recorder.operation("linear_backward")
    return torch._C._nn.linear(x, weight, bias)


def _norm(recorder: Recorder, x: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    recorder.operation("frobenius_norm.dim" if p == "fro" else "norm.ScalarOpt_dim")
    return torch.linalg.vector_norm(x, 2 if p == "fro" else p, dim, keepdim)


FORMS: dict[Any, Callable[..., Tensor]] = {
    torch._C._nn.scaled_dot_product_attention: _attention,
    torch._C._nn.linear: _linear,
    Tensor.norm: _norm,
    torch.norm: _norm,
}


@contextmanager
def fake_mps(table: Kernels | None = None) -> Iterator[Audit]:
    """Make "mps" available inside the block, and record what runs on it."""
    recorder = Recorder(DeviceTensors(), table or kernels())
    view = DeviceView(recorder)
    with pytest.MonkeyPatch.context() as patch:
        _patch_torch(patch, view)
        with recorder, view:
            yield recorder.audit


def _patch_torch(patch: pytest.MonkeyPatch, view: DeviceView) -> None:
    """Replace functions of torch that ask for a device without a tensor."""
    # torch._dynamo, if it is imported inside the block, expects the cached function and its __wrapped__.
    patch.setattr(torch.backends.mps, "is_available", cache(lambda: True))
    generator = view.recorder.generator
    patch.setattr(torch.mps, "get_rng_state", lambda device="mps": generator.get_state())
    patch.setattr(torch.mps, "set_rng_state", lambda state, device="mps": generator.set_state(state))
    patch.setattr(torch.mps, "manual_seed", generator.manual_seed)
    checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
    patch.setitem(checks, "default", lambda x: (x.shape, x.dtype))  # its hooks run where modes are off

    class Autocast(torch.autocast):
        """Autocast for MPS is autocast for the CPU, where the products are made."""

        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(device_type, *args, **kwargs)
            self.other = torch.amp.autocast_mode.autocast("cpu", *args, **kwargs) if device_type == "mps" else None

        def __enter__(self) -> Any:
            self.other and self.other.__enter__()
            return super().__enter__()

        def __exit__(self, *error: Any) -> Any:
            super().__exit__(*error)
            self.other and self.other.__exit__(*error)

    patch.setattr(torch, "autocast", Autocast)
    patch.setattr(torch.amp, "autocast", Autocast)

    group, run = torch._C._group_tensors_by_device_and_dtype, torch.autograd._engine_run_backward

    def grouped(*args: Any, **kwargs: Any) -> Any:
        groups = group(*args, **kwargs)
        return {(lists[0][0][0].device, dtype): (lists, at) for (_, dtype), (lists, at) in groups.items()}

    def backward(*args: Any, **kwargs: Any) -> Any:
        with view, view.placing(True):  # `Tensor.backward` switches modes off
            return run(*args, **kwargs)

    patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", grouped)
    patch.setattr(torch.autograd, "_engine_run_backward", backward)
