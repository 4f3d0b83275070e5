"""The listener that looks inside the model: what it sees becomes rows, and what should worry people a notice."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ..config import TrainConfig
from ..data import TokenDataset
from ..data.tokenizers import decode
from ..model import LightLLM
from ..observe import Sink
from ..observe.probe import MAP_TOKENS, make_probe_batch, probe_model, select_attention_maps
from .listeners import Step

MIN_ALARM_STREAK = 3  # looks in a row before an alarm is said: at the start every head is even, and has to be
MAX_NAMED_ALARMS = 4  # alarms that a notice names


class ProbeModel:
    """Every so many steps the attention, the activations and the guesses on a few held-out windows, as a `probe` row.

    Args:
        config: a look at a step that is evaluated, or the last, also writes a row of kind `attention`, the maps of a
            few heads. Of alarms nothing is said before twice the warm-up: a run has to begin first.
        say: told of heads that stay without information.
    """

    def __init__(
        self,
        model: LightLLM,
        dataset: TokenDataset,
        sinks: Sequence[Sink],
        config: TrainConfig,
        say: Callable[[str], object],
    ) -> None:
        self.model, self.dataset, self.sinks, self.config, self.say = model, dataset, sinks, config, say
        n_ids = dataset.tokenizer.vocab_size
        self.batch = make_probe_batch(dataset.held_out, context=dataset.max_length, n_ids=n_ids)
        self.shown = [decode(dataset.tokenizer, [i]) for i in self.batch.tokens[0, :MAP_TOKENS].tolist()]
        self.streaks: Counter[tuple[int, int | None, str]] = Counter()
        self.said: set[tuple[int, int | None, str]] = set()
        self.failed = False

    def __call__(self, step: Step) -> None:
        """Look, and tell. A look that fails is said once and not tried again: watching never ends a run."""
        if self.failed:
            return
        try:
            self._look(step)
        except Exception as error:
            self.failed = True
            self.say(f"notice   the look inside at step {step.number} failed ({type(error).__name__}: {error}):")
            self.say("         the run goes on without; its numbers are as they would have been")

    def _look(self, step: Step) -> None:
        seen = probe_model(self.model, self.batch, dtype=self.config.dtype)
        self._tell({"kind": "probe", "step": step.number, **seen.row})
        if step.number % self.config.eval_interval == 0 or step.number == self.config.max_steps:
            self._tell(
                {"kind": "attention", "step": step.number, "tokens": self.shown, "maps": select_attention_maps(seen)}
            )
        if step.number >= 2 * self.config.warmup_steps:
            self._warn(step.number, seen.row["alarms"])

    def _tell(self, row: dict[str, Any]) -> None:
        for sink in self.sinks:
            sink(row)

    def _warn(self, step: int, alarms: Sequence[dict[str, Any]]) -> None:
        """Say once of each head that it has said nothing for a while."""
        now = {(a["layer"], a["head"], a["what"]) for a in alarms}
        self.streaks = Counter({alarm: self.streaks[alarm] + 1 for alarm in now})
        new = sorted((a for a in now - self.said if self.streaks[a] >= MIN_ALARM_STREAK), key=str)
        if new:
            self.said.update(new)
            listed = "; ".join(in_words(*alarm) for alarm in new[:MAX_NAMED_ALARMS])
            more = f"; and {len(new) - MAX_NAMED_ALARMS} more" if len(new) > MAX_NAMED_ALARMS else ""
            self.say(f"notice   attention at step {step}: {listed}{more}")


def in_words(layer: int, head: int | None, what: str) -> str:
    """An alarm as a person would say it.

    >>> in_words(1, 3, "uniform"), in_words(0, None, "all heads alike")
    ('layer 1, head 3 looks everywhere alike', 'all heads of layer 0 look at the same positions')
    """
    if head is None:
        return f"all heads of layer {layer} look at the same positions"
    does = "looks everywhere alike" if what == "uniform" else "puts all its weight on one position"
    return f"layer {layer}, head {head} {does}"
