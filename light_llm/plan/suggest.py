"""Suggestions for a run that does not fit: the nearest settings that do, each with its own plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import PRESETS, SETTINGS, ModelConfig, TrainConfig, preset_settings
from .plan import Plan, make_plan
from .profile import is_known, rotary_share

MIN_WINDOW = 64  # tokens
MAX_MICRO_BATCH = 1 << 14  # sequences; a larger one is not offered, so that an absurd batch size is answered at once
SIZES = ("n_embd", "n_layer", "n_head", "n_kv_head", "n_inner")
SMALL_VOCABULARY = 4096  # of a tokenizer trained on the text
Overrides = dict[str, Any]  # settings by `part__name`
Change = tuple[str, str, Overrides]  # flags, their effect, and the settings that they set
BPE: Change = (
    f"--tokenizer bpe:{SMALL_VOCABULARY}",
    "a smaller vocabulary",
    {"data__tokenizer": f"bpe:{SMALL_VOCABULARY}", "model__vocab_size": SMALL_VOCABULARY},
)


@dataclass(frozen=True)
class Suggestion:
    """Settings that fit."""

    changes: Overrides
    flags: str  # that set them
    effect: str
    plan: Plan


def suggest_settings(plan: Plan, *, timed: bool = True) -> list[Suggestion]:
    """Return the smallest change of each kind that fits, the kind that changes the result least first; or [].

    Each kind is tried alone first, then with fewer sequences at a time. All kinds together are the last resort.
    """
    tried = [
        _smaller_micro_batch(plan),
        _sharded(plan),
        _smaller_batch(plan),
        *(_alone_then_in_pieces(plan, kind) for kind in _kinds(plan)),
    ]
    suggestions = [s for kind in tried if (s := next((s for s in kind if s.plan.fits), None))]
    suggestions = suggestions or [s for s in _everything(plan) if s.plan.fits][:1]
    # Only what is offered is timed, because a search plans hundreds of settings; and only if this machine was measured
    # before, because a refusal must not make the reader wait.
    timed = timed and is_known(plan.train.device, plan.train.dtype, plan.model)
    return [replace(s, plan=_replan(plan, s.changes, timed=True)) for s in suggestions] if timed else suggestions


def without_fixed(suggestions: Sequence[Suggestion], *, resumed: bool) -> list[Suggestion]:
    """Return the suggestions that can be followed with a trained model, or when a run is resumed."""

    def can_change(key: str) -> bool:
        part, _, name = key.partition("__")
        return SETTINGS[f"{part}.{name}"].resume == "free" if resumed else part == "train"

    return [s for s in suggestions if all(map(can_change, s.changes))]


def apply(model: ModelConfig, train: TrainConfig, T: int, changes: Overrides) -> tuple[ModelConfig, TrainConfig, int]:
    """Return model, training and window with settings changed."""
    by_part = {
        part: {k.partition("__")[2]: v for k, v in changes.items() if k.startswith(part)} for part in ("model", "train")
    }
    return replace(model, **by_part["model"]), replace(train, **by_part["train"]), changes.get("data__max_length", T)


def micro_batches(train: TrainConfig, data_size: int = 1) -> list[int]:
    """Return the smaller micro-batches that divide a rank's share of the batch, the largest first."""
    rows = train.batch_size // data_size
    current = train.micro_batch or rows
    return [n for n in range(min(current - 1, MAX_MICRO_BATCH), 0, -1) if rows % n == 0]


def batch_sizes(train: TrainConfig, data_size: int = 1) -> list[int]:
    """Return the smaller batches of a power of two for each rank that need no micro-batches, the largest first.

    >>> batch_sizes(TrainConfig(batch_size=12)), batch_sizes(TrainConfig(batch_size=12, micro_batch=4))
    ([8, 4, 2, 1], [2, 1])
    >>> batch_sizes(TrainConfig(batch_size=12), data_size=3)
    [6, 3]
    """
    largest = min((train.micro_batch or train.batch_size // data_size) - 1, MAX_MICRO_BATCH)
    return [data_size << k for k in range(largest.bit_length() - 1, -1, -1)] if largest else []


def _suggestion(plan: Plan, flags: str, effect: str, **changes: Any) -> Suggestion:
    return Suggestion(changes, flags, effect, _replan(plan, changes))


def _replan(plan: Plan, changes: Overrides, *, timed: bool = False) -> Plan:
    model, train, T = apply(plan.model, plan.train, plan.T, changes)
    text = replace(plan.text, tokens=None) if "data__tokenizer" in changes else plan.text
    ranks: Any = {"world_size": plan.world_size, "local_size": plan.local_size}
    ranks |= {"parallel": train.parallel if "train__parallel" in changes else plan.parallel}
    return make_plan(model, train, T, text, framework=plan.memory.framework, limit=plan.limit, timed=timed, **ranks)


def _smaller_micro_batch(
    plan: Plan, prefix: str = "", effect: str = "the same steps and loss", **changes: Any
) -> Iterator[Suggestion]:
    what, semicolon, advice = effect.partition("; ")
    for n in micro_batches(plan.train, plan.data_size):
        pieces = f"{what}, {n} sequence{'s' * (n != 1)} at a time{semicolon}{advice}"
        yield _suggestion(plan, f"{prefix}--micro-batch {n}", pieces, train__micro_batch=n, **changes)


def _sharded(plan: Plan) -> Iterator[Suggestion]:
    """Yield the same run with its weights, gradients and moments in shards, if each rank has all of them."""
    if plan.parallel == "ddp":
        effect = "the same steps and loss, each process keeps a shard"
        yield _suggestion(plan, "--parallel fsdp", effect, train__parallel="fsdp")
        yield from _smaller_micro_batch(plan, "--parallel fsdp ", effect, train__parallel="fsdp")


def _smaller_batch(plan: Plan) -> Iterator[Suggestion]:
    drop = "; leave out --micro-batch" if plan.train.micro_batch else ""
    for n in batch_sizes(plan.train, plan.data_size):
        effect = f"fewer tokens a step: {n * plan.T:,} instead of {plan.tokens_per_step:,}{drop}"
        yield _suggestion(plan, f"--batch-size {n}", effect, train__batch_size=n, train__micro_batch=None)


def _alone_then_in_pieces(plan: Plan, kind: Sequence[Change]) -> Iterator[Suggestion]:
    for flags, effect, changes in kind:
        yield _suggestion(plan, flags, effect, **changes)
    for flags, effect, changes in kind:
        yield from _smaller_micro_batch(plan, f"{flags} ", effect, **changes)


def _kinds(plan: Plan) -> list[list[Change]]:
    """Return the changes of each kind, the smallest first."""
    model, flag = plan.model, "--set train.checkpointing=true"
    checkpointing: Change = (flag, "the same loss, a third more time", {"train__checkpointing": True})
    lengths = [plan.T >> i for i in range(1, plan.T.bit_length()) if plan.T >> i >= MIN_WINDOW]
    smaller = [name for name in presets_of_kind(model) if model.n_embd > preset_settings(name)["n_embd"]]
    effect = f"a smaller model{_leave_out(plan)}"
    return [
        [] if plan.train.checkpointing else [checkpointing],
        [(f"--max-length {T}", "a shorter context", _window(T)) for T in lengths],
        [(f"--preset {name}", effect, resize_to_preset(name, model)) for name in reversed(smaller)],
        [BPE] if model.vocab_size > 2 * SMALL_VOCABULARY else [],
    ]


def _window(T: int) -> Overrides:
    return {"data__max_length": T, "model__n_positions": T}


def _leave_out(plan: Plan) -> str:
    """Return the advice to leave out the flags of sizes: they would override those of the preset too."""
    flags = " ".join(f"--set model.{size}" for size in overridden_sizes(plan.model))
    return f"; leave out {flags}" if flags else ""


def _everything(plan: Plan) -> Iterator[Suggestion]:
    """Yield all changes at once, without and with the smallest preset."""
    smallest, T = presets_of_kind(plan.model)[0], min(plan.T, MIN_WINDOW)
    changes: Overrides = {**_window(T), "train__micro_batch": 1}
    flags, effect = f"--max-length {T} --micro-batch 1", "a short context, one sequence at a time"
    # A vocabulary that is small already, such as that of bytes, stays.
    if plan.model.vocab_size > SMALL_VOCABULARY:
        changes, flags, effect = BPE[2] | changes, f"{BPE[0]} {flags}", f"a small vocabulary, {effect}"
    yield _suggestion(plan, flags, effect, **changes)
    effect = f"the smallest model and {effect}{_leave_out(plan)}"
    yield _suggestion(plan, f"--preset {smallest} {flags}", effect, **changes, **resize_to_preset(smallest, plan.model))


def presets_of_kind(model: ModelConfig) -> list[str]:
    """Return the presets with a model's position encoding, by default all, the smallest first.

    >>> presets_of_kind(ModelConfig.micro()), presets_of_kind(ModelConfig.preset("llama-nano"))
    (['nano', 'micro', 'small'], ['llama-nano', 'llama-micro', 'llama-small'])
    """
    names = [name for name in PRESETS if preset_settings(name)["positions"] == model.positions]
    return sorted(names or PRESETS, key=lambda name: int(preset_settings(name)["n_embd"]))


def overridden_sizes(model: ModelConfig) -> list[str]:
    """Return the sizes in which a model differs from the preset that it is most like: the user set them.

    >>> overridden_sizes(ModelConfig.micro()), overridden_sizes(ModelConfig.micro(n_layer=20))
    ([], ['n_layer'])
    """
    presets = [preset_settings(name) for name in presets_of_kind(model)]
    differ = [[size for size in SIZES if getattr(model, size) != preset[size]] for preset in presets]
    return min(differ, key=len)


def resize_to_preset(name: str, model: ModelConfig) -> Overrides:
    """Return the settings, by `part__name`, that give a model the size of a preset and leave its other choices alone.

    Windows in layers that the preset does not have are dropped, and the rotated share of a head is rounded to pairs.

    >>> resize_to_preset("nano", ModelConfig.small(window=64, window_layers="0,7"))["model__window_layers"]
    '0'
    """
    preset = preset_settings(name)
    changes = {f"model__{size}": preset[size] for size in SIZES}
    if model.rotary_pct < 1.0 and not model.head_dim:
        changes["model__rotary_pct"] = rotary_share(model, preset["n_embd"] // preset["n_head"])
    if model.window and model.window_layers != "all":
        layers = [layer for layer in model.window_layers.split(",") if int(layer) < preset["n_layer"]]
        changes |= {"model__window_layers": ",".join(layers) or "all", "model__window": model.window if layers else 0}
    return changes
