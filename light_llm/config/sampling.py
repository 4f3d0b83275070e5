"""Settings of sampling. They are here, and not in `generate`, because the flags are derived from it without torch."""

from dataclasses import dataclass

from .settings import check_settings, describe_settings, setting
from .validation import types_of


@describe_settings
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampling settings. The defaults change nothing: a draw from the model's own distribution.

    Raises:
        ConfigError: a value outside its range.
    """

    temperature: float = setting(
        1.0,
        "divide the logits by this; 0: always the likeliest token",
        short="higher: more varied; 0: likeliest",
        low=0.0,
    )
    top_k: int = setting(0, "draw from the N likeliest tokens; 0: off", short="N likeliest tokens only; 0: off", low=0)
    top_p: float = setting(
        1.0,
        "draw from the likeliest tokens that add up to this probability; 1: off",
        short="nucleus sampling; 1: off",
        above=0.0,
        high=1.0,
        metavar="P",
    )
    min_p: float = setting(
        0.0,
        "drop tokens less probable than this share of the likeliest token's probability; 0: off",
        short="drop tokens below P x the top; 0: off",
        low=0.0,
        high=1.0,
        metavar="P",
    )
    repetition_penalty: float = setting(
        1.0, "above 1: make tokens that occurred less likely", short="above 1: repeat less", above=0.0
    )

    def __post_init__(self) -> None:
        check_settings(self)
        for name, types in types_of(Sampling).items():
            if types == (float,):  # torch takes no whole number above 2^63
                object.__setattr__(self, name, float(getattr(self, name)))


# The defaults of `TextGenerator.generate` and of the command line.
DEFAULT_SAMPLING = Sampling(temperature=0.8, top_k=40)
