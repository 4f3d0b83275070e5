"""What a rule says."""

from dataclasses import dataclass

LEVELS = ("bad", "watch", "good", "info")  # worst first


@dataclass(frozen=True)
class Finding:
    """A level, one sentence of what is seen, one of what to try, and the step from which it shows."""

    level: str
    what: str
    advice: str = ""
    since: int | None = None
