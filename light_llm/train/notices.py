"""What a run says before its first step, after its last, and when something is to be noticed."""

import shlex
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import TrainConfig, get_model_size
from ..data import DataLoader
from ..model import LightLLM
from ..plan.render import MANY_PASSES, header_lines
from ..runtime import device_name
from ..text_format import format_bytes, format_duration
from .foresee import Outlook
from .guards import Proposal
from .record import Decisions
from .result import Result
from .room import halved


def header(model: LightLLM, loader: Any, decisions: Decisions, outlook: Outlook, out: Path) -> list[str]:
    """The lines a run begins with."""
    config, c, plan = decisions.config, model.config, outlook.plan
    lines = [
        f"light-llm {__version__}",
        f"model    {get_model_size(c):,} parameters: {c.n_layer} layers, {c.n_head} heads, n_embd {c.n_embd},",
        f"         positions {c.n_positions:,}, vocabulary {c.vocab_size:,}",
        *([f"         {c.choices}"] if c.choices else []),
        f"device   {decisions.device}; {device_name(decisions.device.value)}",
        f"format   {decisions.dtype}",
        f"compile  {decisions.compile}",
        *outlook.doctor_lines(),
        *([f"tracker  {decisions.tracker}"] if decisions.tracker.value != "none" else []),
    ]
    if plan is not None and isinstance(loader, DataLoader):
        data = loader.dataset
        lines += [
            *(f"note     {note}" for note in data.notes),
            f"data     {data.source.title}: {len(data.tokens):,} training tokens, {len(data.held_out):,} held out "
            f"({data.tokenizer.name})",
            f"run      {config.max_steps:,} steps of {config.batch_size} x {data.max_length:,} = "
            f"{plan.tokens:,} tokens, {plan.passes:.1f} passes over the text",
            *header_lines(plan),
        ]
        if plan.passes and plan.passes > MANY_PASSES:
            lines += [
                "         that often, a text is memorised too: the held-out loss is the one to watch;",
                "         a longer text helps, and --patience 2 ends the run when it no longer falls",
            ]
        if config.lr_horizon and config.max_steps > config.lr_horizon:
            lines += [
                f"         the schedule ends at step {config.lr_horizon:,}: later steps run at its last rate, "
                f"{config.lr * config.min_lr_ratio:.1e}",
                f"         (--set train.lr_horizon={config.max_steps} stretches it)",
            ]
    else:
        lines.append(
            "data     a loader that is not light-llm's: the best model is chosen by training loss, there is no"
        )
        lines.append("         tokenizer in the checkpoint, and a resumed run starts the loader anew")
    return [*lines, f"out      {out}/", *outlook.warnings]


def summary(result: Result, config: TrainConfig, report: list[str]) -> list[str]:
    """The lines a run ends with, those about its report among them."""
    folder, step, status = result.folder, result.step, result.status
    if status == "nonfinite":
        return [
            f"stopped  the loss or its gradient was not finite in the update after step {step};",
            "         no weight was touched by it, and nothing was saved after it",
            f"         a new run with a lower --lr (now {config.lr:g}) or a longer --warmup-steps "
            f"(now {config.warmup_steps}) helps;",
            "         --on-nonfinite skip leaves such steps out, --on-nonfinite rollback goes back to a checkpoint",
            "         and leaves out what led to them; both also with --resume",
            *report,
        ]
    if step == 0:
        return [f"{status} before the first step; nothing was saved"]
    memory = f", peak memory {format_bytes(result.peak_memory)}" if result.peak_memory else ""
    speed = f"{result.tokens_per_second:,.0f} tokens/s, {format_duration(result.seconds)} in all{memory}"
    ended: str = status
    waited = config.patience * config.eval_interval
    if status == "stopped" and waited and step - (result.best_step or 0) >= waited:
        ended = f"stopped: no better evaluation in {waited} steps (--patience {config.patience}; 0 goes on),"
    lines = [f"{ended} at step {step}/{config.max_steps}  {speed}"]
    if result.best_loss is not None:
        lines.append(f"best     loss {result.best_loss:.3f} at step {result.best_step}: {folder / 'best_model.pt'}")
    else:
        lines.append(f"model    {folder / 'best_model.pt'} (as it is; no evaluation has run yet)")
    if status == "interrupted":
        lines.append(f"saved    go on with: python train.py --resume{_out_flag(folder)}")
    lines += report
    flag = "" if str(folder) == "checkpoints" else f" --checkpoint {shlex.quote(str(folder))}"
    lines.append(f"next     python generate.py demo{flag}")
    return lines


def rising(best: float, step: int, loss: float, *, stops: bool) -> list[str]:
    """What to say and do when the held-out loss has stopped falling."""
    ends = "" if stops else " --patience 2 ends such a run."
    return [
        f"notice   the held-out loss was lowest at step {step} ({best:.3f}) and is {loss:.3f} now: what is learnt",
        f"         no longer carries over to other text. The best model is kept.{ends}",
        "         A longer text, --dropout 0.1 or a smaller --preset help.",
    ]


def _out_flag(folder: Path) -> str:
    return "" if str(folder) == "checkpoints" else f" --out {shlex.quote(str(folder))}"


def nonfinite(proposal: Proposal, place: str, first: str) -> list[str]:
    """A step that is not finite: which, at what rate, on what text, and where it began."""
    numbers = f"loss {proposal.loss:g}, gradient norm {proposal.grad_norm:g}, lr {proposal.lr:.2e}"
    return [
        f"notice   step {proposal.step} is not finite: {numbers};",
        f"         {place};",
        f"         not finite first: {first}",
    ]


def out_of_memory(config: TrainConfig, step: int, saved: bool, folder: Path) -> str:
    """What to do about it, in numbers."""
    size = config.micro_batch or config.batch_size
    smaller = halved(config)
    ways = [f"--micro-batch {smaller} (now {size}; the tokens of a step stay the same)"] if smaller else []
    if not config.checkpointing:
        ways.append("--set train.checkpointing=true (less memory, a third more time)")
    ways += ["a shorter --max-length", "a smaller --preset"]
    kept = (
        f"step {step} is saved, go on with: python train.py --resume{_out_flag(folder)}"
        if saved
        else "nothing is saved"
    )
    return f"out of memory in step {step + 1} with {size} sequences at a time; {kept}. What helps: {', '.join(ways)}"
